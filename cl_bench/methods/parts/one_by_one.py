"""Shared by MER and La-MAML, which learn the images of a mini-batch one after another, in one training step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from cl_bench.config import InputError
from cl_bench.data.batches import Batch
from cl_bench.networks.base import batch_norms


def images_of(batch: Batch) -> Iterator[Batch]:
    """Each image of a mini-batch, as a mini-batch of one image."""
    parts = [[None] * len(batch.y) if part is None else part.split(1) for part in batch[:4]]
    return (Batch(*image, updates_left=batch.updates_left) for image in zip(*parts, strict=True))


def gradient(loss: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The gradient of the loss by each weight; 0 for weights without effect on it."""
    return torch.autograd.grad(loss, weights, materialize_grads=True)


def check_alone(network: nn.Module, method: str) -> None:
    """Raises InputError for a network with batch normalization, which needs several images at once."""
    if batch_norms(network):
        raise InputError(
            f"network: its batch normalization needs several images at once, and method={method} learns from single "
            "images; choose a network without it, such as network=mlp or network=cnn"
        )
