"""Benchmark images: one function per set.

A function's keyword arguments are the keys of `conf/dataset/NAME.yaml`. Whatever is wrong with a file is one
line that names it. Resizing isn't cached: 60,000 MNIST images to 32x32 take half a second.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cl_bench.config import InputError, Share, Side
from cl_bench.config.content import hidden, natural
from cl_bench.config.errors import nearest
from cl_bench.config.names import file_of, options_of, place
from cl_bench.config.plugins import allowed
from cl_bench.config.schema import build, check
from cl_bench.data import class_names
from cl_bench.data.cache import OnDiskKey, Unread, cache_of
from cl_bench.data.large import images_of_npz, pictures_of
from cl_bench.data.on_disk import Images, OnDisk, changed
from cl_bench.data.reading import NEEDED, Arrays, damaged, download, read_idx, read_npz, shaped
from cl_bench.data.transforms import crop_and_flip, resize


@dataclass(frozen=True)
class Dataset:
    """Images and labels of one benchmark set; images are whole in memory, unless they stay on disk.

    x_train, x_test: uint8, shape (N, C, H, W).
    y_train, y_test: int64, shape (N,), every class 0..n_classes-1 in both.
    class_names: what each class is called; their numbers if left out.
    mean, std: per channel, on the [0, 1] scale; None leaves pixels in [0, 1].
    augment: what is done to a training batch only, `augment(x) -> x`.
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

    def __post_init__(self) -> None:
        if not self.class_names:
            object.__setattr__(self, "class_names", tuple(map(str, range(self.n_classes))))


def load(name: str, data_dir: Path) -> Dataset:
    """The set of that name with the settings of its YAML file, ours or an installed plugin's; or an .npz file's arrays.

    >>> len(load("digits", Path("data")).x_train)
    1438
    """
    if name.endswith(".npz"):
        return npz(data_dir, path=name)
    files = {choice: file_of("dataset", choice) for choice in options_of("dataset")}
    sets = {choice: file for choice, file in files.items() if file and "???" not in file.values()}  # these need a path
    if name not in sets:
        raise InputError(f"scenario.datasets: there is no dataset {name!r}{nearest(name, [*sets, 'PATH.npz'])}")
    return build(check(sets[name], f"dataset={name}", packages=allowed([])), data_dir=data_dir)


# ---------------------------------------------------------------------------------------------- the sets


def digits(*, size: Side | None = None) -> Dataset:
    """1,797 handwritten 8x8 digits that come with the package (UCI, see NOTICE).

    Their 17 grey levels 0..16 are stored as round(level * 255 / 16). A fifth of each digit, evenly spaced in
    UCI's order, are the test images: 1,438 + 359.
    """
    file = Path(__file__).with_name("digits.npz")
    return _dataset("digits", file, read_npz("digits", file), size)


def mnist(data_dir: Path, *, size: Side | None = None, normalize: bool = False) -> Dataset:
    """70,000 handwritten 28x28 digits."""
    digits = _mnist("mnist", data_dir, size)
    return replace(digits, mean=(0.1307,), std=(0.3081,)) if normalize else digits


def fashion_mnist(data_dir: Path, *, size: Side | None = None) -> Dataset:
    """70,000 grey 28x28 pictures of clothes, ten kinds."""
    return replace(_mnist("fashion_mnist", data_dir, size), class_names=class_names.FASHION_MNIST)


def svhn(data_dir: Path, *, size: Side | None = None) -> Dataset:
    """99,289 colour 32x32 house-number digits; the label 10 of the files is the digit 0."""
    from scipy.io import loadmat

    arrays = []
    for split in ("train", "test"):
        file = data_dir / f"{split}_32x32.mat"
        if not file.exists():
            from torchvision.datasets import SVHN

            download(
                "svhn",
                {file: SVHN.split_list[split][2]},
                partial(SVHN, data_dir, split, download=True),
                "put SVHN's two *.mat files there",
            )
        try:
            content = loadmat(file, variable_names=("X", "y"))
            images, labels = np.moveaxis(content["X"], 3, 0), content["y"].reshape(-1)
        except Exception as error:  # scipy raises half a dozen unrelated classes on a damaged file
            raise InputError(damaged("svhn", file, error)) from error
        arrays += [images, np.where(labels == 10, 0, labels)]
    return _dataset("svhn", data_dir, Arrays(*arrays), size)


