"""Networks side by side: what the layers of one are given, others take a part of (Rusu et al., 2016)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from cl_bench.networks.plain import Weighted, in_order

SMALL = 0.1  # learned scales of what comes from other columns begin between 0 and this


class Lateral(nn.Module):
    """U relu(V h + c): what a layer takes from other columns, beside W h + b of its own.

    h: what that layer is given in the other columns, side by side. V brings them down to the width of one column; at a
    convolution it is one of 1x1. U has the shape of W, without a bias. What `scale` multiplies differs among methods.

    Args:
        layer: the one it is beside.
        n_columns: other columns.
        n_scales: numbers of the learned scale.
    """

    def __init__(self, layer: Weighted, n_columns: int, n_scales: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(n_scales))
        self.reset_parameters()
        if isinstance(layer, nn.Linear):
            self.V: nn.Module = nn.Linear(n_columns * layer.in_features, layer.in_features)
            self.U: nn.Module = nn.Linear(layer.in_features, layer.out_features, bias=False)
        else:
            self.V = nn.Conv2d(n_columns * layer.in_channels, layer.in_channels, 1)
            self.U = nn.Conv2d(
                layer.in_channels,
                layer.out_channels,
                layer.kernel_size,  # type: ignore[arg-type]
                layer.stride,  # type: ignore[arg-type]
                layer.padding,  # type: ignore[arg-type]
                bias=False,
            )

    def reset_parameters(self) -> None:
        nn.init.uniform_(self.scale, 0, SMALL)

    def forward(self, others: Sequence[Tensor]) -> Tensor:
        """others: what the layer is given in each of the other columns, (B, inputs) or (B, C, H, W)."""
        return self.U(torch.relu(self.V(self.side_by_side(others))))

    def side_by_side(self, others: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(others), 1)


class Column(nn.Module):
    """A network, a plain sequence of layers, each of which but the first takes a part from other columns.

    Args:
        features, head: of a `Network`, see `plain_layers`.
        laterals: of each of the `later_layers`; none where there is no other column.
    """

    def __init__(self, features: nn.Sequential, head: nn.Linear, laterals: Iterable[Lateral] = ()) -> None:
        super().__init__()
        self.features, self.head, self.laterals = features, head, nn.ModuleList(laterals)

    def forward(self, x: Tensor, others: Sequence[Sequence[Tensor]] = ()) -> Tensor:
        """Logits (B, n_outputs) for images in [0, 1].

        others: `inputs` of the other columns; without them it is a network that stands alone.
        """
        inputs = self.inputs(x, others)
        return self.total(self.head, inputs, others)

    def inputs(self, x: Tensor, others: Sequence[Sequence[Tensor]] = ()) -> list[Tensor]:
        """What each layer with weights is given, the head last."""
        inputs: list[Tensor] = []
        for layer in in_order(self.features):
            if isinstance(layer, Weighted):
                inputs.append(x)
                x = self.total(layer, inputs, others)
            else:
                x = layer(x)
        return [*inputs, x]

    def total(self, layer: nn.Module, inputs: Sequence[Tensor], others: Sequence[Sequence[Tensor]]) -> Tensor:
        """What a layer makes of its own input, the last one, and of those of the others."""
        own, number = layer(inputs[-1]), len(inputs) - 1
        if not others or not number:
            return own
        return own + self.laterals[number - 1]([column[number] for column in others])


def later_layers(features: nn.Sequential, head: nn.Linear) -> list[Weighted]:
    """The layers with weights but the first, the head included: those that have laterals."""
    return [*(layer for layer in in_order(features) if isinstance(layer, Weighted)), head][1:]
