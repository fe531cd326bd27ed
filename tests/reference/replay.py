"""ER, DER, GEM, A-GEM and iCaRL, written by hand."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy.linalg import solve_triangular
from scipy.optimize import nnls
from torch import Tensor

from cl_bench.seeding import derive, seeded
from reference.common import (
    AGEM_BUDGET,
    AGEM_REPLAY,
    ALPHA,
    DER_BUDGET,
    ER_BUDGET,
    EXEMPLARS,
    GEM_BUDGET,
    MARGIN,
    Images,
    Timing,
    add_,
    after,
    cross_entropy,
    descend,
    each,
    epoch,
    mlp,
    permutation,
    sgd,
)


def some_of(images: Tensor, labels: Tensor, n: int, memory: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Memory, with n of each new class in front of it; in the order of ours, so that draws from it are the same."""
    order = permutation(labels)
    drawn = labels[order]
    rows = order[torch.cat([(drawn == c).nonzero().squeeze(1)[:n] for c in drawn.unique()]).sort()[0]]
    return torch.cat([images[rows], memory[0]]), torch.cat([labels[rows], memory[1]])


def nothing(tasks: Images) -> tuple[Tensor, Tensor]:
    """An empty memory."""
    images, labels = tasks[0]
    return images[:0], labels[:0]


def er(tasks: Images, weights: Iterable[Tensor]) -> Timing:
    """Each mini-batch with as many images of memory."""
    network, memory = mlp(weights), nothing(tasks)
    timing = Timing(list(network.parameters()))
    for task, images, labels in each(tasks, timing):
        optimizer, unseen = sgd(network.parameters()), after(task)
        for x, y in epoch(images, labels, task, timing):
            if task:
                rows = permutation(memory[1])[: len(y)]
                x, y = torch.cat([x, memory[0][rows]]), torch.cat([y, memory[1][rows]])
            descend(optimizer, cross_entropy(network(x), y, unseen))
        memory = some_of(images, labels, ER_BUDGET, memory)
    return timing


def der(tasks: Images, weights: Iterable[Tensor]) -> Timing:
    """Over every output. Places of the reservoir are drawn as ours are, seeded anew for each mini-batch."""
    network = mlp(weights)
    timing = Timing(list(network.parameters()))
    with seeded(0, "method"):
        seed, seen = int(torch.randint(2**31, (), device="cpu")), 0
    generator = torch.Generator(device="cpu")
    kept, answers = tasks[0][0].new_empty(DER_BUDGET, *tasks[0][0].shape[1:]), torch.empty(DER_BUDGET, 10)
    for task, images, labels in each(tasks, timing):
        optimizer = sgd(network.parameters())
        for x, y in epoch(images, labels, task, timing):
            logits = network(x)
            loss = F.cross_entropy(logits, y)
            if seen:
                rows = permutation(kept[:seen])[: len(y)]
                loss = loss + ALPHA * F.mse_loss(network(kept[rows]), answers[rows])
            descend(optimizer, loss)

            number = torch.arange(seen, seen + len(y), device="cpu")
            generator.manual_seed(derive(seed, seen))
            uniform = torch.rand(len(y), generator=generator, dtype=torch.float64, device="cpu")
            drawn = (uniform * (number + 1)).long()
            place = torch.where(number < DER_BUDGET, number, drawn)
            for row in (place < DER_BUDGET).nonzero().squeeze(1).tolist():  # soon one or two of a mini-batch
                kept[place[row]], answers[place[row]] = x[row], logits[row].detach()
            seen += len(y)
    return timing


def gradient(loss: Tensor, P: Sequence[Tensor], out: Tensor | None = None) -> Tensor:
    """As one vector."""
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, P)], out=out)


def gem(tasks: Images, weights: Iterable[Tensor]) -> Timing:
    """The gradient of each old task's memory in each step, and a quadratic program where one is violated."""
    network = mlp(weights)
    P = list(network.parameters())
    timing, memories = Timing(list(P)), []
    sizes = [p.numel() for p in P]
    for task, images, labels in each(tasks, timing):
        optimizer, unseen, G = sgd(P), after(task), torch.empty(task, sum(sizes))
        for x, y in epoch(images, labels, task, timing):
            g = gradient(cross_entropy(network(x), y, unseen), P)
            for (old_x, old_y), row in zip(memories, G, strict=True):
                gradient(cross_entropy(network(old_x), old_y, unseen), P, out=row)
            if task:
                g = without_violation(g, G)
            for p, part in zip(P, g.split(sizes), strict=True):
                p.grad = part.view_as(p)
            optimizer.step()
        rows = permutation(labels)[:GEM_BUDGET]
        memories.append((images[rows], labels[rows]))
    return timing


