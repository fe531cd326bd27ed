"""Deep generative replay: what is replayed, how it is labelled, and that the old scholar stays as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import Compose

from cl_bench.config import InputError
from cl_bench.data.batches import REPLAYED, Batch, Data
from cl_bench.methods.base import Learner
from cl_bench.methods.dgr import DGR
from cl_bench.runs.loop import run
from cl_bench.runs.setup import prepare


def scholar(small: Compose, *overrides: str, task: int = 2) -> tuple[DGR, Any]:
    """A method in the middle of learning, its old scholar in place."""
    scenario, method = prepare(small("method=dgr", *overrides))
    assert isinstance(method, DGR)
    method.task = task
    method._old = method.scholar()
    return method, scenario


class Recorder:
    """Stands for `fit`: notes what would be trained on and trains nothing."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Data, dict[str, Any]]] = []

    def __call__(self, module: Learner, data: Data, *, phase: str, **more: Any) -> None:
        self.calls.append((phase, data, more))


@pytest.mark.parametrize(("mode", "expected"), [("per_task", [0, 50, 100, 150, 200]), ("total", [0, 50, 50, 50, 50])])
def test_n_gen_counts_per_past_task_or_in_total(mode: str, expected: list[int], small: Compose) -> None:
    scenario, method = prepare(small("method=dgr", "method.n_gen=50", f"method.n_gen_mode={mode}"))
    replayed = []
    for task in scenario.tasks:
        fit = Recorder()
        method.task = task.index
        method.learn(task, fit)
        assert [phase for phase, *_ in fit.calls] == ["solver", "generator"]
        solver, generator = (data for _, data, _ in fit.calls)
        assert solver is generator  # both learn from one mixture
        replayed.append(int((solver.task == REPLAYED).sum()))
        assert len(solver) - replayed[-1] == len(task.train)
    assert replayed == expected


@pytest.mark.parametrize("kind", ["class", "task", "domain"])
def test_dreams_bear_labels_that_the_old_solver_knows(kind: str, small: Compose) -> None:
    method, _ = scholar(small, f"scenario={kind}_incremental")
    dreams = method.generate_replay(200)
    assert dreams.images.dtype == torch.uint8
    assert dreams.images.shape == (200, 1, 8, 8)
    known = {0, 1} if kind == "domain" else {0, 1, 2, 3}
    assert set(dreams.labels.tolist()) <= known
    assert sum(method.diagnostics["replay_histogram"]) == 200


def test_hard_labels_are_the_old_solvers_choice(small: Compose) -> None:
    method, _ = scholar(small)
    x = torch.rand(50, 1, 8, 8)
    with torch.no_grad():
        expected = method.old.solver(x)[:, :4].argmax(1)
        for p in method.network.parameters():
            p.add_(torch.randn_like(p))  # the new solver has moved on; the labels must not
    assert torch.equal(method.old_labels(x), expected)


