"""What a person's own data are: the files that count, and a digest of their content, wherever they lie."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

from cl_bench.config.errors import InputError
from cl_bench.config.tables import is_table, rows_of

SYSTEM = {"__macosx", "__pycache__", "thumbs.db", "desktop.ini", "$recycle.bin", "system volume information", "@eadir"}
"""Files and folders that systems leave beside a person's own, in lower case; others of theirs begin with a dot."""

LARGE = 2**25  # bytes; what is less is read in 30 ms
TABLES = ("LUP.pkl", "labels.pkl", "paths.pkl")
"""Of a scenario's own images the files that say which come, and when; the images are gigabytes, and are not read."""

IDX = tuple(
    f"raw/{part}-ubyte" for part in ("t10k-images-idx3", "t10k-labels-idx1", "train-images-idx3", "train-labels-idx1")
)
NAMED: dict[str, tuple[str, tuple[str, ...], str]] = {
    "mnist": ("MNIST", IDX, "43bbe117eb9658df"),
    "fashion_mnist": ("FashionMNIST", IDX, "6574248eff294b4c"),
    "svhn": ("", ("train_32x32.mat", "test_32x32.mat"), "203e1f41272bd460"),
    "cifar10": ("", ("cifar10.npz",), "47c167b4b22f7724"),
    "cifar100": ("", ("cifar100.npz",), ""),
    "tiny_imagenet": ("tiny-imagenet-200", (), ""),
    "cub200": ("CUB_200_2011", (), ""),
    "imagenet_r": ("imagenet-r", (), ""),
}
"""Where a set of that name lies below `data_dir`: a folder, those of its files that are read (all for none), and the
digest of what was published, by which a run needs not be named. Of CIFAR's own files torchvision takes no others."""

SETTLED = 2.0  # s after which a file that changes again has another time


def hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in SYSTEM


def natural(name: str) -> tuple[list[Any], str]:
    """A sort key by which numbers in names come in their order.

    >>> sorted(["10", "9", "a10", "a9"], key=natural)
    ['9', '10', 'a9', 'a10']
    """
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if number % 2 else part for number, part in enumerate(parts)], name


def files_below(folder: Path) -> list[Path]:
    """Every file below a folder but hidden ones and those of systems, in natural order; links are followed."""
    found, been = [], set()
    for here, below, names in os.walk(folder, followlinks=True):
        place = os.path.realpath(here)
        below[:] = [] if place in been else [name for name in below if not hidden(name)]
        if place not in been:
            found += [Path(here, name) for name in names if not hidden(name)]
        been.add(place)
    return sorted(found, key=lambda file: [natural(part) for part in file.relative_to(folder).parts])


def content_of(settings: Mapping[str, Any]) -> str | list[Any] | None:
    """Digests of a person's own data: of what lies at `dataset.path`, of the tables at `scenario.path`, of a set of
    `NAMED` that isn't the published one, or the list `scenario.datasets` with a digest in the place of each file and
    beside the name of each such set. None without own data, and where there is nothing to read."""
    kept, data_dir = str(settings.get("output_root")), str(settings.get("data_dir"))
    dataset, scenario = (settings.get(group) or {} for group in ("dataset", "scenario"))
    several = scenario.get("datasets") if isinstance(scenario, Mapping) else None
    if isinstance(several, list):
        found = [
            digest(name, kept) if str(name).endswith(".npz") else digest_of_named(name, data_dir, kept)
            for name in several
        ]
        return [known or name for known, name in zip(found, several, strict=True)] if any(found) else None
    path, own = (node.get("path") if isinstance(node, Mapping) else None for node in (dataset, scenario))
    if isinstance(own, str):  # it takes no data set beside its own
        return digest(own, kept, TABLES)
    if isinstance(path, str):
        return digest(path, kept)
    package, _, name = str(dataset.get("_target_") if isinstance(dataset, Mapping) else "").rpartition(".")
    return digest_of_named(name, data_dir, kept) if package.startswith("cl_bench.data.") else None


