"""Files that are read back: written whole or not at all, and used only if they are what was written.

A kill, a full disk or a copy cut short leaves the old file or the new one. A disk that changes a bit later is found
out by a checksum: torch's archives carry one for each tensor, JSON one for the whole.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZipFile

from cl_bench.config.errors import InputError

if TYPE_CHECKING:
    import torch

CHECKSUM = "sha256"  # the key of a JSON file's checksum


class Damaged(ValueError):
    """A file is not what was written."""


def write(file: Path, make: Callable[[Path], Any], fresh: Path | None = None) -> None:
    """Writes a file by `make(path)` so that a kill at any moment leaves the old one or the new one, whole.

    fresh: the file's name while it is written, one that no other process uses. Raises OSError on a full disk.
    """
    fresh = fresh or file.with_name(f"{file.name}.new")
    if fresh.is_fifo():  # writing into a pipe waits for ever
        fresh.unlink()
    try:
        make(fresh)
        with fresh.open("r+b") as handle:  # Windows writes out no file that is open to be read
            os.fsync(handle.fileno())
        fresh.replace(file)
    except OSError as error:
        fresh.unlink(missing_ok=True)  # a full disk needs the room
        raise OSError(error.errno, error.strerror or str(error), str(file)) from error  # a full disk names no file


def to_table(rows: Iterable[Sequence[Any]]) -> Callable[[Path], Any]:
    """Writes rows as CSV; the first has the names of the columns."""

    def make(path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8") as lines:
            csv.writer(lines, lineterminator="\n").writerows(rows)

    return make


def to_archive(state: Mapping[str, Any]) -> Callable[[Path], Any]:
    """Writes tensors and plain values as torch does. Raises InputError for anything else, which no kill would survive:
    `from_archive` runs no code of other classes."""
    import torch

    content = BytesIO()  # torch would make a RuntimeError of a full disk
    try:
        torch.save(dict(state), content)
        content.seek(0)
        odd = torch.serialization.get_unsafe_globals_in_checkpoint(content)
    except Exception as error:  # of many types: a function, an open file
        if isinstance(error, MemoryError | OSError | RuntimeError):  # of the machine
            raise
        odd = [str(error)]
    if odd:
        what = "a state may have tensors, numbers, texts, and lists and dictionaries of these"
        raise InputError(f"checkpoint: could not be read again, because of a type in the state ({min(odd)}); {what}")
    return lambda file: file.write_bytes(content.getbuffer())


def from_archive(file: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The tensors and plain values of a file. Raises FileNotFoundError, or Damaged."""
    import torch

    if not file.is_file():
        raise FileNotFoundError(file)
    try:
        with ZipFile(file) as archive:
            damaged = archive.testzip()  # torch doesn't look at the checksums
        state = None if damaged else torch.load(file, map_location=device, weights_only=True)
    except Exception as error:  # torch and pickle raise anything on a damaged file
        raise Damaged(file) from error
    if not isinstance(state, dict):
        raise Damaged(file)
    return state


def load_json(file: Path) -> Any:
    """The value in a JSON file, without the checksum that `sealed` gave it.

    Raises FileNotFoundError where there is none, and Damaged where it is not a file (a pipe could wait for ever), can't
    be read, is no JSON, holds what can't be written again (NaN, infinity, half a character, numbers without end), or
    has another checksum. Content that never had one is taken as it is.
    """
    return load_content(file)[0]


def load_content(file: Path) -> tuple[Any, bytes]:
    """What `load_json` gives, and the content of the file, checksum and all."""
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            raise Damaged(f"{file.name} is not a file")
        content = file.read_bytes()
        value = json.loads(content, parse_int=whole)
        sums = [value.pop(CHECKSUM)] if isinstance(value, dict) and CHECKSUM in value else []
        text = json.dumps(value, sort_keys=True, allow_nan=False)
        if "\\ud" in text:  # perhaps half a character
            json.dumps(value, ensure_ascii=False).encode()
    except FileNotFoundError:
        raise
    except NotADirectoryError as error:
        raise FileNotFoundError(*error.args) from None
    except OSError as error:
        raise Damaged(f"{file.name} can't be read ({error.strerror})") from None
    except Damaged:
        raise
    except (ValueError, RecursionError):
        raise Damaged(f"{file.name} is damaged (incomplete JSON)") from None
    if sums not in ([], [_checksum(text)]):
        raise Damaged(f"{file.name} is damaged (wrong checksum)")
    return value, content


def whole(digits: str) -> int:
    """A whole number of JSON. Raises ValueError for one that no float and no table can hold."""
    if len(digits) > 30:
        raise ValueError("a number too large")
    return int(digits)


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """What JSON can hold, with a checksum of its values, however a file spaces them; `load_json` looks at it."""
    return {**content, CHECKSUM: _checksum(json.dumps(content, sort_keys=True))}


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
