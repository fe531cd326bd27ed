"""A data set, and the checks of its arrays. Wrong arrays are refused in one line that names the array."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cl_bench.config import InputError, Rate, Share
from cl_bench.config.errors import typed
from cl_bench.data.cache import Unread
from cl_bench.data.classes import Classes, some_of
from cl_bench.data.on_disk import Images, OnDisk, changed
from cl_bench.data.reading import Arrays, shaped
from cl_bench.data.transforms import crop_and_flip, resize

TEST_FRACTION = 0.2  # share of the images of each class for testing, if a set has no test images

Means = tuple[Share, ...]
Deviations = tuple[Rate, ...]


@dataclass(frozen=True)
class Dataset:
    """Images and labels of one data set. Images are in memory or on disk.

    x_train, x_test: uint8, shape (N, C, H, W).
    y_train, y_test: int64, shape (N,). Every class 0..n_classes-1 is in both.
    class_names: the name of each class; by default its number.
    mean, std: per channel, for pixels in [0, 1]; None: no normalization.
    augment: changes a training batch only, `augment(x) -> x`.
    x_val, y_val: images of each class for selection, if the data set has them. Otherwise scenarios take a share of
    x_train.
    """

    name: str
    x_train: Images
    y_train: Tensor
    x_test: Images
    y_test: Tensor
    n_classes: int
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    augment: Callable[[Tensor], Tensor] | None = None
    class_names: tuple[str, ...] = ()
    x_val: Images | None = None
    y_val: Tensor | None = None

    def __post_init__(self) -> None:
        if not self.class_names:
            object.__setattr__(self, "class_names", tuple(map(str, range(self.n_classes))))
        check_whole(self)


def check_whole(dataset: Dataset) -> None:
    """Raises InputError for a set that is not as `Dataset` requires: functions outside this package make sets too."""
    n, where = dataset.n_classes, f"dataset={dataset.name}"
    for part in ("train", "test") if dataset.x_val is None and dataset.y_val is None else ("train", "test", "val"):
        x, y = getattr(dataset, f"x_{part}"), getattr(dataset, f"y_{part}")
        if not isinstance(x, OnDisk) and not (isinstance(x, Tensor) and x.dtype == torch.uint8):
            found = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise InputError(f"{where}: x_{part} is {found}; images must be a tensor of uint8")
        if len(x.shape) != 4 or x.shape[1:] != dataset.x_train.shape[1:]:
            raise InputError(
                f"{where}: x_{part} has shape {tuple(x.shape)}; images must be (N, C, H, W), all of the same size"
            )
        if not isinstance(y, Tensor) or y.dtype != torch.int64 or y.shape != (len(x),):
            raise InputError(f"{where}: y_{part} must be a tensor of int64, a label for each of {len(x)} images")
        if odd := sorted(set(y.unique().tolist()) ^ set(range(n))):
            found = f"no label {odd[0]}" if odd[0] in range(n) else f"the label {odd[0]}"
            raise InputError(f"{where}: y_{part} has {found}; labels must be 0 to {n - 1}, and each must occur")
    channels = dataset.x_train.shape[1]
    for key, values, wanted in (
        ("class_names", dataset.class_names, n),
        ("mean", dataset.mean, channels),
        ("std", dataset.std, channels),
    ):
        if values is not None and len(values) != wanted:
            raise InputError(f"{where}: {key} has {len(values)} entries; {wanted} are needed")


def dataset_of(name: str, source: Path | str, arrays: Arrays, size: int | None) -> Dataset:
    """The set, checked. Raises InputError with one line that names the file, the array and what is allowed."""
    where = f"dataset={name}: {source}"
    parts = ["train", "test"] if arrays.x_val is None and arrays.y_val is None else ["train", "test", "val"]
    images, labels = [], []
    for part in parts:
        x, y = getattr(arrays, f"x_{part}"), getattr(arrays, f"y_{part}")
        if x is None or y is None:
            has, lacks = ("x", "y") if y is None else ("y", "x")
            raise InputError(f"{where}: has an array {has}_val but no {lacks}_val")
        images.append(_images(where, f"x_{part}", x))
        labels.append(_labels(where, part, y, len(x)))
    for part, other in zip(parts, images, strict=True):
        shapes = ["x".join(map(str, x.shape[1:])) for x in (images[0], other)]
        if shapes[0] != shapes[1]:
            raise InputError(f"{where}: images are {shapes[0]} in x_train but {shapes[1]} in x_{part}")

    train, *others = (np.unique(y) for y in labels)
    if len(train) < 2:
        raise InputError(f"{where}: y_train has a single class; there must be at least 2")
    for part, other in zip(parts[1:], others, strict=True):
        for has, lacks, here, there in ((other, train, part, "train"), (train, other, "train", part)):
            if len(lone := np.setdiff1d(has, lacks)):
                raise InputError(f"{where}: class {lone[0]} is in y_{here} but never in y_{there}")
    names = np.asarray(arrays.class_names) if len(arrays.class_names) else train.astype(str)
    if names.dtype.kind != "U" or names.shape != train.shape or len(np.unique(names)) < len(names):
        raise InputError(f"{where}: class_names must be {len(train)} different texts, one for each label that occurs")
    if strange := [name for name in names.tolist() if not name.strip() or not name.isprintable()]:
        raise InputError(f"{where}: a class is called {strange[0]!r}; a name must be one line that can be printed")
    y = dict(zip(parts, (torch.from_numpy(np.searchsorted(train, y)) for y in labels), strict=True))
    x = dict(zip(parts, (_sized(x, size) for x in images), strict=True))
    return Dataset(
        name,
        *(x["train"], y["train"], x["test"], y["test"]),
        n_classes=len(train),
        class_names=tuple(names.tolist()),
        x_val=x.get("val"),
        y_val=y.get("val"),
    )


def some_classes(dataset: Dataset, classes: Classes | None) -> Dataset:
    """The images of some classes, numbered from 0 in the order of the list; None: all classes.

    Raises InputError for unknown classes, and for fewer than two classes.
    """
    if classes is None:
        return dataset
    chosen = some_of(dataset.class_names, classes, least=2, key="dataset.classes")
    number = torch.full((dataset.n_classes,), -1)
    number[chosen] = torch.arange(len(chosen))
    kept = {}
    for part in ("train", "test", "val"):
        x, y = getattr(dataset, f"x_{part}"), getattr(dataset, f"y_{part}")
        if y is not None:
            rows = (number[y] >= 0).nonzero().squeeze(1)
            kept |= {f"x_{part}": x[rows], f"y_{part}": number[y[rows]]}
    names = tuple(dataset.class_names[label] for label in chosen)
    return replace(dataset, **kept, n_classes=len(chosen), class_names=names)


def seen_as(dataset: Dataset, augment: bool, mean: Means | None, std: Deviations | None) -> Dataset:
    """The set with augmentation and normalization from the settings. All kinds of your own data have these keys.

    Args:
        augment: whether training images are shifted by up to 4 pixels and mirrored at random.
        mean, std: per channel, for pixels in [0, 1]; None: no normalization.

    Raises InputError for only one of mean and std, and for another number of them than channels.
    """
    channels = dataset.x_train.shape[1]
    for key, values, other in (("mean", mean, "std"), ("std", std, "mean")):
        if values is None and (mean or std) is not None:
            raise InputError(f"dataset.{other}: needs dataset.{key} too")
        if values is not None and len(values) != channels:
            found = f"the images have {channels} channel{'s' * (channels > 1)}"
            raise InputError(f"dataset.{key}={typed(list(values))}: must have one number per channel, and {found}")
    return replace(dataset, augment=crop_and_flip if augment else None, mean=mean, std=std)


def unlike(names: Sequence[str]) -> tuple[str, ...]:
    """The names of classes. Names that occur more than once get the number of their class.

    >>> unlike(["crane", "bus", "crane"])
    ('crane (0)', 'bus', 'crane (2)')
    """
    count = Counter(names)
    return tuple(name if count[name] == 1 else f"{name} ({number})" for number, name in enumerate(names))


def check_fraction(test_fraction: float | None) -> None:
    """Raises InputError for a share other than the default, if the set has its own test images."""
    if test_fraction not in (None, TEST_FRACTION):
        why = "there are test images, so none are set aside; leave it out"
        raise InputError(f"dataset.test_fraction={test_fraction}: {why}")


def evenly(labels: np.ndarray, fraction: float) -> np.ndarray:
    """A bool mask (N,) of this fraction of each class, rounded and evenly spaced: at least one image, never all."""
    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        n = min(max(round(fraction * len(rows)), 1), len(rows) - 1)
        chosen[rows[np.arange(n) * len(rows) // n]] = True
    return chosen


def _images(where: str, key: str, x: np.ndarray | Unread | OnDisk) -> Images | Unread:
    """The images as uint8 (N, C, H, W). Images that stay on disk are checked already."""
    return torch.from_numpy(np.ascontiguousarray(shaped(where, key, x))) if isinstance(x, np.ndarray) else x


def _sized(x: Images | Unread, size: int | None) -> Images:
    """The images, resized to squares of that size; images on disk are resized when they are read."""
    if isinstance(x, Unread):
        return x.bring(size)
    return x if size is None else changed(x, lambda x: resize(x, (size, size)), (x.shape[1], size, size))


def _labels(where: str, part: str, y: np.ndarray, n_images: int) -> np.ndarray:
    """The labels. Raises InputError unless they are integers, one for each image."""
    if not np.issubdtype(y.dtype, np.integer):
        raise InputError(f"{where}: y_{part} is {y.dtype}; labels must be integers")
    if y.ndim != 1:
        raise InputError(f"{where}: y_{part} has shape {y.shape}; labels must be (N,)")
    if len(y) != n_images:
        raise InputError(f"{where}: x_{part} has {n_images} images but y_{part} has {len(y)} labels")
    if y.min() < 0:
        raise InputError(f"{where}: y_{part} has the negative label {y.min()}; labels must be 0 or more")
    if y.max() > 2**63 - 1:
        raise InputError(f"{where}: y_{part} has the label {y.max()}; the largest may be 2^63 - 1")
    return y.astype(np.int64)