def cifar10(data_dir: Path, *, size: Side | None = None, augment: bool = True) -> Dataset:
    """60,000 colour 32x32 photographs of ten kinds of thing."""
    return replace(
        _cifar("cifar10", data_dir, size),
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2615),
        class_names=class_names.CIFAR10,
        augment=crop_and_flip if augment else None,
    )


def cifar100(data_dir: Path, *, size: Side | None = None, augment: bool = True) -> Dataset:
    """60,000 colour 32x32 photographs of a hundred kinds of thing (the fine labels)."""
    return replace(
        _cifar("cifar100", data_dir, size),
        mean=(0.5071, 0.4867, 0.4408),
        std=(0.2675, 0.2565, 0.2761),
        class_names=class_names.CIFAR100,
        augment=crop_and_flip if augment else None,
    )


def npz(
    data_dir: Path = Path("data"),
    *,
    path: str,
    name: str | None = None,
    size: Side | None = None,
    on_disk: OnDiskKey = "auto",
) -> Dataset:
    """Your own arrays x_train, y_train, x_test, y_test from one file of `numpy.savez`.

    Images are uint8: (N, H, W), (N, C, H, W) or (N, H, W, C) with 1 or 3 channels, the second form where both
    fit. Labels are whole numbers from 0; the classes are those that occur, in their order, and are called by their
    labels, or as an array `class_names` in the file says. on_disk: see `cache.stays_on_disk`.
    """
    file = place(path, "dataset.path")
    read = _dataset("npz", file, read_npz("npz", file, images_of_npz(file, size, on_disk, cache_of(data_dir))), size)
    return replace(read, name=file.stem if name is None else name)


def image_folder(
    data_dir: Path = Path("data"),
    *,
    path: str,
    size: Side,
    grayscale: bool | None = None,
    background: Literal["white", "black"] = "white",
    test_fraction: Share = 0.2,
    on_disk: OnDiskKey = "auto",
) -> Dataset:
    """Your own pictures, a folder per class: path/train/CLASS and path/test/CLASS, or path/CLASS alone.

    Without train and test folders, `test_fraction` of each class, evenly spaced in the order of the file
    names, are the test images. Every picture's centre square becomes `size` wide, as `pictures.square` says.
    on_disk: see `cache.stays_on_disk`.
    """
    from cl_bench.data.pictures import classes_below

    where, root = f"dataset=image_folder: {path}", place(path, "dataset.path")
    if not root.is_dir():
        raise InputError(f"{where}: is {'no folder' if root.exists() else 'missing'}; it must have a folder per class")
    parts = [part for part in ("train", "test") if (root / part).is_dir()]
    if len(parts) == 1 and any(child.is_dir() and not hidden(child.name) for child in (root / parts[0]).iterdir()):
        raise InputError(f"{where} has a folder {parts[0]} but not both train and test")
    folders = [classes_below(root / part, where) for part in (parts if len(parts) == 2 else [""])]
    if odd := sorted(set(folders[0]) ^ set(folders[-1]), key=natural):
        raise InputError(f"{where}: the class '{odd[0]}' is in only one of the folders train and test")
    names = tuple(folders[0])

    files = [file for folder in folders for pictures in folder.values() for file in pictures]
    labels = [np.repeat(np.arange(len(names)), [len(folder[name]) for name in names]) for folder in folders]
    test = np.repeat([False, True], [len(labels[0]), len(files) - len(labels[0])])
    if len(folders) == 1:
        if alone := [name for name in names if len(folders[0][name]) == 1]:
            raise InputError(f"{where}: class '{alone[0]}' has one picture; it takes one to train and one to test")
        test = _evenly(labels[0], test_fraction)
    known = "dataset=image_folder"
    images = pictures_of(files, size, grayscale, background, known, on_disk=on_disk, cache=cache_of(data_dir))
    y = np.concatenate(labels)
    return _dataset("image_folder", root, Arrays(images[~test], y[~test], images[test], y[test], names), None)


# --------------------------------------------------------------------------------------------- on images


# --------------------------------------------------------------------------------------- files and checks


