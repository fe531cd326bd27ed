"""Dynamically expandable networks, written by hand: two hidden layers, which grow in every task but the first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reference.common import Images, Timing, clones, each, epoch, mul_, sgd
from reference.isolation import among_own

# of new units some stay and some go, and some old ones are split
DEN_L1, DEN_L2, DEN_GROUP, DEN_PULL, DEN_SIGMA, DEN_UNITS = 0.2, 0.01, 4.0, 1.0, 0.01, 5
LR = 0.01  # of `sgd`
SHARE = 2 * LR * DEN_PULL / (1 + 2 * LR * DEN_PULL)


@dataclass
class Net:
    """Weights and biases of three layers, and which hidden units the current task reads (0 or 1)."""

    W: list[Tensor]
    alive: list[Tensor]

    def become(self, W: Sequence[Tensor], alive: Sequence[Tensor]) -> None:
        self.W, self.alive = [w.detach().clone().requires_grad_() for w in W], list(alive)

    def features(self, x: Tensor) -> Tensor:
        a = (F.linear(x.flatten(1), self.W[0], self.W[1]) * self.alive[0]).relu()
        return (F.linear(a, self.W[2], self.W[3]) * self.alive[1]).relu()


@dataclass
class Now:
    """The task that is learned."""

    images: Tensor
    labels: Tensor
    task: int
    timing: Timing

    @property
    def rows(self) -> slice:
        return slice(2 * self.task, 2 * self.task + 2)

    @property
    def own(self) -> Tensor:
        return (torch.arange(10) // 2 == self.task).float()


def den(tasks: Images, weights: Sequence[Tensor]) -> Timing:
    """Gradients of what stays are zeroed, which is enough for this optimizer; maps go over what moves alone."""
    net, timing = Net([], []), Timing([])
    net.become(weights[:6], [torch.ones(len(weights[i])) for i in (0, 2)])
    for task, images, labels in each(tasks, timing):
        now, old = Now(images, labels, task, timing), clones(net.W)
        if not task:
            train(net, now, 0, between(net, net.alive, now.own), partial(soft_all, now.rows))
            continue
        select(net, now)
        retrain(net, now)
        expand(net, now)
        train(net, now, 3, between(net, net.alive, now.own), partial(pulled, old))
        if split(net, now, old):
            train(net, now, 4, between(net, net.alive, now.own), partial(pulled, old))
    timing.weights = net.W
    return timing


def train(net: Net, now: Now, phase: int, moving: Sequence[Tensor], proximal: Callable[[list[Tensor]], None]) -> None:
    optimizer, W = sgd(net.W), net.W
    for x, y in epoch(now.images, now.labels, now.task, now.timing, phase=phase):
        optimizer.zero_grad()
        among_own(F.linear(net.features(x), W[4], W[5]), y, now.task).backward()
        mul_([p.grad for p in W], moving)
        optimizer.step()
        with torch.no_grad():
            proximal(W)


def between(net: Net, units: Sequence[Tensor], own: Tensor) -> list[Tensor]:
    """1 for weights between these units, and from all pixels, and their biases."""
    below, above = units
    pairs = ((torch.ones(net.W[0].shape[1]), below), (below, above), (above, own))
    return [mask for n, m in pairs for mask in (torch.outer(m, n), m)]


def soft(w: Tensor, amount: float) -> Tensor:
    return w.sign() * (w.abs() - amount).clamp(min=0)


def soft_all(rows: slice, W: Sequence[Tensor]) -> None:
    for part in (W[0], W[2], W[4][rows]):
        part.copy_(soft(part, LR * DEN_L1))


def pulled(old: Sequence[Tensor], W: Sequence[Tensor]) -> None:
    for w, before in zip(W[:4], old[:4], strict=True):
        w[tuple(map(slice, before.shape))].lerp_(before, SHARE)


def select(net: Net, now: Now) -> None:
    W, own = net.W, now.own
    optimizer = sgd(W[4:])
    for x, y in epoch(now.images, now.labels, now.task, now.timing):
        with torch.no_grad():
            features = net.features(x)
        optimizer.zero_grad()
        among_own(F.linear(features, W[4], W[5]), y, now.task).backward()
        mul_([W[4].grad, W[5].grad], [own[:, None], own])
        optimizer.step()
        with torch.no_grad():
            W[4][now.rows] = soft(W[4][now.rows], LR * DEN_L1)


def retrain(net: Net, now: Now) -> None:
    above = (net.W[4][now.rows] != 0).any(0).float() * net.alive[1]
    below = (net.W[2][above > 0] != 0).any(0).float() * net.alive[0]
    moving = between(net, [below, above], now.own)
    factors = [1 - mask * (1 - 1 / (1 + LR * DEN_L2)) for mask in moving[::2]]
    train(net, now, 1, moving, lambda W: mul_(W[::2], factors))


def expand(net: Net, now: Now) -> None:
    k, (one, two) = DEN_UNITS, net.alive
    w1, b1, w2, b2, w3, b3 = net.W
    first, second = nn.Linear(w1.shape[1], k), nn.Linear(len(w1) + k, k)
    one, two = torch.cat([one, torch.ones(k)]), torch.cat([two, torch.ones(k)])
    below, above = torch.cat([w1, first.weight]), torch.cat([F.pad(w2, (0, k)), second.weight * one])
    biases = torch.cat([b1, first.bias]), torch.cat([b2, second.bias])
    net.become([below, biases[0], above, biases[1], F.pad(w3, (0, k)), b3], [one, two])
    moving = [torch.zeros_like(p) for p in net.W]
    for part in (*(mask[-k:] for mask in moving[:4]), moving[2][:, -k:], moving[4][now.rows, -k:], moving[5][now.rows]):
        part.fill_(1)

    def proximal(W: Sequence[Tensor]) -> None:
        for part in (W[0][-k:], W[2][-k:], W[2][:-k, -k:], W[4][now.rows, -k:]):
            part.copy_(soft(part, LR * DEN_L1))
        for part in (W[0][-k:], W[2][-k:]):
            part.mul_((1 - LR * DEN_GROUP / part.norm(dim=1, keepdim=True).clamp(min=1e-30)).clamp(min=0))

    train(net, now, 2, moving, proximal)
    w1, b1, w2, b2, w3, b3 = net.W
    below, above = (torch.cat([torch.ones(len(w) - k), w[-k:].any(1)]) > 0 for w in (w1, w2))
    net.become(
        [w1[below], b1[below], w2[above][:, below], b2[above], w3[:, above], b3],
        [net.alive[0][below], net.alive[1][above]],
    )


@torch.no_grad()
def split(net: Net, now: Now, old: Sequence[Tensor]) -> bool:
    """Whether there was anything to split."""
    (n1, pixels), (n2, m) = old[0].shape, old[2].shape
    one = ((net.W[0][:n1, :pixels] - old[0]).norm(dim=1) > DEN_SIGMA).nonzero().flatten()
    two = ((net.W[2][:n2, :m] - old[2]).norm(dim=1) > DEN_SIGMA).nonzero().flatten()
    w1, b1, w2, b2, w3, b3 = clones(net.W)
    first, first_bias = w1.clone(), b1.clone()
    first[one], first_bias[one] = old[0][one], old[1][one]
    second, second_bias = w2.clone(), b2.clone()
    second[:, one] = 0  # what is new reads the copies alone
    second[:n2, one] = old[2][:, one]
    copies = w2[two]
    copies[:, one] = 0
    second[two, :m], second[two, m:], second_bias[two] = old[2][two], 0, old[3][two]
    of_copies = w2[:, one].clone()
    of_copies[two] = 0
    of_copies = torch.cat([of_copies, w2[two][:, one]])
    head = w3.clone()
    head[now.rows, two] = 0
    alive = [torch.cat([a, torch.ones(len(units))]) for a, units in zip(net.alive, (one, two), strict=True)]
    alive[0][one], alive[1][two] = 0, 0
    net.become(
        [
            torch.cat([first, w1[one]]),
            torch.cat([first_bias, b1[one]]),
            torch.cat([torch.cat([second, copies]), of_copies], 1),
            torch.cat([second_bias, b2[two]]),
            torch.cat([head, w3[:, two]], 1),
            b3,
        ],
        alive,
    )
    return len(one) + len(two) > 0
