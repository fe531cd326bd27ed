"""Your own images: arrays, folders of pictures, a table of pictures."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from cl_bench.config import InputError, Share, Side
from cl_bench.config.content import hidden, natural
from cl_bench.config.names import place
from cl_bench.config.tables import rows_of
from cl_bench.data.cache import OnDiskKey, cache_of
from cl_bench.data.classes import Classes
from cl_bench.data.dataset import TEST_FRACTION, Dataset, Deviations, Means, dataset_of, seen_as, some_classes
from cl_bench.data.large import images_of_npz
from cl_bench.data.listed import PARTS, Listed, read_listed
from cl_bench.data.pictures import Background, classes_below
from cl_bench.data.reading import read_npz

log = logging.getLogger(__name__)


def npz(
    data_dir: Path = Path("data"),
    *,
    path: str,
    name: str | None = None,
    size: Side | None = None,
    classes: Classes | None = None,
    augment: bool = False,
    mean: Means | None = None,
    std: Deviations | None = None,
    on_disk: OnDiskKey = "auto",
) -> Dataset:
    """Your own arrays x_train, y_train, x_test, y_test from one file of `numpy.savez`, and x_val, y_val if it has them.

    Images are uint8: (N, H, W), (N, C, H, W) or (N, H, W, C) with 1 or 3 channels; if the last two both fit, the first
    of them. Labels are integers from 0. Names of classes are in the array `class_names` of the file; without it they
    are the labels. on_disk: see `cache.stays_on_disk`.
    """
    file = place(path, "dataset.path")
    arrays = read_npz("npz", file, images_of_npz(file, size, on_disk, cache_of(data_dir)))
    read = some_classes(dataset_of("npz", file, arrays, size), classes)
    return replace(seen_as(read, augment, mean, std), name=file.stem if name is None else name)


def image_folder(
    data_dir: Path = Path("data"),
    *,
    path: str,
    size: Side,
    grayscale: bool | None = None,
    background: Background = "white",
    test_fraction: Share = TEST_FRACTION,
    classes: Classes | None = None,
    augment: bool = False,
    mean: Means | None = None,
    std: Deviations | None = None,
    on_disk: OnDiskKey = "auto",
) -> Dataset:
    """Your own pictures, in a folder for each class: path/train/CLASS and path/test/CLASS, or only path/CLASS.

    Without train and test folders, a share `test_fraction` of each class, evenly spaced in the order of the file names,
    are the test images. Pictures in path/val/CLASS are for selection, instead of a share of the training images. The
    center square of every picture is resized to `size`, see `pictures.square`.
    """
    where, root = f"dataset=image_folder: {path}", place(path, "dataset.path")
    listed = listed_below(root, where)
    read = read_listed(
        "image_folder",
        root,
        listed,
        size=size,
        grayscale=grayscale,
        background=background,
        test_fraction=test_fraction,
        classes=classes,
        on_disk=on_disk,
        data_dir=data_dir,
    )
    return seen_as(read, augment, mean, std)


def listed_below(root: Path, where: str) -> Listed:
    """The pictures in class folders, or in class folders below train, test and, if there is one, val."""
    if not root.is_dir():
        raise InputError(
            f"{where}: is {'not a folder' if root.exists() else 'missing'}; it must have a folder per class"
        )
    parts = [part for part in PARTS if (root / part).is_dir()]
    if {"train", "test"} <= set(parts):
        if others := [entry.name for entry in root.iterdir() if entry.is_dir() and entry.name in MEANS_VAL]:
            log.warning("%s: the folder %s is ignored; validation images must be in val", where, others[0])
    elif "train" in parts or "test" in parts:
        part = "train" if "train" in parts else "test"
        if any(child.is_dir() and not hidden(child.name) for child in (root / part).iterdir()):
            way = "; rename val to test to measure accuracies on it" if (root / "val").is_dir() else ""
            raise InputError(f"{where} has a folder {part} but not both train and test{way}")
        parts = []
    else:
        parts = []  # a class may have the name val
    folders = {part: classes_below(root / part, where) for part in parts} or {"train": classes_below(root, where)}
    names = tuple(folders["train"])
    for part, folder in folders.items():
        if odd := sorted(set(names) ^ set(folder), key=natural):
            raise InputError(f"{where}: the class '{odd[0]}' is in only one of the folders train and {part}")
    return listed_in(folders)


MEANS_VAL = ("valid", "validation", "dev")


def listed_in(parts: dict[str, dict[str, list[Path]]]) -> Listed:
    """The pictures of each class of each part, with the classes in the order of the first part."""
    names = tuple(next(iter(parts.values())))
    files, labels, of_part = [], [], []
    for part, folders in parts.items():
        for label, name in enumerate(names):
            files += folders[name]
            labels += [label] * len(folders[name])
            of_part += [part] * len(folders[name])
    return Listed(files, np.array(labels), np.array(of_part), names)


def files(
    data_dir: Path = Path("data"),
    *,
    path: str,
    size: Side,
    grayscale: bool | None = None,
    background: Background = "white",
    test_fraction: Share = TEST_FRACTION,
    classes: Classes | None = None,
    augment: bool = False,
    mean: Means | None = None,
    std: Deviations | None = None,
    on_disk: OnDiskKey = "auto",
) -> Dataset:
    """Your own pictures, listed in a CSV file. Its first line names the columns path, label and split.

    Paths are relative to the folder of the file. A label is any text, and classes are in natural order. A split is
    train, test or val. Without this column a share `test_fraction` of each class, evenly spaced in the order of the
    rows, are the test images. Pictures become squares as in `image_folder`.
    """
    table = place(path, "dataset.path")
    read = read_listed(
        "files",
        table,
        listed_by(table, f"dataset=files: {path}"),
        size=size,
        grayscale=grayscale,
        background=background,
        test_fraction=test_fraction,
        classes=classes,
        on_disk=on_disk,
        data_dir=data_dir,
    )
    return seen_as(read, augment, mean, std)


def listed_by(table: Path, where: str) -> Listed:
    """The pictures of a CSV file. Raises InputError, with the line, for pictures that are missing or listed twice."""
    rows = list(rows_of(table, where))
    if not rows:
        raise InputError(f"{where}: lists no picture")
    first_at, found, missing = {}, [], []
    for row in rows:
        file = table.parent / row.path
        if not os.path.isfile(file):  # pathlib's raises an error for a name that is too long
            missing.append(row)
            continue
        state = file.stat()
        which = (state.st_dev, state.st_ino) if state.st_ino else file.resolve()  # whatever its name
        if (line := first_at.setdefault(which, row.line)) != row.line:
            raise InputError(f"{where}: lines {line} and {row.line} list the same picture ({row.path}); keep one")
        found.append(file)
    if missing:
        some = ", ".join(f"line {row.line} ({row.path})" for row in missing[:5])
        are = "a picture is" if len(missing) == 1 else f"{len(missing)} pictures are"
        raise InputError(
            f"{where}: {are} missing: {some}{', ...' * (len(missing) > 5)}; paths are relative to {table.parent}"
        )
    if rows[0].split is not None:
        for part in ("train", "test"):
            if all(row.split != part for row in rows):
                raise InputError(f"{where}: no row has the split {part}; leave out the column to set images aside")
    names = tuple(sorted({row.label for row in rows}, key=natural))
    number = {name: label for label, name in enumerate(names)}
    labels = np.array([number[row.label] for row in rows])
    return Listed(found, labels, np.array([row.split or "train" for row in rows]), names)
