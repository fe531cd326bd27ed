"""Sets of Hugging Face, from a folder and from the cache; nothing is downloaded and nothing of a set is run."""

from __future__ import annotations

import json
import shutil
import socket
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures_on_disk import grays, one_line
from PIL import Image

from cl_bench.config import InputError
from cl_bench.data import huggingface as sets
from cl_bench.data.on_disk import OnDisk, in_memory

hf: Any = pytest.importorskip("datasets")
huggingface = partial(sets.huggingface, Path("nowhere"))


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a connection was made")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def rows(first: int, n: int = 6, names: tuple[str, ...] = ("cat", "never", "dog")) -> Any:
    """n pictures of grays of their own and different sizes, cats and dogs by turns."""
    pictures = [Image.fromarray(np.full((9 + i, 12), first + i, np.uint8)) for i in range(n)]
    content = {"picture": pictures, "kind": [2 * (i % 2) for i in range(n)]}
    features = hf.Features({"picture": hf.Image(), "kind": hf.ClassLabel(names=list(names))})
    return hf.Dataset.from_dict(content, features=features)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    hf.DatasetDict(train=rows(0), test=rows(40), validation=rows(80)).save_to_disk(tmp_path / "set")
    return str(tmp_path / "set")


def test_a_folder(folder: str) -> None:
    data = huggingface(path=folder, size=8)
    assert (data.name, data.class_names, tuple(data.x_train.shape)) == ("huggingface", ("cat", "dog"), (6, 1, 8, 8))
    assert (grays(data.x_train), grays(data.x_test), data.x_val) == ([0, 1, 2, 3, 4, 5], [40, 41, 42, 43, 44, 45], None)
    assert data.y_train.tolist() == [0, 1, 0, 1, 0, 1]
    before = sorted(Path(folder).rglob("*"))
    data = huggingface(path=folder, size=8, val="validation", classes=["dog", "cat"], mean=(0.5,), std=(0.5,))
    assert grays(data.x_val) == [80, 81, 82, 83, 84, 85]
    assert (data.y_test.tolist(), data.mean) == ([1, 0, 1, 0, 1, 0], (0.5,))
    assert sorted(Path(folder).rglob("*")) == before  # else its digest, and with it the run, would be another


def test_pictures_stay_on_disk_named_by_what_holds_them(tmp_path: Path) -> None:
    def save(first: int) -> str:
        here = tmp_path / str(len([*tmp_path.iterdir()]))
        hf.DatasetDict(train=rows(first), test=rows(40)).save_to_disk(here)
        return str(here)

    def images(path: str, **more: Any) -> Any:
        found = sets.huggingface(tmp_path / "data", path=path, size=8, **more)
        parts = (found.x_train, found.x_test)
        return isinstance(found.x_train, OnDisk), *(grays(in_memory(part, "")) for part in parts)

    def made() -> int:
        return len([*(tmp_path / "data").rglob("*.npy")])

    first, moved, other = save(0), save(0), save(1)
    whole = images(first, on_disk=False)
    assert (images(first), made()) == (whole, 0)  # there is memory enough
    assert images(first, on_disk=True) == (True, *whole[1:])
    assert (images(moved, on_disk=True), made()) == ((True, *whole[1:]), 1)
    assert images(other, on_disk=True)[1] != whole[1]
    assert images(first, on_disk=True, train="test", test="train") == (True, *whole[:0:-1])
    assert made() == 3


def test_each_column_of_pictures_has_a_file_of_its_own_on_disk(tmp_path: Path) -> None:
    other = rows(100).remove_columns("kind").rename_column("picture", "other")
    both = hf.concatenate_datasets([rows(0), other], axis=1)
    both.save_to_disk(tmp_path / "set")

    def images(column: str) -> list[int]:
        found = sets.huggingface(tmp_path, path=str(tmp_path / "set"), image=column, size=8, on_disk=True)
        assert isinstance(found.x_train, OnDisk)
        return grays(in_memory(found.x_train, ""))

    assert (images("picture"), images("other")) == ([2, 3, 4, 5], [102, 103, 104, 105])


def test_pictures_on_disk_that_a_table_names_count_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of the cache do that `load_dataset` made of a folder: a picture that changed is read again."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    place = tmp_path / "pets" / "default" / "0.0.0" / "abc"
    place.mkdir(parents=True)
    files = [tmp_path / f"{i}.png" for i in range(6)]
    for gray, file in enumerate(files):
        Image.new("L", (9, 9), gray).save(file)
    with hf.arrow_writer.ArrowWriter(path=str(place / "pets-train.arrow"), features=rows(0).features) as writer:
        writer.write_batch({"picture": list(map(str, files)), "kind": [0, 2] * 3})
        writer.finalize()
    (place / "dataset_info.json").write_text(json.dumps({"splits": {"train": {}}}))

    def train() -> list[int]:
        found = sets.huggingface(tmp_path, name="pets", size=8, on_disk=True)
        assert isinstance(found.x_train, OnDisk)
        return grays(in_memory(found.x_train, ""))

    assert train() == [2, 3, 4, 5]
    Image.new("L", (9, 9), 200).save(files[3])
    assert train() == [2, 200, 4, 5]


def test_a_single_split_and_plain_labels(tmp_path: Path) -> None:
    numbers = rows(0).remove_columns("kind").add_column("label", [10, 9, 10, 9, 10, 9])
    numbers.save_to_disk(tmp_path / "set")
    data = huggingface(path=str(tmp_path / "set"), size=8, test_fraction=0.3)
    assert data.class_names == ("9", "10")
    assert (grays(data.x_train), grays(data.x_test)) == ([2, 3, 4, 5], [0, 1])
    assert data.y_train.tolist() == [1, 0, 1, 0]


