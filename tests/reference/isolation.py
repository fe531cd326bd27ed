"""PackNet and HAT, written by hand."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reference.common import (
    CLAMP,
    EMBEDDING_LR,
    PRUNE,
    S_MAX,
    SPARSITY,
    Images,
    Timing,
    each,
    epoch,
    linear,
    mlp,
    mul_,
    sgd,
)


def among_own(logits: Tensor, y: Tensor, task: int) -> Tensor:
    """Cross-entropy over the two classes of a task."""
    return F.cross_entropy(logits[:, 2 * task : 2 * task + 2], y - 2 * task)


def packnet(tasks: Images, weights: Iterable[Tensor]) -> Timing:
    """Gradients of weights of other tasks are zeroed, which is enough for this optimizer."""
    network = mlp(weights)
    timing = Timing(list(network.parameters()))
    first, second, _ = linear(network)
    biases, layers = [first.bias, second.bias], [first.weight, second.weight]
    free = [torch.ones_like(p, dtype=torch.bool) for p in layers]
    for task, images, labels in each(tasks, timing):
        for bias in biases:
            bias.requires_grad_(task == 0)
        movable = [own.float() for own in free]
        for phase in range(2):
            optimizer = sgd(p for p in network.parameters() if p.requires_grad)
            for x, y in epoch(images, labels, task, timing, phase=phase):
                optimizer.zero_grad()
                among_own(network(x), y, task).backward()
                if task or phase:
                    mul_([p.grad for p in layers], movable)
                optimizer.step()
            if phase == 0:
                with torch.no_grad():
                    kept = [largest(p, own) for p, own in zip(layers, free, strict=True)]
                    for p, own, some in zip(layers, free, kept, strict=True):
                        p.masked_fill_(own & ~some, 0.0)
                    movable = [some.float() for some in kept]
                    free = [own & ~some for own, some in zip(free, kept, strict=True)]
    return timing


def largest(p: Tensor, own: Tensor) -> Tensor:
    """Which of a task's own weights are left when the smallest are pruned."""
    sizes = p[own].abs()
    return own & (p.abs() > sizes.kthvalue(round(PRUNE * len(sizes))).values)


def hat(tasks: Images, weights: Iterable[Tensor]) -> Timing:
    """The gates are leaves of the graph: the slope of their embeddings is written out, and differs from theirs."""
    *weights, first_embedding, second_embedding = weights
    network = mlp(weights)
    first, second, head = linear(network)
    embeddings = [first_embedding.clone(), second_embedding.clone()]
    timing = Timing([*network.parameters(), *embeddings])
    reserved = [torch.zeros(len(one), dtype=torch.bool) for one in embeddings]
    for task, images, labels in each(tasks, timing):
        below, above = ((~units).to(first.weight.dtype) for units in reserved)
        n_free = float(below.sum() + above.sum())
        between = (~(reserved[1][:, None] & reserved[0])).float()
        movable = [below[:, None].expand_as(first.weight).contiguous(), below, between, above]
        held = [first.weight, first.bias, second.weight, second.bias]
        for embedding in embeddings:
            nn.init.normal_(embedding)
        optimizer, last = sgd(network.parameters()), (len(labels) - 1) // 128
        for i, (x, y) in enumerate(epoch(images, labels, task, timing)):
            s = 1 / S_MAX + (S_MAX - 1 / S_MAX) * i / last
            a, b = gates = [torch.sigmoid(s * embedding).requires_grad_() for embedding in embeddings]
            logits = head((second((first(x.flatten(1)) * a).relu()) * b).relu())
            loss = among_own(logits, y, task) + SPARSITY / n_free * (a @ below + b @ above)
            optimizer.zero_grad()
            loss.backward()
            if task:
                mul_([p.grad for p in held], movable)
            optimizer.step()
            for embedding, gate in zip(embeddings, gates, strict=True):
                assert gate.grad is not None
                open_ = embedding.sigmoid()
                slope = S_MAX * open_ * (1 - open_)
                embedding.sub_(EMBEDDING_LR * slope * gate.grad).clamp_(-CLAMP, CLAMP)
        reserved = [units | (embedding >= 0) for units, embedding in zip(reserved, embeddings, strict=True)]
    return timing
