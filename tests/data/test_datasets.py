"""Every set on small files in its own format, and one line for whatever can be wrong with a file."""

from __future__ import annotations

import hashlib
import inspect
import pickle
import re
import struct
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
import yaml

from cl_bench.config import InputError
from cl_bench.config.names import CONF
from cl_bench.config.schema import build, check, target
from cl_bench.data import class_names, datasets
from cl_bench.data.datasets import load
from cl_bench.data.transforms import crop_and_flip, resize

Arrays = dict[str, np.ndarray]


def arrays(shape: tuple[int, ...] = (8, 8), classes: int = 3, seed: int = 0) -> Arrays:
    """Two training images and one test image per class."""
    random = np.random.default_rng(seed)
    return {
        "x_train": random.integers(0, 256, (2 * classes, *shape), dtype=np.uint8),
        "y_train": np.tile(np.arange(classes), 2),
        "x_test": random.integers(0, 256, (classes, *shape), dtype=np.uint8),
        "y_test": np.arange(classes),
    }


def write_idx(folder: Path, data: Arrays) -> None:
    """The four files of MNIST."""
    folder.mkdir(parents=True)
    for part, x, y in (("train", "x_train", "y_train"), ("t10k", "x_test", "y_test")):
        images, labels = data[x], data[y].astype(np.uint8)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(
            struct.pack(">4B3I", 0, 0, 8, 3, *images.shape) + images.tobytes()
        )
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(
            struct.pack(">4BI", 0, 0, 8, 1, len(labels)) + labels.tobytes()
        )


def one_line(error: pytest.ExceptionInfo[InputError], *words: str) -> None:
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise URLError("no network here")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


# ------------------------------------------------------------------------------------------------ digits


def test_digits_are_complete_and_split_by_class() -> None:
    data = datasets.digits()
    assert (data.name, data.n_classes) == ("digits", 10)
    assert data.x_train.shape == (1438, 1, 8, 8)
    assert data.x_test.shape == (359, 1, 8, 8)
    assert data.x_train.dtype == torch.uint8
    assert data.y_train.dtype == torch.int64
    counts = torch.stack([data.y_train.bincount(), data.y_test.bincount()])
    assert counts.sum(0).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert ((counts[1] / counts.sum(0) - 0.2).abs() < 0.005).all()
    levels = [round(level * 255 / 16) for level in range(17)]
    assert torch.cat([data.x_train, data.x_test]).unique().tolist() == levels


def test_digits_can_be_told_apart() -> None:
    """Labels belong to their images: the nearest training image answers 99 % of the test rightly."""
    data = datasets.digits()
    distance = torch.cdist(data.x_test.flatten(1).float(), data.x_train.flatten(1).float())
    assert (data.y_train[distance.argmin(1)] == data.y_test).float().mean() > 0.97


def test_digits_larger() -> None:
    small, large = datasets.digits(), datasets.digits(size=32)
    assert large.x_train.shape == (1438, 1, 32, 32)
    assert large.x_train.dtype == torch.uint8
    back = resize(large.x_test, (8, 8))
    assert torch.corrcoef(torch.stack([back.flatten(), small.x_test.flatten()]).float())[0, 1] > 0.9


def test_resize_is_the_mean_of_what_it_covers() -> None:
    flat = torch.full((2, 3, 9, 5), 7, dtype=torch.uint8)
    assert torch.equal(resize(flat, (18, 10)), torch.full((2, 3, 18, 10), 7, dtype=torch.uint8))
    assert resize(flat[:, :, :5], (5, 5)).data_ptr() == flat.data_ptr()
    half = torch.zeros(1, 1, 16, 16, dtype=torch.uint8)
    half[..., 8:] = 200
    assert resize(half, (2, 2)).float().mean().item() == pytest.approx(100, abs=1)


