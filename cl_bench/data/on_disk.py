"""Images that stay on disk: only the rows of a mini-batch are read."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from cl_bench.config import InputError

BLOCK = 2**25  # bytes of images that are read or written at a time


class Rows(Protocol):
    """A tensor, or a file from which rows of images can be read."""

    @property
    def shape(self) -> Any: ...

    def index_select(self, dim: int, index: Tensor, /) -> Tensor: ...


class ImageFile:
    """uint8 images one after another in a file.

    Rows are read, not mapped into memory. So the file does not count as memory of this process. If the file is cut or
    the disk fails, there is an error; a memory map would kill the process.

    Args:
        path: of the file, which stays open.
        start: position of the first image in the file, in bytes.
        shape: (N, C, H, W).

    Raises InputError for a file that cannot be read.
    """

    def __init__(self, path: Path, start: int, shape: Sequence[int]) -> None:
        self.path, self.start, self.shape = path, start, torch.Size(shape)
        try:
            self._file = path.open("rb", buffering=0)
        except OSError as error:
            raise InputError(f"{path}: can't be read ({error.strerror or error})") from error

    def index_select(self, dim: int, index: Tensor, /) -> Tensor:
        """These rows (int64), with one read for each sequence of neighbors. Raises InputError if they are missing."""
        rows = index.numpy()
        images = np.empty((len(rows), *self.shape[1:]), np.uint8)
        into, size = images.reshape(-1).data, math.prod(self.shape[1:])
        runs = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
        firsts = rows[runs[:-1]].tolist() if len(rows) else []
        for first, (begin, end) in zip(firsts, pairwise(runs), strict=False):
            self._read(into[begin * size : end * size], self.start + first * size)
        return torch.from_numpy(images)

    def _read(self, into: memoryview, at: int) -> None:
        while into:
            try:
                n = self._read_at(into, at)
            except OSError as error:
                raise InputError(f"{self.path}: can't be read ({error.strerror or error})") from error
            if not n:
                raise InputError(
                    f"{self.path}: became shorter during the run; run the same command again, then it is made again"
                )
            into, at = into[n:], at + n

    def _read_at(self, into: memoryview, at: int) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self._file.fileno(), [into], at)
        self._file.seek(at)
        return self._file.readinto(into) or 0


class Changed:
    """Images that are changed when they are read, for example resized.

    change: (B, C, H, W) -> (B, *shape), uint8; it must change each image independently.
    """

    def __init__(self, images: Rows, change: Callable[[Tensor], Tensor], shape: Sequence[int]) -> None:
        self.images, self.change, self.shape = images, change, torch.Size((images.shape[0], *shape))

    def index_select(self, dim: int, index: Tensor, /) -> Tensor:
        return self.change(self.images.index_select(dim, index))


class OnDisk:
    """uint8 images, (N, C, H, W), some or all of them in files. Selections and joins copy no image.

    Args:
        parts: the images; parts are tensors if images in memory were joined.
        rows: row numbers over all parts, int64 (N,); None: all.
        device: of the rows that are read.
    """

    def __init__(self, parts: Sequence[Rows], rows: Tensor | None = None, device: torch.device | str = "cpu") -> None:
        self.parts, self.device = list(parts), torch.device(device)
        self.ends = torch.tensor([part.shape[0] for part in parts]).cumsum(0)
        self.rows = torch.arange(int(self.ends[-1])) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self), *self.parts[0].shape[1:]))

    def __getitem__(self, rows: Tensor | np.ndarray) -> OnDisk:
        """The images of these rows, int64, or a mask."""
        return OnDisk(self.parts, self.rows[torch.as_tensor(rows).cpu()], self.device)

    def to(self, device: torch.device | str) -> OnDisk:
        """The same images. Rows are moved to that device when they are read."""
        return OnDisk(self.parts, self.rows, device)

    def index_select(self, dim: int, index: Tensor, /) -> Tensor:
        """The images of these rows (int64), read now, on the device."""
        rows = self.rows[index.cpu()]
        if len(self.parts) == 1:
            return self.parts[0].index_select(0, rows).to(self.device)
        found = torch.empty(len(rows), *self.shape[1:], dtype=torch.uint8)
        number = torch.bucketize(rows, self.ends, right=True)
        for part, images in enumerate(self.parts):
            places = (number == part).nonzero().squeeze(1)
            first = int(self.ends[part - 1]) if part else 0
            found[places] = images.index_select(0, rows[places] - first)
        return found.to(self.device)

    def blocks(self) -> Iterator[Tensor]:
        """All images in order, some at a time."""
        for rows in torch.arange(len(self)).split(rows_at_once(self.shape)):
            yield self.index_select(0, rows)


Images = Any
"""`Tensor`, or `OnDisk`, which has of a tensor: len, shape, a selection of rows, `index_select` and `to`. Not their
union: whoever made images in memory may use them as the tensor that they are."""


def rows_at_once(shape: Sequence[int]) -> int:
    """The number of images of this shape, (N, C, H, W), that are read at a time.

    >>> rows_at_once((10**6, 3, 64, 64))
    2730
    """
    return max(1, BLOCK // math.prod(shape[1:]))


def joined(first: Images, second: Images) -> Images:
    """Both sets of images, one after the other."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return torch.cat([first, second])
    parts: list[Rows] = []
    rows: list[Tensor] = []
    for images in (first, second):
        if isinstance(images, Tensor):  # a copy, because a memory may change while it is used for training
            images = OnDisk([images.cpu().clone()])
        begins = []
        for part in images.parts:
            if not any(part is known for known in parts):
                parts.append(part)
            number = next(i for i, known in enumerate(parts) if known is part)
            begins.append(sum(known.shape[0] for known in parts[:number]))
        number = torch.bucketize(images.rows, images.ends, right=True)
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), images.ends[:-1]])
        rows.append(images.rows + (torch.tensor(begins) - starts)[number])
    device = first.device if isinstance(first, OnDisk) else second.device
    return OnDisk(parts, torch.cat(rows), device)


def blocks_of(images: Images) -> Iterator[Tensor]:
    """All images in order: images in memory at once, images on disk some at a time."""
    return iter([images]) if isinstance(images, Tensor) else images.blocks()


def in_memory(images: Images, what: str) -> Tensor:
    """The images as one tensor. what: a description of the images for the message.

    Raises InputError for images on disk that do not fit into the free memory.
    """
    if isinstance(images, Tensor):
        return images
    import psutil

    needs, free = math.prod(images.shape), psutil.virtual_memory().available
    if images.device.type == "cuda":
        free = torch.cuda.mem_get_info(images.device)[0]
    if needs > free:
        raise InputError(
            f"{what}: {len(images):,} images take {needs / 2**30:.1f} GB of memory, and {free / 2**30:.1f} GB are free"
        )
    found = torch.empty(images.shape, dtype=torch.uint8, device=images.device)
    at = 0
    for block in images.blocks():
        found[at : at + len(block)] = block
        at += len(block)
    return found


def changed(images: Images, change: Callable[[Tensor], Tensor], shape: Sequence[int]) -> Images:
    """The images after a change: images in memory are changed now, images on disk when they are read.

    change: (B, C, H, W) -> (B, *shape), uint8; it must change each image independently.
    """
    if isinstance(images, Tensor):
        return change(images)
    return OnDisk([Changed(images, change, shape)], device=images.device)
