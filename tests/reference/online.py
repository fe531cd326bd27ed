"""ER-ACE, MIR and greedy GSS, written by hand, in mini-batches of 10."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad, vmap

from cl_bench.seeding import derive, seeded
from reference.common import (
    LOWEST,
    ONLINE_BUDGET,
    Images,
    Timing,
    add_,
    after,
    clones,
    cross_entropy,
    descend,
    each,
    epoch,
    lerp_,
    mlp,
    permutation,
    sgd,
)

BATCH_SIZE, CANDIDATES, COMPARED, LR = 10, 5, 10, 0.01  # candidates for each image replayed


class Reservoir:
    """Places are drawn as ours are, seeded anew for each mini-batch."""

    def __init__(self, images: Tensor) -> None:
        with seeded(0, "method"):
            self.seed, self.seen = int(torch.randint(2**31, (), device="cpu")), 0
        self.x, self.y = images.new_empty(ONLINE_BUDGET, *images.shape[1:]), torch.empty(ONLINE_BUDGET).long()
        self.generator = torch.Generator(device="cpu")

    def draw(self, n: int) -> tuple[Tensor, Tensor]:
        rows = permutation(self.y[: self.seen])[:n]
        return self.x[rows], self.y[rows]

    def add(self, x: Tensor, y: Tensor) -> None:
        number = torch.arange(self.seen, self.seen + len(y), device="cpu")
        self.generator.manual_seed(derive(self.seed, self.seen))
        uniform = torch.rand(len(y), generator=self.generator, dtype=torch.float64, device="cpu")
        place = torch.where(number < ONLINE_BUDGET, number, (uniform * (number + 1)).long())
        for row in (place < ONLINE_BUDGET).nonzero().squeeze(1).tolist():  # soon one or none of a mini-batch
            self.x[place[row]], self.y[place[row]] = x[row], y[row]
        self.seen += len(y)


def er_ace(tasks: Images, weights: Iterable[Tensor]) -> Timing:
    """The classes of a mini-batch compete alone, those that came in memory."""
    network = mlp(weights)
    timing, memory = Timing(list(network.parameters())), Reservoir(tasks[0][0])
    for task, images, labels in each(tasks, timing):
        optimizer, unseen = sgd(network.parameters()), after(task)
        for x, y in epoch(images, labels, task, timing, batch_size=BATCH_SIZE):
            absent = torch.ones(10, dtype=torch.bool)
            absent[y] = False
            loss = cross_entropy(network(x), y, absent)
            if memory.seen:
                old_x, old_y = memory.draw(len(y))
                loss = loss + cross_entropy(network(old_x), old_y, unseen)
            descend(optimizer, loss)
            memory.add(x, y)
    return timing


def mir(tasks: Images, weights: Iterable[Tensor]) -> Timing:
    """The step is made, looked at and taken back."""
    network = mlp(weights)
    P = list(network.parameters())
    timing, memory = Timing(list(P)), Reservoir(tasks[0][0])
    for task, images, labels in each(tasks, timing):
        optimizer, unseen = sgd(P), after(task)
        for x, y in epoch(images, labels, task, timing, batch_size=BATCH_SIZE):
            gradients = list(torch.autograd.grad(cross_entropy(network(x), y, unseen), P))
            if memory.seen:
                old_x, old_y = memory.draw(CANDIDATES * len(y))
                with torch.no_grad():
                    before = F.cross_entropy(network(old_x).masked_fill(unseen, LOWEST), old_y, reduction="none")
                    here = clones(P)
                    add_(P, gradients, alpha=-LR)
                    harm = F.cross_entropy(network(old_x).masked_fill(unseen, LOWEST), old_y, reduction="none") - before
                    torch._foreach_copy_(P, here)  # type: ignore[attr-defined]
                rows = harm.topk(min(len(y), len(old_y))).indices
                old = torch.autograd.grad(cross_entropy(network(old_x[rows]), old_y[rows], unseen), P)
                lerp_(gradients, old, len(rows) / (len(rows) + len(y)))
            for p, g in zip(P, gradients, strict=True):
                p.grad = g
            optimizer.step()
            memory.add(x, y)
    return timing


def gss(tasks: Images, weights: Iterable[Tensor]) -> Timing:
    """The gradient of each image, written out."""
    network = mlp(weights)
    P = dict(network.named_parameters())
    timing = Timing(list(P.values()))
    kept_x, kept_y, scores = tasks[0][0][:0], tasks[0][1][:0], torch.empty(0)
    for task, images, labels in each(tasks, timing):
        optimizer, unseen = sgd(P.values()), after(task)

        def loss_of_one(weights: dict[str, Tensor], x: Tensor, y: Tensor, unseen: Tensor = unseen) -> Tensor:
            return cross_entropy(functional_call(network, weights, (x[None],)), y[None], unseen)

        gradients = vmap(grad(loss_of_one), in_dims=(None, 0, 0))

        def directions(x: Tensor, y: Tensor, gradients: object = gradients) -> Tensor:
            found = gradients({name: p.detach() for name, p in P.items()}, x, y)  # type: ignore[operator]
            return F.normalize(torch.cat([g.flatten(1) for g in found.values()], 1))

        for x, y in epoch(images, labels, task, timing, batch_size=BATCH_SIZE):
            both_x, both_y = x, y
            if len(kept_y):
                rows = permutation(kept_y)[: len(y)]
                both_x, both_y = torch.cat([x, kept_x[rows]]), torch.cat([y, kept_y[rows]])
            descend(optimizer, cross_entropy(network(both_x), both_y, unseen))

            c = torch.ones(len(y))
            if len(kept_y):
                rows = permutation(kept_y)[:COMPARED]
                c = 1 + (directions(x, y) @ directions(kept_x[rows], kept_y[rows]).T).amax(1)
            room = ONLINE_BUDGET - len(kept_y)
            kept_x, kept_y = torch.cat([kept_x, x[:room]]), torch.cat([kept_y, y[:room]])
            scores = torch.cat([scores, c[:room]])
            if room < len(y):
                clock = torch.empty(ONLINE_BUDGET, device="cpu").exponential_().to(scores) / scores  # who is first goes
                place = clock.argsort()[: len(y) - room]
                uniform = torch.rand(len(place), device="cpu").to(scores)
                for i, j, u in zip(range(room, len(y)), place.tolist(), uniform.tolist(), strict=True):
                    if c[i] < 1 and u < scores[j] / (scores[j] + c[i]):
                        kept_x[j], kept_y[j], scores[j] = x[i], y[i], c[i]
    return timing
