"""Weight aligning, BiC, SS-IL and LUCIR, written by hand."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reference.common import (
    FEW_EXEMPLARS,
    HELD_OUT,
    LUCIR_MARGIN,
    LUCIR_STRENGTH,
    RIDGE,
    SEPARATED_REPLAY,
    TEMPERATURE,
    TOP,
    Images,
    Timing,
    after,
    cross_entropy,
    descend,
    each,
    epoch,
    linear,
    mlp,
    permutation,
    sgd,
)
from reference.replay import herd, nothing, some_of

Exemplars = list[tuple[int, Tensor]]  # class, images; those of the last task first, as ours has them


def joined(images: Tensor, labels: Tensor, exemplars: Exemplars) -> tuple[Tensor, Tensor]:
    """A task and all exemplars."""
    old = [torch.full((len(kept),), c) for c, kept in exemplars]
    return torch.cat([images, *(kept for _, kept in exemplars)]), torch.cat([labels, *old])


@torch.no_grad()
def herded(features: nn.Module, task: int, images: Tensor, labels: Tensor, exemplars: Exemplars) -> Exemplars:
    """The exemplars after a task."""
    share = FEW_EXEMPLARS // (2 * (task + 1))
    new = [(c, images[labels == c]) for c in (2 * task, 2 * task + 1)]
    new = [(c, own[herd(F.normalize(features(own)), share)]) for c, own in new]
    return new + [(c, kept[:share]) for c, kept in exemplars]


def distilled(logits: Tensor, target: Tensor, old: int) -> Tensor:
    """Cross-entropy with the teacher's softmax over the first `old` classes."""
    q = (target[:, :old] / TEMPERATURE).softmax(1)
    return F.cross_entropy(logits[:, :old] / TEMPERATURE, q)


def wa(tasks: Images, weights: Iterable[Tensor]) -> Timing:
    """Labels and old answers; the head, without biases, clipped in each step and aligned after each task."""
    *weights, last = weights
    network = mlp([*weights, last, last.new_zeros(len(last))])
    head = linear(network)[-1]
    head.register_parameter("bias", None)
    timing, exemplars = Timing(list(network.parameters())), []
    for task, images, labels in each(tasks, timing):
        old, unseen, teacher, optimizer = 2 * task, after(task), copy.deepcopy(network), sgd(network.parameters())
        for x, y in epoch(*joined(images, labels, exemplars), task, timing):
            logits = network(x)
            loss = cross_entropy(logits, y, unseen)
            if task:
                with torch.no_grad():
                    target = teacher(x)
                loss = (2 * loss + old * distilled(logits, target, old)) / (old + 2)
            descend(optimizer, loss)
            with torch.no_grad():
                head.weight.clamp_(min=0)
        with torch.no_grad():
            if task:
                lengths = head.weight.norm(dim=1)
                head.weight[old : old + 2] *= lengths[:old].mean() / lengths[old : old + 2].mean()
        exemplars = herded(network[:-1], task, images, labels, exemplars)
    return timing


def bic(tasks: Images, weights: Iterable[Tensor]) -> Timing:
    """Labels and old answers; images of each class set apart, on which Newton's method fits a pair."""
    network = mlp(weights)
    timing, exemplars = Timing(list(network.parameters())), []
    a, b = torch.ones(10), torch.zeros(10)
    for task, images, labels in each(tasks, timing):
        old, new, unseen = 2 * task, slice(2 * task, 2 * task + 2), after(task)
        x_all, y_all = joined(images, labels, exemplars)
        apart = torch.zeros(len(y_all), dtype=torch.bool)
        if task:
            order = permutation(y_all)
            x_all, y_all = x_all[order], y_all[order]
            share = max(1, round(HELD_OUT * min(len(kept) for _, kept in exemplars)))
            for c in range(old + 2):
                apart[(y_all == c).nonzero().squeeze(1)[:share]] = True
        teacher, optimizer, a_old, b_old = copy.deepcopy(network), sgd(network.parameters()), a.clone(), b.clone()
        for x, y in epoch(x_all[~apart], y_all[~apart], task, timing):
            logits = network(x) * a + b
            loss = cross_entropy(logits, y, unseen)
            if task:
                with torch.no_grad():
                    target = teacher(x) * a_old + b_old
                loss = (2 * loss + old * distilled(logits, target, old)) / (old + 2)
            descend(optimizer, loss)
        if task:
            with torch.no_grad():
                z = (network(x_all[apart]) * a + b)[:, : old + 2].double()
            a[new], b[new] = newton(z, y_all[apart], new)
        exemplars = herded(network[:-1], task, images, labels, exemplars)
    return timing


