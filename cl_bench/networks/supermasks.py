"""Supermasks: which of a layer's fixed weights a task uses. Scores learn them, and one bit per weight is kept."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from cl_bench.networks.growing import Growing


class StraightThrough(torch.autograd.Function):
    """A mask of 0 and 1 from scores. The gradient of a score is the gradient of its mask, as if both were the same."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, n_kept: int | None) -> Tensor:
        if n_kept is None:
            return (scores >= 0).to(scores.dtype)
        mask = torch.zeros_like(scores).flatten()
        mask[scores.flatten().topk(n_kept, sorted=False).indices] = 1.0
        return mask.view_as(scores)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def supermask(scores: Tensor, n_kept: int | None) -> Tensor:
    """The mask of these scores: 1 where a score is at least 0, or at the `n_kept` highest scores.

    >>> supermask(torch.tensor([-0.5, 0.0, 0.5, 0.1]), None).tolist()
    [0.0, 1.0, 1.0, 1.0]
    >>> supermask(torch.tensor([-0.5, 0.0, 0.5, 0.1]), 2).tolist()
    [0.0, 0.0, 1.0, 1.0]
    """
    return StraightThrough.apply(scores, n_kept)


class Supermasks(Growing):
    """The masks of one weight tensor: those of finished tasks, one bit per entry, and the scores of the current task.

    Args:
        shape: of the weight.
        n_kept: number of entries that a mask keeps; None: those with a score of at least 0.
    """

    packed: Tensor  # uint8 (finished tasks, bytes)

    def __init__(self, shape: torch.Size, n_kept: int | None) -> None:
        super().__init__()
        self.shape, self.n_kept = shape, n_kept
        self.scores = nn.Parameter(torch.zeros(0))
        self.register_buffer("packed", torch.empty(0, math.ceil(shape.numel() / 8), dtype=torch.uint8))

    def __len__(self) -> int:
        return len(self.packed) + bool(self.scores.numel())

    def __getitem__(self, task: int) -> Tensor:
        """The mask of a finished task or of the current task, 0 or 1, of the weight's shape and type."""
        if task < len(self.packed):
            return unpacked(self.packed[task], self.shape).to(self.scores.dtype)
        return supermask(self.scores, self.n_kept)

    def begin(self) -> None:
        """Begins a task. Its scores are drawn uniformly from -1/sqrt(inputs) to 1/sqrt(inputs)."""
        scores = nn.init.kaiming_uniform_(torch.empty(self.shape), a=math.sqrt(5))
        self.scores = nn.Parameter(scores.to(self.packed.device))

    @torch.no_grad()
    def end(self) -> None:
        """Ends a task: keeps its mask, and removes the scores."""
        self.packed = torch.cat([self.packed, packed(self[len(self.packed)] > 0)[None]])
        self.scores = nn.Parameter(self.scores.new_zeros(0))


def packed(bits: Tensor) -> Tensor:
    """A bool tensor with n entries as bits, uint8 (ceil(n / 8),). The first entry is the lowest bit of the first byte.

    >>> packed(torch.tensor([True, False, True])).tolist()
    [5]
    """
    bits = nn.functional.pad(bits.flatten(), (0, -bits.numel() % 8)).view(-1, 8)
    return (bits * _places(bits)).sum(1, dtype=torch.uint8)


def unpacked(bytes_: Tensor, shape: torch.Size) -> Tensor:
    """The bool tensor of this shape whose bits are given, see `packed`.

    >>> unpacked(torch.tensor([5], dtype=torch.uint8), torch.Size([3])).tolist()
    [True, False, True]
    """
    bits = bytes_.unsqueeze(1).bitwise_and(_places(bytes_)) != 0
    return bits.flatten()[: shape.numel()].view(shape)


def _places(like: Tensor) -> Tensor:
    return torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=like.device)


def fix_weights(module: nn.Module) -> None:
    """Gives every weight of linear layers and convolutions the size sqrt(2 / inputs) and keeps its random sign ("signed
    Kaiming constant"; Ramanujan et al., 2020). Removes the biases. Nothing in the module is trained after that."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            size = math.sqrt(2 / layer.weight[0].numel())
            with torch.no_grad():
                layer.weight.copy_(torch.full_like(layer.weight, size).copysign(layer.weight))
            layer.register_parameter("bias", None)
    module.requires_grad_(False)
