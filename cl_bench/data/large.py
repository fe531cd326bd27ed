"""Your own images that may stay on disk: they are read in parts and written to the cache."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from cl_bench.config import InputError
from cl_bench.config.content import digest, digest_of
from cl_bench.data.cache import OnDiskKey, Unread, in_blocks, mapped, named, stays_on_disk
from cl_bench.data.on_disk import OnDisk
from cl_bench.data.reading import reason, shaped
from cl_bench.data.transforms import resize


def images_of_npz(file: Path, size: int | None, on_disk: OnDiskKey, cache: Path) -> Callable[[Any, str], Any]:
    """A function that reads an array of an open .npz file by its key. Images that stay on disk are not read yet, so
    that all small arrays are checked first.

    size: side of the images after resizing; None: their own. on_disk: see `cache.stays_on_disk`. cache: see `cache_of`.
    """
    where = f"dataset=npz: {file}"

    def read(content: Any, key: str) -> Any:
        if not key.startswith("x_"):
            return content[key]
        with content.zip.open(f"{key}.npy") as member:
            shape, fortran, dtype = header_of(member)
        area = math.prod(shape[1:]) if size is None else size**2 * (3 if 3 in shape[1:] else 1)
        if dtype.hasobject or not shape or not stays_on_disk(on_disk, shape[0] * area):
            return content[key]
        look = shaped(where, key, np.broadcast_to(np.zeros((), dtype), shape))  # takes one byte
        if fortran:
            order = f"save numpy.ascontiguousarray({key}), or set dataset.on_disk=false"
            raise InputError(f"{where}: {key} is in Fortran order, and cannot stay on disk; {order}")
        return Unread(look.shape, lambda size: bring(file, where, key, shape, size, cache))

    return read


def bring(file: Path, where: str, key: str, shape: tuple[int, ...], size: int | None, cache: Path) -> OnDisk:
    """The images of an .npz file on disk, resized."""

    def blocks() -> Iterator[np.ndarray]:
        for part in parts_of(file, where, key, shape):
            x = torch.from_numpy(np.ascontiguousarray(shaped(where, key, part)))
            yield (x if size is None else resize(x, (size, size))).numpy()

    return mapped(cache, named(found(digest(str(file), str(cache)), where), key, size), blocks)


def parts_of(file: Path, where: str, key: str, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """The rows of a uint8 array in an .npz file, some at a time. With the last part all are checked."""
    try:
        with np.load(file, allow_pickle=False) as content, content.zip.open(f"{key}.npy") as member:
            header_of(member)
            for rows in in_blocks(shape[0], shape[1:]):
                n_bytes = len(rows) * math.prod(shape[1:])
                values = bytearray(n_bytes)
                begin, view = 0, memoryview(values)
                while n := member.readinto(view[begin:]):
                    begin += n
                if begin < n_bytes:
                    raise ValueError("it is shorter than stated in its header")
                yield np.frombuffer(values, np.uint8).reshape(len(rows), *shape[1:])
    except Exception as error:  # zipfile and numpy raise many classes on a damaged file
        whole = "it must be a whole array of plain numbers"
        raise InputError(f"{where}: {key} cannot be read; {whole} ({reason(error)})") from error


def header_of(member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """The shape of an array in a .npy file, whether it is in Fortran order, and its type."""
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(member)


def pictures_of(
    files: Sequence[Any],
    size: int,
    grayscale: bool | None,
    background: Any,
    where: str,
    *,
    on_disk: OnDiskKey,
    cache: Path,
    held_in: Sequence[Path] | None = None,
) -> np.ndarray | OnDisk:
    """The pictures from `pictures.read_pictures`, in memory or on disk.

    on_disk: see `cache.stays_on_disk`. cache: see `cache.cache_of`. held_in: the files with the pictures, if these are
    not files themselves; then the text of each picture must be different.
    """
    import PIL

    from cl_bench.data.pictures import read_pictures

    channels = 1 if grayscale else 3
    if not stays_on_disk(on_disk, len(files) * channels * size**2):
        return read_pictures(files, size, grayscale, background, where)

    def blocks() -> Iterator[np.ndarray]:
        for rows in in_blocks(len(files), (channels, size, size)):
            yield read_pictures(files[rows.start : rows.stop], size, bool(grayscale), background, where)

    content = found(digest_of(files if held_in is None else held_in, str(cache)), where)
    which = () if held_in is None else ([*map(str, files)],)
    name = named(content, *which, size, grayscale, background, PIL.__version__)
    return mapped(cache, name, blocks, one_channel_if_gray=grayscale is None)


def found(content: str | None, where: str) -> str:
    """The digest of files, if they can be read. Raises InputError otherwise."""
    if content is None:
        raise InputError(f"{where}: a file can't be read")
    return content
