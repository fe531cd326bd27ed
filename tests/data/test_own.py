"""A person's own pictures and arrays: a table, images to choose by, some classes, and how images are seen."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_contract as contract
import torch
from pictures_on_disk import grays, one_line, write_picture
from torch import Tensor

from cl_bench.config import InputError
from cl_bench.config.compose import compose
from cl_bench.config.names import key_of, name_of
from cl_bench.data.datasets import Dataset, digits, image_folder, npz
from cl_bench.data.on_disk import OnDisk
from cl_bench.data.own import files
from cl_bench.data.rotating import rotating_pairs
from cl_bench.data.scenarios import permuted, sequence, split
from cl_bench.data.streams import blurry
from cl_bench.data.transforms import crop_and_flip
from cl_bench.runs.loop import run

# ------------------------------------------------------------------------------------------------ a table


def table(root: Path, *rows: str, head: str = "path,label,split") -> str:
    """Writes the CSV file, with a picture for each number that a row begins with, of that gray."""
    root.mkdir(parents=True, exist_ok=True)
    for row in rows:
        name = row.partition(",")[0].strip()
        if name.removesuffix(".png").isdecimal():
            write_picture(root / name, int(name.removesuffix(".png")))
    (root / "my.csv").write_text("\n".join([head, *rows]) + "\n")
    return str(root / "my.csv")


GOOD = ("1.png,cat,train", "2.png,dog,train", "3.png,dog,test", "4.png,cat,test", "5.png,cat,val", "6.png,dog,val")


def test_a_table_says_which_picture_is_what(tmp_path: Path) -> None:
    data = files(path=table(tmp_path, *GOOD), size=8)
    assert (data.name, data.class_names, data.n_classes) == ("files", ("cat", "dog"), 2)
    assert data.x_train.shape == (2, 1, 8, 8)
    found = [grays(data.x_train), grays(data.x_test), grays(data.x_val)]
    assert found == [[1, 2], [3, 4], [5, 6]]
    assert [y.tolist() for y in (data.y_train, data.y_test)] == [[0, 1], [1, 0]]
    assert data.y_val is not None
    assert data.y_val.tolist() == [0, 1]


def test_tables_as_spreadsheets_write_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Quotes, spaces, a mark at the beginning, Windows line ends, columns in another order, empty lines, other columns;
    paths are relative to the folder of the table, wherever one is."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("a, b.png", 'c"d.png', "e.png", "below/f.png")):
        write_picture(tmp_path / "here" / name, number)
    write_picture(tmp_path / "g.png", 4)
    write_picture(tmp_path / "h.png", 5)
    lines = [
        "label,split,path,who",
        '"10, ten",train,"a, b.png",me',
        '2,train,"c""d.png",',
        " 2 , test , e.png , me",
        "",
    ]
    lines += ['"10, ten",test,below/f.png,me', ",,,", "2,train,../g.png,me", f"2,test,{tmp_path / 'h.png'},me"]
    (tmp_path / "here" / "my.csv").write_text("\r\n".join(lines), encoding="utf-8-sig", newline="")
    data = files(path="here/my.csv", size=8)
    assert data.class_names == ("2", "10, ten")  # in natural order
    assert dict(zip(grays(data.x_train), data.y_train.tolist(), strict=True)) == {0: 1, 1: 0, 4: 0}
    assert dict(zip(grays(data.x_test), data.y_test.tolist(), strict=True)) == {2: 0, 3: 1, 5: 0}


def test_without_splits_a_part_of_each_class_is_set_aside(tmp_path: Path) -> None:
    rows = [f"{number}.png,{'ab'[number % 2]}" for number in range(10)]
    data = files(path=table(tmp_path, *rows, head="path,label"), size=8, test_fraction=0.4)
    assert sorted(grays(data.x_test)) == [0, 1, 4, 5]
    assert data.y_test.bincount().tolist() == [2, 2]
    assert data.x_val is None


WRONG: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "missing": (("1.png,a,train", "no.png,a,train", "2.png,b,test", "nor.png,b,test"), ("2 pictures are missing",)),
    "which": (("1.png,a,train", "no.png,a,train", "nor.png,b,test"), ("line 3 (no.png), line 4 (nor.png)",)),
    "a single one": (
        ("1.png,a,train", "no.png,b,train"),
        ("a picture is missing: line 3 (no.png);", "paths are relative to"),
    ),
    "too long": (("1.png,a,train", f"{'x' * 300},b,test"), ("a picture is missing: line 3 (xxx",)),
    "a folder": (("1.png,a,train", ".,b,test"), ("a picture is missing: line 3 (.)",)),
    "many": (
        tuple(f"no{i}.png,a,train" for i in range(9)),
        ("9 pictures are missing: line 2", "line 6 (no4.png), ..."),
    ),
    "a split": (("1.png,a,train", "2.png,a,tset"), ("line 3: there is no split 'tset'; did you mean 'test'?",)),
    "a split far off": (("1.png,a,x",), ("no split 'x'; choose from test, train, val",)),
    "no split": (("1.png,a,",), ("line 2 has no split",)),
    "no label": (("1.png,a,train", "2.png, ,train"), ("line 3 has no label",)),
    "no path": ((",a,train",), ("line 2 has no path",)),
    "fields": (("1.png,a,b,train",), ("line 2 has 4 fields, the first has 3", "put a field")),
    "too few fields": (("1.png,a",), ("line 2 has 2 fields",)),
    "open quotes": (('1.png,"a,train', "2.png,b,test"), ("can't be read as CSV", "line 2")),
    "quotes inside": (('1.png,"a"b,train',), ("line 2 can't be read as CSV",)),
    "NUL": (("1.png,a\0,train",), ("line 2: its label has characters that cannot be printed",)),
    "two lines": (('1.png,"a\nb",train',), ("line 3: its label has characters that cannot be printed",)),
    "nothing": ((), ("lists no picture",)),
    "no test": (("1.png,a,train", "2.png,b,train"), ("no row has the split test", "leave out the column")),
    "no train": (("1.png,a,test", "2.png,b,test"), ("no row has the split train",)),
    "a class without test": (
        ("1.png,a,train", "2.png,b,train", "3.png,a,test"),
        ("no picture of class 'b' to test on",),
    ),
    "a class only in test": (
        ("1.png,a,train", "2.png,a,test", "3.png,b,test"),
        ("no picture of class 'b' to train on",),
    ),
    "a class without val": (GOOD[:5], ("no picture of class 'dog' to choose by (val)",)),
    "one class": (("1.png,a,train", "2.png,a,test"), ("y_train has a single class",)),
    "twice": (("1.png,a,train", "2.png,b,test", "./1.png,b,train"), ("lines 2 and 4 list the same picture (./1.png)",)),
}


@pytest.mark.parametrize(("rows", "words"), WRONG.values(), ids=WRONG)
def test_a_wrong_row_is_named(tmp_path: Path, rows: tuple[str, ...], words: tuple[str, ...]) -> None:
    path = table(tmp_path, *rows)
    with pytest.raises(InputError) as error:
        files(path=path, size=8)
    one_line(error, f"dataset=files: {path}", *words)


HEADS = {
    "path;label;split": "columns must be separated by commas",
    "path\tlabel": "columns must be separated by commas",
    "file,label,split": "has no column path; its first line must name path,label,split, and has file, label, split",
    "1.png,cat,train": "has no column path",
    "": "has no column path; its first line must name path,label,split, and has nothing",
    "path,label,Split": "there is no column 'Split'; did you mean 'split'?",
    "path,label,split,label": "the column label appears twice",
}


@pytest.mark.parametrize("head", HEADS)
def test_a_wrong_first_line(tmp_path: Path, head: str) -> None:
    path = table(tmp_path, head=head)
    with pytest.raises(InputError) as error:
        files(path=path, size=8)
    one_line(error, f"dataset=files: {path}", HEADS[head])


def test_what_is_no_table(tmp_path: Path) -> None:
    for path, word in ((tmp_path / "no.csv", "is missing"), (tmp_path, "is a folder")):
        with pytest.raises(InputError) as error:
            files(path=str(path), size=8)
        one_line(error, f"dataset=files: {path} {word}", "path, label, split")
    (tmp_path / "my.csv").write_bytes("path,label\nä.png,a\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"my\.csv is not UTF-8 text .*save it as CSV in UTF-8"):
        files(path=str(tmp_path / "my.csv"), size=8)
    path = table(tmp_path, *GOOD)
    (tmp_path / "my.txt").write_bytes((tmp_path / "my.csv").read_bytes())
    with pytest.raises(InputError, match=r"my\.txt: must be a CSV file, with a name that ends in \.csv"):
        files(path=str(tmp_path / "my.txt"), size=8)
    (tmp_path / "4.png").write_bytes((tmp_path / "4.png").read_bytes()[:30])
    with pytest.raises(InputError, match=r"4\.png is damaged"):
        files(path=path, size=8)


def test_a_table_is_known_by_its_pictures_wherever_they_lie(tmp_path: Path) -> None:
    def settings(path: str) -> dict[str, Any]:
        return compose("dataset=files", f"dataset.path={path}", f"output_root={tmp_path / 'outputs'}")

    first = settings(table(tmp_path / "a", *GOOD))
    assert name_of(first).startswith(f"files.{first['content'][:8]}-")
    assert key_of(settings(table(tmp_path / "b", *GOOD))) == key_of(first)
    write_picture(tmp_path / "b" / "3.png", 33)
    assert key_of(settings(str(tmp_path / "b/my.csv"))) != key_of(first)
    assert key_of(settings(table(tmp_path / "c", *GOOD[::-1]))) != key_of(first)


# ----------------------------------------------------------------------------------- images to choose by


def folders(root: Path, *parts: str, n: int = 4) -> str:
    """Two classes in each part; of each of them n pictures of grays of their own."""
    for place, part in enumerate(parts):
        for label, name in enumerate("ab"):
            for i in range(n):
                write_picture(root / part / name / f"{i}.png", 80 * place + 40 * label + i)
    return str(root)


def test_a_folder_val_is_what_is_chosen_by(tmp_path: Path) -> None:
    data = image_folder(path=folders(tmp_path, "train", "test", "val"), size=8)
    assert grays(data.x_val) == [160, 161, 162, 163, 200, 201, 202, 203]
    assert grays(data.x_train) == [0, 1, 2, 3, 40, 41, 42, 43]
    task = split(data, 0, kind="class", n_tasks=1).tasks[0]
    assert grays(task.val.images) == grays(data.x_val)
    assert task.val.labels.tolist() == [0] * 4 + [1] * 4
    assert len(task.train) == 8


def test_a_folder_val_among_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InputError, match="has a folder train but not both train and test; rename val to test"):
        image_folder(path=folders(tmp_path / "no test", "train", "val"), size=8)
    odd = tmp_path / "odd"
    folders(odd, "train", "test", "val")
    os.rename(odd / "val" / "b", odd / "val" / "c")
    with pytest.raises(InputError, match="the class 'b' is in only one of the folders train and val"):
        image_folder(path=str(odd), size=8)
    assert image_folder(path=folders(tmp_path / "other", "train", "test", "validation"), size=8).x_val is None
    assert "the folder validation is ignored; validation images must be in val" in caplog.text
    write_picture(tmp_path / "classes" / "val" / "1.png", 1)  # a class that is called so
    write_picture(tmp_path / "classes" / "val" / "2.png", 2)
    folders(tmp_path / "classes", "")
    assert image_folder(path=str(tmp_path / "classes"), size=8).class_names == ("a", "b", "val")


def arrays(n_classes: int = 4, n: int = 6) -> dict[str, np.ndarray]:
    """Images of 4x4; the first pixel says which image it is, the second its part."""
    found: dict[str, np.ndarray] = {}
    for place, part in enumerate(("train", "test", "val")):
        labels = np.arange(n * n_classes) % n_classes
        images = np.zeros((len(labels), 4, 4), np.uint8)
        images[:, 0, 0], images[:, 0, 1] = np.arange(len(labels)), place
        found |= {f"x_{part}": images, f"y_{part}": labels}
    return found


def own(n_classes: int = 4) -> Dataset:
    tensors = {key: torch.from_numpy(array) for key, array in arrays(n_classes).items()}
    images: dict[str, Any] = {key: x[:, None] if key[0] == "x" else x for key, x in tensors.items()}
    return Dataset("own", **images, n_classes=n_classes)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"x_train": torch.zeros(24, 1, 4, 4)}, r"x_train is torch\.float32; images must be a tensor of uint8"),
        ({"x_test": np.zeros((8, 1, 4, 4), np.uint8)}, "x_test is ndarray"),
        ({"x_test": torch.zeros(8, 1, 4, 5, dtype=torch.uint8)}, r"x_test has shape \(8, 1, 4, 5\)"),
        ({"y_val": torch.zeros(1, dtype=torch.int64)}, "y_val must be a tensor of int64, a label for each of"),
        ({"n_classes": 5, "class_names": ()}, "y_train has no label 4; labels must be 0 to 4, and each must occur"),
        ({"n_classes": 3, "class_names": ()}, "y_train has the label 3"),
        ({"class_names": ("a", "b")}, "class_names has 2 entries; 4 are needed"),
        ({"mean": (0.5, 0.5), "std": (0.5,)}, "mean has 2 entries; 1 are needed"),
    ],
)
def test_what_a_function_returns_is_checked(changes: dict[str, Any], line: str) -> None:
    """A label that is left out, or one too many, would lose a class without a word."""
    with pytest.raises(InputError, match=rf"^dataset=own: {line}"):
        replace(own(), **changes)


def of_val(images: Tensor) -> bool:
    return bool((images[:, 0, 0, 1] == 2).all())


SCENARIOS: dict[str, Callable[[Dataset], Any]] = {
    "class": lambda data: split(data, 0, kind="class", n_tasks=2),
    "domain": lambda data: split(data, 0, kind="domain", n_tasks=2),
    "permuted": lambda data: permuted(data, 0, kind="domain", n_tasks=2),
    "blurry": lambda data: blurry(data, 0, kind="class", n_tasks=2, disjoint=0.5, stray=0.1),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_own_validation_images_in_each_scenario(name: str) -> None:
    """All training images are trained on, and each task has the validation images of its classes."""
    data = own()
    scenario = SCENARIOS[name](data)
    assert sum(len(task.train) for task in scenario.tasks) == 24 * (2 if name == "permuted" else 1)
    for task, test in zip(scenario.tasks, scenario.tests, strict=True):
        assert of_val(task.val.images)
        assert not of_val(task.train.images)
        assert task.val.labels.tolist() == test.labels.tolist()
        assert task.val.task_ids.tolist() == test.task_ids.tolist()
        assert torch.equal(task.val.images[:, 0, 0, 0], test.images[:, 0, 0, 0])


def test_a_share_of_the_training_images_beside_own_validation_images_is_refused() -> None:
    for cut in (
        lambda: split(own(), 0, kind="class", n_tasks=2, val_fraction=0.1),
        lambda: permuted(own(), 0, kind="domain", n_tasks=2, val_fraction=0.1),
        lambda: blurry(own(), 0, kind="class", n_tasks=2, disjoint=0.5, stray=0.1, val_fraction=0.1),
    ):
        with pytest.raises(InputError, match=r"^scenario.val_fraction=0.1: the data set has its own validation images"):
            cut()
    with pytest.raises(
        InputError, match=r"dataset=own: has its own validation images, .*rotating_pairs does not rotate"
    ):
        rotating_pairs(own(), 0)


def test_sets_with_and_without_validation_images_in_a_row(tmp_path: Path) -> None:
    np.savez(tmp_path / "with.npz", **arrays())  # type: ignore[arg-type]
    without = {key: array for key, array in arrays().items() if not key.endswith("val")}
    np.savez(tmp_path / "without.npz", **without)  # type: ignore[arg-type]
    both = [str(tmp_path / "with.npz"), str(tmp_path / "without.npz")]
    first, second = sequence(tmp_path, 0, datasets=both, kind="task", val_fraction=0.5).tasks
    assert (len(first.train), len(first.val), len(second.train), len(second.val)) == (24, 24, 12, 12)
    assert of_val(first.val.images)
    with pytest.raises(InputError, match=r"val_fraction=0\.5: the data set has its own validation images"):
        sequence(tmp_path, 0, datasets=both[:1] * 2, kind="task", val_fraction=0.5)


def test_validation_arrays_are_checked(tmp_path: Path) -> None:
    for change, word in (
        ({"y_val": None}, "has an array x_val but no y_val"),
        ({"x_val": None}, "has an array y_val but no x_val"),
        ({"x_val": np.zeros((24, 5, 4), np.uint8)}, "images are 1x4x4 in x_train but 1x5x4 in x_val"),
        ({"y_val": np.arange(24) % 3}, "class 3 is in y_train but never in y_val"),
        ({"y_val": np.arange(24) % 5}, "class 4 is in y_val but never in y_train"),
    ):
        changed = {key: array for key, array in (arrays() | change).items() if array is not None}
        np.savez(tmp_path / "my.npz", **changed)  # type: ignore[arg-type]
        with pytest.raises(InputError) as error:
            npz(path=str(tmp_path / "my.npz"))
        one_line(error, str(tmp_path / "my.npz"), word)


def test_a_run_is_measured_on_its_own_validation_images(tmp_path: Path) -> None:
    """bic, which can't do without such images, runs without a share of the training images."""
    np.savez(tmp_path / "my.npz", **arrays())  # type: ignore[arg-type]
    chosen = ["method=bic", "dataset=npz", f"dataset.path={tmp_path / 'my.npz'}", "scenario.n_tasks=2", "memory=8"]
    results = run(compose(*chosen, "network.hidden=[8]", "trainer.epochs=1", f"output_root={tmp_path / 'outputs'}"))
    assert [task.validation is not None for task in results.tasks] == [True, True]


