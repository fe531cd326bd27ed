"""`continue_from`: a run that goes on where another ended, with further tasks."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import METHODS, Killed, killed_after, small_settings, without_clocks

import cl_bench
from cl_bench.config import InputError, NotApplicable
from cl_bench.config.came_from import came_from
from cl_bench.config.declared import declared
from cl_bench.config.names import file_of, folder_of, key_of, name_of
from cl_bench.data.datasets import digits
from cl_bench.data.joined import joined
from cl_bench.evaluation.scores import Score
from cl_bench.record import Results, load_results
from cl_bench.runs.continued import check_goes_on, grown, state_to_go_on
from cl_bench.runs.loop import run
from cl_bench.runs.setup import checked, own_scenario, prepare
from cl_bench.runs.tensorboard_log import TensorBoardLog
from cl_bench.runs.trackers import Point
from cl_bench.sweep.jobs import carried_out

GROWS = [method for method in METHODS if declared({"method": file_of("method", method), "plugins": []}, "grows")]
SOME = ("bic", "er", "ewc", "icarl")
Settings = Callable[..., dict[str, Any]]


def saved(file: Path, classes: Sequence[int], names: Sequence[str]) -> Path:
    """The digits of these classes, as a person's own file."""
    images, parts = digits(), {}
    for part in ("train", "test"):
        labels = getattr(images, f"y_{part}").numpy()
        rows = np.isin(labels, classes)
        parts |= {f"x_{part}": getattr(images, f"x_{part}").numpy()[rows], f"y_{part}": labels[rows]}
    np.savez(file, **parts, class_names=np.array(names))
    return file


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    top = tmp_path_factory.mktemp("sets")
    return {
        "first": saved(top / "first.npz", range(4), ["zero", "one", "two", "three"]),
        "then": saved(top / "then.npz", range(4, 8), ["four", "five", "six", "seven"]),
        "last": saved(top / "last.npz", (8, 9), ["eight", "nine"]),
    }


@pytest.fixture
def settings(sets: dict[str, Path], tmp_path: Path) -> Settings:
    """`settings("er", "first", more..., kind="class")`: two classes a task."""

    def made(method: str, data: str, *more: str, kind: str = "class") -> dict[str, Any]:
        words = (f"method={method}", f"scenario={kind}_incremental", "dataset=npz", f"dataset.path={sets[data]}")
        per_task = ("scenario.n_tasks=null", "scenario.classes_per_task=2")
        found = small_settings(*words, *per_task, "memory=40", "trainer.epochs=2", *more)
        return found | {"output_root": str(tmp_path / "outputs")}

    return made


def both(settings: Settings, method: str, *more: str, kind: str = "class") -> tuple[Results, dict[str, Any]]:
    """The results of a finished run, and the settings of one that goes on with it."""
    old = settings(method, "first", *more, kind=kind)
    return run(old), settings(method, "then", f"continue_from={folder_of(old)}", *more, kind=kind)


def table(results: Results) -> np.ndarray:
    return np.array(results.R, dtype=float)


# ------------------------------------------------------------------------------------------------- what it is


def test_the_new_tasks_come_after_the_old_ones(settings: Settings) -> None:
    old, then = both(settings, "er", "trainer.epochs=20")
    new = run(then)
    R = table(new)
    assert R.shape == (4, 4)
    np.testing.assert_array_equal(R[:2, :2], table(old))  # as the earlier run measured
    assert np.isnan(R[:2, 2:]).all()  # it saw none of these images
    assert not np.isnan(R[2:]).any()
    assert R[3, 3] > 0.8
    assert R[2, 3] == 0  # its classes don't answer yet
    assert new.class_names == ["zero", "one", "two", "three", "four", "five", "six", "seven"]
    assert new.classes == [["zero", "one"], ["two", "three"], ["four", "five"], ["six", "seven"]]
    assert [record.task for record in new.tasks] == [0, 1, 2, 3]
    assert without_clocks(new.tasks[:2]) == without_clocks(old.tasks)
    assert new.metrics["ACC"] == pytest.approx(R[3].mean())
    assert new.metrics["FWT"] is None
    again = cl_bench.load(folder_of(then))
    assert cl_bench.evaluate(again).tolist() == R[3].tolist()
    assert set(again.predict(digits().x_test)) <= set(new.class_names)
    with pytest.raises(InputError, match="this run continued another run"):
        cl_bench.evaluate(again, "digits")


