"""Fine-tuning, EWC, MAS, SI, RWalk and LwF, written by hand."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reference.common import (
    DAMPING,
    EWC_STRENGTH,
    FISHER_RATE,
    INTERVAL,
    LOWEST,
    STRENGTH,
    TEMPERATURE,
    Images,
    Quadratic,
    Timing,
    add_,
    addcmul,
    addcmul_,
    after,
    clones,
    cross_entropy,
    descend,
    each,
    epoch,
    lerp_,
    mlp,
    sgd,
    sub,
    zeros,
)


def finetune(tasks: Images, weights: Iterable[Tensor]) -> Timing:
    """Cross-entropy over the classes seen so far."""
    network = mlp(weights)
    timing = Timing(list(network.parameters()))
    for task, images, labels in each(tasks, timing):
        optimizer, unseen = sgd(network.parameters()), after(task)
        for x, y in epoch(images, labels, task, timing):
            descend(optimizer, cross_entropy(network(x), y, unseen))
    return timing


def recorded(network: nn.Sequential, x: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """The logits, and what went into each linear layer and what came out."""
    inputs, outputs = [], []
    for layer in network:
        if isinstance(layer, nn.Linear):
            inputs.append(x.detach())
        x = layer(x)
        if isinstance(layer, nn.Linear):
            outputs.append(x)
    return x, inputs, outputs


def per_sample(inputs: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
    """Sums over samples for weights and biases: |g_i a_j|^p = |g_i|^p |a_j|^p, of powers taken already."""
    return [part for a, g in zip(inputs, gradients, strict=True) for part in (g.T @ a, g.sum(0))]


def fisher_of_all_labels(network: nn.Sequential, images: Tensor, unseen: Tensor) -> list[Tensor]:
    """The exact diagonal of the Fisher information."""
    fisher = zeros(network.parameters())
    for x in images.split(512):
        logits, inputs, outputs = recorded(network, x)
        log_p = logits.masked_fill(unseen, LOWEST).log_softmax(1)
        squares = zeros(outputs)
        for c in (~unseen).nonzero().flatten().tolist():
            score = (log_p[:, c].detach().exp().sqrt() * log_p[:, c]).sum()
            gradients = torch.autograd.grad(score, outputs, retain_graph=True)
            addcmul_(squares, gradients, gradients)
        add_(fisher, per_sample([a.square() for a in inputs], squares))
    return [f / len(images) for f in fisher]


def fisher_of_labels(network: nn.Sequential, x: Tensor, y: Tensor, unseen: Tensor) -> list[Tensor]:
    """The empirical Fisher information of a mini-batch."""
    logits, inputs, outputs = recorded(network, x)
    score = -F.cross_entropy(logits.masked_fill(unseen, LOWEST), y, reduction="sum")
    gradients = torch.autograd.grad(score, outputs)
    sums = per_sample([a.square() for a in inputs], [g.square() for g in gradients])
    return [f / len(x) for f in sums]


def sensitivity(network: nn.Sequential, images: Tensor, unseen: Tensor) -> list[Tensor]:
    """MAS: the mean of |d ||f(x)||^2 / d theta|."""
    total = zeros(network.parameters())
    for x in images.split(512):
        logits, inputs, outputs = recorded(network, x)
        gradients = torch.autograd.grad(logits.masked_fill(unseen, 0.0).square().sum(), outputs)
        add_(total, per_sample([a.abs() for a in inputs], [g.abs() for g in gradients]))
    return [part / len(images) for part in total]


def ewc(tasks: Images, weights: Iterable[Tensor], *, merge: bool) -> Timing:
    """merge: one quadratic that all old tasks share, instead of a term for each of them."""
    network = mlp(weights)
    timing = Timing(list(network.parameters()))
    past: list[Quadratic] = []
    for task, images, labels in each(tasks, timing):
        optimizer, unseen = sgd(network.parameters()), after(task)
        for x, y in epoch(images, labels, task, timing):
            loss = cross_entropy(network(x), y, unseen)
            for fisher, old in past:
                for f, p, p_old in zip(fisher, network.parameters(), old, strict=True):
                    loss = loss + EWC_STRENGTH / 2 * (f * (p - p_old) ** 2).sum()
            descend(optimizer, loss)
        past.append((fisher_of_all_labels(network, images, unseen), clones(network.parameters())))
        if merge:
            past = [merged(past)]
    return timing


def merged(past: list[Quadratic]) -> Quadratic:
    """The quadratic with the gradient of the sum of these."""
    fisher = [torch.stack(fs).sum(0) for fs in zip(*(fisher for fisher, _ in past), strict=True)]
    pulls = [[f * old for f, old in zip(*one, strict=True)] for one in past]
    pull = [torch.stack(one).sum(0) for one in zip(*pulls, strict=True)]
    return fisher, [torch.where(f > 0, p / f, 0.0) for f, p in zip(fisher, pull, strict=True)]


def mas(tasks: Images, weights: Iterable[Tensor], *, autograd: bool) -> Timing:
    """autograd: the penalty is a part of the loss, instead of its gradient being added."""
    network = mlp(weights)
    P = list(network.parameters())
    timing = Timing(list(P))
    omega, old = zeros(P), clones(P)
    for task, images, labels in each(tasks, timing):
        optimizer, unseen = sgd(P), after(task)
        for x, y in epoch(images, labels, task, timing):
            loss = cross_entropy(network(x), y, unseen)
            if task and autograd:
                for o, p, p_old in zip(omega, P, old, strict=True):
                    loss = loss + STRENGTH * (o * (p - p_old) ** 2).sum()
            optimizer.zero_grad()
            loss.backward()
            if task and not autograd:
                with torch.no_grad():
                    addcmul_([p.grad for p in P], omega, sub(P, old), value=2 * STRENGTH)
            optimizer.step()
        add_(omega, sensitivity(network, images, unseen))
        old = clones(P)
    return timing


def walk(
    optimizer: torch.optim.Optimizer, loss: Tensor, P: Sequence[Tensor], path: list[Tensor], pull: Quadratic | None
) -> None:
    """A step of SI: along the gradient of the loss and the pull; `path` grows by what it lowered the loss."""
    optimizer.zero_grad()
    loss.backward()
    with torch.no_grad():
        gradient, before = [p.grad for p in P], clones(P)
        if pull:
            omega, old = pull
            for p, g in zip(P, addcmul(gradient, omega, sub(P, old), value=2 * STRENGTH), strict=True):
                p.grad = g
        optimizer.step()
        addcmul_(path, gradient, sub(P, before), value=-1)


def si(tasks: Images, weights: Iterable[Tensor]) -> Timing:
    """The gradient of the penalty is written out: that of the loss is needed apart from it anyway."""
    network = mlp(weights)
    P = list(network.parameters())
    timing = Timing(list(P))
    omega, old = zeros(P), clones(P)
    for task, images, labels in each(tasks, timing):
        optimizer, unseen, path = sgd(P), after(task), zeros(P)
        for x, y in epoch(images, labels, task, timing):
            loss = cross_entropy(network(x), y, unseen)
            walk(optimizer, loss, P, path, (omega, old) if task else None)
        with torch.no_grad():
            for o, w, moved in zip(omega, path, sub(P, old), strict=True):
                o += (w / (moved.square() + DAMPING)).relu()
        old = clones(P)
    return timing


def rwalk(tasks: Images, weights: Iterable[Tensor]) -> Timing:
    """SI's step; every INTERVAL of them the Fisher information moves on and the score grows."""
    network = mlp(weights)
    P = list(network.parameters())
    timing = Timing(list(P))
    fisher, score, pull = zeros(P), zeros(P), None
    for task, images, labels in each(tasks, timing):
        optimizer, unseen, path, start, task_score = sgd(P), after(task), zeros(P), clones(P), zeros(P)
        for i, (x, y) in enumerate(epoch(images, labels, task, timing)):
            if i % INTERVAL == 0:
                end_interval(P, start, path, fisher, task_score)
                lerp_(fisher, fisher_of_labels(network, x, y, unseen), FISHER_RATE)
            walk(optimizer, cross_entropy(network(x), y, unseen), P, path, pull)
        end_interval(P, start, path, fisher, task_score)
        lerp_(score, task_score, 0.5 if task else 1.0)
        pull = [f + s for f, s in zip(scaled(fisher), scaled(score), strict=True)], clones(P)
    return timing


