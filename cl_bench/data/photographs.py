"""Larger sets of photographs, read from the folders that their archives make: Tiny-ImageNet, CUB-200, ImageNet-R."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from cl_bench.config import InputError, Side
from cl_bench.data.cache import OnDiskKey
from cl_bench.data.classes import Classes
from cl_bench.data.dataset import TEST_FRACTION, Dataset, seen_as, unlike
from cl_bench.data.listed import Listed, read_listed
from cl_bench.data.own import listed_below, listed_in
from cl_bench.data.pictures import classes_below
from cl_bench.data.reading import reason

TINY = ((0.4802, 0.4480, 0.3975), (0.2770, 0.2691, 0.2821))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of each set, per channel. Sets that are similar to ImageNet use its values."""


def tiny_imagenet(
    data_dir: Path,
    *,
    size: Side = 64,
    augment: bool = True,
    classes: Classes | None = None,
    on_disk: OnDiskKey = "auto",
) -> Dataset:
    """110,000 photographs of 200 classes, 64x64: Tiny-ImageNet (Stanford's course CS231n).

    The classes are in the order of wnids.txt. Their names are the first words in words.txt.
    """
    folder = data_dir / "tiny-imagenet-200"
    where = there("tiny_imagenet", folder, "wnids.txt", "words.txt", "train", "val/val_annotations.txt")
    wnids = [wnid for _, (wnid,) in fields_of(folder / "wnids.txt", where, 1)]
    words = {wnid: said.split(",")[0].strip() for _, (wnid, said) in fields_of(folder / "words.txt", where, 2, "\t")}
    number = {wnid: label for label, wnid in enumerate(wnids)}
    train = {wnid: below(folder / "train" / wnid / "images", where) for wnid in wnids}
    test: dict[str, list[Path]] = {wnid: [] for wnid in wnids}
    for line, (name, wnid, *_) in fields_of(folder / "val/val_annotations.txt", where, 2, "\t", exactly=False):
        if wnid not in number:
            raise InputError(f"{where}: val/val_annotations.txt, line {line}: wnids.txt has no class {wnid}")
        test[wnid].append(inside(folder / "val/images", name, where, f"val/val_annotations.txt, line {line}"))
    listed = listed_in({"train": train, "test": test})
    listed = replace(listed, names=unlike([words.get(wnid, wnid) for wnid in wnids]))
    return seen_as(
        read_listed("tiny_imagenet", folder, listed, size=size, classes=classes, on_disk=on_disk, data_dir=data_dir),
        augment,
        *TINY,
    )


def cub200(
    data_dir: Path,
    *,
    size: Side = 224,
    augment: bool = False,
    classes: Classes | None = None,
    on_disk: OnDiskKey = "auto",
) -> Dataset:
    """11,788 photographs of 200 species of birds: CUB-200-2011 (Wah et al., 2011), in its official split."""
    folder = data_dir / "CUB_200_2011"
    tables = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")
    where = there("cub200", folder, "images", *tables)
    paths, labels, is_train, names = (numbered(folder / table, where) for table in tables)
    for table, values in zip(tables[1:3], (labels, is_train), strict=True):
        if odd := sorted(set(paths) ^ set(values), key=int):
            raise InputError(f"{where}: image {odd[0]} is in only one of images.txt and {table}")
    number = {label: place for place, label in enumerate(names)}
    files = [inside(folder / "images", path, where, f"images.txt, image {image}") for image, path in paths.items()]
    if strangers := [image for image in paths if labels[image] not in number]:
        raise InputError(f"{where}: classes.txt has no class {labels[strangers[0]]}, that of image {strangers[0]}")
    if unclear := [image for image in paths if is_train[image] not in ("0", "1")]:
        raise InputError(f"{where}: train_test_split.txt must have 1 or 0 for image {unclear[0]}")
    listed = Listed(
        files,
        labels=np.array([number[labels[image]] for image in paths]),
        parts=np.array(["train" if is_train[image] == "1" else "test" for image in paths]),
        names=unlike([name.rpartition(".")[2] for name in names.values()]),  # 001.Black_footed_Albatross
    )
    return seen_as(
        read_listed("cub200", folder, listed, size=size, classes=classes, on_disk=on_disk, data_dir=data_dir),
        augment,
        *IMAGENET,
    )


