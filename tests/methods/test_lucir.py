"""LUCIR: each of its losses against a loop, imprinting, and class vectors that no later task moves."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import made, one_pass
from torch import Tensor, nn

from cl_bench.data.tasks import Scenario
from cl_bench.methods.lucir import LUCIR, less_forget, margin_ranking


def lucir(*more: str) -> tuple[LUCIR, Scenario]:
    scenario, method = made("lucir", "network.hidden=[16]", "optimizer=sgd", "memory=60", *more)
    return method, scenario


def learned(method: LUCIR, scenario: Scenario, n: int) -> None:
    for task in scenario.tasks[:n]:
        method.learn_task(task, one_pass)


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def test_less_forget_is_the_mean_angle_and_nothing_at_the_teachers_weights() -> None:
    torch.manual_seed(0)
    now, before = torch.randn(2, 9, 5, dtype=torch.float64)
    expected = sum(1 - cosine(a, b) for a, b in zip(now, before, strict=True)) / 9
    assert float(less_forget(now, before)) == pytest.approx(expected)
    assert float(less_forget(now, 3 * now)) == pytest.approx(0, abs=1e-12)
    method, scenario = lucir()
    learned(method, scenario, 1)
    method.index = 1
    x, past = scenario.tasks[1].train.batch(torch.arange(20)).x, method.past()
    assert float(less_forget(method.network.features(x), past.features(x))) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("top", [1, 2, 5])
def test_margin_ranking_is_a_mean_over_old_images_and_their_nearest_new_classes(top: int) -> None:
    torch.manual_seed(0)
    cosines, y = torch.rand(12, 8, dtype=torch.float64), torch.tensor([0, 5, 1, 2, 6, 3, 7, 0, 1, 4, 2, 5])
    new, pairs = torch.arange(8) >= 5, []
    for n, label in enumerate(y.tolist()):
        if label < 5:
            nearest = sorted(cosines[n, 5:].tolist(), reverse=True)[:top]
            pairs += [max(0.0, 0.5 - float(cosines[n, label]) + score) for score in nearest]
    assert len(pairs) == 8 * min(top, 3)
    assert float(margin_ranking(cosines, y, new, 0.5, top)) == pytest.approx(sum(pairs) / len(pairs))


def test_margin_ranking_without_old_images_is_nothing_and_asks_for_nothing() -> None:
    cosines = torch.rand(3, 4, requires_grad=True)
    loss = margin_ranking(cosines, torch.tensor([2, 3, 2]), torch.tensor([False, False, True, True]), 0.5, 2)
    loss.backward()
    assert float(loss) == 0
    assert cosines.grad is not None
    assert not cosines.grad.any()


@pytest.mark.parametrize("index", [1, 3])
def test_the_objective_is_the_sum_of_the_three(index: int) -> None:
    method, scenario = lucir("method.ranking_weight=0.7", "method.strength=3")
    learned(method, scenario, index)
    method.index, head = index, method.head
    past = method.past()
    assert past.weight == pytest.approx(3 * math.sqrt(2 * index / 2))
    for p in method.network.parameters():
        p.data += 0.1 * torch.randn_like(p)
    data = scenario.tasks[index].train + method.memory.data
    batch = data.batch(torch.cat([torch.arange(6), len(data) - 1 - torch.arange(6)]))
    features, before = method.network.features(batch.x), past.features(batch.x)
    cosines = torch.tensor([[cosine(f, w) for w in head.weight] for f in features])
    n_seen = 2 * index + 2
    ce = F.cross_entropy(float(head.scale.detach()) * cosines[:, :n_seen], batch.y)
    forget = sum(1 - cosine(a, b) for a, b in zip(features, before, strict=True)) / 12
    ranking = margin_ranking(cosines, batch.y, torch.arange(10) // 2 == index, method.margin, method.top)
    expected = float(ce) + past.weight * forget + 0.7 * float(ranking)
    assert float(ranking) > 0
    assert float(method.loss(batch, past)) == pytest.approx(expected, rel=1e-4)
    assert float(method.loss(batch, None)) == pytest.approx(float(ce), rel=1e-5)


@pytest.mark.parametrize(
    "optimizer",
    [
        ("optimizer=sgd", "optimizer.momentum=0.9", "optimizer.weight_decay=0.01", "optimizer.keep_state=true"),
        ("optimizer=adam", "optimizer.weight_decay=0.01", "optimizer.keep_state=true"),
    ],
)
def test_class_vectors_of_old_tasks_are_never_moved_again(optimizer: tuple[str, ...]) -> None:
    method, scenario = lucir(*optimizer)
    learned(method, scenario, 2)
    old, start = method.head.weight[:4].detach().clone(), method.head.weight[4:].detach().clone()
    scale, first = method.head.scale.detach().clone(), method.network.features[1]
    assert isinstance(first, nn.Linear)
    features = first.weight.detach().clone()
    for index in (2, 3):
        method.learn_task(scenario.tasks[index], one_pass)
        assert torch.equal(method.head.weight[:4], old)
    assert not (method.head.weight[4:8] == start[:4]).any()
    assert method.head.scale != scale
    assert not torch.equal(first.weight, features)


def test_new_class_vectors_begin_along_their_mean_features_as_long_as_old_ones() -> None:
    method, scenario = lucir()
    learned(method, scenario, 2)
    method.head.weight.data[:4] *= torch.tensor([[1.0], [2.0], [3.0], [6.0]])
    lengths = method.head.weight[:4].norm(dim=1)
    later = method.head.weight[6:].detach().clone()
    begun: list[Tensor] = []

    def fit(module: Any, data: Any, **more: Any) -> Any:
        begun.append(method.head.weight.detach().clone())
        return one_pass(module, data, **more)

    data, network = scenario.tasks[2].train, method.network
    expected = []
    for label in (4, 5):
        images = data.images[data.labels == label].float() / 255
        mean = F.normalize(network.features(images)).mean(0)
        expected.append(mean / mean.norm() * lengths.mean())
    method.learn_task(scenario.tasks[2], fit)
    torch.testing.assert_close(begun[0][4:6], torch.stack(expected), rtol=1e-4, atol=1e-5)
    assert torch.equal(begun[0][6:], later)


def test_the_first_task_is_learned_by_labels_alone() -> None:
    method, scenario = lucir()
    steps: list[Any] = []

    def fit(module: Any, data: Any, *, step: Any = None, **more: Any) -> Any:
        steps.append(step.keywords["past"])
        return one_pass(module, data, step=step, **more)

    method.learn_task(scenario.tasks[0], fit)
    assert steps == [None]
