"""A run's folder: whatever happens to its files, the same command ends with the same numbers."""

from __future__ import annotations

import csv
import json
import math
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Compose, Killed, small_settings, there
from example_records import results

from cl_bench.config import InputError
from cl_bench.config.names import folder_of, key_of
from cl_bench.record import Results, to_json
from cl_bench.runs.console import show
from cl_bench.runs.folder import LAYOUT, RunFolder, read_results
from cl_bench.runs.loggers import CSVLog
from cl_bench.runs.loop import run


def settings_in(root: str | Path) -> dict[str, Any]:
    """A run of two phases per task, saved after every chunk, that is kept in this folder."""
    return small_settings("method=dgr", "checkpoint_every=0", "trainer.progress=false") | {"output_root": str(root)}


class Malicious:
    """Runs code when it is unpickled by whoever doesn't look first."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("executed"),)


def numbers(found: Results) -> str:
    """Every number that a run found out, as text."""
    return json.dumps([found.R, found.b, found.metrics, found.bytes_kept])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.set_num_threads(1)
    return numbers(run(settings_in(tmp_path_factory.mktemp("whole"))))


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a run that was killed in the middle of its fourth task."""
    root = tmp_path_factory.mktemp("killed")
    save = RunFolder.save_phase

    def dying(folder: RunFolder, state: dict[str, Any]) -> None:
        save(folder, state)
        if state["task"] == 3 and state["phases"]:  # in its second phase
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "save_phase", dying)
        with pytest.raises(Killed):
            run(settings_in(root))
    return root


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def write(name: str, content: bytes) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes(content)


def malicious(name: str) -> Callable[[Path], Any]:
    return lambda folder: torch.save({"key": Malicious(), "task": 3}, folder / name)


def piped(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def all_checkpoints(folder: Path) -> None:
    for file in folder.glob("checkpoints/*.pt"):
        cut(file)


LAST, PHASE = "checkpoints/task2.pt", "checkpoints/phase.pt"
DAMAGES: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    # what was done to the folder; the files that are said to be unusable
    "moved only": (lambda _: None, []),
    "newest task cut in half": (lambda folder: cut(folder / LAST), ["task2.pt"]),
    "newest task gone": (lambda folder: (folder / LAST).unlink(), []),
    "phase cut in half": (lambda folder: cut(folder / PHASE), ["phase.pt"]),
    "phase of garbage": (write(PHASE, b"garbage" * 100), ["phase.pt"]),
    "phase empty": (write(PHASE, b""), ["phase.pt"]),
    "phase of another thing": (lambda folder: torch.save([1, 2], folder / PHASE), ["phase.pt"]),
    "phase a malicious pickle": (write(PHASE, pickle.dumps(Malicious())), ["phase.pt"]),
    "phase malicious inside": (malicious(PHASE), ["phase.pt"]),
    "newest task malicious inside": (malicious(LAST), ["task2.pt"]),
    "every checkpoint cut in half": (all_checkpoints, ["task1.pt", "task2.pt", "phase.pt"]),
    "results half written": (lambda folder: cut(folder / "results.json"), []),
    "results of something else": (write("results.json", b"[1]"), []),
    "results claim to be finished": (write("results.json", b'{"status": "finished"}'), []),
    "copies by hand": (lambda folder: shutil.copy(folder / LAST, folder / "checkpoints/task3 (copy).pt"), []),
    "a task that is no number": (write("checkpoints/task²x.pt", b"x"), []),
    "a folder like a checkpoint": (lambda folder: (folder / "checkpoints/task9.pt").mkdir(), []),
    "a pipe for a checkpoint": (lambda folder: os.mkfifo(folder / "checkpoints/task9.pt"), []),
    "a pipe for the phase": (lambda folder: piped(folder / PHASE), []),
    "a pipe for the results": (lambda folder: piped(folder / "results.json"), []),
    "a pipe for the log": (lambda folder: piped(folder / "log.csv"), []),
    "a pipe beside the results": (lambda folder: os.mkfifo(folder / "results.json.new"), []),
    "a log in another encoding": (write("log.csv", b"step,task\n\xff\xfe\n1,2,a,b,c\n1,\x000,train,loss\n"), []),
    "a half written next checkpoint": (write("checkpoints/task3.pt.new", b"PK"), []),
}


