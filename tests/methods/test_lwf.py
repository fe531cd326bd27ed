"""LwF's own promises: a teacher that stays what it was, and one softmax for each old head."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import made, train
from torch import Tensor, nn

from cl_bench.data.batches import Batch, Data
from cl_bench.data.problem import Kind
from cl_bench.data.tasks import Scenario
from cl_bench.methods.lwf import LwF

HEADS = {  # the old heads in task 4 of 5
    "class": [[0, 1, 2, 3, 4, 5]],
    "task": [[0, 1], [2, 3], [4, 5]],
    "domain": [[0, 1]],
}


def lwf(kind: Kind, **settings: Any) -> tuple[LwF, Scenario]:
    """At the beginning of task 4 of 5, in training mode; the network has dropout."""
    chosen = {"strength": 1.0, **settings}
    chosen = [f"method.{name}={value}" for name, value in chosen.items()]
    network = ("network.hidden=[16]", "optimizer=sgd", "optimizer.lr=0.5")
    scenario, method = made("lwf", f"scenario={kind}_incremental", *network, *chosen)
    method.network.features.append(nn.Dropout(0.2))
    method.index = 3
    return method.train(), scenario


@torch.no_grad()
def shake(network: nn.Module) -> None:
    """Other weights, near those that were."""
    for p in network.parameters():
        p += 0.1 * torch.randn_like(p)


@pytest.mark.parametrize("kind", HEADS)
def test_the_teachers_own_weights_are_where_distillation_ends(kind: Kind) -> None:
    """Its gradient is 0 there, and not elsewhere."""
    method, scenario = lwf(kind)
    method.network.eval()  # dropout would make two networks of one
    x = scenario.tasks[3].train.batch(torch.arange(30)).x
    teacher = method.teacher()

    def gradient() -> Tensor:
        value = method.distillation(method(x), teacher, x)
        return torch.cat([g.flatten() for g in torch.autograd.grad(value, list(method.weights.values()))])

    assert gradient().abs().max() < 1e-7
    shake(method.network)
    assert gradient().abs().max() > 1e-3


@pytest.mark.parametrize("weighting", ["sum", "share"])
@pytest.mark.parametrize("kind", HEADS)
def test_each_old_head_has_a_softmax_of_its_own(kind: Kind, weighting: str) -> None:
    """Value and gradient against the paper's equation, head after head, in float64."""
    method, scenario = lwf(kind, strength=0.7, temperature=3.0, weighting=weighting)
    method.double().network.eval()
    teacher = method.teacher()
    shake(method.network)
    batch = scenario.tasks[3].train.batch(torch.arange(30))
    batch = batch._replace(x=batch.x.double())
    z, old = method(batch.x), teacher.network(batch.x)
    terms = []
    for head in HEADS[kind]:
        p, q = z[:, head].exp() ** (1 / 3), old[:, head].exp() ** (1 / 3)
        p, q = p / p.sum(1, keepdim=True), q / q.sum(1, keepdim=True)
        terms.append(-(q * p.log()).sum(1).mean())
    current = {"class": list(range(8)), "task": [6, 7], "domain": [0, 1]}[kind]
    new = F.cross_entropy(z[:, current], batch.y - current[0])
    if weighting == "sum":
        expected = new + 0.7 * torch.stack(terms).sum()
    else:
        expected = new / 4 + 0.7 * 3 / 4 * torch.stack(terms).mean()
    found = method.loss(batch, teacher)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)
    gradients = zip(*(torch.autograd.grad(v, list(method.weights.values())) for v in (found, expected)), strict=True)
    assert all(torch.allclose(a, b, rtol=1e-8, atol=1e-12) for a, b in gradients)


def test_new_classes_are_held_down_where_the_teacher_gives_them_nothing() -> None:
    """`zero` against the equation: old classes have the teacher's probabilities, new ones 0, all in one softmax."""
    method, scenario = lwf("class", temperature=3.0, new_outputs="zero")
    method.network.eval()
    teacher, x = method.teacher(), scenario.tasks[3].train.batch(torch.arange(30)).x
    shake(method.network)
    z, q = method(x), (teacher.network(x)[:, :6] / 3).softmax(1)
    expected = -(q * (z[:, :8] / 3).log_softmax(1)[:, :6]).sum(1).mean()
    torch.testing.assert_close(method.distillation(z, teacher, x), expected)
    downwards = torch.autograd.grad(expected, z)[0][:, 6:8]
    assert (downwards > 0).all()
    for kind in ("task", "domain"):  # heads have no new outputs there
        method = lwf(kind, new_outputs="zero")[0]
        assert torch.equal(method.teacher().compared, method.teacher().heads)


@pytest.mark.parametrize("kind", HEADS)
def test_the_mean_over_classes_divides_by_the_outputs_compared(kind: Kind) -> None:
    """Of 8 classes seen by task 4 with `zero`, of 2 in each head of the other kinds."""
    found = {}
    for over in ("sum", "mean"):
        method, scenario = lwf(kind, new_outputs="zero", over_classes=over)
        method.network.eval()
        teacher, x = method.teacher(), scenario.tasks[3].train.batch(torch.arange(30)).x
        shake(method.network)
        found[over] = method.distillation(method(x), teacher, x)
    torch.testing.assert_close(found["mean"] * (8 if kind == "class" else 2), found["sum"])


def test_without_a_mask_in_training_the_teacher_speaks_of_all_outputs() -> None:
    method, scenario = lwf("class", temperature=3.0)
    method.problem = replace(method.problem, train_mask="all")
    method.network.eval()
    teacher, x = method.teacher(), scenario.tasks[3].train.batch(torch.arange(30)).x
    shake(method.network)
    z, q = method(x), (teacher.network(x) / 3).softmax(1)
    torch.testing.assert_close(method.distillation(z, teacher, x), -(q * (z / 3).log_softmax(1)).sum(1).mean())


@pytest.mark.parametrize("kind", HEADS)
def test_the_teacher_never_changes(kind: Kind) -> None:
    """It answers as the network did when the task began, without dropout, while the network learns and moves on."""
    method, scenario = lwf(kind)
    start, x = copy.deepcopy(method.network).eval(), scenario.tests[0].batch(torch.arange(50)).x
    task, seen = scenario.tasks[3], []

    def fit(module: Any, data: Data, *, step: Any = None, **_: Any) -> Any:
        module.train()

        def and_look(batch: Batch, optimizer: Any) -> dict[str, Tensor]:
            logs = step(batch, optimizer)
            seen.append(step.keywords["teacher"].network(x))
            return logs

        train(module, data.batches(32), and_look)

    method.learn_task(task, fit)
    assert len(seen) > 5
    assert all(torch.equal(one, start(x)) and not one.requires_grad for one in seen)
    assert not torch.allclose(method.network.eval()(x), start(x))
    assert set(method.state_dict()) == {f"network.{name}" for name in start.state_dict()} | {"_extra_state"}


def test_there_is_nothing_to_hold_in_the_first_task() -> None:
    method, scenario = lwf("class", strength=100.0)
    batch, losses = scenario.tasks[0].train.batch(torch.arange(8)), []
    method.network.eval()

    def fit(module: Any, *_: Any, step: Any = None, **__: Any) -> Any:
        expected = F.cross_entropy(module(batch.x)[:, :2], batch.y)
        losses.append((step(batch, module.configure_optimizers())["loss"], expected))

    method.learn_task(scenario.tasks[0], fit)
    assert torch.allclose(*losses[0])