def test_balancing_evens_out_the_classes(small: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    method, _ = scholar(small, "method.balance=true")
    skewed = torch.tensor([0] * 70 + [1] * 10 + [2] * 10 + [3] * 10)
    monkeypatch.setattr(method, "replayed", lambda n: (torch.rand(n, 1, 8, 8), skewed))
    assert torch.equal(torch.bincount(method.generate_replay(100).labels), torch.tensor([25, 25, 25, 25]))
    rare = torch.tensor([0] * 98 + [1, 2])  # a class that never comes can't be made up for
    monkeypatch.setattr(method, "replayed", lambda n: (torch.rand(n, 1, 8, 8), rare))
    assert torch.equal(torch.bincount(method.generate_replay(100).labels), torch.tensor([92, 4, 4]))


def test_collapse_is_a_warning_with_the_histogram(
    small: Compose, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    method, _ = scholar(small)
    monkeypatch.setattr(method, "replayed", lambda n: (torch.rand(n, 1, 8, 8), torch.full((n,), 3)))
    method.generate_replay(30)
    assert "collapsed" in caplog.text
    assert "[0, 0, 0, 30, 0" in caplog.text


def test_one_past_class_is_no_collapse(small: Compose, caplog: pytest.LogCaptureFixture) -> None:
    method, _ = scholar(small, "scenario.n_tasks=10", task=1)
    assert method.generate_replay(30).labels.unique().tolist() == [0]
    assert method.diagnostics["replay_histogram"][0] == 30
    assert not caplog.text


def test_fresh_replay_weighs_new_and_old_by_r(small: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    method, scenario = scholar(small, "method.replay=fresh", "method.ratio=0.3")
    batch: Batch = scenario.tasks[2].train.batch(torch.arange(32))
    x, y = method.replayed(32)
    monkeypatch.setattr(method, "replayed", lambda n: (x, y))
    new = super(DGR, method).loss(batch)
    old = super(DGR, method).loss(Batch(x, y, torch.full_like(y, REPLAYED)))
    assert method.loss(batch).item() == pytest.approx((0.3 * new + 0.7 * old).item(), rel=1e-5)
    method.ratio = None
    assert method.share == pytest.approx(1 / 3)
    monkeypatch.setattr(method, "replayed", lambda n: (torch.full((n, 1, 8, 8), 2.0), torch.full((n,), 3)))
    mixed = method.mixed(batch)
    for part, own in zip(mixed[:3], batch[:3], strict=True):
        assert torch.equal(part[:11], own[:11])
    assert (mixed.x[11:] == 2).all()
    assert (mixed.y[11:] == 3).all()
    assert (mixed.task[11:] == REPLAYED).all()


@pytest.mark.parametrize("kind", ["class", "task", "domain"])
def test_soft_labels_ask_for_the_old_answer_and_nothing_of_new_classes(kind: str, small: Compose) -> None:
    """While old and new solver agree, replayed images pull nowhere but away from classes the old one never saw."""
    method, _ = scholar(small, f"scenario={kind}_incremental", "method.labels=soft", "method.temperature=0.5")
    dreams = method.generate_replay(64).batch(torch.arange(64))
    logits = method(dreams.x).detach().requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DGR, "forward", lambda self, x, task=None: logits)
        (gradient,) = torch.autograd.grad(method.replay_loss(dreams.x, dreams.y).sum(), logits)
    assert gradient.isfinite().all()
    if kind == "class":
        assert (gradient[:, 4:6] > 0).all()  # the classes of the task being learned are pushed down
        assert (gradient[:, :4].sum(1) < 0).all()
        assert not gradient[:, 6:].any()
    else:
        assert gradient.abs().max() < 1e-5


@pytest.mark.parametrize("labels", ["hard", "soft"])
@pytest.mark.parametrize("replay", ["fixed", "fresh"])
@pytest.mark.parametrize("generator", ["reset", "continue"])
def test_every_variant_runs(labels: str, replay: str, generator: str, small: Compose) -> None:
    results = run(
        small(
            "method=dgr",
            f"method.labels={labels}",
            f"method.replay={replay}",
            f"method.generator={generator}",
        )
    )
    assert results["status"] == "finished"


def test_one_number_of_epochs_per_task(small: Compose) -> None:
    scenario, method = prepare(small("method=dgr", "method.generator_epochs=[1,2,3,4,5]"))
    fit = Recorder()
    method.task = 3
    method.learn(scenario.tasks[3], fit)
    assert fit.calls[1][2] == {"epochs": 4, "steps": None}
    with pytest.raises(InputError, match=r"method.generator_epochs=\[1, 2\].*each of 5 tasks"):
        prepare(small("method=dgr", "method.generator_epochs=[1,2]"))


def test_fresh_replay_keeps_a_histogram_and_has_nothing_to_balance(small: Compose) -> None:
    results = run(small("method=dgr", "method.replay=fresh"))
    assert [sum(task["facts"].get("replay_histogram", [])) for task in results["tasks"]] == [0, 1000, 1000, 1000, 1000]
    with pytest.raises(InputError, match=r"method.balance=true.*method.replay=fixed"):
        prepare(small("method=dgr", "method.replay=fresh", "method.balance=true"))


def test_it_runs_in_half_precision(small: Compose) -> None:
    assert run(small("method=dgr", "trainer.precision=bf16-mixed"))["status"] == "finished"