MORE_DAMAGES = {  # of kinds that another one stands for
    "moved only",
    "phase of garbage",
    "phase empty",
    "phase of another thing",
    "phase a malicious pickle",
    "newest task malicious inside",
    "results of something else",
    "a folder like a checkpoint",
    "a pipe for a checkpoint",
    "a pipe for the log",
    "a pipe beside the results",
    "a half written next checkpoint",
}


@pytest.mark.parametrize(
    "damage", [pytest.param(name, marks=[pytest.mark.slow] * (name in MORE_DAMAGES)) for name in DAMAGES]
)
def test_a_damaged_folder_ends_with_the_same_numbers(
    damage: str,
    killed: Path,
    whole: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(killed, "elsewhere")
    settings = settings_in("elsewhere")
    folder = folder_of(settings)
    harm, unusable = DAMAGES[damage]
    harm(folder)
    assert numbers(run(settings)) == whole
    said = capsys.readouterr().out.splitlines()
    for name in unusable:
        assert any(f"{name} is damaged" in line or f"{name} belongs to another" in line for line in said), said
    assert len(set(said)) == len(unusable)
    assert not Path("executed").exists()
    found = read_results(folder)
    assert results
    assert there(found).status == "finished"
    assert numbers(there(found)) == whole


def test_what_an_undamaged_folder_need_not_do_again(killed: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Three tasks and the first phase of the fourth are only loaded; the numbers are the damaged cases' business."""
    trained: list[tuple[int, str]] = []
    begin = CSVLog.phase

    def phase(log: CSVLog, task: int, phase: str, step: int) -> None:
        trained.append((task, phase))
        begin(log, task, phase, step)

    monkeypatch.setattr(CSVLog, "phase", phase)
    shutil.copytree(killed, tmp_path / "outputs")
    run(settings_in(tmp_path / "outputs"))
    assert trained == [(3, "generator"), (4, "solver"), (4, "generator")]


def test_a_finished_run_whose_results_are_lost_tells_them_again(tmp_path: Path, whole: str) -> None:
    settings = settings_in(tmp_path)
    run(settings)
    cut(folder_of(settings) / "results.json")
    assert read_results(folder_of(settings)) is None
    assert numbers(run(settings)) == whole


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run", "key", say=lambda _: None)


def test_a_checkpoint_of_another_configuration_is_not_used(folder: RunFolder) -> None:
    with folder.opened():
        folder.save_task(0, {"x": torch.ones(2)})
        folder.save_phase({"task": 1})
    said: list[str] = []
    other = RunFolder(folder.path, "another key", said.append)
    assert other.load_task() is None
    assert other.load_phase(1) is None
    assert [line.partition(" belongs to another configuration")[0][-8:] for line in said] == ["task0.pt", "phase.pt"]


def test_a_checkpoint_of_another_layout_is_not_used(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it holds may have other names, and the run would end in the middle."""
    with folder.opened():
        with monkeypatch.context() as before:
            before.setattr("cl_bench.runs.folder.LAYOUT", LAYOUT - 1)
            folder.save_phase({"task": 0})
        assert folder.load_phase(0) is None
    assert (folder.path / "checkpoints" / "phase.pt.unusable").exists()


def test_only_the_newest_checkpoints_are_kept(folder: RunFolder) -> None:
    with folder.opened():
        for task in (8, 9, 10):
            folder.save_phase({"task": task})
            folder.save_task(task, {"n": task})
    assert sorted(file.name for file in (folder.path / "checkpoints").iterdir()) == ["task10.pt", "task9.pt"]
    assert (folder.load_task() or {})["n"] == 10


def test_a_write_that_fails_leaves_the_old_file(folder: RunFolder) -> None:
    with folder.opened():
        folder.save_phase({"task": 1})
        with pytest.raises(InputError, match="could not be read again"):
            folder.save_phase({"task": 2, "unpicklable": lambda: None})
    assert (folder.load_phase(1) or {})["task"] == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("name", ["results.json", "checkpoints/phase.pt"])
def test_a_full_disk_leaves_the_old_file(name: str, folder: RunFolder) -> None:
    with folder.opened():
        folder.write_results(results([[0.5]]))
        folder.save_phase({"task": 1})
        before = (folder.path / name).read_bytes()
        (folder.path / f"{name}.new").symlink_to("/dev/full")
        with pytest.raises(OSError, match="No space left on device"):  # one of torch's own would be a RuntimeError
            folder.save_phase({"task": 2}) if "phase" in name else folder.write_results(results([[0.25]]))
    assert (folder.path / name).read_bytes() == before
    assert not (folder.path / f"{name}.new").is_symlink()


def test_one_at_a_time(folder: RunFolder) -> None:
    other = RunFolder(folder.path, "key")
    with folder.opened():
        for anew in (False, True):
            with pytest.raises(InputError, match="another process works in"), other.opened(anew):
                pass
        assert folder.path.exists()  # it was not moved away from under the first one
    with other.opened():
        pass


def test_anew_sets_the_old_result_aside(folder: RunFolder) -> None:
    said: list[str] = []
    for number in range(3):
        with RunFolder(folder.path, "key", said.append).opened(anew=True):
            (folder.path / "number").write_text(str(number))
    names = ["run", "run.old1", "run.old2"]
    assert sorted(path.name for path in folder.path.parent.iterdir()) == names
    assert [(folder.path.parent / name / "number").read_text() for name in names] == ["2", "0", "1"]
    assert [line.rpartition(".")[2] for line in said] == ["old1", "old2"]


def test_a_folder_that_cannot_be_made_names_the_key(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(InputError, match=r"output_root: can't write to .*file/run \(Not a directory\)"),
        RunFolder(tmp_path / "file" / "run", "key").opened(),
    ):
        pass


def test_a_folder_in_the_place_of_a_file_is_named(small: Compose) -> None:
    settings = small("method=finetune", "trainer.iterations=1")
    (folder_of(settings) / "accuracy.csv").mkdir(parents=True)
    with pytest.raises(InputError, match=r"can't write to .*accuracy\.csv.* \(Is a directory\)"):
        run(settings)


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "null", '{"status": "finished"}', "\0"])
def test_results_that_are_none(content: str, tmp_path: Path) -> None:
    assert read_results(tmp_path) is None
    (tmp_path / "results.json").write_text(content)
    assert read_results(tmp_path) is None


def test_json_has_no_nan() -> None:
    assert to_json({"a": [1.5, math.nan, (math.nan, "x")], 2: None}) == {"a": [1.5, None, [None, "x"]], "2": None}
    assert to_json([math.inf, -math.inf, 0]) == [None, None, 0]


def test_a_changed_digit_of_a_result_is_found_out(tmp_path: Path, whole: str) -> None:
    """It would be another number, exit code 0; the run tells its results again from its last checkpoint."""
    settings = settings_in(tmp_path)
    accuracy = there(run(settings).metrics["ACC"])
    file = folder_of(settings) / "results.json"
    sound = file.read_text()
    changed = sound.replace(f'"ACC": {accuracy}', f'"ACC": {accuracy / 2}')
    assert changed != sound
    file.write_text(changed)
    assert read_results(folder_of(settings)) is None
    assert numbers(run(settings)) == whole
    file.write_text(json.dumps(json.loads(file.read_text())))  # as somebody's editor puts it
    assert numbers(there(read_results(folder_of(settings)))) == whole


def test_files_that_are_not_ours_are_left_alone(
    killed: Path, whole: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(killed, tmp_path / "elsewhere")
    settings = settings_in(tmp_path / "elsewhere")
    foreign = [
        folder_of(settings) / "checkpoints" / f"{name}.pt" for name in ("task3 (copy)", "task", "task03", "taskX")
    ]
    for file in foreign:
        file.write_bytes(b"mine")
    (folder_of(settings) / "checkpoints" / "task7.pt").mkdir()
    assert numbers(run(settings)) == whole
    assert all(file.read_bytes() == b"mine" for file in foreign)
    assert capsys.readouterr().out == ""


def test_the_accuracies_as_a_table_of_rows(folder: RunFolder) -> None:
    own: Any = [[0.75, None], [None, None]]
    with folder.opened():
        folder.write_results(results([[0.5, 0.25], [None, 1.0]], R_task_masked=own, b=[0.125, None], n_test=[8, 4]))
    with (folder.path / "accuracy.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["after", "on", "mask", "accuracy", "n_test"],
        ["-1", "0", "all", "0.125", "8"],
        ["0", "0", "seen", "0.5", "8"],
        ["0", "1", "seen", "0.25", "4"],
        ["1", "1", "seen", "1.0", "4"],
        ["0", "0", "own", "0.75", "8"],
    ]


def shown(capsys: pytest.CaptureFixture[str], classes: list[list[str]], folder: Path) -> list[str]:
    n = len(classes)
    found = results(
        [[(10 * i + j) / 1000 if i else None for j in range(n)] for i in range(n)],
        name="digits-x-y-seed0",
        classes=classes,
        b=[0.125] * (n - 1) + [None],
        metrics={"ACC": 0.75, "BWT": None},
        seconds=61.4,
        parameters=12345,
    )
    show(found, folder)
    return capsys.readouterr().out.splitlines()


def test_what_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path("/a/rather/long/path") / ("[b]" * 40)
    lines = shown(capsys, [["0", "1"], ["2", "3"]], folder)
    words = [line.split() for line in lines]
    assert ["after", "0", "1", "2", "3"] in words
    assert ["start", "0.125", "·"] in words
    assert ["task", "1", "·", "·"] in words
    assert ["task", "2", "0.010", "0.011"] in words
    assert ["ACC", "0.750"] in words
    assert ["BWT", "·"] in words
    assert lines[-1] == f"61 s, 12,345 parameters; kept in {folder}"  # whole, to be copied


@pytest.mark.parametrize(("n", "width"), [(10, 80), (20, 150)])
def test_no_number_is_cut_however_many_there_are(n: int, width: int, capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, [[f"permutation {i}"] for i in range(n)], Path("x"))
    words = [line.split() for line in lines]
    assert ["after", *(str(i + 1) for i in range(n))] in words
    for i in range(1, n):
        assert ["task", str(i + 1), *(f"{(10 * i + j) / 1000:.3f}" for j in range(n))] in words
    assert max(map(len, lines)) <= width


def test_of_hundreds_of_tasks_some_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, [[f"[b]permutation {i}", "x" * 500] for i in range(400)], Path("x"))
    assert len(lines) < 40
    assert max(map(len, lines)) <= 100
    assert "12 of 400 tasks; all of them are in accuracy.csv" in lines
    words = [line.split() for line in lines]
    heads = next(line for line in words if line[:1] == ["after"])
    assert (len(heads), heads[1], heads[-1]) == (13, "1", "400")
    assert sum(line[:1] == ["task"] and len(line) == 14 for line in words) == 12
    assert "tasks: 1 [b]permutation 0 " in " ".join(lines)


def test_the_key_is_in_every_checkpoint_and_names_the_folder(killed: Path) -> None:
    settings = settings_in(killed)
    state = torch.load(folder_of(settings) / LAST, weights_only=True)
    assert state["key"] == key_of(settings)
    assert folder_of(settings).name == f"seed0-{key_of(settings)}"
