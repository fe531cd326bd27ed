"""How well a network can still learn: what its hidden units do before a task, and its answers before each update."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from cl_bench.data.batches import Data
from cl_bench.data.problem import masked
from cl_bench.methods.base import Learner, Method
from cl_bench.record import Plasticity

PROBE = 2000  # images of the new task, at most (Dohare et al., 2024)
ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid)
"""What gives the activation of a hidden unit."""


class Hidden:
    """What one layer of hidden units gave: which units were ever other than 0, and what each gave for each image.

    A channel of a convolution is a unit, and so is an output of a linear layer for tokens. It is 0 where it is 0 at
    every position, and gives the mean over them.
    """

    def __init__(self) -> None:
        self.alive: Tensor | None = None
        self.given: list[Tensor] = []

    def add(self, h: Tensor) -> None:
        """h: of some images, (B, units) or (B, channels, H, W)."""
        alive = (h != 0).flatten(2).any(2).any(0) if h.dim() > 2 else (h != 0).any(0)
        self.alive = alive if self.alive is None else self.alive | alive
        self.given.append(h.flatten(2).mean(2) if h.dim() > 2 else h)


@torch.no_grad()
def plasticity(method: Method, data: Data, index: int) -> Plasticity | None:
    """What the hidden units of a method do on images of a task that it hasn't learned; None where it has no unit with
    an activation among `ACTIVATIONS`.

    It leaves the method in evaluation mode, and draws no random number. Raises ValueError where layers answer to some
    of the images only, as where each image chooses its own part of the network.

    Args:
        data: the training images of the task, of which PROBE at equal distances are looked at.
        index: of the task.
    """
    method.eval()
    n = min(len(data), PROBE)
    probe = data[torch.arange(n, device=data.labels.device) * len(data) // n]
    layers: list[Hidden] = []
    for batch in probe.batches():
        with hidden_units(method) as activations:
            method(batch.x, index=index if method.problem.kind == "task" else None)
        layers = layers or [Hidden() for _ in activations]
        if len(activations) != len(layers):
            raise ValueError("not every image goes through the same hidden layers")
        for layer, h in zip(layers, activations, strict=True):
            layer.add(h)
    if not layers:
        return None
    alive = [layer.alive for layer in layers if layer.alive is not None]
    weights = [p for p in getattr(method, "network", method).parameters() if p.requires_grad and p.dim() > 1]
    total, count = sum(float(p.abs().sum()) for p in weights), sum(p.numel() for p in weights)
    return Plasticity(
        images=n,
        units=[len(units) for units in alive],
        dead=[int((~units).sum()) for units in alive],
        effective_rank=[effective_rank(torch.cat(layer.given)) for layer in layers],
        weight_magnitude=total / count if count and math.isfinite(total) else None,
    )


@contextmanager
def hidden_units(module: nn.Module) -> Iterator[list[Tensor]]:
    """The activations of the hidden layers that are called inside, in their order: (B, units) or (B, channels, ...).
    The units of a linear layer for several positions, such as tokens, are last, and come to the place of channels.
    """
    found: list[Tensor] = []
    width = 0  # of the last layer with weights, where that was linear

    def note(part: nn.Module, _: object, h: Tensor) -> None:
        nonlocal width
        if isinstance(part, ACTIVATIONS):
            found.append(h.movedim(-1, 1) if h.shape[-1] == width else h)
        else:
            width = part.out_features if isinstance(part, nn.Linear) else 0

    noted = (*ACTIVATIONS, nn.Linear, nn.Conv2d)
    hooks = [part.register_forward_hook(note) for part in module.modules() if isinstance(part, noted)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def effective_rank(H: Tensor) -> float | None:
    """exp(-sum_i p_i ln p_i) with p = sigma / sum sigma and sigma the singular values of H, shape (N, D) (Roy and
    Vetterli, 2007): D for D directions of equal length, 1 for a single one, 0 for a matrix of zeros. None where H has
    numbers that are not finite.

    >>> round(effective_rank(torch.eye(4)), 3), round(effective_rank(torch.ones(4, 3)), 3)
    (4.0, 1.0)
    """
    H = H.double()  # the products below have half of the digits
    if not H.isfinite().all():
        return None
    products = H.T @ H if H.shape[1] <= H.shape[0] else H @ H.T
    sigma = torch.linalg.eigvalsh(products).clamp(min=0).sqrt()
    p = sigma / sigma.sum()
    return float(torch.special.entr(p).sum().exp()) if sigma.any() else 0.0


class OnlineAccuracy:
    """The share of a task's images that are answered right just before the step that learns them for the first time:
    the accuracy of a learner that sees a stream of images once.

    The logits are those of the step itself, see `Classifier.active`. Images of other tasks in a mini-batch don't count.

    Args:
        module: what a phase trains.
        counted: right and given answers so far, before a kill.
    """

    def __init__(self, module: Learner, counted: tuple[int, int] = (0, 0)) -> None:
        self.module = module
        self.right, self.given = counted
        self.online = False
        if isinstance(module, Method):
            problem, self.index, self.online = module.problem, module.index, module.problem.online
            allowed = problem.mask(problem.rules["evaluation"], after=max(self.index, 0))
            self.allowed = allowed[self.index].to(module.device)

    def of_chunk(self) -> Tensor:
        """Right and given answers in the last chunk, shape (2,), on the device of the module."""
        answers = self.module.answers
        if not answers:
            return torch.zeros(2, device=self.module.device)
        logits, said, y, tasks = (torch.cat(parts) for parts in zip(*answers, strict=True))
        own = tasks == self.index
        if self.online:  # every image is of the stream
            own = torch.ones_like(own)
        right = own & (masked(logits, self.allowed).argmax(1) == y)
        known = (said == y).all()  # else the first logits of a step were of other images
        return torch.stack([right.sum(), own.sum()]) * known

    def add(self, right: float, given: float) -> None:
        self.right, self.given = self.right + int(right), self.given + int(given)

    @property
    def value(self) -> float | None:
        return self.right / self.given if self.given else None