def test_trackers_go_on_with_its_steps_and_tasks(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a kill too; `of_phase` is the axis of W&B, `at` that of the others."""
    points: list[Point] = []
    monkeypatch.setattr(TensorBoardLog, "send", lambda self, new: points.extend(new))
    old, then = both(settings, "er", "logger=tensorboard", "trainer.log_every=1")
    before = sum(phase.steps for record in old.tasks for phase in record.phases)
    points.clear()
    with killed_after(2, "save_phase"), pytest.raises(Killed):
        run(then | {"checkpoint_every": 0})
    new = run(then)
    steps = range(before + 1, sum(phase.steps for record in new.tasks for phase in record.phases) + 1)
    assert [point.at for point in points if point.phase == "train"] == [*steps]
    assert [point.of_phase for point in points if point.phase == "train"] == [*steps]
    assert [point.at for point in points if point.phase == "task"] == [2, 3]


@pytest.mark.parametrize("method", ["er", "ewc"])
def test_it_goes_on_as_one_run_of_all_tasks_would(
    method: str, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where tasks share their outputs, no network grows: bit for bit the same."""
    _, then = both(settings, method, kind="domain")
    continued = run(then)
    parts = [settings(method, data, kind="domain") for data in ("first", "then")]
    scenario = joined(*(own_scenario(part, checked(part)) for part in parts))
    monkeypatch.setattr("cl_bench.runs.setup.own_scenario", lambda *_: scenario)
    whole = parts[0] | {"output_root": str(tmp_path / "whole")}
    expected = table(run(whole))
    np.testing.assert_array_equal(table(continued)[np.tril_indices(4)], expected[np.tril_indices(4)])
    files = [folder_of(of) / "checkpoints" / "task3.pt" for of in (then, whole)]
    ours, theirs = (torch.load(file, weights_only=True)["method"] for file in files)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours if torch.is_tensor(ours[name]))


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        pytest.param(method, kind, marks=[pytest.mark.slow] * (method not in SOME or kind == "task"))
        for method in GROWS
        for kind in ("class", "task")
    ],
)
def test_what_has_grown_answers_as_before_and_learns(method: str, kind: str, settings: Settings) -> None:
    try:
        old, then = both(settings, method, kind=kind)
    except NotApplicable:
        pytest.skip(f"{method} has no meaning there")
    scenario, learner = prepare(then)
    fresh = learner.state_dict()
    state = state_to_go_on(then)["method"]
    learner.load_state_dict(grown(state, fresh))
    score = Score(scenario)
    score.measure(learner, after=1)
    assert score.results().R[1][:2] == old.R[1]
    for name, value in learner.state_dict().items():
        if torch.is_tensor(value) and value.shape != state[name].shape:  # later outputs as in a new method
            rows = [slice(n) for n in state[name].shape]
            assert torch.equal(value[tuple(rows)], state[name])
            assert torch.equal(value[len(state[name]) :], fresh[name][len(state[name]) :])
    new = run(then)
    assert not np.isnan(table(new)[3]).any()
    after = torch.load(folder_of(then) / "checkpoints" / "task3.pt", weights_only=True)["method"]
    assert len(after["network.head.weight"]) == 8


def test_a_run_may_continue_one_that_continues(settings: Settings) -> None:
    _, then = both(settings, "finetune")
    run(then)
    last = settings("finetune", "last", f"continue_from={folder_of(then)}")
    results = run(last)
    assert table(results).shape == (5, 5)
    assert results.class_names[-2:] == ["eight", "nine"]
    assert name_of(last).count("+") == 2
    assert cl_bench.evaluate(cl_bench.load(folder_of(last))).tolist() == results.R[4]


# ------------------------------------------------------------------------------------------------- its name


