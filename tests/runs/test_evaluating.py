"""`evaluate_every`: the curve is right, complete and equal after a kill, and nothing else moves."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Compose, Killed, killed_after, made, small_settings, there, without_clocks

import cl_bench
from cl_bench.config import InputError
from cl_bench.config.checks import check_settings
from cl_bench.config.names import folder_of
from cl_bench.data import tasks
from cl_bench.data.problem import Task, masked
from cl_bench.evaluation.scores import Score
from cl_bench.methods.finetune import Finetune
from cl_bench.network_record import Evaluation
from cl_bench.record import Results, load_results, to_json
from cl_bench.runs.evaluating import evaluate
from cl_bench.runs.loggers import EVALUATED, read
from cl_bench.runs.loop import run
from cl_bench.runs.setup import prepare

VALIDATION = ("evaluate_on=validation", "scenario.val_fraction=0.2")


def curves(results: Results) -> list[Evaluation | None]:
    return [phase.evaluation for record in results.tasks for phase in record.phases]


def state_of(settings: dict[str, Any], task: int = 4) -> dict[str, Any]:
    return torch.load(folder_of(settings) / "checkpoints" / f"task{task}.pt", weights_only=True)["method"]


@pytest.mark.parametrize("more", [(), ("network=cnn", "network.channels=[4]", "network.hidden=8")])
def test_it_changes_nothing_but_the_curve_and_cuts_no_chunk(
    more: tuple[str, ...], small: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks: list[int] = []
    step = Finetune.training_step

    def noted(method: Finetune, chunk: Any, number: int) -> None:
        chunks.append(len(chunk))
        step(method, chunk, number)
        assert method.training

    monkeypatch.setattr(Finetune, "training_step", noted)
    base = ("method=finetune", "scenario.n_tasks=2", "trainer.iterations=12", "trainer.chunk=5", *more)
    plain, looked = small(*base), small(*base, "evaluate_every=4", root="looked")
    without = run(plain)
    steps, chunks[:] = list(chunks), []
    found = run(looked)
    assert chunks == steps == [5, 5, 2] * 2
    assert (found.R, found.metrics) == (without.R, without.metrics)
    assert [there(curve).points[-1][0] for curve in curves(found)] == [12, 12]
    assert curves(without) == [None, None]
    states = state_of(plain, 1), state_of(looked, 1)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0] if name.startswith("network."))


def test_the_points_are_every_so_many_steps_and_the_last(small: Compose) -> None:
    results = run(small("method=finetune", "trainer.iterations=8", "evaluate_every=3"))
    for index, curve in enumerate(there(curve) for curve in curves(results)):
        assert (curve.on, curve.tasks) == ("test images", list(range(index + 1)))
        assert [step for step, _ in curve.points] == [3, 6, 8]
        assert curve.points[-1][1] == results.R[index][: index + 1]  # nothing comes after the last step


def test_epochs_are_passes_over_the_images(small: Compose) -> None:
    for more, last in (("trainer.epochs=3", 9), ("trainer.iterations=7", 7)):
        settings = small("method=finetune", more, "evaluate_every=2", "evaluate_unit=epochs", root=more)
        n = prepare(settings)[0].tasks[0].train.n_batches(settings["trainer"]["batch_size"])
        assert n == 3
        assert [step for step, _ in there(curves(run(settings))[0]).points] == [6, last]


def test_the_step_at_which_patience_ends_a_training_is_a_point(small: Compose) -> None:
    patience = ("trainer.epochs=40", "trainer.patience=1", "optimizer.lr=0.05", "scenario.val_fraction=0.2")
    results = run(small("method=finetune", *patience, "evaluate_every=1000", "scenario.n_tasks=2"))
    phases = [phase for record in results.tasks for phase in record.phases]
    assert all(phase.steps < 40 for phase in phases)
    assert [[step for step, _ in there(phase.evaluation).points] for phase in phases] == [[p.steps] for p in phases]


def test_on_validation_images_by_hand() -> None:
    """And the modes of all modules are as before, and no random number is drawn."""
    settings = small_settings("method=finetune", *VALIDATION, "evaluate_every=1")
    scenario, method = prepare(settings)
    assert isinstance(method, Finetune)
    method.index = 1
    method.train()
    method.network.eval()
    curve = there(evaluate(settings, scenario, Score(scenario), method, scenario.tasks[1]))
    state = torch.get_rng_state()
    accuracies = curve.measure(5)
    assert torch.equal(torch.get_rng_state(), state)
    assert method.training
    assert not method.network.training
    for task, accuracy in zip(scenario.tasks[:2], accuracies, strict=True):
        batch = next(task.val.batches())
        allowed = torch.arange(10) < 4
        assert accuracy == float((masked(method(batch.x), allowed).argmax(1) == batch.y).double().mean())
    assert curve.on == "validation images"


def test_a_network_that_draws_takes_nothing_from_the_training(small: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = Finetune.forward

    def noisy(method: Finetune, x: torch.Tensor, index: int | None = None) -> torch.Tensor:
        logits = forward(method, x, index)
        return logits + torch.randn_like(logits) * (0.1 if method.training else 10)

    monkeypatch.setattr(Finetune, "forward", noisy)
    base = ("method=finetune", "trainer.iterations=6")
    plain, looked = small(*base), small(*base, "evaluate_every=2", root="looked")
    run(plain)
    run(looked)
    states = state_of(plain), state_of(looked)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0] if name.startswith("network."))


@pytest.mark.parametrize(
    ("method", "after"), [("packnet", 3), ("packnet", 8), ("dgr", 5)]
)  # in the middle of a training, and in the second one
def test_the_curve_is_the_same_after_a_kill(method: str, after: int, small: Compose) -> None:
    kind = "scenario=task_incremental" if method == "packnet" else "scenario=class_incremental"
    base = (f"method={method}", kind, "scenario.n_tasks=2", "trainer.iterations=7", "trainer.chunk=2")
    base = (*base, "evaluate_every=3", *VALIDATION)
    whole = run(small(*base, root="whole"))
    logged = read(folder_of(small(*base, root="whole")) / "log.csv")
    settings = small(*base, root="killed") | {"checkpoint_every": 0}
    with killed_after(after, "save_phase"), pytest.raises(Killed):
        run(settings)
    assert without_clocks(run(settings)) == without_clocks(whole)
    rows = [row for row in read(folder_of(settings) / "log.csv") if row.phase != "task"]
    assert rows == [row for row in logged if row.phase != "task"]
    curve = there(whole.tasks[1].phases[0].evaluation)
    assert [step for step, _ in curve.points] == [3, 6, 7]
    assert load_results(folder_of(settings)).tasks[1].phases[0].evaluation == curve


def test_the_log_says_on_which_images(small: Compose) -> None:
    settings = small("method=finetune", "scenario.n_tasks=2", "trainer.iterations=4", "evaluate_every=2", *VALIDATION)
    results = run(settings)
    rows = [row for row in read(folder_of(settings) / "log.csv") if row.phase == EVALUATED]
    names = ["validation_accuracy/mean", "validation_accuracy/0", "validation_accuracy/1"]
    assert [row.name for row in rows if row.step == 8] == names
    assert [row.name for row in rows if row.step == 2] == names[:2]
    assert [row.step for row in rows if row.name == names[0]] == [2, 4, 6, 8]
    accuracies = there(results.tasks[1].phases[0].evaluation).points[-1][1]
    assert [row.value for row in rows if row.step == 8] == [sum(map(there, accuracies)) / 2, *accuracies]
    history = cl_bench.load(folder_of(settings)).history()
    assert set(names) <= set(history["name"])


def test_of_many_tasks_some_are_followed_and_few_points_kept() -> None:
    scenario, method = made("finetune", "scenario=permuted", "scenario.n_tasks=90", "scenario.max_train=10")
    settings = small_settings("method=finetune") | {"evaluate_every": 1}
    looked = [there(evaluate(settings, scenario, Score(scenario), method, task)) for task in scenario.tasks]
    assert max(len(there(curve.tasks)) for curve in looked) <= 41
    assert all(there(curve.tasks)[-1] == index for index, curve in enumerate(looked))
    assert len({name for curve in looked for name in curve.names}) <= 41  # W&B draws a panel for each
    phase = there(looked[5].phase(method, 1000, 10))
    phase.points = [(step, [0.5]) for step in range(1, 1001)]
    assert len(phase.record.points) == 2000 // 90
    assert (phase.record.points[0][0], phase.record.points[-1][0]) == (1, 1000)


def test_a_test_set_that_all_share_is_one_curve() -> None:
    scenario, method = made("finetune")
    tests = scenario.tests[0]
    for test in scenario.tests[1:]:
        tests = tests + test
    scenario.tests = [tests]
    method.index = 1
    curve = there(evaluate({"evaluate_every": 1, "seed": 0}, scenario, Score(scenario), method, scenario.tasks[1]))
    assert (curve.tasks, curve.names) == (None, ["all"])
    answers = masked(method(tests.images / 255), torch.arange(10) < 4).argmax(1)
    assert curve.measure(1) == [float((answers == tests.labels).double().mean())]


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ("joint_gan", "trains a part of itself alone, in phase gan"),
        ("finetune", "has no training of steps"),
    ],
)
def test_what_can_not_be_measured_is_said(
    method: str, reason: str, small: Compose, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once. joint_gan learns its last task alone; the other one here learns without `fit`."""
    monkeypatch.setattr(Finetune, "learn", lambda *_: None)
    with caplog.at_level(logging.WARNING):
        run(small(f"method={method}", "scenario.n_tasks=2", "trainer.iterations=4", "evaluate_every=2"))
    told = [record.getMessage() for record in caplog.records if "evaluate_every" in record.getMessage()]
    assert told == [f"evaluate_every=2: nothing is measured while method={method} learns, which {reason}"]


