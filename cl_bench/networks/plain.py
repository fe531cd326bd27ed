"""Networks that are a plain sequence of layers, for methods that need every layer and its units."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from cl_bench.config import InputError
from cl_bench.networks.base import Network, Normalize

Weighted = nn.Linear | nn.Conv2d
"""A layer of units."""

PLAIN = Weighted | nn.Flatten | nn.ReLU | nn.LeakyReLU | Normalize


def plain_layers(network: Network, purpose: str) -> list[nn.Module]:
    """The layers of the features, in order.

    Args:
        purpose: the method and what it does with the layers, for the error: `method=hat masks units`.

    Raises InputError for a network with other layers than linear layers, convolutions and ReLU.
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
    """The layers of a module, with those of nested `nn.Sequential`, in order."""
    return [layer for part in module for layer in in_order(part)] if isinstance(module, nn.Sequential) else [module]


def hidden_layers(network: Network, purpose: str) -> list[nn.Module]:
    """As `plain_layers`. Also raises InputError for a network without hidden units."""
    layers = plain_layers(network, purpose)
    if not weighted(layers):
        raise InputError(f"network: {purpose}, and this network has no hidden layer; choose network=mlp")
    return layers


def weighted(layers: Iterable[nn.Module]) -> list[Weighted]:
    """The layers that have weights."""
    return [layer for layer in layers if isinstance(layer, Weighted)]


def gated(layers: Iterable[nn.Module], x: Tensor, gates: Sequence[Tensor]) -> Tensor:
    """The output of the layers, with each unit or channel multiplied by its gate.

    The gates are before ReLU, which is the same as after ReLU: relu(a x) = a relu(x) for a >= 0.

    Args:
        layers: from `plain_layers`.
        x: images (B, C, H, W).
        gates: at least 0, (units,) for each layer with weights.
    """
    left = iter(gates)
    for layer in layers:
        x = layer(x)
        if isinstance(layer, Weighted):
            x = x * next(left).view(-1, *[1] * (x.dim() - 2))
    return x


def inputs_from(units: Tensor, inputs: int) -> Tensor:
    """The inputs of the next layer that come from these units, bool (inputs,).

    A flattened channel gives one input for each of its positions.

    >>> import torch
    >>> inputs_from(torch.tensor([True, False]), 4).tolist()
    [True, True, False, False]
    """
    return units.repeat_interleave(inputs // len(units))
