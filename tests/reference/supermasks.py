"""SupSup and CLNP, written by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reference.common import L1, VAL_MARGIN, Images, Timing, each, epoch, linear, mlp, mul_, sgd
from reference.isolation import among_own


class Step(torch.autograd.Function):
    """1 where a score is at least 0; its gradient goes straight through."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor) -> Tensor:
        return (scores >= 0).float()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def supsup(tasks: Images, weights: Sequence[Tensor]) -> Timing:
    """The mask is given. What is compared are the weights under the mean of all masks."""
    weights = [weight.clone() for weight in weights]
    timing = Timing([])
    kept = [torch.zeros_like(weight) for weight in weights]
    for task, images, labels in each(tasks, timing):
        scores = [nn.init.kaiming_uniform_(torch.empty(weight.shape), a=math.sqrt(5)) for weight in weights]
        scores = [score.to(images.device).requires_grad_() for score in scores]
        optimizer = sgd(scores)
        for x, y in epoch(images, labels, task, timing):
            one, two, head = (weight * Step.apply(score) for weight, score in zip(weights, scores, strict=True))
            hidden = F.linear(F.linear(x.flatten(1), one).relu(), two).relu()
            loss = among_own(F.linear(hidden, head), y, task)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        for total, score in zip(kept, scores, strict=True):
            total += score >= 0
    timing.weights = [weight * total / len(tasks) for weight, total in zip(weights, kept, strict=True)]
    return timing


def clnp(tasks: Images, weights: Sequence[Tensor], val: Images) -> Timing:
    """Gradients of weights into used units are zeroed, which is enough for this optimizer."""
    network = mlp(weights)
    first, second, head = layers = linear(network)
    timing = Timing(list(network.parameters()))
    used = [torch.zeros(len(layer.weight), dtype=torch.bool) for layer in (first, second)]
    held = [first.weight, first.bias, second.weight, second.bias]
    for task, images, labels in each(tasks, timing):
        if task:
            with torch.no_grad():
                old = [p.clone() for p in held]
                first.reset_parameters()
                second.reset_parameters()
                for p, value, units in zip(held, old, [used[0], used[0], used[1], used[1]], strict=True):
                    p[units] = value[units]
        below, above = ((~units).float() for units in used)
        movable = [below[:, None].expand_as(first.weight).contiguous(), below]
        movable += [above[:, None].expand_as(second.weight).contiguous(), above]
        own = (torch.arange(10) // 2 == task).float()  # the sum of the weights moves the others' rows of the head too
        optimizer = sgd(network.parameters())
        for x, y in epoch(images, labels, task, timing):
            loss = among_own(network(x), y, task)
            loss = loss + L1 * sum(layer.weight.abs().sum() for layer in layers)
            optimizer.zero_grad()
            loss.backward()
            if task:
                mul_([p.grad for p in held], movable)
            mul_([head.weight.grad, head.bias.grad], [own[:, None], own])
            optimizer.step()
        with torch.no_grad():
            choose(layers, used, images, task, val[task])
    return timing


def choose(
    layers: Sequence[nn.Linear], used: list[Tensor], images: Tensor, task: int, val: tuple[Tensor, Tensor]
) -> None:
    """Which units the task uses; cuts the others off from them."""
    first, second, head = layers
    hidden = first(images.flatten(1)).relu()
    means = [hidden.mean(0), second(hidden).relu().mean(0)]
    x, y = val

    def accuracy(level: float) -> float:
        one, two = (((mean > level) | units).float() for mean, units in zip(means, used, strict=True))
        hidden = second((first(x.flatten(1)) * one).relu()).mul(two).relu()
        return float((head(hidden)[:, 2 * task : 2 * task + 2].argmax(1) + 2 * task == y).float().mean())

    levels = [-1.0, *torch.cat([mean[~units] for mean, units in zip(means, used, strict=True)]).unique().tolist()]
    enough = accuracy(-1.0) - VAL_MARGIN
    low, high = 0, len(levels)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if accuracy(levels[middle]) >= enough else (low, middle)
    used[:] = [units | (mean > levels[low]) for mean, units in zip(means, used, strict=True)]
    second.weight[used[1][:, None] & ~used[0]] = 0.0
    head.weight[2 * task : 2 * task + 2, ~used[1]] = 0.0
