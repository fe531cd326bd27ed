"""Linear layers to which units are added while the network learns."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cl_bench.config import InputError
from cl_bench.networks.base import Network, Normalize
from cl_bench.networks.growing import Growing
from cl_bench.networks.plain import in_order


class GrowingLinear(Growing, nn.Linear):
    """A linear layer whose numbers of inputs and units can change. A loaded state sets its size.

    Args:
        layer: gives the first weight and bias.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.in_features, layer.out_features, device="meta")  # uses no random numbers
        self.weight, self.bias = layer.weight, layer.bias

    def add_inputs(self, columns: Tensor) -> None:
        """Adds n inputs at the end. columns: their weights, (units, n)."""
        self._become(torch.cat([self.weight, columns], 1), self.bias)

    def add_units(self, rows: Tensor, biases: Tensor) -> None:
        """Adds n units at the end. rows: their weights, (n, inputs). biases: (n,)."""
        self._become(torch.cat([self.weight, rows]), torch.cat([self.bias, biases]))

    def keep(self, units: Tensor, inputs: Tensor) -> None:
        """Removes all other units and inputs. units, inputs: those that remain, bool (units,) and (inputs,)."""
        self._become(self.weight[units][:, inputs], self.bias[units])

    def _become(self, weight: Tensor, bias: Tensor) -> None:
        self.weight = nn.Parameter(weight.detach().contiguous())
        self.bias = nn.Parameter(bias.detach())
        self.out_features, self.in_features = weight.shape

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self.out_features, self.in_features = self.weight.shape


def growing_mlp(network: Network, method: str) -> Network:
    """The network with `GrowingLinear` layers instead of its linear layers.

    Args:
        method: for the error, such as `method=den`.

    Raises InputError for a network with other layers than linear layers and ReLU, or without a hidden layer.
    """
    layers = in_order(network.features)
    for layer in layers:
        if not isinstance(layer, nn.Linear | nn.Flatten | nn.ReLU | nn.LeakyReLU | Normalize):
            raise InputError(
                f"network: {method} needs a plain sequence of linear layers and ReLU, and {type(layer).__name__} is "
                "neither; choose network=mlp"
            )
    if not any(isinstance(layer, nn.Linear) for layer in layers):
        raise InputError(f"network: {method} needs hidden layers, and this network has none; choose network=mlp")
    grown = [GrowingLinear(layer) if isinstance(layer, nn.Linear) else layer for layer in layers]
    head = network.head
    return Network(grown, head.in_features, head.out_features).with_head(GrowingLinear(head))
