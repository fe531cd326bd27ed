"""Weight aligning: equal mean lengths after a task, and the order within old and within new classes as it was."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import made, one_pass
from torch import Tensor

from cl_bench.data.tasks import Scenario
from cl_bench.methods.base import frozen
from cl_bench.methods.parts.distillation import Teacher, distillation
from cl_bench.methods.wa import WA, align


def wa(clip: bool = False, *more: str) -> tuple[WA, Scenario]:
    settings = ("network.hidden=[16]", "optimizer=sgd", "memory=40", f"method.clip={str(clip).lower()}", *more)
    scenario, method = made("wa", *settings)
    return method, scenario


def watched(method: WA, seen: list[Any]) -> Any:
    """A fit that notes a copy of the network when it ends, before anything else is done to it."""

    def fit(module: Any, data: Any, **more: Any) -> Any:
        phase = one_pass(module, data, **more)
        seen.append(copy.deepcopy(method.network))
        return phase

    return fit


@pytest.mark.parametrize("clip", [False, True])
def test_mean_lengths_are_equal_and_the_order_within_old_and_within_new_classes_stays(clip: bool) -> None:
    method, scenario = wa(clip)
    for index in range(4):
        before: list[Any] = []
        diagnostics = method.learn_task(scenario.tasks[index], watched(method, before))
        x = scenario.tests[index].batch(torch.arange(60)).x
        was, now = before[-1](x), method.network(x)
        if not index:
            assert torch.equal(was, now)
            continue
        old, new = slice(0, 2 * index), slice(2 * index, 2 * index + 2)
        lengths, lengths_before = (n.head.weight.detach().norm(dim=1) for n in (method.network, before[-1]))
        torch.testing.assert_close(lengths[new].mean(), lengths[old].mean())
        assert diagnostics["norm_ratio"] == pytest.approx(
            float(lengths_before[old].mean() / lengths_before[new].mean())
        )
        assert torch.equal(was[:, old], now[:, old])
        assert torch.equal(was[:, new].argsort(1), now[:, new].argsort(1))
        assert torch.equal(was[:, 2 * index + 2 :], now[:, 2 * index + 2 :])
        assert not torch.equal(was[:, new], now[:, new])


def test_the_head_has_no_biases_and_vectors_without_length_stay() -> None:
    assert wa()[0].network.head.bias is None
    weight = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    assert align(weight, torch.tensor([0]), torch.tensor([1])) == 1
    assert weight.tolist() == [[1.0, 0.0], [0.0, 0.0]]


def test_clipped_weights_of_the_head_are_not_negative_after_any_step() -> None:
    method, scenario = wa(clip=True)
    data = scenario.tasks[0].train
    optimizer = method.configure_optimizers()
    for rows in torch.arange(128).split(32):
        method.train_step(data.batch(rows), optimizer)
        assert method.network.head.weight.min() == 0
    free, _ = wa()
    free.train_step(data.batch(torch.arange(32)), free.configure_optimizers())
    assert free.network.head.weight.min() < 0


@pytest.mark.parametrize("index", [1, 3])
def test_the_loss_weighs_labels_and_old_answers_by_the_share_of_old_classes(index: int) -> None:
    """Image by image and class by class, on images of the task and exemplars."""
    method, scenario = wa()
    for task in scenario.tasks[:index]:
        method.learn_task(task, one_pass)
    teacher, n_old, checked = frozen(method.network), 2 * index, 0
    T = method.temperature

    def fit(module: Any, data: Any, *, step: Any = None, **more: Any) -> Any:
        nonlocal checked
        assert len(data) == len(scenario.tasks[index].train) + len(method.memory)
        phase = one_pass(module, data, step=step, **more)
        rows = torch.cat([torch.arange(4), len(data) - 1 - torch.arange(4)])
        batch, expected = data.batch(rows), 0.0
        z, z_old = method.network(batch.x).double(), teacher(batch.x).double()
        for n, y in enumerate(batch.y.tolist()):
            ce = -float(z[n, : n_old + 2].detach().log_softmax(0)[y])
            q, log_p = (z_old[n, :n_old] / T).softmax(0), (z[n, :n_old] / T).log_softmax(0)
            kd = -sum(float(q[c] * log_p[c]) for c in range(n_old))
            expected += (ce * 2 / (n_old + 2) + kd * n_old / (n_old + 2)) / 8
        assert float(method.loss(batch, **step.keywords)) == pytest.approx(expected, rel=1e-5)
        checked += 1
        return phase

    method.learn_task(scenario.tasks[index], fit)
    assert checked


def test_distillation_is_a_mean_over_heads() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3, 6, dtype=torch.float64)
    heads = torch.tensor([[1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0]]).bool()

    def kd(a: Tensor, b: Tensor) -> Tensor:
        return -((b / 3).softmax(1) * (a / 3).log_softmax(1)).sum(1).mean()

    expected = (kd(logits[:, :2], target[:, :2]) + kd(logits[:, 2:4], target[:, 2:4])) / 2
    torch.testing.assert_close(distillation(logits, target, heads, 3.0), expected)


@pytest.mark.parametrize("name", ["wa", "bic"])
def test_images_of_classes_that_come_back_alone_are_learned_from(name: str) -> None:
    """Nothing is new, but a share of the classes is of this task: labels count by it."""
    scenario, method = made(name, "network.hidden=[16]", "memory=40")
    method.learn_task(scenario.tasks[0], one_pass)
    method.index, method.problem = 1, replace(method.problem, outputs=((0, 1), (0,), *method.problem.outputs[2:]))
    teacher = Teacher(frozen(method.network), method.problem.mask("seen", after=0)[:1])
    batch = scenario.tasks[0].train.batch(torch.arange(20))
    losses = [method.loss(batch._replace(y=y), teacher=teacher) for y in (batch.y, 1 - batch.y)]
    ce = [method.cross_entropy(method.active(method(batch.x), y), y) for y in (batch.y, 1 - batch.y)]
    torch.testing.assert_close(losses[1] - losses[0], (ce[1] - ce[0]) / 2)
