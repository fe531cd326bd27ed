"""Progressive networks, and Progress & Compress, written by hand: two hidden layers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reference.common import (
    KNOWN_DECAY,
    KNOWN_STRENGTH,
    TEMPERATURE,
    Images,
    Timing,
    clones,
    descend,
    each,
    epoch,
    linear,
    mlp,
    sgd,
    zeros,
)
from reference.regularization import fisher_of_all_labels

Hidden = tuple[Tensor, Tensor]  # what the two hidden layers give, as seen by the layers above them


@dataclass
class Side:
    """What a layer takes from other columns."""

    scale: nn.Parameter
    V: nn.Linear
    U: nn.Linear

    @property
    def parameters(self) -> list[Tensor]:
        return [self.scale, self.V.weight, self.V.bias, self.U.weight]


@dataclass
class Column:
    """Three layers, of which the later two have a side."""

    layers: list[nn.Linear]
    sides: list[Side]

    @property
    def parameters(self) -> list[Tensor]:
        own = [p for layer in self.layers for p in (layer.weight, layer.bias)]
        return own + [p for side in self.sides for p in side.parameters]

    def hidden(self, x: Tensor, others: Sequence[Hidden]) -> Hidden:
        a = self.layers[0](x).relu()
        z = self.layers[1](a)
        if others:
            z = z + scaled_columns(self.sides[0], [a for a, _ in others])
        return a, z.relu()

    def logits(self, x: Tensor, others: Sequence[Hidden]) -> Tensor:
        _, b = self.hidden(x, others)
        z = self.layers[2](b)
        return z + scaled_columns(self.sides[1], [b for _, b in others]) if others else z


def scaled_columns(side: Side, others: Sequence[Tensor]) -> Tensor:
    """Each column with its own scale."""
    h = (torch.stack(list(others), 1) * side.scale[:, None]).flatten(1)
    return side.U(side.V(h).relu())


def new_column(like: Sequence[nn.Linear], n_columns: int) -> Column:
    layers = [nn.Linear(layer.in_features, layer.out_features) for layer in like]
    sides = []
    for layer in layers[1:]:
        scale = nn.Parameter(0.1 * torch.rand(n_columns))
        V = nn.Linear(n_columns * layer.in_features, layer.in_features)
        sides.append(Side(scale, V, nn.Linear(layer.in_features, layer.out_features, bias=False)))
    return Column(layers, sides)


def pnn(tasks: Images, weights: Iterable[Tensor]) -> Timing:
    """A column for each task."""
    timing, columns = Timing([]), [Column(linear(mlp(weights)), [])]
    for task, images, labels in each(tasks, timing):
        if task:
            columns.append(new_column(columns[0].layers, task))
        column = columns[task]
        optimizer = sgd(column.parameters)
        for x, y in epoch(images, labels, task, timing):
            x, below = x.flatten(1), []
            with torch.no_grad():
                for earlier in columns[:task]:
                    below.append(earlier.hidden(x, below))
            descend(optimizer, F.cross_entropy(column.logits(x, below), y - 2 * task))
        timing.weights += column.parameters
    return timing


def progress_compress(tasks: Images, weights: Iterable[Tensor]) -> Timing:
    """A knowledge base, and a column that learns each task before it."""
    weights = list(weights)
    network, column, sides = mlp(weights[:6]), mlp(weights[6:12]), []
    for scale, v, c, u in (weights[12:16], weights[16:20]):
        V, U = nn.Linear(v.shape[1], v.shape[0]), nn.Linear(u.shape[1], u.shape[0], bias=False)
        sides.append(Side(nn.Parameter(scale.clone()), V, U))
        with torch.no_grad():
            for p, value in zip([V.weight, V.bias, U.weight], [v, c, u], strict=True):
                p.copy_(value)
    P = list(network.parameters())
    active = [*column.parameters(), *(p for side in sides for p in side.parameters)]
    timing = Timing([*P, *active])
    fisher, old = zeros(P), clones(P)

    def answers(x: Tensor, known: list[nn.Linear]) -> Tensor:
        """What the column says."""
        x = x.flatten(1)
        if not known:
            return column(x)
        first, second, head = linear(column)
        a = known[0](x).relu()
        b = known[1](a).relu()
        h = first(x).relu()
        h = (second(h) + sides[0].scale * sides[0].U(sides[0].V(a).relu())).relu()
        return head(h) + sides[1].scale * sides[1].U(sides[1].V(b).relu())

    for task, images, labels in each(tasks, timing):
        known = []
        if task:
            for layer in linear(column):
                layer.reset_parameters()
            for side in sides:
                nn.init.uniform_(side.scale, 0, 0.1)
                side.V.reset_parameters()
                side.U.reset_parameters()
            known = linear(mlp(clones(P)).requires_grad_(False))
        own = slice(2 * task, 2 * task + 2)
        optimizer = sgd(active)
        for x, y in epoch(images, labels, task, timing):
            descend(optimizer, F.cross_entropy(answers(x, known)[:, own], y - 2 * task))
        optimizer = sgd(P)
        for x, _ in epoch(images, labels, task, timing, phase=1):
            with torch.no_grad():
                taught = (answers(x, known)[:, own] / TEMPERATURE).softmax(1)
            said = (network(x)[:, own] / TEMPERATURE).log_softmax(1)
            loss = (taught * (taught.log() - said)).sum(1).mean()
            if task:
                for f, p, p_old in zip(fisher, P, old, strict=True):
                    loss = loss + KNOWN_STRENGTH / 2 * KNOWN_DECAY * (f * (p - p_old) ** 2).sum()
            descend(optimizer, loss)
        outputs = torch.arange(10)
        new = fisher_of_all_labels(network, images, (outputs < own.start) | (outputs >= own.stop))
        norm = torch.cat([f.flatten() for f in new]).norm()
        fisher, old = [KNOWN_DECAY * f + g / norm for f, g in zip(fisher, new, strict=True)], clones(P)
    return timing
