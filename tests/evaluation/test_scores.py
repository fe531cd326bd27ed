"""What must come out, whatever the details: bounds, masks and the order of the methods on digits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import made, there

from cl_bench.config.compose import compose
from cl_bench.evaluation.scores import Score
from cl_bench.runs.loop import run

Accuracy = Callable[..., dict[str, float]]


@pytest.fixture(scope="module")
def accuracy(tmp_path_factory: pytest.TempPathFactory) -> Accuracy:
    root: Path = tmp_path_factory.mktemp("scores")

    def score(*overrides: str) -> dict[str, float]:
        results = run(compose(f"output_root={root}", "trainer.threads=1", "network.hidden=[100]", *overrides))
        own = results.R_task_masked or results.R
        found = {name: x for name, x in results.metrics.items() if x is not None}  # a joint run has one row of R
        return found | {"task_masked": sum(map(there, own[-1])) / 5}

    return score


@pytest.mark.parametrize(
    "overrides",
    [
        ("scenario=blurry", "scenario.n_tasks=6", "scenario.disjoint=0.6"),
        ("scenario.passes=online", "scenario.repeat=true", "scenario.n_tasks=5"),
    ],
    ids=" ".join,
)
def test_classes_that_come_back_are_counted_once(overrides: tuple[str, ...]) -> None:
    scenario, _ = made("finetune", *overrides)
    metrics = Score(scenario).metrics
    seen = [len(scenario.problem.seen(task)) for task in range(len(scenario.tasks))]
    for k in (5, 10):
        assert (f"A{k}" in metrics) == (k in seen)
        if k in seen:
            assert metrics[f"A{k}"].tasks == seen.index(k) + 1


def test_naive_class_incremental_remembers_the_last_task_only(accuracy: Accuracy) -> None:
    naive = accuracy("method=finetune", "trainer.epochs=30")
    assert naive["ACC"] == pytest.approx(0.2, abs=0.03)
    assert naive["forgetting"] > 0.9
    assert naive["task_masked"] > 0.5  # the same run with the task given: another quantity


def test_training_on_current_classes_only_is_another_protocol(accuracy: Accuracy) -> None:
    """The "labels trick" lifts naive learning well above 1/5, and its task-masked accuracy further."""
    trick = accuracy("method=finetune", "scenario.train_mask=current", "trainer.epochs=30")
    assert trick["ACC"] == pytest.approx(0.55, abs=0.1)  # on digits; about .4 on MNIST
    assert trick["task_masked"] > 0.85


@pytest.mark.slow
def test_class_incremental_order(accuracy: Accuracy) -> None:
    naive, replay = accuracy("method=finetune"), accuracy("method=dgr", "method.generator_epochs=60")
    joint, cumulative = accuracy("method=joint", "trainer.epochs=20"), accuracy("method=cumulative")
    assert naive["ACC"] + 0.3 < replay["ACC"] < joint["ACC"] + 0.01
    assert joint["ACC"] > 0.95
    assert cumulative["ACC"] > 0.93
    assert replay["forgetting"] < 0.3


@pytest.mark.slow
def test_soft_labels_remember_too(accuracy: Accuracy) -> None:
    soft = accuracy("method=dgr", "method.generator_epochs=60", "method.labels=soft")
    assert soft["ACC"] > 0.5
    assert soft["forgetting"] < 0.5


def test_ewc_forgets_less_than_nothing_when_the_task_is_given(accuracy: Accuracy) -> None:
    permuted = ["scenario=permuted", "scenario.kind=task", "scenario.n_tasks=4", "trainer.epochs=20"]
    naive = accuracy("method=finetune", *permuted)
    ewc = accuracy("method=ewc", "method.strength=100", *permuted)
    assert naive["ACC"] + 0.02 < ewc["ACC"]
    assert ewc["forgetting"] < 0.03 < naive["forgetting"]
