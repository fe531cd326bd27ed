"""A whole run: what it leaves behind, and what must not change its numbers."""

from __future__ import annotations

import csv
import json
import time
from typing import Any

import pytest
import torch
from conftest import Compose, small_settings, there

from cl_bench.config import InputError
from cl_bench.config.names import folder_of, key_of
from cl_bench.evaluation import metrics
from cl_bench.evaluation.judge import Judge
from cl_bench.methods.finetune import Finetune
from cl_bench.record import Results
from cl_bench.runs import loop
from cl_bench.runs.loop import run


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A generative run with nothing changed."""
    return run(small_settings("method=dgr") | {"output_root": str(tmp_path_factory.mktemp("plain"))})


def test_what_a_generative_run_leaves_behind(small: Compose, pictures: None) -> None:
    settings = small("method=dgr", "trainer.chunk=1000")
    results = run(settings)
    folder = folder_of(settings)
    kept = json.loads((folder / "results.json").read_text())
    assert kept["status"] == "finished"
    assert kept["masks"] == {"train": "seen", "evaluation": "seen", "baseline": "all"}
    assert kept["classes"] == [["0", "1"], ["2", "3"], ["4", "5"], ["6", "7"], ["8", "9"]]
    assert sum(kept["n_test"]) == 359
    assert len(kept["b"]) == 5
    assert kept["R"][1][4] == 0  # classes that were never seen, among those seen
    assert kept["R_task_masked"][1][4] > 0
    assert kept["versions"]["torch"] == str(torch.__version__)
    assert kept["config"]["method"]["n_gen"] == 100
    assert kept["peak_memory_mb"] > 100
    assert kept["bytes_kept"] == 4 * kept["parameters"]  # float32 weights of solver, generator and critic
    phases = [[phase["phase"] for phase in task["phases"]] for task in kept["tasks"]]
    assert phases == [["solver", "generator"]] * 5
    steps = kept["tasks"][1]["phases"][1]
    assert steps["optimizer_steps"] == [steps["steps"], steps["steps"] // 2]  # of the critic and of the generator
    assert [sum(task["diagnostics"].get("replay_histogram", [])) for task in kept["tasks"]] == [0, 100, 200, 300, 400]
    assert [file.name for file in sorted((folder / "samples").iterdir())] == [f"task{i}.png" for i in range(1, 6)]
    figures = {"accuracy_matrix.png", "accuracy_over_tasks.png", "fid_over_tasks.png", "mergan_score_over_tasks.png"}
    assert {file.name for file in (folder / "figures").iterdir()} >= figures

    rows = list(csv.DictReader((folder / "accuracy.csv").open()))
    last = [float(row["accuracy"]) for row in rows if row["after"] == "4" and row["mask"] == "seen"]
    assert last == results.R[4]
    losses = [row for row in csv.DictReader((folder / "log.csv").open()) if row["phase"] != "task"]
    assert {row["name"] for row in losses} == {"loss", "wasserstein", "penalty", "generator"}
    steps_logged = [int(row["step"]) for row in losses]
    assert steps_logged == sorted(steps_logged)
    assert steps_logged[-1] == sum(phase["steps"] for task in kept["tasks"] for phase in task["phases"])


@pytest.mark.parametrize(
    "override",
    [
        "trainer.chunk=1",
        "trainer.log_every=1",
        "checkpoint_every=0",
        "logger=wandb",
        "data_dir=elsewhere",
        "debug=true",
    ],
)
def test_what_changes_no_number_changes_no_name(
    override: str, plain: Results, small: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    other = small("method=dgr", override)
    assert plain.key == key_of(other)
    assert plain.R == run(other).R


def test_what_changes_numbers_changes_the_name(small: Compose) -> None:
    overrides = ["seed=1", "method.n_gen=101", "trainer.epochs=3", "scenario.class_order=random", "network.hidden=[33]"]
    keys = {key_of(small("method=dgr", override)) for override in [*overrides, "seed=0"]}
    assert len(keys) == len(overrides) + 1


def test_the_seed_is_all_that_chance_depends_on(plain: Results, small: Compose) -> None:
    torch.manual_seed(2)
    torch.rand(7)
    assert run(small("method=dgr")).R == plain.R
    assert run(small("method=dgr", "seed=1")).R != plain.R


@pytest.mark.parametrize("reference", ["joint", "cumulative"])
def test_intransigence_against_a_reference_run(reference: str, small: Compose) -> None:
    best = small(f"method={reference}")
    a = run(best).R
    mine = small("method=finetune", f"reference={folder_of(best)}")
    results = run(mine)
    bests = [there(a[i][i] if reference == "cumulative" else a[4][i]) for i in range(5)]
    expected = [best - there(results.R[i][i]) for i, best in enumerate(bests)]
    assert results.metrics["intransigence"] == pytest.approx(sum(expected) / 5)
    with pytest.raises(InputError, match="reference=nowhere: there is no finished run"):
        run(small("method=finetune", "reference=nowhere", root="other"))


def test_numbers_below_the_normal_ones_are_zero_in_a_run(small: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    found, learn_tasks = [], loop.learn_tasks

    def looked_at(*parts: Any) -> Results:
        found.append(float(torch.tensor(1e-39) * 1))
        return learn_tasks(*parts)

    monkeypatch.setattr(loop, "learn_tasks", looked_at)
    run(small("method=finetune"))
    assert found == [0.0]
    assert float(torch.tensor(1e-39) * 1) > 0, "other code of the process has them still"


def test_seconds_are_of_training_alone(small: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = Judge.measure

    def slowly(self: Judge, *args: Any, **more: Any) -> Any:
        time.sleep(1)
        return measure(self, *args, **more)

    monkeypatch.setattr(Judge, "measure", slowly)
    began = time.monotonic()
    results = run(small("method=dgr", "scenario.n_tasks=2"))
    assert results.seconds == sum(task.seconds for task in results.tasks) < time.monotonic() - began - 2


def test_a_loss_gone_bad_stops_the_run_and_says_where(small: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Finetune.loss

    def loss(self: Finetune, batch: Any) -> torch.Tensor:
        return original(self, batch) * (float("nan") if self.index == 2 and self.step_index == 4 else 1)

    monkeypatch.setattr(Finetune, "loss", loss)
    settings = small("method=finetune")
    with pytest.raises(Exception, match=r"task 3, train, step \d+: loss is nan"):
        run(settings)
    kept = json.loads((folder_of(settings) / "results.json").read_text())
    assert kept["status"] == "failed"
    assert "loss is nan" in kept["reason"]
    assert kept["R"][1][1] > 0.3  # what was learned before is still there
    monkeypatch.setattr(Finetune, "loss", original)
    assert run(settings).R == run(small("method=finetune", root="other")).R


def test_accuracy_on_validation_images_while_the_learner_trains(plain: Results, small: Compose, pictures: None) -> None:
    results = run(small("method=dgr", "scenario.val_fraction=0.2", "scenario.n_tasks=2", "trainer.epochs=4"))
    solver, generator = results.tasks[1].phases
    assert generator.validation == []  # it is no classifier
    steps, accuracies = zip(*solver.validation, strict=True)
    assert steps[-1] == solver.steps
    assert 1 < len(steps) <= 20
    assert all(0 <= accuracy <= 1 for accuracy in accuracies)
    assert (folder_of(results.config) / "figures" / "validation.png").exists()
    assert plain.tasks[1].phases[0].validation == []  # nothing is set apart


@pytest.mark.parametrize(
    "name",
    [
        "BackwardTransfer",
        "AverageAccuracy",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("Forgetting", "WeightedAccuracy")),
    ],
)
def test_no_metric_ends_a_run(
    name: str, small: Compose, pictures: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Pictures, log.csv and results.json take its NaN, with one warning in all."""

    def fails(metric: Any) -> None:
        raise RuntimeError("it can't be computed")

    monkeypatch.setattr(getattr(metrics, name), "compute", fails)
    settings = small("method=finetune", "trainer.epochs=1")
    results = run(settings)
    (metric,) = [short for short, value in results.metrics.items() if value is None]
    assert results.status == "finished"
    assert caplog.messages == [f"{metric} can't be measured: NaN (it can't be computed)"]
    kept = json.loads((folder_of(settings) / "results.json").read_text(), parse_constant=pytest.fail)
    assert kept["metrics"][metric] is None
    assert (folder_of(settings) / "figures" / "accuracy_matrix.png").exists()
