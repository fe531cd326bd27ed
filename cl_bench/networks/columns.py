"""Networks side by side, with lateral connections from other networks (columns) to each layer (Rusu et al., 2016)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from cl_bench.networks.plain import Weighted, in_order

SMALL = 0.1  # learned scales of inputs from other columns start uniformly in [0, 0.1]


class Lateral(nn.Module):
    """U relu(V h + c): the contribution of other columns to a layer, which is added to the layer's own W h + b.

    h: the inputs of the same layer in the other columns, concatenated. V reduces them to the width of one column (for a
    convolution, V is a 1x1 convolution). U has the shape of W and no bias. A method defines what `scale` multiplies.

    Args:
        layer: the layer that gets the contribution.
        n_columns: number of other columns.
        n_scales: length of the learned scale.
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
        """others: the input of the layer in each other column, (B, inputs) or (B, C, H, W)."""
        return self.U(torch.relu(self.V(self.side_by_side(others))))

    def side_by_side(self, others: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(others), 1)


class Column(nn.Module):
    """A network that is a plain sequence of layers. All layers except the first get inputs from other columns.

    Args:
        features, head: of a `Network`, see `plain_layers`.
        laterals: for each of the `later_layers`; none if there is no other column.
    """

    def __init__(self, features: nn.Sequential, head: nn.Linear, laterals: Iterable[Lateral] = ()) -> None:
        super().__init__()
        self.features, self.head, self.laterals = features, head, nn.ModuleList(laterals)

    def forward(self, x: Tensor, others: Sequence[Sequence[Tensor]] = ()) -> Tensor:
        """Logits (B, n_outputs) for images in [0, 1].

        others: `inputs` of the other columns; none: the column is used alone.
        """
        inputs = self.inputs(x, others)
        return self.total(self.head, inputs, others)

    def inputs(self, x: Tensor, others: Sequence[Sequence[Tensor]] = ()) -> list[Tensor]:
        """The input of each layer with weights, the head last."""
        inputs: list[Tensor] = []
        for layer in in_order(self.features):
            if isinstance(layer, Weighted):
                inputs.append(x)
                x = self.total(layer, inputs, others)
            else:
                x = layer(x)
        return [*inputs, x]

    def total(self, layer: nn.Module, inputs: Sequence[Tensor], others: Sequence[Sequence[Tensor]]) -> Tensor:
        """The output of a layer for the last of its own inputs and for the inputs in the other columns."""
        own, number = layer(inputs[-1]), len(inputs) - 1
        if not others or not number:
            return own
        return own + self.laterals[number - 1]([column[number] for column in others])


def later_layers(features: nn.Sequential, head: nn.Linear) -> list[Weighted]:
    """All layers with weights except the first, with the head: those that have laterals."""
    return [*(layer for layer in in_order(features) if isinstance(layer, Weighted)), head][1:]