# --------------------------------------------------------------------------------------------------- npz


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ((8, 8), (1, 8, 8)),
        ((1, 8, 8), (1, 8, 8)),
        ((3, 8, 9), (3, 8, 9)),
        ((8, 9, 1), (1, 8, 9)),
        ((8, 9, 3), (3, 8, 9)),
        ((3, 8, 3), (3, 8, 3)),
    ],
)
def test_npz_axes(tmp_path: Path, stored: tuple[int, ...], expected: tuple[int, ...]) -> None:
    written = arrays(stored)
    np.savez(tmp_path / "mine.npz", **written)  # type: ignore[arg-type]
    data = datasets.npz(path=str(tmp_path / "mine.npz"))
    assert (data.name, data.n_classes) == ("mine", 3)
    assert tuple(data.x_train.shape) == (6, *expected)
    assert data.x_train.is_contiguous()
    assert data.y_train.dtype == torch.int64
    assert data.y_train.tolist() == [0, 1, 2, 0, 1, 2]
    x = written["x_test"]
    channels_last = stored[1:] != expected[1:] and len(stored) == 3
    assert np.array_equal(data.x_test.numpy(), np.moveaxis(x, 3, 1) if channels_last else x.reshape(3, *expected))


@pytest.mark.parametrize(("first", "step", "kind"), [(0, 1, np.int64), (1, 1, np.uint8), (3, 7, np.int16)])
def test_labels_may_start_anywhere_and_have_gaps(tmp_path: Path, first: int, step: int, kind: type) -> None:
    written = arrays()
    labels = {key: (first + step * written[key]).astype(kind) for key in ("y_train", "y_test")}
    np.savez(tmp_path / "mine.npz", **written | labels)  # type: ignore[arg-type]
    data = datasets.npz(path=str(tmp_path / "mine.npz"))
    assert data.y_train.tolist() == written["y_train"].tolist()
    assert data.y_test.tolist() == written["y_test"].tolist()
    assert data.class_names == tuple(str(first + step * label) for label in range(3))
    np.savez(tmp_path / "mine.npz", class_names=np.array(["cat", "dog", "cow"]), **written | labels)  # type: ignore[arg-type]
    assert datasets.npz(path=str(tmp_path / "mine.npz")).class_names == ("cat", "dog", "cow")


def test_classes_have_names() -> None:
    assert datasets.digits().class_names == tuple("0123456789")
    for names, n in ((class_names.FASHION_MNIST, 10), (class_names.CIFAR10, 10), (class_names.CIFAR100, 100)):
        assert len(set(names)) == n
        assert not any(name != name.strip() for name in names)
    assert list(class_names.CIFAR100) == sorted(class_names.CIFAR100)  # as its authors numbered them


