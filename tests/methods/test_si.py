"""SI's own promises: the path integral of the task's own gradient, and one merged quadratic."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import made, train
from torch import Tensor, nn

from cl_bench.data.batches import Batch, Data, Step
from cl_bench.data.tasks import Scenario
from cl_bench.methods.si import SI
from cl_bench.networks.optimizers import Optimizer

ADAM = ("optimizer.lr=0.01",)
DECAYING = ("optimizer=sgd", "optimizer.lr=0.5", "optimizer.momentum=0.9", "optimizer.weight_decay=0.01")


def si(kind: str, optimizer: tuple[str, ...] = ADAM, **settings: float) -> tuple[SI, Scenario]:
    """In float64, so that only mistakes make a difference."""
    chosen = (f"method.{name}={value}" for name, value in settings.items())
    scenario, method = made("si", f"scenario={kind}_incremental", "network.hidden=[8]", *optimizer, *chosen)
    return method.double(), scenario


def mini_batches(data: Data, size: int = 16, n: int = 8) -> list[Batch]:
    batches = [data.batch(rows) for rows in torch.arange(len(data)).split(size)[:n]]
    return [batch._replace(x=batch.x.double()) for batch in batches]


def fit(module: Any, data: Data, *, step: Step | None = None, **_: Any) -> Any:
    """A short training phase."""
    train(module, mini_batches(data), step)


def step_by_step(
    network: nn.Module, optimizer: Optimizer, tasks: list[tuple[list[Batch], list[int]]], c: float, xi: float
) -> tuple[list[Tensor], list[list[Tensor]]]:
    """The weights that SI ends with and the importance that each task adds, one parameter and step at a time.

    tasks: mini-batches, and the outputs that take part in all of them.
    """
    weights = list(network.parameters())
    anchors, added = [p.detach().clone() for p in weights], []
    for batches, allowed in tasks:
        opt = optimizer(weights)
        w = [torch.zeros_like(p) for p in weights]
        for batch in batches:
            loss = F.cross_entropy(network(batch.x)[:, allowed], batch.y - allowed[0])
            gradients = torch.autograd.grad(loss, weights)
            before = [p.detach().clone() for p in weights]
            for i, p in enumerate(weights):
                p.grad = gradients[i].clone()
                for omega in added:
                    p.grad += 2 * c * omega[i] * (p.detach() - anchors[i])
            opt.step()
            for i, p in enumerate(weights):
                w[i] -= gradients[i] * (p.detach() - before[i])
        gain = [w[i] / ((p.detach() - anchors[i]) ** 2 + xi) for i, p in enumerate(weights)]
        added.append([one.clamp(min=0) for one in gain])
        anchors = [p.detach().clone() for p in weights]
    return anchors, added


@pytest.mark.parametrize("optimizer", [ADAM, DECAYING], ids=["adam", "sgd"])
@pytest.mark.parametrize("kind", ["class", "task", "domain"])
def test_importance_equals_a_loop_over_steps(kind: str, optimizer: tuple[str, ...]) -> None:
    """Over three tasks under a pull that matters; in float64."""
    method, scenario = si(kind, optimizer, strength=0.2, damping=0.01)
    network, anchor = copy.deepcopy(method.network), {n: p.detach().clone() for n, p in method.weights.items()}
    allowed = {"class": lambda t: list(range(2 * t + 2)), "task": lambda t: [2 * t, 2 * t + 1]}
    for task in scenario.tasks[:3]:
        method.learn_task(task, fit)
    tasks = [(mini_batches(one.train), allowed.get(kind, lambda _: [0, 1])(one.index)) for one in scenario.tasks[:3]]
    weights, added = step_by_step(network, method.optimizer, tasks, 0.2, 0.01)
    for name, omega, p, theta, *terms in zip(
        anchor, method.penalty.weight, method.penalty.anchor, weights, *added, strict=True
    ):
        torch.testing.assert_close(p.data, theta, rtol=1e-8, atol=1e-10, msg=f"weights {name}")
        torch.testing.assert_close(omega.data, sum(terms), rtol=1e-7, atol=1e-9, msg=f"importance {name}")


def test_a_weight_that_made_things_worse_does_not_count() -> None:
    method, _ = si("class", damping=0.1)
    for w in method.path:
        w.flatten()[0], w.flatten()[-1] = 1.0, -1.0
    assert all(omega.flatten()[[0, -1]].tolist() == [10.0, 0.0] for omega in method.importance().values())


def test_the_pull_is_in_the_step_but_not_in_the_importance() -> None:
    """A weight that only the pull has moved matters to nothing."""
    method, scenario = si("task", ("optimizer=sgd", "optimizer.lr=0.01"), strength=1.0)
    method.index = 1
    for omega, anchor in zip(method.penalty.weight, method.penalty.anchor, strict=True):
        omega += 1
        anchor += 1  # every weight is pulled up
    before = method.get_parameter("network.head.bias").detach().clone()
    train(method, mini_batches(scenario.tasks[1].train)[:1])
    moved = method.get_parameter("network.head.bias").detach() - before
    silent = [0, 1, 4, 5, 6, 7, 8, 9]
    assert torch.allclose(moved[silent], torch.full((8,), 0.02).double())  # lr times 2 c Omega (theta* - theta)
    w = dict(zip(method.weights, method.path, strict=True))["head.bias"]
    assert not w[silent].any()
    assert w[[2, 3]].all()


@pytest.mark.parametrize("optimizer", [ADAM, DECAYING], ids=["adam", "sgd"])
def test_what_does_not_act_has_no_importance(optimizer: tuple[str, ...]) -> None:
    """Heads of other tasks and pixels that are always dark, though weight decay moves them."""
    method, scenario = si("task", optimizer)
    for task in scenario.tasks[:2]:
        method.learn_task(task, fit)
    omega = dict(zip(method.weights, method.penalty.weight, strict=True))
    assert not omega["head.weight"][4:].any()
    assert not omega["head.bias"][4:].any()
    dark = torch.stack([batch.x for task in scenario.tasks[:2] for batch in mini_batches(task.train)])
    dark = (dark == 0).flatten(0, 1).flatten(1).all(0)
    assert dark.any()
    assert not omega["features.1.weight"][:, dark].any()
    assert omega["head.bias"][:4].any()


def test_the_merged_penalty_equals_the_sum_of_separate_ones() -> None:
    """In value and gradient: what each task adds pulls to the latest weights."""
    method, scenario = si("domain", strength=0.3)
    weights, separate = method.weights, []
    importance = method.importance
    method.importance = lambda: separate.append(importance()) or separate[-1]
    for task in scenario.tasks[:3]:
        method.learn_task(task, fit)
    anchor = {name: p.detach().clone() for name, p in weights.items()}
    fit(method, scenario.tasks[3].train)
    merged = method.penalty(weights)
    apart: Any = sum((omega[n] * (weights[n] - anchor[n]).square()).sum() for omega in separate for n in weights)
    assert len(separate) == 3
    assert merged.item() == pytest.approx(apart.item(), rel=1e-10)
    gradients = zip(*(torch.autograd.grad(value, list(weights.values())) for value in (merged, apart)), strict=True)
    assert all(torch.allclose(a, b, rtol=1e-10) for a, b in gradients)


def test_the_first_task_is_fine_tuning() -> None:
    method, scenario = si("class", strength=100.0)
    network, method.index = copy.deepcopy(method.network), 0
    optimizer, other = method.configure_optimizers(), method.optimizer(network.parameters())
    for batch in mini_batches(scenario.tasks[0].train):
        method.train_step(batch, optimizer)
        other.zero_grad()
        F.cross_entropy(network(batch.x)[:, :2], batch.y).backward()
        other.step()
    assert all(
        torch.allclose(a, b, atol=1e-12) for a, b in zip(network.parameters(), method.weights.values(), strict=True)
    )


@pytest.mark.parametrize("optimizer", [ADAM, DECAYING], ids=["adam", "sgd"])
def test_consolidating_after_as_many_mini_batches_as_a_task_has_is_consolidating_at_its_end(
    optimizer: tuple[str, ...],
) -> None:
    """Bit for bit: the state after three tasks of eight mini-batches."""
    states = []
    for every in ("null", "8"):
        scenario, method = made("si", "network.hidden=[8]", *optimizer, f"method.consolidate_every={every}")
        for task in scenario.tasks[:3]:
            method.learn_task(task, fit_in_single)
        states.append({name: value for name, value in method.state_dict().items() if torch.is_tensor(value)})
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert any(value.any() for name, value in states[0].items() if "penalty.weight" in name)


def fit_in_single(module: Any, data: Data, **_: Any) -> Any:
    train(module, [batch._replace(x=batch.x.float()) for batch in mini_batches(data)])


def test_an_interval_goes_on_over_tasks_and_counts_a_mini_batch_once() -> None:
    """Three mini-batches of a task, the last two with a second update: the fifth of all is in the second task."""
    scenario, method = made("si", "network.hidden=[8]", "method.consolidate_every=5")
    anchors = [[p.clone() for p in method.penalty.anchor]]
    for task in scenario.tasks[:2]:
        first, second, third = (batch._replace(x=batch.x.float()) for batch in mini_batches(task.train, n=3))
        twice = [(batch._replace(updates_left=1), batch) for batch in (second, third)]
        optimizer, method.index = method.configure_optimizers(), task.index
        for batch in (first, *twice[0], *twice[1]):
            method.train_step(batch, optimizer)
            anchors.append([p.clone() for p in method.penalty.anchor])
    moved = [
        any(not torch.equal(a, b) for a, b in zip(before, after, strict=True)) for before, after in pairwise(anchors)
    ]
    assert moved == [False] * 7 + [True] + [False] * 2
