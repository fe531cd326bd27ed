"""Downloads and reads the files of data sets. If a file is wrong, one line names it and the reason."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

import numpy as np

from cl_bench.config import InputError
from cl_bench.data.cache import Unread
from cl_bench.data.on_disk import OnDisk

log = logging.getLogger(__name__)
T = TypeVar("T")


class Arrays(NamedTuple):
    """The arrays of a file, before they are checked."""

    x_train: np.ndarray | Unread | OnDisk
    y_train: np.ndarray
    x_test: np.ndarray | Unread | OnDisk
    y_test: np.ndarray
    class_names: np.ndarray | tuple[str, ...] = ()
    x_val: np.ndarray | Unread | OnDisk | None = None
    y_val: np.ndarray | None = None


NEEDED = Arrays._fields[:4]


def download(name: str, files: Mapping[Path, str | None], fetch: Callable[[], T], remedy: str) -> T:
    """The result of `fetch()`. If it fails, raises InputError that names the first missing or wrong file.

    files: path -> checksum, or None. remedy: what the message advises.
    """
    from torchvision.datasets.utils import check_integrity

    folder = next(iter(files)).parent
    if not all(file.exists() for file in files):
        log.info("dataset=%s: downloading to %s", name, folder)
    try:
        return fetch()
    except (OSError, RuntimeError) as error:
        wrong = next((file for file, md5 in files.items() if not check_integrity(file, md5)), folder)
        state = "damaged" if wrong.exists() else "missing"
        raise InputError(
            f"dataset={name}: cannot download and {wrong} is {state}; {remedy} ({reason(error)})"
        ) from error


def read_idx(name: str, file: Path) -> np.ndarray:
    """The array in a file of MNIST's format: bytes 0 0 8, the number of axes, four bytes for each length, values."""
    try:
        raw = np.fromfile(file, dtype=np.uint8)
        values = 4 + 4 * int(raw[3])
        if raw[:3].tolist() != [0, 0, 8]:
            raise ValueError("not an idx file of bytes")
        return raw[values:].reshape(raw[4:values].view(">u4").tolist())
    except (OSError, ValueError, IndexError) as error:
        raise InputError(damaged(name, file, error)) from error


def read_npz(name: str, file: Path, read: Callable[[Any, str], Any] = lambda content, key: content[key]) -> Arrays:
    """The arrays of a file of `numpy.savez`; pickled objects are refused.

    read: gives an array of the opened file by its key.
    """
    where, needed = f"dataset={name}: {file}", f"an .npz file with {', '.join(NEEDED)}"
    if not file.is_file():
        raise InputError(f"{where} is missing; it must be {needed}")
    try:
        content = np.load(file, allow_pickle=False)
    except Exception as error:  # numpy raises many unrelated classes of errors for a damaged file
        raise InputError(f"{where} is damaged or not an .npz file; it must be {needed}") from error
    if isinstance(content, np.ndarray):
        raise InputError(f"{where} is a single array (.npy); it must be {needed}")
    arrays = {}
    with content:
        for key in Arrays._fields:
            if key not in content and key not in NEEDED:
                continue
            if key not in content:
                found = ", ".join(content.files) or "nothing"
                raise InputError(f"{where} has no array {key}, only {found}; it must be {needed}")
            try:
                arrays[key] = read(content, key)
            except InputError:
                raise
            except Exception as error:
                allowed = "it must be a whole array of plain numbers"
                raise InputError(f"{where}: {key} cannot be read; {allowed} ({reason(error)})") from error
    return Arrays(**arrays)


def shaped(where: str, key: str, x: np.ndarray) -> np.ndarray:
    """uint8 images as (N, C, H, W), a view. Raises InputError for any other array."""
    if x.dtype != np.uint8:
        raise InputError(f"{where}: {key} is {x.dtype}; images must be uint8, 0 to 255")
    shape = x.shape
    if x.ndim == 3:
        x = x[:, None]
    if x.ndim == 4 and x.shape[1] not in (1, 3):
        x = np.moveaxis(x, 3, 1)
    if x.size == 0:
        raise InputError(f"{where}: {key} is empty (shape {shape})")
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise InputError(
            f"{where}: {key} has shape {shape}; images must be (N, H, W), (N, C, H, W) or (N, H, W, C) "
            "with 1 or 3 channels"
        )
    return x


class Plain(pickle.Unpickler):
    """Reads lists, dictionaries, strings and numbers. All other objects in a pickle name a class or a function, and
    looking it up would run foreign code."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise NotPlain(f"{module}.{name}")


class NotPlain(Exception):
    """The name of a class or function in a pickle."""


def read_pickle(where: str, file: Path) -> Any:
    """The lists, dictionaries, strings and numbers of a pickle. No code in it runs.

    Raises InputError for a pickle that is damaged or has other objects.
    """
    try:
        with file.open("rb") as opened:
            return Plain(opened).load()
    except NotPlain as error:
        told = "only lists, strings and numbers are read, and no code of it was run"
        raise InputError(f"{where}: {file} holds {error}; {told}") from None
    except Exception as error:  # pickle raises errors of any class for a damaged file
        raise InputError(
            f"{where}: {file} is damaged or not a pickle file; delete or replace it ({reason(error)})"
        ) from error


def damaged(name: str, file: str | Path, error: Exception) -> str:
    return f"dataset={name}: {file} is damaged or has another format; delete or replace it ({reason(error)})"


def reason(error: Exception) -> str:
    """The last line of an error's message, which has the cause in torchvision; without a message, the class."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1]