def cached(root: Path, monkeypatch: pytest.MonkeyPatch, name: str, config: str) -> Path:
    """What `load_dataset` leaves in the cache: Arrow files, of which those of a large split are several."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", root)
    place = root / name / config / "0.0.0" / "abc"
    place.mkdir(parents=True)
    for split, shards in {"train": (rows(0), rows(6)), "test": (rows(40),)}.items():
        for number, shard in enumerate(shards):
            shard.save_to_disk(root / "tmp")
            several = f"-{number:05}-of-{len(shards):05}" if len(shards) > 1 else ""
            shutil.move(root / "tmp" / "data-00000-of-00001.arrow", place / f"pets-{split}{several}.arrow")
    shutil.rmtree(root / "tmp")
    (place / "dataset_info.json").write_text(json.dumps({"splits": {"train": {}, "test": {}}, "config_name": config}))
    return place


def test_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = cached(tmp_path, monkeypatch, "me___big_pets", "small")
    data = huggingface(name="me/BigPets", size=8)
    assert grays(data.x_train) == [*range(12)]
    assert grays(data.x_test) == [*range(40, 46)]

    def refused(*words: str, **settings: Any) -> None:
        with pytest.raises(InputError) as error:
            huggingface(**{"name": "me/BigPets", "size": 8} | settings)
        one_line(error, *words)

    refused("dataset=huggingface: me/big_pts isn't in the cache", "did you mean 'me/big_pets'?", name="me/big_pts")
    refused("dataset.config=smal", "did you mean 'small'?", config="smal")
    for name in ("../me", "a/b/c", "", "/", "me/..", "~"):
        refused(f"dataset.name={name}: is not the name", name=name)
    cached(tmp_path, monkeypatch, "me___big_pets", "large")
    refused("dataset.config=null", "large, small")
    (place / "pets-test.arrow").write_bytes(b"cut off")
    refused(str(place), "is damaged", config="small")


WRONG: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "a split": ({"train": "tran"}, ("dataset.train=tran", "did you mean 'train'?")),
    "another split": ({"val": "valid"}, ("dataset.val=valid", "did you mean 'validation'?")),
    "a split twice": ({"val": "test"}, ("dataset.val=test: is also dataset.test",)),
    "no column": ({"image": "pictur"}, ("dataset.image=pictur", "did you mean 'picture'?")),
    "no pictures": ({"image": "kind"}, ("dataset.image=kind", "ClassLabel", "not pictures")),
    "no labels": ({"label": "picture"}, ("dataset.label=picture", "labels must be classes")),
    "both": ({"name": "me/pets"}, ("dataset.path: give a folder",)),
    "neither": ({"path": None}, ("dataset.path: give a folder",)),
    "a configuration": ({"config": "small"}, ("dataset.config=small: works only with dataset.name",)),
    "a class": ({"classes": ["dgo", "cat"]}, ("dataset.classes=", "did you mean 'dog'?")),
}


@pytest.mark.parametrize(("settings", "words"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named(folder: str, settings: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as error:
        huggingface(**{"path": folder, "size": 8} | settings)
    one_line(error, *words)


def test_code_is_never_run_and_other_folders_are_refused(tmp_path: Path) -> None:
    script = tmp_path / "pets" / "pets.py"
    script.parent.mkdir()
    script.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    for path, word in ((script.parent, "is not a folder that save_to_disk made"), (tmp_path / "no", "is missing")):
        with pytest.raises(InputError) as error:
            huggingface(path=str(path), size=8)
        one_line(error, f"dataset=huggingface: {path} {word}", "no code is run")
    for name in (str(script.parent), "pets"):
        with pytest.raises(InputError):
            huggingface(name=name, size=8)
    assert not (tmp_path / "ran").exists()


def test_damaged_folders_and_columns_that_dont_fit(tmp_path: Path, folder: str) -> None:
    def refused(*words: str, path: str = folder) -> None:
        with pytest.raises(InputError) as error:
            huggingface(path=path, size=8)
        one_line(error, f"dataset=huggingface: {path}", *words)

    hf.DatasetDict(train=rows(0), test=rows(0, names=("dog", "never", "cat"))).save_to_disk(tmp_path / "other")
    refused("the split test has other columns than train, or other classes", path=str(tmp_path / "other"))
    rows(0).remove_columns("kind").save_to_disk(tmp_path / "bare")
    refused("has none of the columns picture as label; set dataset.label=COLUMN", path=str(tmp_path / "bare"))
    rows(0).map(lambda row, i: {"kind": -1 if i == 3 else 0}, with_indices=True).save_to_disk(tmp_path / "blind")
    refused("1 pictures have no label, such as number 3", path=str(tmp_path / "blind"))
    empty = rows(0, 4).map(lambda row, i: {"picture": None if i == 2 else row["picture"]}, with_indices=True)
    empty.save_to_disk(tmp_path / "empty")
    with pytest.raises(InputError, match=r"row 2 of train is damaged .*there is no picture"):
        huggingface(path=str(tmp_path / "empty"), size=8)
    arrow = next(Path(folder).glob("test/*.arrow"))
    arrow.write_bytes(arrow.read_bytes()[:100])
    refused("is damaged; save it again")
