"""A person's own data are what their files hold, wherever they lie and whatever they are called."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cl_bench.__main__ import main
from cl_bench.config import InputError, content
from cl_bench.config.compose import compose
from cl_bench.config.content import by_content, digest
from cl_bench.config.names import folder_of, key_of, name_of
from cl_bench.report.benchmarks import benchmarks
from cl_bench.report.runs import read
from cl_bench.runs.loop import run
from cl_bench.runs.reference import references_of
from cl_bench.runs.setup import prepare

SMALL = ("trainer.epochs=1", "trainer.threads=1", "trainer.accelerator=cpu", "network.hidden=[8]", "method=joint")


def arrays(seed: int = 0, classes: int = 4) -> dict[str, np.ndarray]:
    x = np.random.default_rng(seed).integers(0, 255, (5 * classes, 6, 6), dtype=np.uint8)
    y = np.arange(5 * classes) % classes
    return {"x_train": x, "y_train": y, "x_test": x, "y_test": y}


def write(file: Path, seed: int = 0, **more: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, **arrays(seed) | more)  # type: ignore[arg-type]
    return file


def settings(path: Path | str, *more: str, root: str = "outputs") -> dict[str, Any]:
    return compose(*SMALL, "dataset=npz", f"dataset.path={path}", "scenario.n_tasks=2", f"output_root={root}", *more)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_one_relative_path_in_two_folders_is_two_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a/my.npz", seed=0)
    write(tmp_path / "b/my.npz", seed=1)
    found = []
    for folder in ("a", "b"):
        monkeypatch.chdir(tmp_path / folder)
        found.append(settings("my.npz", root=str(tmp_path / "outputs")))
    assert len({folder_of(one) for one in found}) == 2
    assert len({key_of(one) for one in found}) == 2


def test_one_file_by_any_path_is_one_run(tmp_path: Path) -> None:
    write(tmp_path / "a/my.npz")
    (tmp_path / "b").mkdir()
    shutil.copy("a/my.npz", "b/other.npz")
    Path("linked.npz").symlink_to("a/my.npz")
    paths = ("a/my.npz", tmp_path / "a/my.npz", "./b/../a/my.npz", "b/other.npz", "linked.npz")
    assert len({folder_of(settings(path)) for path in paths}) == 1
    several = [
        compose("scenario=sequence", f"scenario.datasets=[digits,{path}]", "scenario.kind=task") for path in paths
    ]
    assert len({folder_of(one) for one in several}) == 1
    assert name_of(several[0]).startswith("digits+npz.")


def test_a_changed_file_is_another_run() -> None:
    before = settings(write(Path("my.npz")))
    after = settings(write(Path("my.npz"), seed=1))
    assert folder_of(before) != folder_of(after)
    assert "content" not in settings("missing.npz")  # who reads it says so
    assert "content" not in compose("dataset=digits")


def test_the_content_of_data_is_no_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["++content=0123456789abcdef"]) == 1
    assert capsys.readouterr().err.startswith("error: content: no such key")


def test_a_folder_is_its_names_and_its_bytes(tmp_path: Path) -> None:
    def made(name: str, files: dict[str, bytes]) -> str | None:
        for file, text in files.items():
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_bytes(text)
        return digest(str(tmp_path / name), "outputs")

    files = {"cat/0.png": b"one", "dog/0.png": b"two"}
    assert made("a", files) == made("b", dict(reversed(files.items())))
    assert made("a", files | {"cat/.DS_Store": b"x", ".ipynb_checkpoints/1.png": b"y", "Thumbs.db": b"z"}) == made(
        "b", {}
    )
    others = [{"cat/0.png": b"two", "dog/0.png": b"one"}, {"cat/0.png": b"onetwo", "dog/0.png": b""}]
    others += [{"cow/0.png": b"one", "dog/0.png": b"two"}, {"cat/1.png": b"one", "dog/0.png": b"two"}]
    others += [{**files, "dog/1.png": b""}]
    digests = [made(f"other{number}", other) for number, other in enumerate(others)]
    assert len({*digests, made("a", files)}) == 6
    assert digest(str(tmp_path / "nowhere"), "outputs") is None
    (tmp_path / "empty").mkdir()
    assert digest(str(tmp_path / "empty"), "outputs") is None
    for odd in ("~nosuchuser/x", "a\0b", "x" * 5000):
        assert digest(odd, "outputs") is None


def test_large_data_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "LARGE", 10)
    file, kept = tmp_path / "my.npz", tmp_path / "outputs" / ".digests"
    file.write_bytes(b"0" * 100)
    first = digest(str(file), "outputs")
    assert not kept.exists()  # it changed a moment ago, and may again within the same tick of the clock
    monkeypatch.setattr(content, "SETTLED", -60.0)
    assert digest(str(file), "outputs") == first
    (note,) = kept.iterdir()
    assert note.stat().st_size == 0  # nothing that could be half written
    with monkeypatch.context() as patched:
        patched.setattr(content, "_digest", lambda *_: pytest.fail("it was read again"))
        assert digest(str(file), "outputs") == first
    before = file.stat().st_mtime_ns
    time.sleep(0.01)
    file.write_bytes(b"1" * 100)
    os.utime(file, ns=(before, before))  # as if nothing had been written
    assert digest(str(file), "outputs") != first


def test_a_finished_run_is_found_by_content_and_reported_as_one_benchmark(tmp_path: Path) -> None:
    write(tmp_path / "a/my.npz", seed=0)
    write(tmp_path / "b/my.npz", seed=1)
    shutil.copytree("a", "c")
    results = [run(settings(f"{folder}/my.npz", f"seed={seed}")) for seed, folder in enumerate("abc")]
    assert results[0].config["content"] == results[2].config["content"] != results[1].config["content"]
    runs, _, _ = read([tmp_path / "outputs"])
    found = benchmarks(runs)
    assert len(found) == 2
    assert sorted(len(one.runs) for one in found) == [1, 2]
    assert all(len(one.configurations) == 1 and len(one.protocols) == 1 for one in found)
    copied = tmp_path / "outputs" / name_of(results[0].config)
    assert len(list(copied.iterdir())) == 2  # seeds 0 and 2


def test_a_reference_is_of_the_same_content(tmp_path: Path) -> None:
    write(tmp_path / "a/my.npz", seed=0)
    write(tmp_path / "b/my.npz", seed=1)
    shutil.copytree("a", "c")
    run(joint := settings("a/my.npz"))
    for path, same in (("c/my.npz", True), ("b/my.npz", False)):
        ours = settings(path, "method=finetune", f"reference={folder_of(joint)}")
        scenario = prepare(ours)[0]
        if same:
            assert references_of(ours, scenario).joint
        else:
            with pytest.raises(InputError, match="has other tasks"):
                references_of(ours, scenario)


def test_a_scenario_with_images_of_its_own_is_what_they_are_whatever_data_set_is_named(tmp_path: Path) -> None:
    for folder, held in (("a", b"1"), ("b", b"2")):
        (tmp_path / folder / "core50").mkdir(parents=True)
        (tmp_path / folder / "core50" / "paths.pkl").write_bytes(held)
    write(tmp_path / "my.npz")
    own = ["dataset=npz", "dataset.path=my.npz"]
    for more in ([], own):
        a, b = (compose("scenario=core50", f"data_dir={folder}", *more) for folder in ("a", "b"))
        assert key_of(a) != key_of(b)


FILES = {
    "mnist": "MNIST/raw/train-images-idx3-ubyte",
    "fashion_mnist": "FashionMNIST/raw/t10k-labels-idx1-ubyte",
    "svhn": "train_32x32.mat",
    "cifar10": "cifar10.npz",
    "cifar100": "cifar100.npz",
    "tiny_imagenet": "tiny-imagenet-200/train/n1/images/n1_0.JPEG",
    "cub200": "CUB_200_2011/images/001.A/a.jpg",
    "imagenet_r": "imagenet-r/n1/art_0.jpg",
}


@pytest.mark.parametrize("name", sorted(content.NAMED))
def test_a_set_by_name_is_what_lies_in_data_dir(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, held in (("a", b"1"), ("b", b"2"), ("c/d", b"1")):
        file = tmp_path / folder / FILES[name]
        file.parent.mkdir(parents=True)
        if name.startswith("cifar"):
            np.savez(file, x_train=np.frombuffer(held, np.uint8))
        else:
            file.write_bytes(held)
    there = [compose(f"dataset={name}", f"data_dir={folder}") for folder in ("a", "b", "c/d", "nowhere")]
    keys = [key_of(one) for one in there]
    assert keys[0] == keys[2]
    assert len(set(keys)) == 3
    several = [compose("scenario=sequence", f"scenario.datasets=[digits,{name}]", f"data_dir={d}") for d in ("a", "b")]
    assert len({key_of(one) for one in several}) == 2
    folder, files, _ = content.NAMED[name]
    published = there[0]["content"].removeprefix(f"{name}-")
    monkeypatch.setitem(content.NAMED, name, (folder, files, published))
    assert key_of(compose(f"dataset={name}", "data_dir=a")) == keys[3]  # no other name before it is downloaded


def test_by_content_leaves_what_is_built_in_alone() -> None:
    plain = compose("dataset=digits")
    assert by_content(plain) == plain
    assert json.dumps(plain)


def test_names_of_classes_are_in_the_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from cl_bench.runs.console import show

    names = np.array(["cat", "[red]", "$x", "dog"])
    write(Path("my.npz"), y_train=arrays()["y_train"] * 2 + 1, y_test=arrays()["y_test"] * 2 + 1, class_names=names)
    results = run(settings("my.npz", "scenario.class_order=[dog,cat,'$x','[red]']"))
    assert results.classes == [["dog", "cat"], ["$x", "[red]"]]
    assert results.class_names == ["dog", "cat", "$x", "[red]"]
    show(results, tmp_path)
    assert "1 dog cat, 2 $x [red]" in capsys.readouterr().out
