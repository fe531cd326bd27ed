"""Networks that are a plain sequence of layers, for methods that do something to each of them."""

from __future__ import annotations

from torch import nn

from cl_bench.config import InputError
from cl_bench.networks.base import Network, Normalize

Weighted = nn.Linear | nn.Conv2d  # a layer of units


def plain_layers(network: Network, does: str) -> list[nn.Module]:
    """The layers of the features, one after another.

    Args:
        does: who needs them, and for what: `method=hat closes units of`.

    Raises InputError where one is neither linear nor a convolution, (leaky) ReLU, `Flatten` or `Normalize`.
    """
    layers = in_order(network.features)
    for layer in layers:
        if not isinstance(layer, Weighted | nn.Flatten | nn.ReLU | nn.LeakyReLU | Normalize):
            raise InputError(
                f"network: {does} a plain sequence of linear layers, convolutions and ReLU, and "
                f"{type(layer).__name__} is none of these; choose network=mlp or network=cnn"
            )
    return layers


def in_order(module: nn.Module) -> list[nn.Module]:
    """The layers of nested sequences."""
    return [layer for part in module for layer in in_order(part)] if isinstance(module, nn.Sequential) else [module]
