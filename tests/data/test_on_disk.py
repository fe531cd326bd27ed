"""Images that stay on disk: the same numbers as in memory, made once, looked at before they are used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cl_bench.config import InputError
from cl_bench.config.compose import compose
from cl_bench.data import cache, datasets
from cl_bench.data.batches import Batches, Data
from cl_bench.data.on_disk import ImageFile, OnDisk, in_memory, joined
from cl_bench.runs.loop import run
from cl_bench.runs.setup import prepare


def arrays(seed: int = 0, n: int = 240, shape: tuple[int, ...] = (8, 8)) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    y = np.arange(n) % 4
    return {
        "x_train": random.integers(0, 256, (n, *shape), dtype=np.uint8),
        "y_train": y,
        "x_test": random.integers(0, 256, (40, *shape), dtype=np.uint8),
        "y_test": y[:40],
    }


@pytest.fixture
def file(tmp_path: Path) -> Path:
    np.savez(tmp_path / "mine.npz", **arrays())  # type: ignore[arg-type]  # numpy's stubs take the arrays for a flag
    return tmp_path / "mine.npz"


def stored(folder: Path, images: torch.Tensor) -> OnDisk:
    folder.joinpath("images.bin").write_bytes(b"head" + images.numpy().tobytes())
    return OnDisk([ImageFile(folder / "images.bin", 4, images.shape)])


def test_selections_and_joins_are_those_of_tensors(tmp_path: Path) -> None:
    images = torch.randint(0, 256, (30, 3, 4, 5), dtype=torch.uint8)
    disk, other = stored(tmp_path, images), torch.randint(0, 256, (6, 3, 4, 5), dtype=torch.uint8)
    first, second = torch.tensor([3, 4, 5, 29, 0, 0]), torch.tensor([7, 5, 6])
    wanted = torch.cat([images[first], other, images[second]])
    found = joined(joined(disk[first], other), disk[second])
    assert isinstance(found, OnDisk)
    assert len(found.parts) == 2  # the file is among them once
    assert found.shape == wanted.shape
    assert in_memory(found, "").equal(wanted)
    rows = torch.randperm(len(wanted))
    assert found[rows].index_select(0, torch.arange(4, 9)).equal(wanted[rows][4:9])
    assert found[wanted[:, 0, 0, 0].numpy() > 99].shape == wanted[wanted[:, 0, 0, 0] > 99].shape
    assert disk.index_select(0, torch.arange(0)).shape == (0, 3, 4, 5)
    other.zero_()  # as a memory that changes while it is trained on
    assert in_memory(found, "").equal(wanted)


def test_mini_batches_are_the_same_and_only_their_rows_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = torch.randint(0, 256, (50, 1, 4, 4), dtype=torch.uint8), torch.arange(50)
    ids = torch.zeros(50, dtype=torch.int16)
    disk = Data(stored(tmp_path, images), labels, ids)
    read, whole = [], ImageFile._read
    monkeypatch.setattr(ImageFile, "_read", lambda self, into, at: (read.append(len(into)), whole(self, into, at)))
    loaders = (Batches(data, batch_size=7, steps=11, seed=3) for data in (Data(images, labels, ids), disk))
    for of_memory, of_disk in zip(*loaders, strict=True):
        for (_, ours), (_, theirs) in zip(of_memory, of_disk, strict=True):
            assert ours.x.equal(theirs.x)
            assert ours.y.equal(theirs.y)
    assert sum(read) == 16 * (51 + 3 * 7)  # an epoch, whose last image another joins, and 3 mini-batches of the next


METHODS = {
    "icarl": ["memory=40"],
    "er_ace": ["scenario.passes=online", "scenario.batch_size=10"],
    "er": [],
    "joint": [],
    "dgr": ["method.n_gen=20", "method.generator_steps=3"],
    "gem": ["scenario=permuted", "scenario.n_tasks=2"],
}
SLOW = ("er", "joint", "dgr", "gem")


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in METHODS]
)
def test_runs_are_equal_bit_for_bit(file: Path, tmp_path: Path, method: str) -> None:
    found = []
    for on_disk in ("false", "true"):
        settings = compose(
            f"method={method}",
            "dataset=npz",
            f"dataset.path={file}",
            f"dataset.on_disk={on_disk}",
            *(["scenario.n_tasks=2"] if method != "gem" else []),
            "scenario.val_fraction=0.1",
            "network.hidden=[16]",
            "trainer.progress=false",
            *([] if method == "er_ace" else ["trainer.epochs=2", "trainer.batch_size=32"]),
            f"output_root={tmp_path / on_disk}",
            f"data_dir={tmp_path / 'data'}",
            *METHODS[method],
        )
        results = run(settings)
        folder = next((tmp_path / on_disk).glob("*/seed*"))
        state = torch.load(max((folder / "checkpoints").glob("*.pt")), weights_only=True)["method"]
        found.append((results, state))
        assert (tmp_path / "data" / ".cache").exists() == (on_disk == "true")
    (ours, state), (theirs, other) = found
    assert ours.key == theirs.key
    assert (ours.R, ours.b, ours.metrics) == (theirs.R, theirs.b, theirs.metrics)
    assert state.keys() == other.keys()
    assert all(value.equal(other[name]) for name, value in state.items() if torch.is_tensor(value))


def settings_of(file: Path, *more: str) -> dict[str, Any]:
    return compose("method=finetune", "dataset=npz", f"dataset.path={file}", f"data_dir={file.parent}", *more)


def test_no_image_of_a_task_is_in_memory(file: Path) -> None:
    scenario, _ = prepare(settings_of(file, "dataset.on_disk=true", "scenario.n_tasks=2", "scenario.val_fraction=0.2"))
    scenario = scenario.to("cpu", 32)
    sets = [*(task.train for task in scenario.tasks), *(task.val for task in scenario.tasks), *scenario.tests]
    assert all(isinstance(data.images, OnDisk) for data in sets)


@pytest.mark.parametrize("size", [None, 6])
@pytest.mark.parametrize("shape", [(8, 8), (3, 8, 10), (8, 10, 3)])
def test_arrays_are_brought_to_disk_as_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int | None, shape: tuple[int, ...]
) -> None:
    monkeypatch.setattr("cl_bench.data.on_disk.BLOCK", 3000)  # bytes: many parts
    np.savez_compressed(tmp_path / "mine.npz", **arrays(shape=shape))  # type: ignore[arg-type]
    whole, disk = (
        datasets.npz(tmp_path, path=str(tmp_path / "mine.npz"), size=size, on_disk=on_disk) for on_disk in (False, True)
    )
    for ours, theirs in ((whole.x_train, disk.x_train), (whole.x_test, disk.x_test)):
        assert isinstance(theirs, OnDisk)
        assert in_memory(theirs, "").equal(in_memory(ours, ""))
    arrays_of_numpy = [np.load(file) for file in (tmp_path / ".cache").glob("*.npy")]
    assert sorted(map(len, arrays_of_numpy)) == [40, 240]


@pytest.mark.parametrize("grayscale", [None, True, False])
@pytest.mark.parametrize("colored", [0, 1])
def test_pictures_are_brought_to_disk_as_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, colored: int, grayscale: bool | None
) -> None:
    monkeypatch.setattr("cl_bench.data.on_disk.BLOCK", 500)
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(6):
            gray = random.integers(0, 256, (9, 9, 1), dtype=np.uint8).repeat(3, 2)
            gray[:, :, 0] //= 1 + colored * (name == "b" and i == 5)
            Image.fromarray(gray).save(tmp_path / "set" / name / f"{i}.png")
    whole, disk = (
        datasets.image_folder(tmp_path, path=str(tmp_path / "set"), size=8, grayscale=grayscale, on_disk=on_disk)
        for on_disk in (False, True)
    )
    assert isinstance(disk.x_train, OnDisk)
    assert disk.x_train.shape[1] == (3 if grayscale is False or (colored and grayscale is None) else 1)
    assert in_memory(disk.x_train, "").equal(in_memory(whole.x_train, ""))
    assert in_memory(disk.x_test, "").equal(in_memory(whole.x_test, ""))
    assert len([*(tmp_path / ".cache").glob("*.npy")]) == 1
    assert not [*(tmp_path / ".cache").glob("*.color")]


def test_a_set_is_brought_to_disk_once_wherever_it_lies(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    write = cache.make
    monkeypatch.setattr(cache, "make", lambda *args: (made.append(args[0]), write(*args))[1])
    other = file.rename(file.with_name("moved.npz"))
    for path in (other, other):
        datasets.npz(file.parent, path=str(path), on_disk=True)
    assert len(made) == 2  # x_train and x_test
    np.savez(other, **arrays(seed=1))  # type: ignore[arg-type]
    assert in_memory(datasets.npz(file.parent, path=str(other), on_disk=True).x_train, "")[0].numpy().tolist() == [
        arrays(seed=1)["x_train"][0].tolist()
    ]


@pytest.mark.parametrize("damage", ["half", "bytes", "record", "no record"])
def test_a_damaged_file_is_made_again(file: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    def read() -> torch.Tensor:
        return in_memory(datasets.npz(file.parent, path=str(file), on_disk=True).x_train, "")

    wanted = read()
    stored = max((file.parent / ".cache").glob("*.npy"), key=lambda found: found.stat().st_size)
    record = stored.with_suffix(".json")
    if damage == "half":
        with stored.open("r+b") as opened:
            opened.truncate(stored.stat().st_size // 2)
    elif damage == "bytes":
        with stored.open("r+b") as opened:
            opened.seek(1000)
            opened.write(b"damaged")
    elif damage == "record":
        record.write_text(record.read_text().replace("240", "239"))
    else:
        record.unlink()
    assert read().equal(wanted)
    assert [line.getMessage() for line in caplog.records if line.levelname == "WARNING"] == [
        f"{stored} was changed or is damaged; it is made again"
    ]


def test_a_copied_file_is_read_through_and_used(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    datasets.npz(file.parent, path=str(file), on_disk=True)
    for stored in (file.parent / ".cache").glob("*.npy"):
        stored.write_bytes(stored.read_bytes())
    monkeypatch.setattr(cache, "make", None)
    for _ in range(2):
        assert len(datasets.npz(file.parent, path=str(file), on_disk=True).x_train) == 240
    assert not [line for line in caplog.records if line.levelname == "WARNING"]


def test_a_file_cut_short_while_it_is_used_is_one_line(file: Path) -> None:
    data = datasets.npz(file.parent, path=str(file), on_disk=True).x_train
    for stored in (file.parent / ".cache").glob("*.npy"):
        with stored.open("r+b") as opened:
            opened.truncate(1000)
    with pytest.raises(InputError, match=r"\.npy: became shorter during the run; run the same command again"):
        data.index_select(0, torch.tensor([200]))


def test_what_is_wrong_is_the_same_line_and_nothing_is_written(tmp_path: Path) -> None:
    good = arrays()
    wrong: list[dict[str, np.ndarray]] = [
        {"x_train": good["x_train"].astype(float)},
        {"x_test": good["x_test"][:, :4]},
        {"y_train": good["y_train"][:-1]},
        {"x_train": good["x_train"][:0], "y_train": good["y_train"][:0]},
        {"x_train": good["x_train"][0]},
        {"x_train": np.array(["text"] * 240)},
        {"x_train": np.array(7, np.uint8)},
        {"y_test": np.zeros(40, int)},
    ]
    for number, parts in enumerate(wrong):
        path = tmp_path / f"{number}.npz"
        np.savez(path, **{**good, **parts})  # type: ignore[arg-type]
        lines = []
        for on_disk in (False, True):
            with pytest.raises(InputError) as refused:
                datasets.npz(tmp_path, path=str(path), on_disk=on_disk)
            lines.append(str(refused.value))
        assert lines[0] == lines[1]
    assert not (tmp_path / ".cache").exists()


def test_what_only_a_file_on_disk_can_not_is_one_line(file: Path) -> None:
    parts = arrays()
    np.savez(file, **{**parts, "x_train": np.asfortranarray(parts["x_train"])})  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"x_train is in Fortran order.*; save numpy.ascontiguousarray\(x_train\)"):
        datasets.npz(file.parent, path=str(file), on_disk=True)
    np.savez(file, **parts)  # type: ignore[arg-type]
    with pytest.raises(
        InputError, match=r"scenario=rotating_pairs: rotates all images in advance.*set dataset.on_disk=fa"
    ):
        prepare(settings_of(file, "dataset.on_disk=true", "scenario=rotating_pairs", "method=er"))


def test_where_nothing_can_be_written_is_one_line(file: Path) -> None:
    (file.parent / "data").write_text("a file")
    with pytest.raises(InputError, match=r"dataset.on_disk: can't write .*\.npy \(Not a directory\); free space there"):
        datasets.npz(file.parent / "data", path=str(file), on_disk=True)


def test_a_damaged_npz_leaves_nothing_behind(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[2000] ^= 255  # among the pixels of x_train
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"mine.npz: x_train cannot be read; it must be a whole array.*CRC"):
        datasets.npz(file.parent, path=str(file), on_disk=True)
    assert not [*(file.parent / ".cache").glob("*.n*")]


def test_memory_decides_by_itself(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    assert isinstance(datasets.npz(file.parent, path=str(file)).x_train, torch.Tensor)
    short = psutil.virtual_memory()._replace(available=20_000)  # 240 images of 64 bytes are 15,360
    monkeypatch.setattr(psutil, "virtual_memory", lambda: short)
    data = datasets.npz(file.parent, path=str(file))
    assert isinstance(data.x_train, OnDisk)
    assert isinstance(data.x_test, torch.Tensor)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: short._replace(available=15_000))
    with pytest.raises(InputError, match=r"^what is kept: 240 images take 0.0 GB of memory, and 0.0 GB are free$"):
        in_memory(data.x_train, "what is kept")


@pytest.mark.slow
def test_of_two_processes_one_writes(file: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from pathlib import Path; from cl_bench.data import cache, datasets; make = cache.make\n"
        "def told(*args): print('made'); return make(*args)\n"
        "cache.make = told\n"
        "datasets.npz(Path(sys.argv[1]).parent, path=sys.argv[1], on_disk=True)"
    )
    command = [sys.executable, "-c", code, str(file)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate(timeout=100)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum(text.count("made") for text in told) == 2  # x_train and x_test


def test_a_sequence_takes_what_lies_on_disk(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def first(data: Data) -> list[Any]:
        return [data.images.shape, data.batch(torch.tensor([5, 1, 2])).images]

    keys = ("scenario=sequence", f"scenario.datasets=[digits,{file}]", "scenario.kind=task", "scenario.size=12")
    settings = compose("method=finetune", *keys, "scenario.max_train=100", f"data_dir={tmp_path}")
    found = [[first(task.train) for task in prepare(settings)[0].tasks]]
    monkeypatch.setattr(cache, "SHARE", 0.0)
    scenario, _ = prepare(settings)
    assert isinstance(scenario.tasks[1].train.images, OnDisk)
    found.append([first(task.train) for task in scenario.tasks])
    for (shape, images), (other, others) in zip(*found, strict=True):
        assert shape == other
        assert images.equal(others)


def test_a_record_says_what_was_written(file: Path) -> None:
    datasets.npz(file.parent, path=str(file), on_disk=True)
    shapes = [json.loads(record.read_text())["shape"] for record in (file.parent / ".cache").glob("*.json")]
    assert sorted(shapes) == [[40, 1, 8, 8], [240, 1, 8, 8]]
