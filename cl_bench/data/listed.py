"""Pictures that are listed with their classes before they are read: from folders, a table, or columns of a set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cl_bench.config import InputError
from cl_bench.data.cache import OnDiskKey, cache_of
from cl_bench.data.classes import Classes, some_of
from cl_bench.data.dataset import Dataset, check_fraction, dataset_of, evenly
from cl_bench.data.large import pictures_of
from cl_bench.data.pictures import Background, Picture
from cl_bench.data.reading import Arrays

PARTS = ("train", "test", "val")
"""The parts of a set: for training, for measuring accuracy, and for selection."""

FOR = {"train": "train on", "test": "test on", "val": "choose by (val)"}


@dataclass(frozen=True)
class Listed:
    """A list of N pictures.

    files: N pictures. labels: int64 (N,), from 0. parts: the part of each, one of `PARTS`, (N,). names: of the classes.
    """

    files: Sequence[Picture]
    labels: np.ndarray
    parts: np.ndarray
    names: tuple[str, ...]


def read_listed(
    name: str,
    source: Path | str,
    listed: Listed,
    *,
    size: int,
    grayscale: bool | None = False,
    background: Background = "white",
    test_fraction: float | None = None,
    classes: Classes | None = None,
    on_disk: OnDiskKey = False,
    data_dir: Path = Path("data"),
    held_in: Sequence[Path] | None = None,
) -> Dataset:
    """The set of these pictures. classes: only these, numbered in the order of the list.

    test_fraction: share of each class, evenly spaced, for testing, if the list has no test images; None: it has some.
    size, grayscale, background: see `read_pictures`. on_disk: see `cache.stays_on_disk`. held_in: see
    `large.pictures_of`.
    Raises InputError for a class that is missing in a part.
    """
    where = f"dataset={name}: {source}"
    wanted = some_of(listed.names, classes, least=1 if classes is None else 2, key="dataset.classes")
    number = np.full(len(listed.names), -1)
    number[wanted] = np.arange(len(wanted))
    rows = np.flatnonzero(number[listed.labels] >= 0)
    labels, parts, names = number[listed.labels[rows]], listed.parts[rows], [listed.names[label] for label in wanted]

    if "test" in parts:
        check_fraction(test_fraction)
    elif test_fraction is not None:
        train = np.flatnonzero(parts == "train")
        if alone := np.flatnonzero(np.bincount(labels[train], minlength=len(names)) == 1).tolist():
            why = "has one picture; at least one for training and one for testing are needed"
            raise InputError(f"{where}: class '{names[alone[0]]}' {why}")
        parts = parts.copy()
        parts[train[evenly(labels[train], test_fraction)]] = "test"
    there = [part for part in PARTS if part in parts]
    for part in ("train", "test", *there[2:]):
        if lone := sorted(set(range(len(names))) - set(labels[parts == part].tolist())):
            raise InputError(f"{where}: there is no picture of class '{names[lone[0]]}' to {FOR[part]}")

    at = {part: np.flatnonzero(parts == part) for part in there}
    order = np.concatenate([*at.values()])  # then the parts are slices, and nothing is copied
    files, known = [listed.files[row] for row in rows[order].tolist()], f"dataset={name}"
    cache = cache_of(data_dir)
    images = pictures_of(files, size, grayscale, background, known, on_disk=on_disk, cache=cache, held_in=held_in)
    arrays, start = {}, 0
    for part, found in at.items():
        end = start + len(found)
        taken = images[start:end] if isinstance(images, np.ndarray) else images[np.arange(start, end)]
        arrays |= {f"x_{part}": taken, f"y_{part}": labels[found].astype(np.int64)}
        start = end
    return dataset_of(name, source, Arrays(**arrays, class_names=np.array(names)), None)
