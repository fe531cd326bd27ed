"""Pictures of one gray each, so that what was read says which file it came from."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from torch import Tensor

from cl_bench.config import InputError


def write_picture(file: Path, gray: int, size: tuple[int, int] = (12, 10), mode: str = "L") -> None:
    """Lossless whatever the ending says."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, gray).convert(mode).save(file, format="png")


def grays(images: Tensor | None) -> list[int]:
    """The gray of each image, which is the same everywhere in it."""
    assert images is not None
    assert (images == images[:, :1, :1, :1]).all()
    return images[:, 0, 0, 0].tolist()


def one_line(error: pytest.ExceptionInfo[InputError], *words: str) -> None:
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