def without_violation(g: Tensor, G: Tensor) -> Tensor:
    """min |u - g|^2, G u >= 0, by its dual, non-negative least squares."""
    along = G @ g
    if (along >= 0).all():
        return g
    Q = (G @ G.T).double().cpu().numpy()
    L = np.linalg.cholesky(Q + 1e-10 * Q.trace() * np.eye(len(Q)))
    v, _ = nnls(L.T, -solve_triangular(L, along.double().cpu().numpy() + MARGIN * Q.sum(1), lower=True))
    return g + torch.from_numpy(v + MARGIN).to(g) @ G


def agem(tasks: Images, weights: Iterable[Tensor]) -> Timing:
    """The gradient of images of memory in each step; tensor by tensor, without a long vector."""
    network, memory = mlp(weights), nothing(tasks)
    P = list(network.parameters())
    timing = Timing(list(P))
    for task, images, labels in each(tasks, timing):
        optimizer, unseen = sgd(P), after(task)
        for x, y in epoch(images, labels, task, timing):
            gradients = torch.autograd.grad(cross_entropy(network(x), y, unseen), P)
            if task:
                rows = permutation(memory[1])[:AGEM_REPLAY]
                old = torch.autograd.grad(cross_entropy(network(memory[0][rows]), memory[1][rows], unseen), P)
                along = dot(gradients, old)
                if along < 0:
                    add_(gradients, old, alpha=-along / dot(old, old))
            for p, g in zip(P, gradients, strict=True):
                p.grad = g
            optimizer.step()
        memory = some_of(images, labels, AGEM_BUDGET, memory)
    return timing


def dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    return float(sum(torch.dot(one.flatten(), other.flatten()) for one, other in zip(a, b, strict=True)))


def icarl(tasks: Images, weights: Iterable[Tensor]) -> Timing:
    """Binary cross-entropies with the old network's answers; exemplars by herding, and their means."""
    network = mlp(weights)
    features = network[:-1]
    timing = Timing(list(network.parameters()))
    exemplars: list[tuple[int, Tensor]] = []  # class, images; those of the last task first, as ours has them
    for task, images, labels in each(tasks, timing):
        old, seen, share = 2 * task, 2 * (task + 1), EXEMPLARS // (2 * (task + 1))
        all_images = torch.cat([images, *(kept for _, kept in exemplars)])
        all_labels = torch.cat([labels, *(torch.full((len(kept),), c) for c, kept in exemplars)])
        teacher, optimizer = copy.deepcopy(network), sgd(network.parameters())
        for x, y in epoch(all_images, all_labels, task, timing):
            target = F.one_hot(y, seen).float()
            if task:
                with torch.no_grad():
                    target[:, :old] = teacher(x)[:, :old].sigmoid()
            loss = F.binary_cross_entropy_with_logits(network(x)[:, :seen], target, reduction="sum") / len(y)
            descend(optimizer, loss)
        with torch.no_grad():
            new = [(c, images[labels == c]) for c in range(old, seen)]
            new = [(c, own[herd(F.normalize(features(own)), share)]) for c, own in new]
            exemplars = new + [(c, kept[:share]) for c, kept in exemplars]
            means = {c: F.normalize(F.normalize(features(kept)).mean(0), dim=0) for c, kept in exemplars}
    assert len(means) == 2 * len(tasks)
    return timing


def herd(features: Tensor, n: int) -> Tensor:
    """The rows of n features, one after another: whose sum with those taken points along the mean of all most."""
    wanted, squares = F.normalize(features.mean(0), dim=0), features.square().sum(1)
    along, rows = features @ wanted, []
    taken = torch.zeros_like(wanted)
    for _ in range(min(n, len(features))):
        lengths = (squares + 2 * (features @ taken) + taken.square().sum()).sqrt()
        cosines = (along + taken @ wanted) / lengths
        cosines[rows] = -torch.inf  # taken once
        rows.append(int(cosines.argmax()))
        taken = taken + features[rows[-1]]
    return torch.tensor(rows)
