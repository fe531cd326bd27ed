"""torchvision's sets by their names and splits, on small files in their formats, and without a network."""

from __future__ import annotations

import inspect
import struct
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from pictures_on_disk import one_line, write_picture
from torchvision import datasets as theirs

from cl_bench.config import InputError
from cl_bench.data.datasets import mnist
from cl_bench.data.on_disk import OnDisk, in_memory
from cl_bench.data.torchvision_sets import DEFAULTS, SETS, torchvision_set


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise URLError("no network here")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


def write_idx(file: Path, values: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(struct.pack(f">4B{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes())


def emnist(root: Path, split: str, labels: list[int]) -> np.ndarray:
    """The four files of a split, each label twice to train and once to test; returns the training images."""
    random = np.random.default_rng(0)
    found = []
    for part, times in (("train", 2), ("test", 1)):
        y = np.tile(np.array(labels, np.uint8), times)
        x = random.integers(0, 256, (len(y), 28, 28), dtype=np.uint8)
        write_idx(root / "EMNIST" / "raw" / f"emnist-{split}-{part}-images-idx3-ubyte", x)
        write_idx(root / "EMNIST" / "raw" / f"emnist-{split}-{part}-labels-idx1-ubyte", y)
        found.append(x)
    return found[0]


def test_emnist_and_its_own_splits(tmp_path: Path) -> None:
    balanced, letters = emnist(tmp_path, "balanced", [0, 10, 46]), emnist(tmp_path, "letters", [1, 2, 26])
    data = torchvision_set(tmp_path, name="EMNIST")
    assert (data.name, data.class_names) == ("torchvision", ("0", "A", "t"))
    assert np.array_equal(data.x_train[:, 0].numpy(), balanced)
    assert data.y_train.tolist() == [0, 1, 2, 0, 1, 2]
    data = torchvision_set(tmp_path, name="EMNIST", options={"split": "letters"}, size=32, classes=["z", "a"])
    assert (data.class_names, tuple(data.x_test.shape)) == (("z", "a"), (2, 1, 32, 32))
    plain = torchvision_set(
        tmp_path, name="EMNIST", options={"split": "letters"}, augment=True, mean=(0.2,), std=(0.3,)
    )
    assert np.array_equal(plain.x_train[:, 0].numpy(), letters)
    assert (plain.mean, plain.augment is not None) == ((0.2,), True)


def test_mnist_is_what_our_own_reader_makes_of_it(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for part, n in (("train", 40), ("t10k", 20)):
        write_idx(tmp_path / f"MNIST/raw/{part}-images-idx3-ubyte", random.integers(0, 256, (n, 28, 28), np.uint8))
        write_idx(tmp_path / f"MNIST/raw/{part}-labels-idx1-ubyte", (np.arange(n) % 10).astype(np.uint8))
    for size in (None, 32):
        data, ours = torchvision_set(tmp_path, name="MNIST", size=size), mnist(tmp_path, size=size)
        for key in ("x_train", "y_train", "x_test", "y_test"):
            assert torch.equal(getattr(data, key), getattr(ours, key))


def write_textures(root: Path, kind: str = "dtd") -> None:
    """DTD: a picture of each of two classes for each of three splits, of different sizes."""
    for place, split in enumerate(("train", "val", "test")):
        names = []
        for label, name in enumerate(("banded", "dotted")):
            write_picture(root / kind / kind / "images" / name / f"{split}.jpg", 40 * place + label, (9 + place, 12))
            names.append(f"{name}/{split}.jpg")
        file = root / kind / kind / "labels" / f"{split}2.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(names))


def test_photographs_and_images_to_choose_by(tmp_path: Path) -> None:
    write_textures(tmp_path)
    data = torchvision_set(tmp_path, name="DTD", options={"partition": 2}, val="val", size=8)
    assert (data.class_names, tuple(data.x_train.shape)) == (("banded", "dotted"), (2, 3, 8, 8))
    assert data.x_val is not None
    assert [x[:, 0, 0, 0].tolist() for x in (data.x_train, data.x_val, data.x_test)] == [[0, 1], [40, 41], [80, 81]]
    other = torchvision_set(tmp_path, name="DTD", options={"partition": 2}, train="val", test="train", size=8)
    assert (other.x_train[0, 0, 0, 0].item(), other.x_test[0, 0, 0, 0].item(), other.x_val) == (40, 0, None)


def test_a_set_without_splits(tmp_path: Path) -> None:
    for label, name in enumerate(("Forest", "River")):
        for i in range(5):
            write_picture(tmp_path / "eurosat/2750" / name / f"{name}_{i}.jpg", 40 * label + i, (16, 16), "RGB")
    data = torchvision_set(tmp_path, name="EuroSAT", size=16, test_fraction=0.4)
    assert data.class_names == ("Forest", "River")
    assert (data.x_train[:, 0, 0, 0].tolist(), data.x_test[:, 0, 0, 0].tolist()) == (
        [1, 3, 4, 41, 43, 44],
        [0, 2, 40, 42],
    )


def write_caltech(root: Path) -> None:
    (root / "caltech101/101_ObjectCategories/BACKGROUND_Google").mkdir(parents=True)
    for label, name in enumerate(("ant", "bass")):
        for i in range(1, 5):
            file = root / f"caltech101/101_ObjectCategories/{name}/image_{i:04}.jpg"
            write_picture(file, 40 * label + i, (9 + i, 12), "RGB")


@pytest.mark.parametrize("name", ["DTD", "Caltech101"])  # it lists its files, or it knows a folder
def test_photographs_stay_on_disk_with_their_labels(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cl_bench.data.on_disk.BLOCK", 500)
    {"DTD": write_textures, "Caltech101": write_caltech}[name](tmp_path)
    options: Any = {"partition": 2} if name == "DTD" else None

    def of(on_disk: Any = True) -> list[list[int]]:
        data = torchvision_set(tmp_path, name=name, options=options, size=8, on_disk=on_disk)
        assert isinstance(data.x_train, OnDisk) == (on_disk is True)
        images = (in_memory(x, "")[:, 0, 0, 0].tolist() for x in (data.x_train, data.x_test))
        return [*images, data.y_train.tolist(), data.y_test.tolist()]

    whole = of(False)
    assert of("auto") == whole  # there is memory enough
    assert of() == whole
    made = [*(tmp_path / ".cache").glob("*.npy")]
    assert len(made) == (4 if name == "DTD" else 2)  # images and labels of each split
    with monkeypatch.context() as no_more:
        no_more.setattr("cl_bench.data.cache.make", None)
        assert of() == whole
    min(made, key=lambda file: file.stat().st_size).unlink()  # labels alone
    assert of() == whole
    if name == "DTD":  # the same pictures under other labels
        for folder in ("labels/train2.txt", "labels/test2.txt"):
            file = tmp_path / "dtd/dtd" / folder
            file.write_text("\n".join(file.read_text().splitlines()[::-1]))
        assert of() == of(False) == [part[::-1] for part in whole]
    else:
        write_picture(tmp_path / "caltech101/101_ObjectCategories/ant/image_0002.jpg", 200, (9, 12), "RGB")
        assert of() == of(False) != whole


WRONG: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "a slip": ({"name": "EMNISTT"}, ("dataset.name=EMNISTT", "did you mean 'EMNIST'?")),
    "boxes": ({"name": "CocoDetection"}, ("one class per image", "choose from CIFAR10, CIFAR100")),
    "attributes": ({"name": "CelebA"}, ("dataset.name=CelebA", "one class per image")),
    "in memory": ({"name": "MNIST", "on_disk": True}, ("dataset.on_disk=true", "all images of MNIST in memory")),
    "no path to code": ({"name": "utils"}, ("torchvision has no such data set",)),
    "another split": ({"name": "DTD", "train": "trian", "size": 8}, ("dataset.train=trian", "did you mean 'train'?")),
    "no such split": ({"name": "MNIST", "val": "val"}, ("dataset.val=val: MNIST has no such split",)),
    "a split twice": ({"name": "DTD", "val": "test", "size": 8}, ("dataset.val=test: is also dataset.test",)),
    "no splits": ({"name": "EuroSAT", "train": "train", "size": 8}, ("dataset.train=train: EuroSAT has no splits",)),
    "no size": ({"name": "Food101"}, ("dataset.size=null: the pictures of Food101 differ in size",)),
    "an option": ({"name": "DTD", "options": {"part": 2}, "size": 8}, ("DTD has no argument part", "'partition'")),
    "no options": ({"name": "MNIST", "options": {"part": 2}}, ("MNIST has no argument part; it has no arguments",)),
    "the way it's read": ({"name": "DTD", "options": {"download": True}, "size": 8}, ("DTD has no argument download",)),
    "a split as an option": ({"name": "SVHN", "options": {"split": "extra"}}, ("set dataset.train and dataset.test",)),
    "a wrong value": ({"name": "EMNIST", "options": {"split": "leters"}}, ("dataset.options: EMNIST", "letters")),
    "a wrong number": ({"name": "STL10", "options": {"folds": 99}}, ("dataset.options: STL10", "folds=99")),
}


@pytest.mark.parametrize(("settings", "words"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named(tmp_path: Path, settings: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as error:
        torchvision_set(tmp_path, **settings)
    one_line(error, *words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["EMNIST", "KMNIST", "USPS", "STL10", "DTD", "Food101", "EuroSAT", "GTSRB", "ImageNet"]
)
def test_files_that_are_missing_without_a_network(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError) as error:
        torchvision_set(tmp_path, name=name, size=8)
    one_line(
        error,
        f"dataset=torchvision: {name} cannot be read or downloaded",
        f"torchvision.datasets.{name}",
        str(tmp_path),
    )


def test_files_that_are_damaged(tmp_path: Path) -> None:
    emnist(tmp_path, "balanced", [0, 1])
    file = tmp_path / "EMNIST/raw/emnist-balanced-train-images-idx3-ubyte"
    whole = file.read_bytes()
    for content in (whole[:2], whole[:-1], b"<html>"):
        file.write_bytes(content)
        with pytest.raises(InputError) as error:
            torchvision_set(tmp_path, name="EMNIST")
        one_line(error, "dataset=torchvision: EMNIST", str(tmp_path))
    write_textures(tmp_path)
    (tmp_path / "dtd/dtd/images/dotted/train.jpg").write_bytes(b"no picture")
    with pytest.raises(InputError) as error:
        torchvision_set(tmp_path, name="DTD", options={"partition": 2}, size=8)
    one_line(error, "dataset=torchvision: DTD: image 1 (partition=2, split=train) is damaged")


def test_the_sets_are_torchvisions_and_take_what_we_say() -> None:
    """Each is there, its split is an argument of it, and none reads a pickle that anybody could have written."""
    assert "LSUN" not in SETS
    for name, splits in SETS.items():
        assert name in theirs.__all__
        arguments = {
            key for owner in getattr(theirs, name).__mro__ for key in inspect.signature(owner.__init__).parameters
        }
        assert {"transform", *DEFAULTS.get(name, {})} <= arguments
        assert splits.parameter is None or splits.parameter in arguments
        assert splits.parameter is None or len(splits.names) >= 2
