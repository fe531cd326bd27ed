"""MER and La-MAML, written by hand: a step, or a look ahead, for each image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from cl_bench.seeding import derive, seeded
from reference.common import (
    Images,
    Timing,
    add_,
    addcmul_,
    after,
    clones,
    cross_entropy,
    each,
    epoch,
    mlp,
    permutation,
    zeros,
)

PLACES = 30
BETA, GAMMA, WALK, WALKS, RATE = 0.3, 0.9, 10, 5, 0.1
ALPHA, ETA, GLANCES, CLIP = 0.15, 0.3, 2, 2.0


class Kept:
    """A reservoir. Its places are drawn as ours are, seeded anew whenever images come."""

    def __init__(self, images: Tensor) -> None:
        with seeded(0, "method"):
            self.seed, self.seen = int(torch.randint(2**31, (), device="cpu")), 0
        self.x, self.y = images.new_empty(PLACES, *images.shape[1:]), torch.empty(PLACES, dtype=torch.int64)

    def __len__(self) -> int:
        return min(self.seen, PLACES)

    def draw(self, n: int) -> Tensor:
        return permutation(self.y[: len(self)])[:n]

    def add(self, x: Tensor, y: Tensor) -> None:
        number = torch.arange(self.seen, self.seen + len(y), device="cpu")
        generator = torch.Generator(device="cpu").manual_seed(derive(self.seed, self.seen))
        uniform = torch.rand(len(y), generator=generator, dtype=torch.float64, device="cpu")
        place = torch.where(number < PLACES, number, (uniform * (number + 1)).long())
        for row in (place < PLACES).nonzero().squeeze(1).tolist():
            self.x[place[row]], self.y[place[row]] = x[row], y[row]
        self.seen += len(y)


def mer(tasks: Images, weights: Iterable[Tensor]) -> Timing:
    """Algorithm 1, on an MLP without dimensions of an image."""
    network = mlp(weights, flat=True)
    P = list(network.parameters())
    timing, kept = Timing(list(P)), Kept(tasks[0][0].flatten(1))
    for task, images, labels in each(tasks, timing):
        unseen = after(task)
        for x, y in epoch(images.flatten(1), labels, task, timing):
            for new_x, new_y in zip(x.split(1), y.split(1), strict=True):
                first = clones(P)
                rows = [kept.draw(WALK) for _ in range(WALKS)]
                for drawn in rows:
                    before = clones(P)
                    walk = [(new_x, new_y), *((kept.x[r : r + 1], kept.y[r : r + 1]) for r in drawn.tolist())]
                    for one_x, one_y in walk:
                        g = torch.autograd.grad(cross_entropy(network(one_x), one_y, unseen), P)
                        with torch.no_grad():
                            add_(P, g, alpha=-RATE)
                    with torch.no_grad():
                        for p, old in zip(P, before, strict=True):
                            p.copy_(old.lerp_(p, BETA))
                with torch.no_grad():
                    for p, old in zip(P, first, strict=True):
                        p.copy_(old.lerp_(p, GAMMA))
                kept.add(new_x, new_y)
    return timing


def la_maml(tasks: Images, weights: Iterable[Tensor]) -> Timing:
    """The asynchronous one."""
    network = mlp(weights)
    P = list(network.parameters())
    timing, kept = Timing(list(P)), Kept(tasks[0][0])
    rates = [torch.full_like(p, ALPHA, requires_grad=False) for p in P]
    for task, images, labels in each(tasks, timing):
        unseen = after(task)
        for x, y in epoch(images, labels, task, timing):
            for glance in range(GLANCES):
                all_x, all_y, steps, start = x, y, [rate.relu() for rate in rates], clones(P)
                if len(kept):
                    rows = kept.draw(len(y))
                    all_x, all_y = torch.cat([kept.x[rows], x]), torch.cat([kept.y[rows], y])
                way, for_weights, for_rates = zeros(P), zeros(P), zeros(P)
                for i in torch.randperm(len(y), device="cpu").tolist():
                    g = torch.autograd.grad(cross_entropy(network(x[i : i + 1]), y[i : i + 1], unseen), P)
                    with torch.no_grad():
                        addcmul_(P, steps, g, value=-1)
                    h = torch.autograd.grad(cross_entropy(network(all_x), all_y, unseen), P)
                    add_(way, g)
                    add_(for_weights, h)
                    addcmul_(for_rates, way, h, value=-1)
                if not glance:
                    kept.add(x, y)
                with torch.no_grad():
                    for rate, found in zip(rates, for_rates, strict=True):
                        found.mul_(rate > 0)
                    sub_clipped(rates, for_rates, len(y), [torch.full_like(rate, ETA) for rate in rates])
                    for p, old in zip(P, start, strict=True):
                        p.copy_(old)
                    sub_clipped(P, for_weights, len(y), [rate.relu() for rate in rates])
    return timing


def sub_clipped(values: Sequence[Tensor], gradients: Sequence[Tensor], n: int, rates: Sequence[Tensor]) -> None:
    """values - rates * gradients / n, these scaled down to the norm CLIP."""
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm() / n
    scale = (CLIP / (norm + 1e-6)).clamp(max=1) / n
    for value, gradient, rate in zip(values, gradients, rates, strict=True):
        value.addcmul_(gradient * scale, rate, value=-1)
