"""Separated softmax: a new image says nothing of old classes, and each old task is distilled by itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import made, one_pass

from cl_bench.data.batches import Batch
from cl_bench.data.tasks import Scenario
from cl_bench.methods.base import frozen
from cl_bench.methods.parts.distillation import Teacher
from cl_bench.methods.ss_il import SSIL


def ss_il(*more: str) -> tuple[SSIL, Scenario]:
    scenario, method = made("ss_il", "network.hidden=[16]", "optimizer=sgd", "memory=60", "method.n_replay=7", *more)
    return method, scenario


def learned(method: SSIL, scenario: Scenario, n: int) -> None:
    for task in scenario.tasks[:n]:
        method.learn_task(task, one_pass)


def test_the_gradient_of_a_new_image_on_old_logits_is_exactly_nothing() -> None:
    method, scenario = ss_il()
    learned(method, scenario, 2)
    method.index = 2
    logits = torch.randn(5, 10, requires_grad=True)
    method.separated(logits, torch.tensor([4, 5, 4, 5, 4])).backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad[:, :4], torch.zeros(5, 4))
    assert (logits.grad[:, 4:6] != 0).all()
    assert torch.equal(logits.grad[:, 6:], torch.zeros(5, 4))

    logits = torch.randn(3, 10, requires_grad=True)
    method.separated(logits, torch.tensor([0, 3, 1])).backward()
    assert logits.grad is not None
    assert (logits.grad[:, :4] != 0).all()  # all old classes, not those of its task alone
    assert torch.equal(logits.grad[:, 4:], torch.zeros(3, 6))


@pytest.mark.parametrize("index", [1, 3])
def test_the_loss_is_that_of_the_paper(index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Image by image; the divergence, once the teacher's own entropy is added to it."""
    method, scenario = ss_il()
    learned(method, scenario, index)
    method.index, T = index, method.temperature
    network = frozen(method.network)
    for p in method.network.parameters():
        p.data += 0.1 * torch.randn_like(p)
    teacher = Teacher(network, scenario.problem.mask("own", index)[:index])
    batch, old = scenario.tasks[index].train.batch(torch.arange(9)), method.memory.data.batch(torch.arange(7))
    drawn: list[int] = []

    def sample(n: int) -> Batch:
        drawn.append(n)
        return old

    monkeypatch.setattr(method.memory, "sample", sample)
    x, labels = torch.cat([batch.x, old.x]), torch.cat([batch.y, old.y]).tolist()
    z, z_old = method.network(x).double(), network(x).double()
    ce = kd = 0.0
    for n, y in enumerate(labels):
        side = slice(0, 2 * index) if y < 2 * index else slice(2 * index, 2 * index + 2)
        ce -= float(z[n, side].log_softmax(0)[y - side.start]) / 16
        for t in range(index):
            q = (z_old[n, 2 * t : 2 * t + 2] / T).softmax(0)
            p = (z[n, 2 * t : 2 * t + 2] / T).softmax(0)
            divergence, entropy = float((q * (q / p).log()).sum()), -float((q * q.log()).sum())
            kd += T**2 * (divergence + entropy) / 16
    assert float(method.loss(batch, teacher)) == pytest.approx(ce + kd, rel=1e-5)
    assert drawn == [7]


def test_old_images_come_beside_the_mini_batch_only() -> None:
    method, scenario = ss_il()
    lengths: list[int] = []

    def fit(module: Any, data: Any, **more: Any) -> Any:
        lengths.append(len(data))
        return one_pass(module, data, **more)

    for task in scenario.tasks[:3]:
        method.learn_task(task, fit)
    assert lengths == [len(task.train) for task in scenario.tasks[:3]]
    assert method.memory.labels.bincount().tolist() == [10] * 6