def test_a_learner_that_can_not_answer_yet_is_nan_and_one_warning(
    small: Compose, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one whose answers are worked out when a task ends, while it is learned or in the middle of a stream."""

    def not_yet(*_: Any) -> Any:
        raise RuntimeError("no answer before the task ends")

    monkeypatch.setattr(Score, "accuracies", not_yet)
    monkeypatch.setattr(Score, "on_stream", not_yet)
    quick = ("method=finetune", "scenario.n_tasks=2")
    learned = run(small(*quick, "trainer.iterations=4", "evaluate_every=2"))
    assert to_json([there(phase.evaluation).points for phase in learned.tasks[0].phases]) == [
        [[2, [None]], [4, [None]]]
    ]
    stream = run(small(*quick, "scenario.passes=online", "scenario.max_train=60", "scenario.measure_every=40"))
    assert stream.stream
    assert {accuracy for _, accuracy in to_json(stream.stream)} == {None}
    assert stream.metrics["A_AUC"] is None
    told = [
        f"{name} can't be measured: NaN (no answer before the task ends)"
        for name in ("evaluate_every", "accuracy_on_stream")
    ]
    assert caplog.messages == told


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (("evaluate_every=0",), r"^evaluate_every=0: .*greater than 0$"),
        (("evaluate_every=1.5",), r"^evaluate_every=1\.5: "),
        (("evaluate_every=1epoch",), r"^evaluate_every=1epoch: "),
        (("evaluate_every=1", "evaluate_unit=epoch"), r"^evaluate_unit=epoch: .*'steps' or 'epochs'"),
        (("evaluate_every=1", "evaluate_on=train"), r"^evaluate_on=train: .*'test' or 'validation'"),
        (("evaluate_unit=epochs",), r"^evaluate_unit=epochs: nothing is measured while a task is learned; set eval"),
        (("evaluate_on=validation",), r"^evaluate_on=validation: nothing is measured while a task is learned; set "),
        (
            ("evaluate_every=5", "scenario.passes=online"),
            r"^evaluate_every=5: a stream \(scenario\.passes=online\) .*; set scenario\.measure_every$",
        ),
        (("evaluate_every=5", "scenario=blurry"), r"^evaluate_every=5: a stream"),
    ],
)
def test_a_wish_that_can_not_be_is_one_line(overrides: tuple[str, ...], line: str, small: Compose) -> None:
    with pytest.raises(InputError, match=line):
        check_settings(small("method=er", *overrides))


def test_validation_images_come_of_val_fraction_or_of_the_set_itself(small: Compose, tmp_path: Path) -> None:
    wish = ("method=finetune", "evaluate_every=1", "evaluate_on=validation", "scenario.n_tasks=2")
    with pytest.raises(InputError, match=r"^evaluate_on=validation: scenario\.val_fraction=0\.0 sets no .*; try 0\.1$"):
        prepare(small(*wish))
    x, y = np.zeros((8, 4, 4), np.uint8), np.arange(8) % 4
    parts = ("train", "test", "val")
    np.savez(tmp_path / "own.npz", **{f"x_{part}": x for part in parts}, **{f"y_{part}": y for part in parts})  # type: ignore[arg-type]
    scenario, _ = prepare(small(*wish, "dataset=npz", f"dataset.path={tmp_path / 'own.npz'}"))
    assert [len(task.val) for task in scenario.tasks] == [4, 4]


def test_a_task_without_validation_images_is_refused(
    small: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a scenario of somebody else may have it, whose own keys say nothing of them."""

    def without(*args: Any, make: Any = tasks.task_of) -> Task:
        task = make(*args)
        return replace(task, val=task.val[task.val.labels < 0]) if task.index == 2 else task

    monkeypatch.setattr("cl_bench.data.scenarios.task_of", without)
    with pytest.raises(InputError, match=r"^evaluate_on=validation: a task has no images set aside; choose test$"):
        run(small("method=finetune", "evaluate_every=1", *VALIDATION))
    assert not (tmp_path / "outputs").exists()
