"""Benchmark sets that fit into memory, one function each, and `load`, which finds a set by its name.

A function's keyword arguments are the keys of `conf/dataset/NAME.yaml`. If a file is wrong, one line names it.
Resizing is not cached: 60,000 MNIST images to 32x32 take half a second.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cl_bench.config import InputError, Side
from cl_bench.config.errors import nearest
from cl_bench.config.names import file_of, options_of
from cl_bench.config.plugins import allowed
from cl_bench.config.schema import build, check
from cl_bench.data import class_names
from cl_bench.data.classes import Classes
from cl_bench.data.dataset import Dataset, dataset_of, seen_as, some_classes
from cl_bench.data.own import image_folder, npz
from cl_bench.data.reading import NEEDED, Arrays, damaged, download, read_idx, read_npz

__all__ = [
    "Dataset",
    "cifar10",
    "cifar100",
    "digits",
    "fashion_mnist",
    "image_folder",
    "load",
    "mnist",
    "npz",
    "svhn",
]
"""`image_folder` and `npz` are here too, because the settings of old runs have these names."""


def load(name: str, data_dir: Path) -> Dataset:
    """The set with this name, with the settings of its YAML file (ours or a plugin's); or the arrays of an .npz file.

    >>> len(load("digits", Path("data")).x_train)
    1438
    """
    if name.endswith(".npz"):
        return npz(data_dir, path=name)
    node = whole(name) if name in options_of("dataset") else None
    if node is None:
        raise InputError(f"scenario.datasets: there is no dataset {name!r}{nearest(name, [*known(), 'PATH.npz'])}")
    return build(check(node, f"dataset={name}", packages=allowed([])), data_dir=data_dir)


def whole(name: str) -> dict[str, Any] | None:
    """The settings in the YAML file of a set; None for other files, and for sets that need more, such as a path."""
    node = file_of("dataset", name)
    return node if node and "???" not in node.values() else None


def known() -> Iterator[str]:
    """The sets that need only a name. YAML files that cannot be read are left out."""
    for name in options_of("dataset"):
        with suppress(InputError):
            if whole(name):
                yield name


def digits(*, size: Side | None = None, classes: Classes | None = None) -> Dataset:
    """1,797 handwritten 8x8 digits that come with the package (UCI, see NOTICE).

    Their 17 gray levels 0..16 are stored as round(level * 255 / 16). A fifth of each digit, evenly spaced in
    UCI's order, are the test images: 1,438 + 359.
    """
    file = Path(__file__).with_name("digits.npz")
    return some_classes(dataset_of("digits", file, read_npz("digits", file), size), classes)


def mnist(
    data_dir: Path, *, size: Side | None = None, normalize: bool = False, classes: Classes | None = None
) -> Dataset:
    """70,000 handwritten 28x28 digits (LeCun et al., 1998)."""
    digits = some_classes(_mnist("mnist", data_dir, size), classes)
    return replace(digits, mean=(0.1307,), std=(0.3081,)) if normalize else digits


def fashion_mnist(data_dir: Path, *, size: Side | None = None, classes: Classes | None = None) -> Dataset:
    """70,000 gray 28x28 pictures of clothes, ten classes (Xiao et al., 2017)."""
    clothes = replace(_mnist("fashion_mnist", data_dir, size), class_names=class_names.FASHION_MNIST)
    return some_classes(clothes, classes)


def svhn(data_dir: Path, *, size: Side | None = None, classes: Classes | None = None) -> Dataset:
    """99,289 color 32x32 house-number digits (Netzer et al., 2011). The label 10 of the files is the digit 0."""
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
        except Exception as error:  # scipy raises many unrelated classes of errors for a damaged file
            raise InputError(damaged("svhn", file, error)) from error
        arrays += [images, np.where(labels == 10, 0, labels)]
    return some_classes(dataset_of("svhn", data_dir, Arrays(*arrays), size), classes)


def cifar10(
    data_dir: Path, *, size: Side | None = None, augment: bool = True, classes: Classes | None = None
) -> Dataset:
    """60,000 color 32x32 photographs of ten classes (Krizhevsky, 2009)."""
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2615)
    photographs = replace(_cifar("cifar10", data_dir, size), class_names=class_names.CIFAR10)
    return seen_as(some_classes(photographs, classes), augment, mean, std)


def cifar100(
    data_dir: Path, *, size: Side | None = None, augment: bool = True, classes: Classes | None = None
) -> Dataset:
    """60,000 color 32x32 photographs of a hundred classes, the fine labels (Krizhevsky, 2009)."""
    mean, std = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
    photographs = replace(_cifar("cifar100", data_dir, size), class_names=class_names.CIFAR100)
    return seen_as(some_classes(photographs, classes), augment, mean, std)


def _mnist(name: str, data_dir: Path, size: int | None) -> Dataset:
    """MNIST from its four idx files, without torchvision: its import takes longer than reading the files."""
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
    return dataset_of(name, folder, Arrays(*(read_idx(name, file) for file in files)), size)


def _cifar(name: str, data_dir: Path, size: int | None) -> Dataset:
    """The set from data_dir/NAME.npz if it exists, otherwise from torchvision's files."""
    file = data_dir / f"{name}.npz"
    if file.exists():
        return dataset_of(name, file, read_npz(name, file), size)
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
    return dataset_of(name, folder, arrays, size)