@pytest.mark.slow
def test_a_run_on_own_data_goes_on_after_a_kill(tmp_path: Path, small: Any) -> None:
    """Augmented, normalized, with images to choose by and some of the classes, as if nothing had happened."""
    np.savez(tmp_path / "my.npz", **arrays(6))  # type: ignore[arg-type]
    more = ("dataset=npz", f"dataset.path={tmp_path / 'my.npz'}", "scenario.n_tasks=5", "dataset.classes=[3,0,1,2,5]")
    seen = ("dataset.augment=true", "dataset.mean=[0.1]", "dataset.std=[0.5]", "trainer.epochs=3")
    contract.test_killed_and_resumed_equals_uninterrupted("er", "class", 5, (*more, *seen), small)


# ------------------------------------------------------------------ some classes, and how images are seen


def test_some_classes_are_numbered_in_the_order_of_the_list() -> None:
    whole, some = digits(), digits(classes=[7, "2"])
    assert (some.n_classes, some.class_names) == (2, ("7", "2"))
    for part in ("train", "test"):
        x, y = getattr(whole, f"x_{part}"), getattr(whole, f"y_{part}")
        for label, digit in enumerate((7, 2)):
            assert torch.equal(getattr(some, f"x_{part}")[getattr(some, f"y_{part}") == label], x[y == digit])
    assert len(some.x_train) == int(((whole.y_train == 7) | (whole.y_train == 2)).sum())