def test_its_key_follows_from_what_it_came_from(settings: Settings, tmp_path: Path) -> None:
    old, then = both(settings, "finetune")
    folder = Path(then["continue_from"])
    alone = settings("finetune", "then")
    assert key_of(alone) == key_of(alone | {"continue_from": None})
    moved = shutil.copytree(folder, tmp_path / "moved")
    elsewhere = settings("finetune", "then", f"continue_from={moved}")
    assert key_of(elsewhere) == key_of(then) != key_of(alone)
    results = json.loads((moved / "results.json").read_text())
    del results["sha256"]
    results["R"][1][0] = 0.125
    (moved / "results.json").write_text(json.dumps(results))
    assert key_of(settings("finetune", "then", f"continue_from={moved}", "seed=0")) != key_of(then)  # composed anew
    assert then["came_from"]["tasks"] == 2
    assert "seed" not in then["came_from"]
    assert settings("finetune", "then", f"continue_from={folder}", "seed=1")["came_from"]["seed"] == 0
    with pytest.raises(InputError, match="has changed"):
        run(elsewhere)
    assert old.status == "finished"


def test_seeds_of_a_run_that_continues_a_continued_one_have_one_configuration(tmp_path: Path) -> None:
    """Else a report would never average them."""
    keys = set()
    for seed, tasks in ((0, 2), (1, 2), (1, 3)):
        config = small_settings(f"seed={seed}")
        config |= {"came_from": {"dataset": "npz", "key": "01", "tasks": tasks, "digest": f"of seed {seed}"}}
        results = {"config": config, "classes": [["0"]] * 4} | {name: [] for name in ("R", "b", "n_test")}
        (tmp_path / "results.json").write_text(json.dumps(results))
        found = came_from({"continue_from": str(tmp_path), "seed": seed})
        assert found
        keys.add((found["tasks"], found["key"]))
    assert len(keys) == 2


# ---------------------------------------------------------------------------------------------------- kills


@pytest.mark.parametrize("after", [1, 6])
def test_killed_and_resumed_equals_uninterrupted(after: int, settings: Settings, tmp_path: Path) -> None:
    _, then = both(settings, "icarl", "checkpoint_every=0", "keep_models=all", "trainer.chunk=2")
    whole = run(then)
    killed = then | {"output_root": str(tmp_path / "killed")}
    with killed_after(after), pytest.raises(Killed):
        run(killed)
    resumed = run(killed)
    assert resumed.R == whole.R
    assert without_clocks(resumed) == without_clocks(whole)
    models = [sorted(folder.name for folder in (folder_of(of) / "models").iterdir()) for of in (then, killed)]
    assert models == [["task2", "task3"]] * 2
    assert carried_out(killed, [])[0].R == whole.R  # finished, with all its models


# ------------------------------------------------------------------------------------------------- bad input


