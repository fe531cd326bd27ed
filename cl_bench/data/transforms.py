"""Changes of images: once when they are read, or in each mini-batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def resize(images: Tensor, shape: tuple[int, int]) -> Tensor:
    """Resizes uint8 images (N, C, H, W) to (N, C, *shape), bilinear with antialiasing. They keep their proportions, and
    the rest is black, equally on both sides."""
    height, width = images.shape[-2:]
    if (height, width) == shape:
        return images
    scale = min(shape[0] / height, shape[1] / width)
    inner = max(round(height * scale), 1), max(round(width * scale), 1)
    if inner != (height, width):
        images = F.interpolate(images, inner, mode="bilinear", antialias=True)
    down, right = shape[0] - inner[0], shape[1] - inner[1]
    return F.pad(images, (right // 2, right - right // 2, down // 2, down - down // 2))


def crop_and_flip(x: Tensor, pad: int = 4) -> Tensor:
    """Shifts each image of a batch (B, C, H, W) by up to `pad` pixels, with black at the border, and mirrors it with
    probability 1/2.

    torchvision's RandomCrop draws one crop for the whole batch. This function draws one for each image, from torch's
    global generator of the batch's device.
    """
    n, channels, height, width = x.shape
    down, right = torch.randint(2 * pad + 1, (2, n, 1), device=x.device)
    mirrored = torch.rand(n, 1, device=x.device) < 0.5
    rows = torch.arange(height, device=x.device) + down
    columns = torch.arange(width, device=x.device)
    columns = torch.where(mirrored, columns.flip(0), columns) + right
    pixels = (rows[:, :, None] * (width + 2 * pad) + columns[:, None]).view(n, 1, -1)
    # A gather of whole planes takes a third of the time of indexing with four tensors.
    moved = F.pad(x, (pad,) * 4).flatten(2).gather(2, pixels.expand(-1, channels, -1))
    return moved.view_as(x)
