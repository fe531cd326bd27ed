"""Deep generative replay: what is replayed, how it is labeled, and that the old scholar stays as it was."""

from __future__ import annotations

import pytest
import torch
from conftest import Compose, Recorder, made

from cl_bench.config import InputError
from cl_bench.data.batches import REPLAYED, Batch
from cl_bench.data.tasks import Scenario
from cl_bench.methods.dgr import DGR
from cl_bench.methods.parts.generative_replay import Scholar
from cl_bench.runs.loop import run


def learning(*overrides: str, task: int = 2) -> tuple[DGR, Scholar, Scenario]:
    """A method in the middle of learning, and what the last task left."""
    scenario, method = made("dgr", *overrides)
    method.index = task
    return method, method.scholar(), scenario


@pytest.mark.parametrize(("mode", "expected"), [("per_task", [0, 50, 100, 150, 200]), ("total", [0, 50, 50, 50, 50])])
def test_n_gen_counts_per_past_task_or_in_total(mode: str, expected: list[int]) -> None:
    scenario, method = made("dgr", "method.n_gen=50", f"method.n_gen_mode={mode}")
    replayed = []
    for task in scenario.tasks:
        fit = Recorder()
        method.learn_task(task, fit)
        assert [call.phase for call in fit.calls] == ["solver", "generator"]
        solver, generator = (call.data for call in fit.calls)
        assert solver is generator  # both learn from one mixture
        replayed.append(int((solver.task_ids == REPLAYED).sum()))
        assert len(solver) - replayed[-1] == len(task.train)
    assert replayed == expected


@pytest.mark.parametrize("kind", ["class", "task", "domain"])
def test_replayed_images_bear_labels_that_the_old_solver_knows(kind: str) -> None:
    method, old, scenario = learning(f"scenario={kind}_incremental", "method.n_gen=100")
    images, labels = method.generate_replay(old, 200)
    assert images.dtype == torch.uint8
    assert images.shape == (200, 1, 8, 8)
    known = {0, 1} if kind == "domain" else {0, 1, 2, 3}
    assert set(labels.tolist()) <= known
    assert sum(method.mixture(scenario.tasks[2], old)[1]["replay_histogram"]) == 200


def test_hard_labels_are_the_old_solvers_choice() -> None:
    method, old, _ = learning()
    x = torch.rand(50, 1, 8, 8)
    with torch.no_grad():
        expected = old.solver(x)[:, :4].argmax(1)
        for p in method.network.parameters():
            p.add_(torch.randn_like(p))  # the new solver has moved on; the labels must not
    assert torch.equal(method.old_labels(old, x), expected)


def test_balancing_evens_out_the_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    method, old, _ = learning("method.balance=true")
    skewed = torch.tensor([0] * 70 + [1] * 10 + [2] * 10 + [3] * 10)
    monkeypatch.setattr(method, "replayed", lambda old, n: (torch.rand(n, 1, 8, 8), skewed))
    assert torch.equal(torch.bincount(method.generate_replay(old, 100)[1]), torch.tensor([25, 25, 25, 25]))
    rare = torch.tensor([0] * 98 + [1, 2])  # a class that never comes can't be made up for
    monkeypatch.setattr(method, "replayed", lambda old, n: (torch.rand(n, 1, 8, 8), rare))
    assert torch.equal(torch.bincount(method.generate_replay(old, 100)[1]), torch.tensor([92, 4, 4]))


def test_collapse_is_a_warning_with_the_histogram(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    method, old, scenario = learning("method.n_gen=15")
    monkeypatch.setattr(method, "replayed", lambda old, n: (torch.rand(n, 1, 8, 8), torch.full((n,), 3)))
    method.mixture(scenario.tasks[2], old)
    assert "collapsed" in caplog.text
    assert "[0, 0, 0, 30, 0" in caplog.text


def test_one_past_class_is_no_collapse(caplog: pytest.LogCaptureFixture) -> None:
    method, old, scenario = learning("scenario.n_tasks=10", "method.n_gen=30", task=1)
    assert method.generate_replay(old, 30)[1].unique().tolist() == [0]
    assert method.mixture(scenario.tasks[1], old)[1]["replay_histogram"][0] == 30
    assert not caplog.text


def test_fresh_replay_weighs_new_and_old_by_r(monkeypatch: pytest.MonkeyPatch) -> None:
    method, before, scenario = learning("method.replay=fresh", "method.ratio=0.3")
    batch: Batch = scenario.tasks[2].train.batch(torch.arange(32))
    x, y = method.replayed(before, 32)
    monkeypatch.setattr(method, "replayed", lambda old, n: (x, y))
    new = super(DGR, method).loss(batch)
    old = super(DGR, method).loss(Batch(x, y, torch.full_like(y, REPLAYED)))
    assert method.loss(batch, before).item() == pytest.approx((0.3 * new + 0.7 * old).item(), rel=1e-5)
    method.ratio = None
    assert method.share == pytest.approx(1 / 3)
    monkeypatch.setattr(method, "replayed", lambda old, n: (torch.full((n, 1, 8, 8), 2.0), torch.full((n,), 3)))
    mixed = method.mixed(before, batch)
    for part, own in zip(mixed[:3], batch[:3], strict=True):
        assert torch.equal(part[:11], own[:11])
    assert (mixed.x[11:] == 2).all()
    assert (mixed.y[11:] == 3).all()
    assert (mixed.task_ids[11:] == REPLAYED).all()


@pytest.mark.parametrize("kind", ["class", "task", "domain"])
def test_soft_labels_ask_for_the_old_answer_and_nothing_of_new_classes(kind: str) -> None:
    """While old and new solver agree, replayed images pull nowhere but away from classes the old one never saw."""
    method, old, _ = learning(f"scenario={kind}_incremental", "method.labels=soft", "method.temperature=0.5")
    images, y = method.generate_replay(old, 64)
    x = images / 255
    logits = method(x).detach().requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DGR, "forward", lambda self, x, index=None: logits)
        (gradient,) = torch.autograd.grad(method.replay_loss(old, x, y).sum(), logits)
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
            "scenario.n_tasks=2",
        )
    )
    assert results.status == "finished"


def test_one_number_of_epochs_per_task() -> None:
    scenario, method = made("dgr", "method.generator_epochs=[1,2,3,4,5]")
    fit = Recorder()
    method.learn_task(scenario.tasks[3], fit)
    assert fit["generator"].more == {"epochs": 4, "steps": None}
    with pytest.raises(InputError, match=r"method.generator_epochs=\[1, 2\].*each of 5 tasks"):
        made("dgr", "method.generator_epochs=[1,2]")


def test_fresh_replay_keeps_a_histogram_and_has_nothing_to_balance(small: Compose) -> None:
    results = run(small("method=dgr", "method.replay=fresh"))
    assert [sum(task.diagnostics.replay_histogram or []) for task in results.tasks] == [0, 1000, 1000, 1000, 1000]
    with pytest.raises(InputError, match=r"method.balance=true.*method.replay=fixed"):
        made("dgr", "method.replay=fresh", "method.balance=true")


def test_it_runs_in_half_precision(small: Compose) -> None:
    assert run(small("method=dgr", "trainer.precision=bf16-mixed", "scenario.n_tasks=2")).status == "finished"
