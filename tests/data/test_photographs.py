"""Tiny-ImageNet, CUB-200 and ImageNet-R on miniatures in the layouts in which they are downloaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pictures_on_disk import grays, one_line, write_picture

from cl_bench.config import InputError
from cl_bench.data.datasets import Dataset, load
from cl_bench.data.photographs import cub200, imagenet_r, tiny_imagenet
from cl_bench.data.transforms import crop_and_flip


def write_tiny_imagenet(root: Path) -> Path:
    """Three classes, two of which are called alike; each has two training pictures and one of val."""
    root = root / "tiny-imagenet-200"
    wnids = ("n02124075", "n00000002", "n00000001")
    for label, wnid in enumerate(wnids):
        for i in range(2):
            write_picture(
                root / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", 10 * label + i, (64, 64), "L" if i else "RGB"
            )
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("n_0.JPEG\t0\t0\t62\t62\n")
        write_picture(root / "val" / "images" / f"val_{label}.JPEG", 100 + label, (64, 64), "RGB")
    write_picture(root / "test" / "images" / "test_0.JPEG", 0, (64, 64))  # without a label
    lines = [f"val_{label}.JPEG\t{wnids[label]}\t0\t32\t44\t62\n" for label in (2, 0, 1)]
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    (root / "wnids.txt").write_text("\n".join(wnids) + "\n")
    words = "n00000001\tcrane\nn00000002\tcrane, wader\nn00000003\tother\nn02124075\tEgyptian cat\n"
    (root / "words.txt").write_text(words)
    return root


def write_cub(root: Path) -> Path:
    root = root / "CUB_200_2011"
    names = ("001.Black_footed_Albatross", "002.Laysan_Albatross")
    paths = [f"{name}/{name[4:]}_{i}.jpg" for name in names for i in range(3)]
    for number, path in enumerate(paths, 1):
        write_picture(root / "images" / path, number, (20 + number, 16), "RGB")
    tables = {
        "images": paths,
        "image_class_labels": [1, 1, 1, 2, 2, 2],
        "train_test_split": [0, 1, 1, 1, 0, 1],
        "classes": names,
    }
    for table, values in tables.items():
        (root / f"{table}.txt").write_text("".join(f"{number} {value}\n" for number, value in enumerate(values, 1)))
    return root


def write_imagenet_r(root: Path, *parts: str) -> Path:
    root = root / "imagenet-r"
    for place, part in enumerate(parts or ("",)):
        for label, wnid in enumerate(("n01443537", "n01484850")):
            for i in range(5):
                write_picture(root / part / wnid / f"art_{i}.jpg", 100 * place + 10 * label + i, (9 + i, 12), "RGB")
    (root / "README.txt").write_text("ImageNet-R\n\nn01443537 goldfish\nn01484850 great_white_shark\n")
    return root


def test_tiny_imagenet(tmp_path: Path) -> None:
    write_tiny_imagenet(tmp_path)
    data = tiny_imagenet(tmp_path)
    assert data.class_names == ("Egyptian cat", "crane (1)", "crane (2)")
    assert tuple(data.x_train.shape) == (6, 3, 64, 64)
    assert (grays(data.x_train), data.y_train.tolist()) == ([0, 1, 10, 11, 20, 21], [0, 0, 1, 1, 2, 2])
    assert (grays(data.x_test), data.y_test.tolist()) == ([100, 101, 102], [0, 1, 2])
    assert (data.augment, data.mean) == (crop_and_flip, (0.4802, 0.4480, 0.3975))
    assert load("tiny_imagenet", tmp_path).name == "tiny_imagenet"  # in a sequence of sets
    some = tiny_imagenet(tmp_path, size=32, augment=False, classes=["crane (2)", "Egyptian cat"])
    assert (tuple(some.x_test.shape), grays(some.x_test), some.augment) == ((2, 3, 32, 32), [100, 102], None)
    assert some.y_test.tolist() == [1, 0]


def test_cub200(tmp_path: Path) -> None:
    write_cub(tmp_path)
    data = cub200(tmp_path, size=8)
    assert data.class_names == ("Black_footed_Albatross", "Laysan_Albatross")
    assert (grays(data.x_train), data.y_train.tolist()) == ([2, 3, 4, 6], [0, 0, 1, 1])
    assert (grays(data.x_test), data.y_test.tolist()) == ([1, 5], [0, 1])


def test_imagenet_r(tmp_path: Path) -> None:
    """A fifth of each class is tested on, the same pictures each time, or what lies in a folder test."""
    write_imagenet_r(tmp_path / "one")
    data = imagenet_r(tmp_path / "one", size=8)
    assert data.class_names == ("goldfish", "great_white_shark")
    assert (grays(data.x_train), grays(data.x_test)) == ([1, 2, 3, 4, 11, 12, 13, 14], [0, 10])
    write_imagenet_r(tmp_path / "two", "train", "test")
    data = imagenet_r(tmp_path / "two", size=8)
    assert (data.class_names[0], len(data.x_train), grays(data.x_test)[0]) == ("goldfish", 10, 100)


def changed(file: str, old: str, new: str) -> Callable[[Path], object]:
    def change(root: Path) -> None:
        text = (root / file).read_text()
        assert old in text
        (root / file).write_text(text.replace(old, new, 1))

    return change


def without(file: str) -> Callable[[Path], object]:
    return lambda root: (root / file).rename(root / "elsewhere")


Set = tuple[Callable[[Path], Path], Callable[[Path], Dataset]]
TINY: Set = write_tiny_imagenet, tiny_imagenet
CUB: Set = write_cub, cub200
WRONG: dict[str, tuple[Set, Callable[[Path], object], str]] = {
    "no wnids": (TINY, without("wnids.txt"), "has no wnids.txt"),
    "no annotations": (TINY, without("val/val_annotations.txt"), "has no val/val_annotations.txt"),
    "no class folder": (TINY, without("train/n00000001"), "n00000001/images is missing"),
    "no val picture": (TINY, without("val/images/val_1.JPEG"), "val_annotations.txt, line 3: "),
    "a stranger": (TINY, changed("val/val_annotations.txt", "n02124075", "n00000009"), "no class n00000009"),
    "a cut line": (TINY, changed("val/val_annotations.txt", "\tn02124075\t0\t32\t44\t62", ""), "line 2 has 1 fields"),
    "elsewhere": (CUB, changed("images.txt", "001.Black", "../../001.Black"), "images.txt, image 1: "),
    "no picture": (CUB, changed("images.txt", "001.Black", "009.Black"), "images.txt, image 1: "),
    "no label": (CUB, changed("image_class_labels.txt", "6 2", ""), "image 6 is in only one of images.txt and"),
    "no such class": (CUB, changed("image_class_labels.txt", "6 2", "6 3"), "classes.txt has no class 3"),
    "twice": (CUB, changed("image_class_labels.txt", "6 2", "5 2"), "line 6: 5 is not a number, or appears twice"),
    "no split": (CUB, changed("train_test_split.txt", "6 1", "6 x"), "must have 1 or 0 for image 6"),
    "no tables": (CUB, without("train_test_split.txt"), "has no train_test_split.txt"),
}


@pytest.mark.parametrize(("of", "change", "words"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named(tmp_path: Path, of: Set, change: Callable[[Path], object], words: str) -> None:
    write, read = of
    root = write(tmp_path)
    change(root)
    with pytest.raises(InputError) as error:
        read(tmp_path)
    one_line(error, f"dataset={read.__name__}: {root}", words)


@pytest.mark.parametrize("read", [tiny_imagenet, cub200, imagenet_r])
def test_what_is_missing_says_where_it_should_be(tmp_path: Path, read: Callable[[Path], Dataset]) -> None:
    with pytest.raises(InputError) as error:
        read(tmp_path)
    one_line(error, f"dataset={read.__name__}: {tmp_path}", "is missing; download the archive of the data set")