@pytest.fixture(scope="module")
def finished(sets: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run of er."""
    words = ("method=er", "dataset=npz", f"dataset.path={sets['first']}", "scenario.n_tasks=2", "memory=40")
    found = small_settings(*words, "trainer.epochs=1") | {"output_root": str(tmp_path_factory.mktemp("finished"))}
    run(found)
    return folder_of(found)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["method=finetune"], r"its run has method._target_=.*ER, here .*Finetune"),
        (["network.hidden=[9]"], r"its run has network.hidden=\[32\], here \[9\]"),
        (["memory=50"], "its run has memory.images=40, here 50"),
        (["method.n_replay=5"], "its run has method.n_replay=null, here 5"),
        (["optimizer.keep_state=true"], "optimizer.keep_state=true would use the moments"),
        (["scenario=task_incremental"], "scenario.kind=task: the run that is continued is class-incremental"),
        (["scenario.train_mask=all"], "scenario.train_mask=all: the run that is continued has seen"),
        (["dataset.size=9"], "dataset: has images of 1x9x9, the run that is continued of 1x8x8"),
        (
            ["dataset.mean=[0.5]", "dataset.std=[0.2]"],
            r"dataset.mean=\[0.5\]: pixels are normalized as in its run, which has n",
        ),
        (["dataset.path=FIRST"], "dataset: class 'zero' is a class of the run that is continued"),
        (["scenario.passes=online"], "this one is a stream"),
        (["reference=x"], "leave out reference"),
        (["scenario=permuted", "scenario.kind=class"], "this one shows the same images in several forms"),
        (["continue_from=FOLDERx"], "no such folder; did you mean"),
        (["continue_from=EMPTY"], "has no results.json"),
    ],
)
def test_what_cannot_go_on_is_one_line(
    more: list[str], words: str, finished: Path, sets: dict[str, Path], tmp_path: Path
) -> None:
    names = {"FOLDER": str(finished), "FIRST": str(sets["first"]), "EMPTY": str(tmp_path)}
    put = [word.replace(name, place) for word in more for name, place in names.items() if name in word] or more
    chosen = {word.partition("=")[0] for word in put}
    base = ["method=er", "dataset=npz", f"dataset.path={sets['then']}", "memory=40", f"continue_from={finished}"]
    base = ["scenario.n_tasks=2", *base]
    base = [word for word in base if word.partition("=")[0] not in chosen]
    with pytest.raises(InputError, match=words) as error:
        carried_out(small_settings(*base, *put) | {"output_root": str(tmp_path / "outputs")}, [])
    assert "\n" not in str(error.value)
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "checkpoints" / "task1.pt").unlink(), "has no state after task 1"),
        (lambda folder: (folder / "checkpoints" / "task1.pt").write_bytes(b"PK"), "task1.pt is damaged"),
        (lambda folder: (folder / "results.json").write_text("{"), "results.json is damaged"),
    ],
)
def test_a_damaged_run_cannot_be_continued(spoil: Any, words: str, finished: Path, sets: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "copy")
    spoil(folder)
    base = ["method=er", "dataset=npz", f"dataset.path={sets['then']}", "memory=40", f"continue_from={folder}"]
    base.append("scenario.n_tasks=2")
    with pytest.raises(InputError, match=words):
        carried_out(small_settings(*base) | {"output_root": str(tmp_path / "outputs")}, [])
    assert not list((tmp_path / "outputs").glob("*/*/results.json"))


def test_a_run_that_is_not_finished_cannot_be_continued(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    old = settings("er", "first")
    with monkeypatch.context() as patch:
        patch.setattr("cl_bench.runs.recorder.draw_results", lambda *_: pytest.fail("stopped here"))
        with pytest.raises(pytest.fail.Exception):
            run(old)
    with pytest.raises(InputError, match="its run is running; choose a finished one"):
        run(settings("er", "then", f"continue_from={folder_of(old)}"))


def test_a_method_that_cannot_grow_is_left_out_of_a_sweep(settings: Settings) -> None:
    _, then = both(settings, "hat", kind="task")
    with pytest.raises(NotApplicable, match=r"^method=hat: cannot continue .* these can: agem, bic, .*er, .*wa$"):
        carried_out(then, [])


def test_it_is_refused_without_torch(finished: Path, tmp_path: Path) -> None:
    code = f"""
import sys
from cl_bench.__main__ import main
assert main(["method=ewc", "dataset=digits", "continue_from={finished}"]) == 1
assert main(["method=er", "continue_from=nowhere"]) == 1
assert "torch" not in sys.modules
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    lines = ended.stderr.splitlines()
    assert "its run has method._target_=" in lines[0]
    assert lines[1].startswith("error: continue_from=nowhere: no such folder")


def test_pretrained_weights_are_part_of_what_it_came_from(finished: Path, settings: Settings, tmp_path: Path) -> None:
    results, place = json.loads((finished / "results.json").read_bytes()), tmp_path / "pretrained"
    place.mkdir()
    results["config"]["weights"] = {"network": "0123456789abcdef"}
    (place / "results.json").write_text(json.dumps(results))
    found = settings("er", "then", f"continue_from={place}")
    assert found["came_from"]["tasks"] == 2
    with pytest.raises(InputError, match=r"its run has weights\.network=0123456789abcdef, here null"):
        check_goes_on(found, replace(load_results(finished), config=results["config"]), "continue_from=x")