@pytest.mark.parametrize("shape", [(12, 24), (24, 12)])
def test_a_square_stays_a_square_whatever_it_lies_in(shape: tuple[int, int]) -> None:
    image = torch.zeros(1, 1, *shape, dtype=torch.uint8)
    image[..., 4:8, 4:8] = 255
    large = resize(image, (48, 48))[0, 0] > 127
    assert large.any(1).sum() == large.any(0).sum() == 8
    down, right = ((48 - 2 * side) // 2 for side in shape)
    assert large[down + 8 : down + 16, right + 8 : right + 16].all()


def test_npz_name_and_size(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", **arrays((3, 8, 10)))  # type: ignore[arg-type]
    data = datasets.npz(path=str(tmp_path / "mine.npz"), name="birds", size=16)
    assert data.name == "birds"
    assert data.x_test.shape == (3, 3, 16, 16)


WRONG: dict[str, tuple[Arrays, tuple[str, ...]]] = {
    "float images": ({"x_train": np.zeros((6, 8, 8), np.float32)}, ("x_train is float32", "uint8, 0 to 255")),
    "float labels": ({"y_test": np.arange(3.0)}, ("y_test is float64", "labels must be integers")),
    "flat images": (
        {"x_train": np.zeros((6, 64), np.uint8)},
        ("x_train has shape (6, 64)", "(N, H, W)", "1 or 3 channels"),
    ),
    "4 channels": ({"x_test": np.zeros((3, 4, 8, 8), np.uint8)}, ("x_test has shape (3, 4, 8, 8)", "1 or 3")),
    "one-hot labels": ({"y_test": np.eye(3, dtype=int)}, ("y_test has shape (3, 3)", "labels must be (N,)")),
    "too few labels": (
        {"y_train": np.array([0, 1, 2, 0, 1])},
        ("x_train has 6 images", "y_train has 5 labels"),
    ),
    "negative label": ({"y_train": np.array([0, 1, 2, 0, 1, -1])}, ("y_train has the negative label -1",)),
    "new test class": ({"y_test": np.array([0, 1, 7])}, ("class 7 is in y_test but never in y_train",)),
    "no test of a class": ({"y_test": np.array([0, 1, 1])}, ("class 2 is in y_train but never in y_test",)),
    "one class": ({"y_train": np.zeros(6, int)}, ("y_train has a single class", "at least 2")),
    "in training only": ({"y_train": np.array([0, 1, 3] * 2)}, ("class 2 is in y_test but never in y_train",)),
    "from 1 in training only": ({"y_train": np.array([1, 2, 3] * 2)}, ("class 0 is in y_test but never in y_train",)),
    "too large a label": (
        {"y_train": np.array([0, 1, 2**64 - 1] * 2, np.uint64)},
        ("y_train has the label 18446744073709551615", "2^63 - 1"),
    ),
    "too few names": ({"class_names": np.array(["cat", "dog"])}, ("class_names must be 3 different texts",)),
    "one name twice": ({"class_names": np.array(["cat", "dog", "cat"])}, ("class_names must be 3 different texts",)),
    "names that are numbers": ({"class_names": np.arange(3)}, ("class_names must be 3 different texts",)),
    "a name of two lines": ({"class_names": np.array(["cat", "d\nog", "cow"])}, (r"a class is called 'd\nog'",)),
    "a name of nothing": ({"class_names": np.array(["cat", " ", "cow"])}, ("a class is called ' '",)),
    "names of bytes": ({"class_names": np.array([b"a", b"b", b"c"])}, ("class_names must be 3 different texts",)),
    "empty": ({"x_test": np.zeros((0, 8, 8), np.uint8), "y_test": np.zeros(0, int)}, ("x_test is empty",)),
    "objects": ({"y_train": np.array([0, 1, 2, 0, 1, None])}, ("y_train cannot be read", "plain numbers")),
    "two sizes": ({"x_test": np.zeros((3, 9, 8), np.uint8)}, ("1x8x8 in x_train but 1x9x8 in x_test",)),
    "two colors": ({"x_test": np.zeros((3, 3, 8, 8), np.uint8)}, ("1x8x8 in x_train but 3x8x8 in x_test",)),
}


@pytest.mark.parametrize(("change", "words"), WRONG.values(), ids=WRONG)
def test_npz_wrong_arrays(tmp_path: Path, change: Arrays, words: tuple[str, ...]) -> None:
    file = tmp_path / "mine.npz"
    np.savez(file, **arrays() | change)  # type: ignore[arg-type]
    with pytest.raises(InputError) as error:
        datasets.npz(path=str(file))
    one_line(error, f"dataset=npz: {file}", *words)


def test_npz_wrong_files(tmp_path: Path) -> None:
    file = tmp_path / "mine.npz"

    def refused(*words: str) -> None:
        with pytest.raises(InputError) as error:
            datasets.npz(path=str(file))
        one_line(error, f"dataset=npz: {file}", "x_train, y_train, x_test, y_test", *words)

    refused("is missing")
    for content in (b"", b"not an archive", b"PK\x03\x04 cut off"):
        file.write_bytes(content)
        refused("damaged or not an .npz file")
    with file.open("wb") as stream:
        np.save(stream, np.arange(3))
    refused("a single array")
    with file.open("wb") as stream:
        pickle.dump(arrays(), stream)
    refused("damaged or not an .npz file")
    lacking = arrays()
    del lacking["y_test"]
    np.savez(file, **lacking)  # type: ignore[arg-type]
    refused("has no array y_test, only x_train, y_train, x_test;")


def test_npz_cut_or_flipped_anywhere(tmp_path: Path) -> None:
    file = tmp_path / "mine.npz"
    np.savez_compressed(file, **arrays((30, 30)))  # type: ignore[arg-type]
    whole = file.read_bytes()
    for length in range(0, len(whole), 97):
        file.write_bytes(whole[:length])
        with pytest.raises(InputError, match=re.escape(str(file))):
            datasets.npz(path=str(file))
    file.write_bytes(whole[:1000] + bytes(8) + whole[1008:])
    with pytest.raises(InputError, match="x_train cannot be read"):
        datasets.npz(path=str(file))


# ------------------------------------------------------------------------------------------------- mnist


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_mnist_files(tmp_path: Path, no_network: None, name: str, folder: str) -> None:
    written = arrays((28, 28), classes=10)
    write_idx(tmp_path / folder / "raw", written)
    data = load(name, tmp_path)
    assert (data.name, data.n_classes) == (name, 10)
    assert np.array_equal(data.x_train[:, 0].numpy(), written["x_train"])
    assert np.array_equal(data.x_test[:, 0].numpy(), written["x_test"])
    assert data.y_train.tolist() == written["y_train"].tolist()
    assert getattr(datasets, name)(tmp_path, size=32).x_train.shape == (20, 1, 32, 32)


def test_mnist_as_torchvision_reads_it(tmp_path: Path) -> None:
    from torchvision.datasets import MNIST

    write_idx(tmp_path / "MNIST" / "raw", arrays((28, 28), classes=10))
    ours, theirs = datasets.mnist(tmp_path), MNIST(tmp_path, train=False)
    assert torch.equal(ours.x_test[:, 0], theirs.data)
    assert torch.equal(ours.y_test, theirs.targets)


def test_mnist_missing(tmp_path: Path, no_network: None) -> None:
    with pytest.raises(InputError) as error:
        datasets.mnist(tmp_path)
    file = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    one_line(
        error,
        "dataset=mnist: cannot download",
        f"{file} is missing",
        "put the four *-ubyte files",
        "no network",
    )

    write_idx(tmp_path / "FashionMNIST" / "raw", arrays((28, 28)))
    (tmp_path / "FashionMNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(InputError, match=r"dataset=fashion_mnist: .*t10k-labels-idx1-ubyte is missing"):
        datasets.fashion_mnist(tmp_path)


def test_unwritable_data_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("mnist", "svhn", "cifar10"):
        with pytest.raises(InputError) as error:
            load(name, tmp_path / "file")
        one_line(error, f"dataset={name}: cannot download", "is missing")


def test_mnist_damaged(tmp_path: Path) -> None:
    folder = tmp_path / "MNIST" / "raw"
    write_idx(folder, arrays((28, 28)))
    images = folder / "train-images-idx3-ubyte"
    whole = images.read_bytes()
    for content in (
        b"",
        whole[:2],
        whole[:9],
        whole[:-1],
        whole + b"x",
        b"<html>" + whole[6:],
        whole[:4] + b"\xff" * 4 + whole[8:],
    ):
        images.write_bytes(content)
        with pytest.raises(InputError) as error:
            datasets.mnist(tmp_path)
        one_line(error, f"dataset=mnist: {images} is damaged", "delete or replace it")


# -------------------------------------------------------------------------------------------------- svhn


def write_mat(folder: Path) -> Arrays:
    io = pytest.importorskip("scipy.io")
    data = arrays((32, 32, 3), classes=10)
    for split in ("train", "test"):
        x, y = data[f"x_{split}"], data[f"y_{split}"]
        labels = np.where(y == 0, 10, y).astype(np.uint8)[:, None]
        io.savemat(folder / f"{split}_32x32.mat", {"X": x.transpose(1, 2, 3, 0), "y": labels}, do_compression=True)
    return data


def test_svhn_files(tmp_path: Path, no_network: None) -> None:
    written = write_mat(tmp_path)
    data = load("svhn", tmp_path)
    assert (data.name, data.n_classes) == ("svhn", 10)
    assert data.y_train.tolist() == written["y_train"].tolist()
    assert np.array_equal(data.x_test.numpy(), written["x_test"].transpose(0, 3, 1, 2))


def test_svhn_missing_or_damaged(tmp_path: Path, no_network: None) -> None:
    write_mat(tmp_path)
    test = tmp_path / "test_32x32.mat"
    whole = test.read_bytes()
    for content in (b"", b"<html>", whole[: len(whole) // 2]):
        test.write_bytes(content)
        with pytest.raises(InputError) as error:
            datasets.svhn(tmp_path)
        one_line(error, f"dataset=svhn: {test} is damaged")
    test.unlink()
    with pytest.raises(InputError) as error:
        datasets.svhn(tmp_path)
    one_line(error, "dataset=svhn: cannot download", f"{test} is missing", "*.mat")


# ------------------------------------------------------------------------------------------------- cifar


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_cifar_npz(tmp_path: Path, no_network: None, name: str, classes: int) -> None:
    written = arrays((32, 32, 3), classes)
    np.savez(tmp_path / f"{name}.npz", **written)  # type: ignore[arg-type]
    data = load(name, tmp_path)
    assert (data.name, data.n_classes) == (name, classes)
    assert np.array_equal(data.x_train.numpy(), written["x_train"].transpose(0, 3, 1, 2))
    assert data.mean is not None
    assert data.std is not None
    assert len(data.mean) == len(data.std) == 3
    assert data.augment is crop_and_flip
    assert getattr(datasets, name)(tmp_path, augment=False).augment is None


def test_cifar_files_of_torchvision(tmp_path: Path, no_network: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    written = arrays((3, 32, 32), classes=10)
    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()

    def write(name: str, content: dict[str, Any]) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    def batch(split: str) -> list[str]:
        x, y = written[f"x_{split}"], written[f"y_{split}"]
        return write(f"{split}_batch", {"data": x.reshape(len(x), -1), "labels": y.tolist()})

    monkeypatch.setattr(CIFAR10, "train_list", [batch("train")])
    monkeypatch.setattr(CIFAR10, "test_list", [batch("test")])
    meta = dict(zip(("filename", "md5"), write("batches.meta", {"label_names": list("abcdefghij")}), strict=True))
    monkeypatch.setattr(CIFAR10, "meta", meta | {"key": "label_names"})
    data = datasets.cifar10(tmp_path)
    assert np.array_equal(data.x_train.numpy(), written["x_train"])
    assert data.y_test.tolist() == list(range(10))

    (folder / "test_batch").write_bytes(b"cut off")
    with pytest.raises(InputError) as error:
        datasets.cifar10(tmp_path)
    one_line(error, "dataset=cifar10: cannot download", f"{folder / 'test_batch'} is damaged", "cifar10.npz")


def test_cifar_missing(tmp_path: Path, no_network: None) -> None:
    with pytest.raises(InputError) as error:
        datasets.cifar100(tmp_path)
    one_line(error, f"{tmp_path / 'cifar-100-python' / 'train'} is missing", str(tmp_path / "cifar100.npz"))


# ------------------------------------------------------------------------------------------ image_folder


def write_pictures(root: Path, classes: str = "ab", n: int = 5, mode: str = "RGB") -> None:
    """Pictures of 12x10; number i of class number c is of the one gray 40 c + i."""
    from PIL import Image

    for c, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(n):
            Image.new("L", (12, 10), 40 * c + i).convert(mode).save(root / name / f"{i}.png")


def grays(images: torch.Tensor) -> list[int]:
    assert images.shape[1] == 1
    assert torch.equal(images, images[:, :1, :1, :1].expand_as(images))
    return images[:, 0, 0, 0].tolist()


def test_image_folder_split_by_itself(tmp_path: Path) -> None:
    write_pictures(tmp_path, n=5)
    data = datasets.image_folder(path=str(tmp_path), size=8, test_fraction=0.4)
    assert (data.name, data.n_classes) == ("image_folder", 2)
    assert data.x_train.shape == (6, 1, 8, 8)
    assert data.y_test.tolist() == [0, 0, 1, 1]
    assert grays(data.x_test) == [0, 2, 40, 42]
    assert grays(data.x_train) == [1, 3, 4, 41, 43, 44]


def test_a_share_to_set_aside_is_refused_where_there_are_test_images(tmp_path: Path) -> None:
    for part in ("train", "test"):
        write_pictures(tmp_path / part, n=3)
    assert len(datasets.image_folder(path=str(tmp_path), size=8).y_test) == 6
    with pytest.raises(InputError, match=r"^dataset\.test_fraction=0\.5: there are test images"):
        datasets.image_folder(path=str(tmp_path), size=8, test_fraction=0.5)


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_image_folder_keeps_an_image_of_each_class_on_each_side(tmp_path: Path, fraction: float) -> None:
    write_pictures(tmp_path, n=3)
    data = datasets.image_folder(path=str(tmp_path), size=8, test_fraction=fraction)
    assert data.y_test.bincount().tolist() == ([1, 1] if fraction == 0 else [2, 2])


def test_image_folder_train_and_test(tmp_path: Path) -> None:
    write_pictures(tmp_path / "train", n=3, mode="L")
    write_pictures(tmp_path / "test", n=2, mode="P")
    data = datasets.image_folder(path=str(tmp_path), size=16)
    assert data.x_train.shape == (6, 1, 16, 16)
    assert grays(data.x_test) == [0, 1, 40, 41]


def test_image_folder_wrong(tmp_path: Path) -> None:
    def refused(folder: str, *words: str) -> None:
        with pytest.raises(InputError) as error:
            datasets.image_folder(path=str(tmp_path / folder), size=8)
        one_line(error, f"dataset=image_folder: {tmp_path / folder}", *words)

    refused("nowhere", "is missing")
    (tmp_path / "file").touch()
    refused("file", "is not a folder")
    (tmp_path / "empty" / "a").mkdir(parents=True)
    refused("empty", f"there is no picture in {tmp_path / 'empty' / 'a'}", ".png")
    (tmp_path / "bare" / ".git").mkdir(parents=True)
    refused("bare", "there is no class folder")
    write_pictures(tmp_path / "half" / "train")
    refused("half", "has a folder train but not both")
    write_pictures(tmp_path / "odd" / "train", "abc")
    write_pictures(tmp_path / "odd" / "test", "ab")
    refused("odd", "'c' is in only one")
    write_pictures(tmp_path / "single", "a")
    refused("single", "single class")
    write_pictures(tmp_path / "few", n=1)
    refused("few", "class 'a' has one picture")


def test_image_folder_names_the_damaged_picture(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    picture = tmp_path / "b" / "3.png"
    whole = picture.read_bytes()
    for length in (0, 20, len(whole) // 2):
        picture.write_bytes(whole[:length])
        with pytest.raises(InputError) as error:
            datasets.image_folder(path=str(tmp_path), size=8)
        one_line(error, f"dataset=image_folder: {picture} is damaged")


# ---------------------------------------------------------------------------------------------- augment


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_every_image_is_moved_its_own_way(dtype: torch.dtype) -> None:
    image = torch.arange(1, 1 + 3 * 4 * 5).view(3, 4, 5).to(dtype)
    x = image.repeat(300, 1, 1, 1)
    torch.manual_seed(0)
    moved = crop_and_flip(x, pad=1)
    assert moved.shape == x.shape
    assert moved.dtype == dtype
    assert moved.is_contiguous()

    padded = torch.nn.functional.pad(image, (1, 1, 1, 1))
    crops = [padded[:, top : top + 4, left : left + 5] for top in range(3) for left in range(3)]
    crops += [crop.flip(2) for crop in crops]
    is_crop = torch.stack([(moved == crop).flatten(1).all(1) for crop in crops])
    assert (is_crop.sum(0) == 1).all()
    assert is_crop.any(1).all()


def test_augmentation_follows_the_seed() -> None:
    x = torch.rand(20, 3, 32, 32)
    torch.manual_seed(1)
    first, second = crop_and_flip(x), crop_and_flip(x)
    torch.manual_seed(1)
    assert torch.equal(crop_and_flip(x), first)
    assert not torch.equal(first, second)


# -------------------------------------------------------------------------------------- names and YAML


def test_load(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", **arrays())  # type: ignore[arg-type]
    assert load(str(tmp_path / "mine.npz"), tmp_path).name == "mine"
    assert load("digits", tmp_path).name == "digits"
    with pytest.raises(InputError, match="no dataset 'fashon_mnist'; did you mean 'fashion_mnist'"):
        load("fashon_mnist", tmp_path)
    with pytest.raises(InputError, match=r"'npz'.*PATH\.npz"):
        load("npz", tmp_path)


FILES = sorted(file for file in (CONF / "dataset").glob("*.yaml") if file.stem != "none")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_yaml_names_every_parameter(file: Path) -> None:
    node = yaml.safe_load(file.read_text())
    function = target(node, "dataset")
    assert node.pop("_target_").startswith("cl_bench.data.")
    parameters = inspect.signature(function).parameters
    assert set(node) == set(parameters) - {"data_dir"}
    for key, value in node.items():
        default = parameters[key].default
        assert default is inspect.Parameter.empty or value == default


def test_yaml_builds_and_is_checked(tmp_path: Path) -> None:
    node = yaml.safe_load((CONF / "dataset" / "digits.yaml").read_text())
    assert build(check(node | {"size": 16}, "dataset"), data_dir=tmp_path).x_train.shape[2:] == (16, 16)
    for bad in ({"size": 0}, {"size": "big"}, {"sise": 8}):
        with pytest.raises(InputError, match=r"dataset\.si[sz]e"):
            check(node | bad, "dataset")
