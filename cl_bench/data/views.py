"""Views of images: permuted or rotated for each task, without copies in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Permute(nn.Module):
    """Permutes the pixels of an image of task t by `orders[t]`, int64 (tasks + 1, H W). The last row is for generated
    images."""

    orders: Tensor

    def __init__(self, orders: Tensor) -> None:
        super().__init__()
        self.register_buffer("orders", orders, persistent=False)

    def forward(self, x: Tensor, task_ids: Tensor) -> Tensor:
        order = self.orders[task_ids.long()].unsqueeze(1).expand(-1, x.shape[1], -1)
        return x.flatten(2).gather(2, order).view_as(x)


class Rotate(nn.Module):
    """Rotates an image of task t by `degrees[t]`, float (tasks + 1,), with bilinear interpolation. The last entry (0)
    is for generated images. Corners that leave the image are lost, and new corners are black.
    """

    degrees: Tensor

    def __init__(self, degrees: Tensor) -> None:
        super().__init__()
        self.register_buffer("degrees", degrees, persistent=False)

    def forward(self, x: Tensor, task_ids: Tensor) -> Tensor:
        return turned(x, self.degrees[task_ids.long()])


def turned(x: Tensor, degrees: Tensor) -> Tensor:
    """Rotates each of the float images (B, C, H, W) around its center by its own angle, in degrees, (B,): counter-
    clockwise, with bilinear interpolation and black new corners.

    >>> turned(torch.tensor([[[[0.0, 1.0], [0.0, 0.0]]]]), torch.tensor([90.0])).round().tolist()
    [[[[1.0, 0.0], [0.0, 0.0]]]]
    """
    angle = torch.deg2rad(degrees)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    height, width = x.shape[2:]  # coordinates go from -1 to 1 along both, whatever their lengths
    turn = torch.stack([cos, -sin * (height / width), zero, sin * (width / height), cos, zero], dim=1).view(-1, 2, 3)
    return F.grid_sample(x, F.affine_grid(turn, list(x.shape), align_corners=False), align_corners=False)


class Pictures(NamedTuple):
    """The images of a learner that gets only their features.

    image_shape: (C, H, W). view: as in `Data`. features: float images in [0, 1], (B, C, H, W) -> (B, width, 1, 1).
    """

    image_shape: tuple[int, int, int]
    view: nn.Module | None
    features: Callable[[Tensor], Tensor]