def test_some_classes_of_pictures_and_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "my.npz", **arrays(), class_names=np.array(["cat", "dog", "cow", "emu"]))  # type: ignore[arg-type]
    some = npz(path=str(tmp_path / "my.npz"), classes=["emu", "dog"])
    assert some.class_names == ("emu", "dog")
    assert some.x_train[:, 0, 0, 0].tolist() == [1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23]
    assert some.y_val is not None
    assert some.y_val.tolist() == [1, 0] * 6
    path = table(tmp_path, *GOOD, "7.png,emu,train", "8.png,emu,test")  # of emu there is none in val
    (tmp_path / "7.png").write_bytes(b"no picture")
    some = files(path=path, size=8, classes=["dog", "cat"])  # what isn't asked for isn't read
    assert (some.class_names, some.y_train.tolist()) == (("dog", "cat"), [1, 0])


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (["emo", "cat"], "did you mean 'emu'?"),
        ([0, 9], "must have classes from 0 to 3, each once"),
        ([0, 0], "each once"),
        ([1], "names 1 classes; at least 2 are needed"),
        ([], "names 0 classes"),
    ],
)
def test_classes_that_are_none(tmp_path: Path, classes: list[Any], words: str) -> None:
    np.savez(tmp_path / "my.npz", **arrays(), class_names=np.array(["cat", "dog", "cow", "emu"]))  # type: ignore[arg-type]
    with pytest.raises(InputError) as error:
        npz(path=str(tmp_path / "my.npz"), classes=classes)
    one_line(error, "dataset.classes=[", words)


