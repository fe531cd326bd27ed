"""Generated images side by side, a row for each class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont

from cl_bench.record import thinned

if TYPE_CHECKING:
    from torch import Tensor

MOST_ROWS = 100  # of a grid of samples
LONGEST_NAME = 24  # letters of a class beside its samples


def sample_grid(images: Tensor, path: Path, names: Sequence[str] = ()) -> None:
    """A picture of images in [0, 1], shape (rows, columns, C, H, W), side by side and enlarged, with the name of each
    row. If there are many rows, it shows some of them."""
    from torchvision.transforms.functional import to_pil_image
    from torchvision.utils import make_grid

    rows = thinned(len(images), MOST_ROWS)
    images, names = images[rows], [names[row] for row in rows] if names else []
    scale = max(1, round(48 / max(images.shape[-2:])))
    large = images.repeat_interleave(scale, dim=-1).repeat_interleave(scale, dim=-2)
    grid = make_grid(large.flatten(0, 1).float().cpu(), nrow=images.shape[1], pad_value=0.5)
    picture = to_pil_image(grid.mul(255).round().byte())
    path.parent.mkdir(parents=True, exist_ok=True)
    with_names(picture, names).save(path)


def with_names(picture: Image.Image, names: Sequence[str]) -> Image.Image:
    """A picture of rows of equal height, with the name of each row at its left."""
    if not any(names):
        return picture
    font = ImageFont.truetype(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), 12)
    short = [
        name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}\N{HORIZONTAL ELLIPSIS}" for name in names
    ]
    left = 8 + math.ceil(max(font.getlength(name) for name in short))
    named = Image.new("RGB", (left + picture.width, picture.height), "white")
    named.paste(picture, (left, 0))
    draw = ImageDraw.Draw(named)
    for row, name in enumerate(short):
        draw.text((left - 4, picture.height * (row + 0.5) / len(short)), name, "black", font, anchor="rm")
    return named
