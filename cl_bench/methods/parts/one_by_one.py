"""What methods share that learn from one image after another: a mini-batch is walked through inside one step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from cl_bench.config import InputError
from cl_bench.data.batches import Batch
from cl_bench.networks.base import batch_norms


def images_of(batch: Batch) -> Iterator[Batch]:
    """Each image of a mini-batch, as a mini-batch of its own."""
    parts = [[None] * len(batch.y) if part is None else part.split(1) for part in batch[:4]]
    return (Batch(*image, updates_left=batch.updates_left) for image in zip(*parts, strict=True))


def gradient(loss: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Of the loss by each of the weights; 0 where one doesn't act on it."""
    return torch.autograd.grad(loss, weights, materialize_grads=True)


def check_alone(network: nn.Module, method: str) -> None:
    """Raises InputError for a network that an image can't train alone."""
    if batch_norms(network):
        raise InputError(
            f"network: its batch normalization needs several images at once, and method={method} learns from single "
            "images; choose a network without it, such as network=mlp or network=cnn"
        )
