"""Networks that are a plain sequence of layers, for methods that see every layer and its units."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from cl_bench.config import InputError
from cl_bench.networks.base import Network, Normalize

Weighted = nn.Linear | nn.Conv2d
"""A layer of units."""

PLAIN = Weighted | nn.Flatten | nn.ReLU | nn.LeakyReLU | Normalize


def plain_layers(network: Network, purpose: str) -> list[nn.Module]:
    """The layers of the features, in their order.

    Args:
        purpose: what is done to them, and by which method, such as `method=hat masks units`.

    Raises InputError for a network that has anything else than linear layers, convolutions and ReLU.
    """
    layers = in_order(network.features)
    for layer in layers:
        if not isinstance(layer, PLAIN):
            raise InputError(
                f"network: {purpose} of a plain sequence of linear layers, convolutions and ReLU, "
                f"and {type(layer).__name__} is none of these; choose network=mlp or network=cnn"
            )
    return layers


def in_order(module: nn.Module) -> list[nn.Module]:
    """The layers of nested sequences."""
    return [layer for part in module for layer in in_order(part)] if isinstance(module, nn.Sequential) else [module]


def hidden_layers(network: Network, purpose: str) -> list[nn.Module]:
    """As `plain_layers`. Raises InputError for a network without hidden units too."""
    layers = plain_layers(network, purpose)
    if not weighted(layers):
        raise InputError(f"network: {purpose}, and this network has no hidden layer; choose network=mlp")
    return layers


def weighted(layers: Iterable[nn.Module]) -> list[Weighted]:
    """Those of the layers that have weights."""
    return [layer for layer in layers if isinstance(layer, Weighted)]


def gated(layers: Iterable[nn.Module], x: Tensor, gates: Sequence[Tensor]) -> Tensor:
    """What the layers give when each unit, or channel, is multiplied by its gate, (units,) for each layer with weights.

    Before ReLU it is the same as after it: relu(a x) = a relu(x) for a >= 0.
    """
    left = iter(gates)
    for layer in layers:
        x = layer(x)
        if isinstance(layer, Weighted):
            x = x * next(left).view(-1, *[1] * (x.dim() - 2))
    return x


def inputs_from(units: Tensor, inputs: int) -> Tensor:
    """The inputs of the next layer that come from these units, of `inputs` in all, bool.

    A channel that was flattened is as many inputs as it has positions.

    >>> import torch
    >>> inputs_from(torch.tensor([True, False]), 4).tolist()
    [True, True, False, False]
    """
    return units.repeat_interleave(inputs // len(units))