def _mnist(name: str, data_dir: Path, size: int | None) -> Dataset:
    """MNIST's four idx files, read without torchvision, whose import takes longer than the reading."""
    folder = data_dir / ("MNIST" if name == "mnist" else "FashionMNIST") / "raw"
    parts = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    files = [folder / f"{part}-ubyte" for part in parts]
    if not all(file.exists() for file in files):
        from torchvision.datasets import MNIST, FashionMNIST

        source = MNIST if name == "mnist" else FashionMNIST
        download(
            name,
            dict.fromkeys(files),
            lambda: source(data_dir, download=True),
            f"put the four *-ubyte files of {source.__name__} there",
        )
    return _dataset(name, folder, Arrays(*(read_idx(name, file) for file in files)), size)


def _cifar(name: str, data_dir: Path, size: int | None) -> Dataset:
    """data_dir/NAME.npz where it exists, else torchvision's files."""
    file = data_dir / f"{name}.npz"
    if file.exists():
        return _dataset(name, file, read_npz(name, file), size)
    from torchvision.datasets import CIFAR10, CIFAR100

    source = CIFAR10 if name == "cifar10" else CIFAR100
    # These files are pickles. torchvision opens them only if their checksums are those of the official ones.
    checked = [*source.train_list, *source.test_list, (source.meta["filename"], source.meta["md5"])]
    folder = data_dir / source.base_folder
    train, test = download(
        name,
        {folder / part: md5 for part, md5 in checked},
        lambda: [source(data_dir, train, download=True) for train in (True, False)],
        f"put the files of {source.filename} there, or {', '.join(NEEDED)} in {file}",
    )
    arrays = Arrays(train.data, np.array(train.targets), test.data, np.array(test.targets))
    return _dataset(name, folder, arrays, size)


def _dataset(name: str, source: Path, arrays: Arrays, size: int | None) -> Dataset:
    """The checked set, or one line that names the file, the array and what is allowed."""
    where = f"dataset={name}: {source}"
    images = [_images(where, "x_train", arrays.x_train), _images(where, "x_test", arrays.x_test)]
    labels = [
        _labels(where, "train", arrays.y_train, len(images[0])),
        _labels(where, "test", arrays.y_test, len(images[1])),
    ]
    shapes = ["x".join(map(str, x.shape[1:])) for x in images]
    if shapes[0] != shapes[1]:
        raise InputError(f"{where}: images are {shapes[0]} in x_train but {shapes[1]} in x_test")

    train, test = (np.unique(y) for y in labels)
    if len(train) < 2:
        raise InputError(f"{where}: y_train has a single class; there must be at least 2")
    for has, lacks, here, there in ((test, train, "test", "train"), (train, test, "train", "test")):
        if len(lone := np.setdiff1d(has, lacks)):
            raise InputError(f"{where}: class {lone[0]} is in y_{here} but never in y_{there}")
    names = np.asarray(arrays.class_names) if len(arrays.class_names) else train.astype(str)
    if names.dtype.kind != "U" or names.shape != train.shape or len(np.unique(names)) < len(names):
        raise InputError(f"{where}: class_names must be {len(train)} different texts, one for each label that occurs")
    y_train, y_test = (torch.from_numpy(np.searchsorted(train, y)) for y in labels)
    x_train, x_test = (_sized(x, size) for x in images)
    return Dataset(name, x_train, y_train, x_test, y_test, n_classes=len(train), class_names=tuple(names.tolist()))


def _images(where: str, key: str, x: np.ndarray | Unread | OnDisk) -> Images | Unread:
    """uint8 images of shape (N, C, H, W); those that stay on disk are checked already."""
    return torch.from_numpy(np.ascontiguousarray(shaped(where, key, x))) if isinstance(x, np.ndarray) else x


def _sized(x: Images | Unread, size: int | None) -> Images:
    """The images, resized to squares of that size; of those on disk the rows that are read."""
    if isinstance(x, Unread):
        return x.bring(size)
    return x if size is None else changed(x, lambda x: resize(x, (size, size)), (x.shape[1], size, size))


def _labels(where: str, part: str, y: np.ndarray, n_images: int) -> np.ndarray:
    """Integer labels, one per image, as they are."""
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


def _evenly(labels: np.ndarray, fraction: float) -> np.ndarray:
    """A mask of round(fraction) of each class, evenly spaced: one image at least, all but one at most."""
    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        n = min(max(round(fraction * len(rows)), 1), len(rows) - 1)
        chosen[rows[np.arange(n) * len(rows) // n]] = True
    return chosen