def imagenet_r(
    data_dir: Path,
    *,
    size: Side = 224,
    augment: bool = False,
    classes: Classes | None = None,
    on_disk: OnDiskKey = "auto",
) -> Dataset:
    """30,000 renditions of 200 classes of ImageNet: ImageNet-R (Hendrycks et al., 2021).

    There is no official split. If there are folders train and test, as some publications provide them, these are used.
    Otherwise a fifth of each class are the test images, evenly spaced in the order of the file names, which begin with
    the kind of rendition. Classes are in the order of their folders, with names from README.txt if it has them.
    """
    folder = data_dir / "imagenet-r"
    where = there("imagenet_r", folder)
    split = (folder / "train").is_dir() or (folder / "test").is_dir()
    listed = listed_below(folder, where) if split else listed_in({"train": classes_below(folder, where)})
    readme = folder / "README.txt"
    text = readme.read_text(encoding="utf-8", errors="replace") if readme.is_file() else ""
    words = dict(re.findall(r"^\s*(n\d{8})\s+(\S.*?)\s*$", text, re.MULTILINE))
    listed = replace(listed, names=unlike([words.get(wnid, wnid) for wnid in listed.names]))
    read = read_listed(
        "imagenet_r",
        folder,
        listed,
        size=size,
        test_fraction=TEST_FRACTION,
        classes=classes,
        on_disk=on_disk,
        data_dir=data_dir,
    )
    return seen_as(read, augment, *IMAGENET)


def there(name: str, folder: Path, *parts: str) -> str:
    """The beginning of messages about a set. Raises InputError if its folder, or a part of it, is missing."""
    where = f"dataset={name}: {folder}"
    if not folder.is_dir():
        raise InputError(
            f"{where} is missing; download the archive of the data set from its authors, and unpack it there"
        )
    if missing := [part for part in parts if not (folder / part).exists()]:
        raise InputError(f"{where} has no {missing[0]}; unpack the whole archive of the data set there")
    return where


def fields_of(
    file: Path, where: str, n: int, separator: str | None = None, exactly: bool = True
) -> Iterator[tuple[int, list[str]]]:
    """The number and the fields of each line of a table that is not empty: n fields, or at least n.

    Raises InputError for other lines, and for a file that cannot be read.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"{where}: {file.name} is damaged; replace it ({reason(error)})") from error
    for line, text in enumerate(lines, 1):
        fields = text.strip().split(separator, n - 1 if exactly else -1)
        if text.strip() and (len(fields) < n or not all(fields)):
            raise InputError(f"{where}: {file.name} is damaged; replace it (line {line} has {len(fields)} fields)")
        if text.strip():
            yield line, fields


def numbered(file: Path, where: str) -> dict[str, str]:
    """The entry of a table for each number, in the order of its lines. Raises InputError for a repeated number."""
    found: dict[str, str] = {}
    for line, (number, value) in fields_of(file, where, 2):
        if not number.isdecimal() or number in found:
            raise InputError(f"{where}: {file.name}, line {line}: {number} is not a number, or appears twice")
        found[number] = value.strip()
    return found


def below(folder: Path, where: str) -> list[Path]:
    """The pictures of a folder, in natural order. Raises InputError if there are none."""
    if not folder.is_dir():
        raise InputError(f"{where}: {folder} is missing; unpack the whole archive of the data set there")
    return classes_below(folder.parent, where)[folder.name]


def inside(folder: Path, name: str, where: str, place: str) -> Path:
    """The picture with this name in a folder. Raises InputError if it is missing, or outside the folder."""
    if Path(name).is_absolute() or ".." in Path(name).parts or not (folder / name).is_file():
        raise InputError(f"{where}: {place}: {folder} has no picture {name}")
    return folder / name