def digest_of_named(name: str, data_dir: str, output_root: str) -> str | None:
    """NAME-DIGEST for a set of `NAMED` that lies in `data_dir` and isn't the published one; else None."""
    if name not in NAMED:
        return None
    folder, files, published = NAMED[name]
    place = os.path.join(data_dir, folder)
    found = (
        digest_of_arrays(Path(place, files[0])) if files[:1] == (f"{name}.npz",) else digest(place, output_root, files)
    )
    return None if found in (None, published) else f"{name}-{found}"


def digest_of_arrays(file: Path) -> str | None:
    """16 hex digits that name the arrays of an .npz file, by the checksums that it carries, however it is compressed;
    None where it can't be read."""
    try:
        with ZipFile(file) as archive:
            arrays = sorted((part.filename, part.CRC, part.file_size) for part in archive.infolist())
    except (OSError, BadZipFile):
        return None
    return hashlib.sha256(repr(arrays).encode()).hexdigest()[:16]


def by_content(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with a person's own data, and a run that is continued, named by their content, wherever they
    lie."""
    content = config.get("content")
    left_out = {"content", *(["continue_from"] if config.get("came_from") else [])}
    kept = {key: value for key, value in config.items() if key not in left_out}
    scenario = kept.get("scenario") or {}
    if isinstance(content, list):
        return kept | {"scenario": {**scenario, "datasets": content}}
    if not content:
        return kept
    group = "scenario" if "path" in scenario else "dataset"
    return kept | {group: {**(kept.get(group) or {}), "path": content}}


def digest(data: str, output_root: str, names: Sequence[str] = ()) -> str | None:
    """16 hex digits that name the content of a file, or of a folder: the names of its files below it, and their bytes;
    of a table of pictures (CSV) those of the pictures too.

    names: of these files in the folder alone.

    Below `output_root` those of large data are kept, which are read again only when a size or a time has changed. Each
    is a name without content, FINGERPRINT-DIGEST: it is there or not, and never half written.
    None for what isn't there or can't be read; whoever needs it will say why.
    """
    try:
        path = Path(data).expanduser()
        below = [path / name for name in names] or (files_below(path) if path.is_dir() else [path])
        files = [(os.fsencode(file.relative_to(path)), file) for file in below] + named_in(path)
        return _kept_digest([(name, file) for name, file in files if file.is_file()], output_root)
    except (OSError, RuntimeError, ValueError):  # ~NAME of nobody, a path that can't be
        return None


def digest_of(files: Sequence[Path], kept: str) -> str | None:
    """16 hex digits that name the content of these files in this order, wherever they lie, kept below the folder `kept`
    as `digest` keeps its own. None where one can't be read."""
    try:
        return _kept_digest([(b"%d" % number, file) for number, file in enumerate(files)], kept)
    except (OSError, RuntimeError, ValueError):
        return None


def _kept_digest(files: list[tuple[bytes, Path]], root: str) -> str | None:
    """Of files with their names, see `digest`."""
    began = time.time()
    kept = Path(root).expanduser() / ".digests"
    if not files:
        return None
    states = [file.stat() for _, file in files]
    if sum(state.st_size for state in states) < LARGE:
        return _digest(files)
    lines = [
        (name, state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino)
        for (name, _), state in zip(files, states, strict=True)
    ]
    fingerprint = hashlib.sha256(repr(lines).encode()).hexdigest()[:32]
    for known in kept.glob(f"{fingerprint}-*"):
        return known.name.rpartition("-")[2]
    found = _digest(files)
    if max(max(state.st_mtime, state.st_ctime) for state in states) < began - SETTLED:
        with suppress(OSError):  # a folder that can't be written costs time alone
            kept.mkdir(parents=True, exist_ok=True)
            (kept / f"{fingerprint}-{found}").touch()
    return found


def named_in(path: Path) -> list[tuple[bytes, Path]]:
    """The pictures that a CSV file names, as it writes them and where they are; none of another file."""
    if not is_table(path):
        return []
    try:
        return [(os.fsencode(row.path), path.parent / row.path) for row in rows_of(path, "")]
    except InputError:  # who reads it says so
        return []


def _digest(files: list[tuple[bytes, Path]]) -> str:
    whole = hashlib.sha256()
    for name, file in sorted(files):
        with file.open("rb") as opened:
            whole.update(name + b"\0" + hashlib.file_digest(opened, "sha256").digest())
    return whole.hexdigest()[:16]