def test_own_images_are_seen_as_one_says(tmp_path: Path) -> None:
    path = table(tmp_path, *GOOD)
    data = files(path=path, size=8, augment=True, mean=(0.25,), std=(0.5,))
    assert (data.augment, data.mean, data.std) == (crop_and_flip, (0.25,), (0.5,))
    scenario = split(data, 0, kind="class", n_tasks=1)
    assert (scenario.problem.mean, scenario.problem.std, scenario.tasks[0].train.augment) == (
        (0.25,),
        (0.5,),
        crop_and_flip,
    )
    plain = image_folder(path=folders(tmp_path / "folders", "train", "test"), size=8)
    assert (plain.augment, plain.mean, plain.std) == (None, None, None)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mean": (0.5,)}, "dataset.mean: needs dataset.std too"),
        ({"std": (0.5,)}, "dataset.std: needs dataset.mean too"),
        ({"mean": (0.5, 0.5, 0.5), "std": (0.5,)}, "dataset.mean=[0.5,0.5,0.5]: must have one number per channel"),
        ({"mean": (), "std": ()}, "dataset.mean=[]: must have one number per channel, and the images have 1 channel"),
        ({"mean": (0.5,), "std": (0.5, 0.5)}, "dataset.std=[0.5,0.5]: must have one number per channel"),
    ],
)
def test_means_that_dont_fit(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    path = table(tmp_path, *GOOD)
    with pytest.raises(InputError) as error:
        files(path=path, size=8, **settings)
    one_line(error, words)


def test_what_stays_on_disk_is_what_is_in_memory(tmp_path: Path) -> None:
    """Parts, some classes and images to choose by, of a table and of arrays."""
    np.savez(tmp_path / "my.npz", **arrays(), class_names=np.array(["cat", "dog", "cow", "emu"]))  # type: ignore[arg-type]
    path = table(tmp_path / "table", *GOOD)
    for read in (
        lambda on_disk: files(tmp_path, path=path, size=8, classes=["dog", "cat"], on_disk=on_disk),
        lambda on_disk: npz(tmp_path, path=str(tmp_path / "my.npz"), classes=["emu", "cat"], on_disk=on_disk),
    ):
        there, here = read(True), read(False)
        for part in ("train", "test", "val"):
            assert isinstance(images := getattr(there, f"x_{part}"), OnDisk)
            assert torch.equal(images.index_select(0, torch.arange(len(images))), getattr(here, f"x_{part}"))
            assert torch.equal(getattr(there, f"y_{part}"), getattr(here, f"y_{part}"))
