"""Images larger than memory: converted once and kept on disk, in `data_dir/.cache`.

A file of the cache is a NumPy array (.npy). Its name is a digest of the source files and of all settings of the
conversion. The file is complete or missing. It is checked before it is used; if it is damaged, it is made again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from filelock import FileLock, Timeout

from cl_bench import files
from cl_bench.config import InputError
from cl_bench.data.on_disk import ImageFile, OnDisk, rows_at_once

log = logging.getLogger(__name__)

VERSION = 1  # of the conversion; a new number makes all files again
HEADER = 128  # bytes of a .npy file before its values
SHARE = 0.4  # of the free memory: images are in memory twice, as one set and as tasks

OnDiskKey = Literal["auto"] | bool


@dataclass(frozen=True)
class Unread:
    """Images of a file that are not read yet. Only their shape, (N, C, H, W), is known and can be checked.

    bring: writes them to the cache, as squares of that size, or with their own size.
    """

    shape: tuple[int, ...]
    bring: Callable[[int | None], OnDisk]

    def __len__(self) -> int:
        return self.shape[0]


def stays_on_disk(on_disk: OnDiskKey, n_bytes: int) -> bool:
    """Whether images of n_bytes stay on disk: the value of `dataset.on_disk`, or for `auto` by the free memory."""
    import psutil

    return on_disk is True or (on_disk == "auto" and n_bytes > SHARE * psutil.virtual_memory().available)


def cache_of(data_dir: Path) -> Path:
    return data_dir / ".cache"


def named(*what: Any) -> str:
    """The name of a file that is made from these: digests of content, and settings with a complete repr.

    >>> named("4fa1b9c2d3e8f760", "x_train", 32)
    '5cdc934fc44bae68'
    """
    return hashlib.sha256(repr((VERSION, *what)).encode()).hexdigest()[:16]


def mapped(
    cache: Path, name: str, blocks: Callable[[], Iterator[np.ndarray]], *, one_channel_if_gray: bool = False
) -> OnDisk:
    """The images with this name. They are made if they are missing; if several runs need them, one run makes them and
    the others wait.

    Args:
        cache: the folder, see `cache_of`.
        name: see `named`.
        blocks: uint8 arrays (B, C, H, W), which together are all images in order.
        one_channel_if_gray: three channels become one if they are equal in every image.

    Raises InputError if the images cannot be written, and the exceptions of `blocks`.
    """
    file, record = cache / f"{name}.npy", cache / f"{name}.json"
    shape = known(file, record)
    if shape is None:
        try:
            cache.mkdir(parents=True, exist_ok=True)
            waits = partial(log.warning, "another process writes %s; waiting for it", file)
            with alone(cache / f"{name}.lock", waits):
                shape = known(file, record) or checked_again(file, record)
                if shape is None:
                    log.info("images on disk are written once, to %s", file)
                    shape = make(file, record, blocks, one_channel_if_gray)
        except OSError as error:
            way = "free space there, choose another data_dir, or set dataset.on_disk=false"
            raise InputError(f"dataset.on_disk: can't write {file} ({error.strerror or error}); {way}") from error
    return OnDisk([ImageFile(file, HEADER, shape)])


def state_of(file: Path) -> list[int]:
    """Size and times of a file, which change when the file changes."""
    found = file.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def read_record(record: Path) -> dict[str, Any] | None:
    with suppress(FileNotFoundError, files.Damaged, TypeError):
        found = files.load_json(record)
        if {"shape", "digest", "state"} <= found.keys():
            return found
    return None


def known(file: Path, record: Path) -> tuple[int, ...] | None:
    """The shape of images that are known to be unchanged; None if they have changed or were never checked."""
    found = read_record(record)
    with suppress(OSError):
        if found and found["state"] == state_of(file):
            return tuple(found["shape"])
    return None


def checked_again(file: Path, record: Path) -> tuple[int, ...] | None:
    """As `known`, for a file that was copied or touched: reads all of it. None if it must be made again."""
    if not file.is_file():
        return None
    found = read_record(record)
    if found and file.stat().st_size == HEADER + math.prod(found["shape"]):
        with file.open("rb", buffering=0) as opened:
            opened.seek(HEADER)
            if hashlib.file_digest(opened, "sha256").hexdigest() == found["digest"]:
                write_record(file, record, found["shape"], found["digest"])
                return tuple(found["shape"])
    log.warning("%s was changed or is damaged; it is made again", file)
    return None


def make(
    file: Path, record: Path, blocks: Callable[[], Iterator[np.ndarray]], one_channel_if_gray: bool
) -> tuple[int, ...]:
    """Writes the images and their record, and returns their shape."""
    fresh, color = file.with_suffix(".new"), file.with_suffix(".color")
    found: list[Any] = []

    def write(path: Path) -> None:
        shape, digest, gray = write_images(path, blocks())
        if one_channel_if_gray and gray and shape[1] > 1:
            path.replace(color)
            whole = OnDisk([ImageFile(color, HEADER, shape)])
            shape, digest, _ = write_images(path, (block.numpy()[:, :1] for block in whole.blocks()))
        found[:] = shape, digest

    record.unlink(missing_ok=True)
    try:
        files.write(file, write, fresh=fresh)
        write_record(file, record, *found)
    except BaseException:  # an incomplete file would take gigabytes
        fresh.unlink(missing_ok=True)
        raise
    finally:
        color.unlink(missing_ok=True)
    return tuple(found[0])


def write_images(path: Path, blocks: Iterable[np.ndarray]) -> tuple[tuple[int, ...], str, bool]:
    """Writes a .npy file; returns its shape, the SHA-256 of its values, and whether all channels are equal."""
    digest, n, like, gray = hashlib.sha256(), 0, (), True
    with path.open("wb") as out:
        out.seek(HEADER)
        for block in map(np.ascontiguousarray, blocks):
            n, like, gray = n + len(block), block.shape[1:], gray and bool((block == block[:, :1]).all())
            digest.update(block.data)
            if block.any():
                out.write(block.data)
            else:  # a hole in the file: black images take no disk space
                out.seek(block.nbytes, 1)
        out.truncate(HEADER + n * math.prod(like))
        out.seek(0)
        about = {"descr": "|u1", "fortran_order": False, "shape": (n, *like)}
        np.lib.format.write_array_header_1_0(out, about)
        assert out.tell() == HEADER
    return (n, *like), digest.hexdigest(), gray


def write_record(file: Path, record: Path, shape: Iterable[int], digest: str) -> None:
    content = files.sealed({"shape": list(shape), "digest": digest, "state": state_of(file)})
    files.write(record, lambda path: path.write_text(json.dumps(content)))


@contextmanager
def alone(lock: Path, waits: Callable[[], None]) -> Iterator[None]:
    """A lock between processes. waits: called if another process has it, to log that this one waits."""
    held = FileLock(lock)
    try:
        held.acquire(blocking=False)
    except Timeout:
        waits()
        held.acquire()
    try:
        yield
    finally:
        held.release()


def in_blocks(n: int, shape: tuple[int, ...]) -> Iterator[range]:
    """The rows of n images of a shape (C, H, W), some at a time."""
    size = rows_at_once((n, *shape))
    return (range(first, min(first + size, n)) for first in range(0, n, size))