def newton(z: Tensor, y: Tensor, new: slice) -> Tensor:
    """The pair with the least loss, by five full steps in two numbers and shorter ones where that is no gain."""
    identity = torch.tensor([1.0, 0.0], dtype=torch.float64)

    def loss(pair: Tensor) -> Tensor:
        corrected = torch.cat([z[:, : new.start], pair[0] * z[:, new] + pair[1]], 1)
        return F.cross_entropy(corrected, y) + RIDGE / 2 * (pair - identity).square().sum()

    pair = identity.clone()
    for _ in range(20):
        gradient = torch.func.grad(loss)(pair)
        step, length = torch.linalg.solve(torch.func.hessian(loss)(pair), gradient), 1.0
        while loss(pair - length * step) > loss(pair) and length > 1e-9:
            length /= 2
        pair = pair - length * step
    return pair


def ss_il(tasks: Images, weights: Iterable[Tensor]) -> Timing:
    """New images over new classes, old ones over old classes; each old task distilled by itself."""
    network, memory = mlp(weights), nothing(tasks)
    timing = Timing(list(network.parameters()))
    for task, images, labels in each(tasks, timing):
        old, teacher, optimizer = 2 * task, copy.deepcopy(network), sgd(network.parameters())
        for x, y in epoch(images, labels, task, timing):
            n = len(y)
            if task:
                rows = permutation(memory[1])[:SEPARATED_REPLAY]
                x, y = torch.cat([x, memory[0][rows]]), torch.cat([y, memory[1][rows]])
            logits = network(x)
            loss = F.cross_entropy(logits[:n, old : old + 2], y[:n] - old, reduction="sum") / len(y)
            if task:
                with torch.no_grad():
                    target = teacher(x)
                loss = loss + F.cross_entropy(logits[n:, :old], y[n:], reduction="sum") / len(y)
                pairs = logits[:, :old].reshape(-1, task, 2) / TEMPERATURE
                soft = (target[:, :old].reshape(-1, task, 2) / TEMPERATURE).softmax(2)
                loss = loss - TEMPERATURE**2 * (soft * pairs.log_softmax(2)).sum() / len(y)
            descend(optimizer, loss)
        share = FEW_EXEMPLARS // (old + 2)
        images, labels = some_of(images, labels, share, memory)
        rows = torch.cat([(labels == c).nonzero().squeeze(1)[:share] for c in range(old + 2)]).sort()[0]
        memory = images[rows], labels[rows]
    return timing


def lucir(tasks: Images, weights: Iterable[Tensor]) -> Timing:
    """Cosines; features held in their direction, old images apart from new classes, old class vectors not moved."""
    *weights, vectors, scale = (weight.detach().clone() for weight in weights)
    network = mlp(weights)
    features = network.append(nn.ReLU())
    vectors, scale = nn.Parameter(vectors), nn.Parameter(scale)
    P = [*features.parameters(), vectors, scale]
    timing, exemplars = Timing(list(P)), []
    for task, images, labels in each(tasks, timing):
        old, new, unseen = 2 * task, slice(2 * task, 2 * task + 2), after(task)
        with torch.no_grad():
            if task:
                length = vectors[:old].norm(dim=1).mean()
                means = [F.normalize(features(images[labels == c])).mean(0) for c in (old, old + 1)]
                vectors[new] = length * F.normalize(torch.stack(means))
        teacher, held, optimizer = copy.deepcopy(features), vectors[:old].detach().clone(), sgd(P)
        for x, y in epoch(*joined(images, labels, exemplars), task, timing):
            f = F.normalize(features(x))
            cosines = f @ F.normalize(vectors).T
            loss = cross_entropy(scale * cosines, y, unseen)
            if task:
                with torch.no_grad():
                    before = F.normalize(teacher(x))
                loss = loss + LUCIR_STRENGTH * (old / 2) ** 0.5 * (1 - (f * before).sum(1)).mean()
                rows = (y < old).nonzero().squeeze(1)
                if len(rows):
                    right = cosines[rows, y[rows]].unsqueeze(1)
                    nearest = cosines[rows, new].topk(TOP, dim=1).values
                    loss = loss + (LUCIR_MARGIN - right + nearest).clamp(min=0).mean()
            descend(optimizer, loss)
            with torch.no_grad():
                vectors[:old] = held
        exemplars = herded(features, task, images, labels, exemplars)
    return timing