@torch.no_grad()
def end_interval(
    P: Sequence[Tensor], start: list[Tensor], path: list[Tensor], fisher: list[Tensor], score: list[Tensor]
) -> None:
    """The score grows by the loss saved per change of the answers; the next interval starts here."""
    for p, p_start, w, f, s in zip(P, start, path, fisher, score, strict=True):
        s += (w / (f / 2 * (p - p_start).square() + DAMPING)).relu()
        p_start.copy_(p)
        w.zero_()


def scaled(values: list[Tensor]) -> list[Tensor]:
    """From 0 to 1."""
    low, high = min(float(value.min()) for value in values), max(float(value.max()) for value in values)
    return [(value - low) / (high - low) for value in values]


def lwf(tasks: Images, weights: Iterable[Tensor]) -> Timing:
    """Cross-entropy, and what the network of the last task says of the old classes."""
    network = mlp(weights)
    timing = Timing(list(network.parameters()))
    for task, images, labels in each(tasks, timing):
        teacher = copy.deepcopy(network)
        optimizer, unseen, old = sgd(network.parameters()), after(task), 2 * task
        for x, y in epoch(images, labels, task, timing):
            logits = network(x)
            loss = cross_entropy(logits, y, unseen)
            if task:
                with torch.no_grad():
                    target = (teacher(x)[:, :old] / TEMPERATURE).softmax(1)
                loss = loss + F.cross_entropy(logits[:, :old] / TEMPERATURE, target)
            descend(optimizer, loss)
    return timing
