"""OGD, gradient projection memory and the three-term loss, written by hand."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reference.common import (
    ENERGY,
    META_PULL,
    META_RATE,
    OGD_SAMPLES,
    TEMPERATURE,
    Images,
    Timing,
    after,
    clones,
    cross_entropy,
    descend,
    each,
    epoch,
    lerp_,
    linear,
    mlp,
    permutation,
    sgd,
    sub,
)


def ogd(tasks: Images, weights: Iterable[Tensor]) -> Timing:
    """The update as one vector, less what it has in a basis of the gradients of true labels' logits."""
    network = mlp(weights)
    P = list(network.parameters())
    timing, sizes = Timing(list(P)), [p.numel() for p in P]
    basis = torch.empty(0, sum(sizes))
    for task, images, labels in each(tasks, timing):
        optimizer, unseen = sgd(P), after(task)
        for x, y in epoch(images, labels, task, timing):
            old = clones(P)
            descend(optimizer, cross_entropy(network(x), y, unseen))
            if task:
                with torch.no_grad():
                    u = torch.cat([part.flatten() for part in sub(P, old)])
                    u = u - (basis @ u) @ basis
                    for p, p_old, part in zip(P, old, u.split(sizes), strict=True):
                        p.copy_(p_old + part.view_as(p))
        rows = permutation(labels)[:OGD_SAMPLES]
        basis = gram_schmidt(basis, gradients_of_true_labels(network, images[rows], labels[rows]))
    return timing


def gram_schmidt(basis: Tensor, new: Tensor) -> Tensor:
    """Twice for each vector, all of them together against the old basis; what is in it already is left out."""
    for _ in range(2):
        new = new - (new @ basis.T) @ basis
    own = torch.empty_like(new)
    count = 0
    for v in new:
        for _ in range(2):
            v = v - (own[:count] @ v) @ own[:count]
        if v.norm() > 1e-5:
            own[count], count = v / v.norm(), count + 1
    return torch.cat([basis, own[:count]])


def gradients_of_true_labels(network: nn.Sequential, x: Tensor, y: Tensor) -> Tensor:
    """Of each image's own logit, by all weights: for a layer, the product of its input and the gradient behind it."""
    inputs, outputs = recorded(network, x)
    behind = torch.autograd.grad(outputs[-1].gather(1, y[:, None]).sum(), outputs)
    parts = [(torch.einsum("bi,bj->bij", g, a).flatten(1), g) for a, g in zip(inputs, behind, strict=True)]
    return F.normalize(torch.cat([part for pair in parts for part in pair], 1))


def recorded(network: nn.Sequential, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """What goes into each linear layer, and what comes out."""
    inputs, outputs = [], []
    for layer in network:
        if isinstance(layer, nn.Linear):
            inputs.append(x.detach())
        x = layer(x)
        if isinstance(layer, nn.Linear):
            outputs.append(x)
    return inputs, outputs


def gpm(tasks: Images, weights: Iterable[Tensor]) -> Timing:
    """The update of each layer, less what its rows have in a basis of the layer's inputs; biases are a last column."""
    network = mlp(weights)
    P = list(network.parameters())
    timing, layers = Timing(list(P)), linear(network)
    bases: list[Tensor] = []
    for task, images, labels in each(tasks, timing):
        optimizer, unseen = sgd(P), after(task)
        for x, y in epoch(images, labels, task, timing):
            old = clones(P)
            descend(optimizer, cross_entropy(network(x), y, unseen))
            if task:
                with torch.no_grad():
                    for layer, W, b, basis in zip(layers, old[::2], old[1::2], bases, strict=True):
                        u = torch.cat([layer.weight - W, (layer.bias - b)[:, None]], 1)
                        u = u - (u @ basis.T) @ basis
                        layer.weight.copy_(W + u[:, :-1])
                        layer.bias.copy_(b + u[:, -1])
        inputs, _ = recorded(network, images[permutation(labels)[:OGD_SAMPLES]])
        rows = [F.pad(a, (0, 1), value=1.0) for a in inputs]
        bases = bases or [a[:0] for a in rows]
        bases = [
            grown(basis, a, ENERGY[0] if i == 0 else ENERGY[1])
            for i, (basis, a) in enumerate(zip(bases, rows, strict=True))
        ]
    return timing


def grown(basis: Tensor, a: Tensor, energy: float) -> Tensor:
    """With the first singular vectors of what is left of the rows, until so much of their energy is inside."""
    _, s, V = torch.linalg.svd(a - (a @ basis.T) @ basis, full_matrices=False)
    left, k = s.square().sum(), 0
    while left > (1 - energy) * a.square().sum():
        left, k = left - s[k] ** 2, k + 1
    return torch.linalg.qr(torch.cat([basis, V[:k]]).T).Q.T.contiguous()


def meta_regularized(tasks: Images, weights: Iterable[Tensor]) -> Timing:
    """LwF, and a pull to weights that follow those of each task by a part of the way."""
    network = mlp(weights)
    P = list(network.parameters())
    timing, meta = Timing(list(P)), clones(P)
    for task, images, labels in each(tasks, timing):
        teacher = copy.deepcopy(network)
        optimizer, unseen, old = sgd(P), after(task), 2 * task
        for x, y in epoch(images, labels, task, timing):
            logits = network(x)
            loss = cross_entropy(logits, y, unseen)
            if task:
                with torch.no_grad():
                    target = (teacher(x)[:, :old] / TEMPERATURE).softmax(1)
                loss = loss + F.cross_entropy(logits[:, :old] / TEMPERATURE, target)
                loss = loss + META_PULL / 2 * squares(P, meta, old)
            descend(optimizer, loss)
        with torch.no_grad():
            lerp_(meta, clones(P), META_RATE)
    return timing


def squares(P: Sequence[Tensor], meta: Sequence[Tensor], old: int) -> Tensor:
    """The squared distance, of the head only as far as it is old."""
    gaps = [p - m for p, m in zip(P, meta, strict=True)]
    gaps = [*gaps[:-2], gaps[-2][:old], gaps[-1][:old]]
    return torch.stack([gap.square().sum() for gap in gaps]).sum()
