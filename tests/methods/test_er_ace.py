"""ER-ACE's own promises: a mini-batch pushes no logit but those of its own classes."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from conftest import made, one_pass, there, train
from torch import Tensor

from cl_bench.config import InputError
from cl_bench.data.tasks import Scenario
from cl_bench.methods.er_ace import ERACE


def er_ace(*overrides: str, network: tuple[str, ...] = ("network.hidden=[16]",)) -> tuple[ERACE, Scenario]:
    scenario, method = made("er_ace", *network, "optimizer=sgd", "memory=60", *overrides)
    return method, scenario


def slopes(method: ERACE, labels: list[int]) -> Tensor:
    """The gradient of the loss of a mini-batch for its logits."""
    logits = torch.randn(len(labels), 10, requires_grad=True)
    method.incoming_loss(logits, torch.tensor(labels)).backward()
    return there(logits.grad)


@pytest.mark.parametrize("mask", ["seen", "all"])
@pytest.mark.parametrize("labels", [[4, 5, 4], [5, 5, 5, 4], [0, 4], [1, 2, 5]])
def test_a_mini_batch_has_no_gradient_on_logits_of_classes_that_are_not_in_it(labels: list[int], mask: str) -> None:
    """Exactly 0: on old ones, on those to come, and on the largest that came, where it isn't there."""
    method, _ = er_ace(f"scenario.train_mask={mask}")
    method.index = 2  # classes 0 to 5 came
    found = slopes(method, labels)
    present = sorted(set(labels))
    absent = [c for c in range(10) if c not in present]
    assert torch.equal(found[:, absent], torch.zeros(len(labels), len(absent)))
    assert (found[:, present] != 0).all()


def test_a_mini_batch_of_one_class_teaches_nothing_until_it_is_replayed() -> None:
    method, scenario = er_ace("method.n_replay=4")
    method.index, data = 0, scenario.tasks[0].train
    before = [p.detach().clone() for p in method.parameters()]
    zeros = (data.labels == 0).nonzero().squeeze(1)[:5]
    train(method, [data.batch(zeros)])
    assert all(torch.equal(p, old) for p, old in zip(method.parameters(), before, strict=True))
    train(method, [data.batch(zeros)])
    assert not any(torch.equal(p, old) for p, old in zip(method.parameters(), before, strict=True))


def test_in_memory_all_classes_compete_that_came(monkeypatch: pytest.MonkeyPatch) -> None:
    method, scenario = er_ace()
    for task in scenario.tasks[:3]:
        method.learn_task(task, one_pass)
    old = method.memory.sample(30)
    bias = method.network.head.bias
    absent = scenario.tasks[2].train.batch(torch.arange(4))  # classes 4 and 5
    monkeypatch.setattr(method.memory, "sample", lambda n: old)
    slope = torch.autograd.grad(method.loss(absent), bias)[0]
    assert (slope[:6] != 0).all()
    assert torch.equal(slope[6:], torch.zeros(4))


@pytest.mark.parametrize("kind", ["class", "task", "domain"])
def test_the_loss_is_that_of_a_loop_over_images(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method, scenario = er_ace(f"scenario={kind}_incremental", "method.n_replay=7")
    for task in scenario.tasks[:3]:
        method.learn_task(task, one_pass)
    task, drawn = scenario.tasks[2].train, method.memory.sample(7)
    batch = task.batch(torch.arange(9))
    monkeypatch.setattr(method.memory, "sample", lambda n: drawn if n == 7 else None)
    competing = {
        "class": {c: range(6) for c in range(6)},
        "task": {c: range(2 * (c // 2), 2 * (c // 2) + 2) for c in range(6)},
        "domain": {c: range(2) for c in range(2)},
    }[kind]
    present, expected = set(batch.y.tolist()), 0.0
    for images, within in ((batch, present), (drawn, set(range(10)))):
        for z, y in zip(method.network(images.x).detach().double(), images.y.tolist(), strict=True):
            total = sum(math.exp(float(z[c])) for c in competing[y] if c in within)
            expected += (math.log(total) - float(z[y])) / len(images.y)
    assert float(method.loss(batch)) == pytest.approx(expected, rel=1e-5)


def test_the_two_go_through_batch_normalization_by_themselves() -> None:
    method, scenario = er_ace("method.n_replay=6", network=("network=resnet18", "network.width=2"))
    method.index, data = 0, scenario.tasks[0].train
    method.memory.after_step(data.batch(torch.arange(20)))
    seen: list[int] = []
    method.network.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    method.loss(data.batch(torch.arange(9)))
    assert seen == [9, 6]


def test_an_image_is_kept_after_the_last_update_of_its_mini_batch() -> None:
    method, scenario = er_ace()
    method.index, batch = 0, scenario.tasks[0].train.batch(torch.arange(10))
    for left in (2, 1, 0):
        assert not len(method.memory)
        train(method, [batch._replace(updates_left=left)])
    assert torch.equal(method.memory.labels, batch.y)


def test_with_all_classes_in_each_mini_batch_it_is_replay_with_two_means() -> None:
    method, scenario = er_ace("scenario=domain_incremental")
    method.index, data = 0, scenario.tasks[0].train
    batch = data.batch(torch.arange(20))
    assert set(batch.y.tolist()) == {0, 1}
    plain = F.cross_entropy(method.active(method(batch.x), batch.y), batch.y)
    assert torch.equal(method.loss(batch), plain)


def test_its_reservoir_counts_in_total() -> None:
    with pytest.raises(InputError, match=r"^memory\.per=class: a reservoir has one total size; set memory\.per=total$"):
        er_ace("memory.per=class")
