"""Bias correction: the identity, the best pair, one pair for each task, and what is set apart."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import made, one_pass
from scipy.optimize import minimize
from torch import Tensor, nn

from cl_bench.config import InputError
from cl_bench.data.problem import masked
from cl_bench.data.tasks import Scenario
from cl_bench.methods.bic import BiC, CorrectedHead, fitted


def bic(*more: str) -> tuple[BiC, Scenario]:
    scenario, method = made("bic", "network.hidden=[16]", "optimizer=sgd", "memory=60", *more)
    return method, scenario


def test_a_pair_of_one_and_nothing_is_the_identity() -> None:
    torch.manual_seed(0)
    head, features = CorrectedHead(5, torch.tensor([0, 0, 1, 1])), torch.randn(7, 5)
    assert torch.equal(head(features), F.linear(features, head.weight, head.bias))
    head.a[1], head.b[1] = 0.5, -2.0
    plain = F.linear(features, head.weight, head.bias)
    assert torch.equal(head(features), torch.cat([plain[:, :2], plain[:, 2:] * 0.5 - 2], 1))


def objective(pair: Any, logits: Tensor, y: Tensor, new: Tensor, ridge: float) -> float:
    """Image by image, in NumPy."""
    total = 0.0
    for z, label in zip(logits.double().numpy(), y.tolist(), strict=True):
        corrected = np.where(new.numpy(), pair[0] * z + pair[1], z)
        total += np.log(np.exp(corrected - corrected.max()).sum()) + corrected.max() - corrected[label]
    return total / len(y) + ridge / 2 * ((pair[0] - 1) ** 2 + pair[1] ** 2)


@pytest.mark.parametrize("ridge", [0.0, 0.01, 1.0])
def test_the_pair_is_the_best_one(ridge: float) -> None:
    """Nelder and Mead, who need no gradient, find the same. Logits of outputs that take no part are the lowest."""
    torch.manual_seed(0)
    y = torch.randint(4, (40,))
    logits = 2 * F.one_hot(y, 6).float() + torch.randn(40, 6) + torch.tensor([0.0, 0, 2, 2, 0, 0])
    logits = masked(logits, torch.arange(6) < 4)
    new = (torch.arange(6) == 2) | (torch.arange(6) == 3)
    finite = (logits[:, :4], y, new[:4], ridge)
    found = fitted(logits, y, new, ridge)
    theirs = minimize(objective, [1.0, 0.0], finite, method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-12})
    np.testing.assert_allclose(found.numpy(), theirs.x, atol=1e-4)
    assert objective(found.numpy(), *finite) < objective([1.0, 0.0], *finite)
    assert found[1] < 0  # new logits were too high


def test_images_that_a_pair_gets_all_right_have_a_finite_one() -> None:
    y = torch.tensor([0, 0, 1, 1])
    logits = torch.tensor([[3.0, 1.0], [3.0, 2.0], [3.0, 4.0], [3.0, 5.0]])
    a, b = fitted(logits, y, torch.tensor([False, True]), ridge=0.01).tolist()
    assert 1 < a < 10
    assert -30 < b < 0


def test_one_pair_for_each_task_is_kept_and_old_logits_stay_in_the_second_stage() -> None:
    method, scenario = bic()
    pairs: list[tuple[float, float]] = []
    x = scenario.tests[0].batch(torch.arange(50)).x
    for index in range(4):
        after_training: list[Tensor] = []

        def fit(module: Any, data: Any, noted: list[Tensor] = after_training, **more: Any) -> Any:
            phase = one_pass(module, data, **more)
            noted.append(method(x))
            return phase

        diagnostics = method.learn_task(scenario.tasks[index], fit)
        pairs.append((diagnostics["a"], diagnostics["b"]))
        assert list(zip(method.head.a.tolist(), method.head.b.tolist(), strict=True))[: index + 1] == pairs
        assert method.head.a[index + 1 :].tolist() == [1.0] * (4 - index)
        was, now, new = after_training[0], method(x), slice(2 * index, 2 * index + 2)
        torch.testing.assert_close(now[:, new], was[:, new] * pairs[-1][0] + pairs[-1][1])
        now[:, new] = was[:, new]
        assert torch.equal(was, now)
    assert pairs[0] == (1.0, 0.0)
    assert len(set(pairs)) == 4


def test_as_many_images_of_each_class_are_set_apart_and_not_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    method, scenario = bic("memory=200", "method.held_out=0.25")
    for task in scenario.tasks[:2]:
        method.learn_task(task, one_pass)
    new, memory = scenario.tasks[2].train, copy.deepcopy(method.memory)
    assert memory.labels.bincount().tolist() == [50] * 4
    method.index = 2
    apart, others = method.set_apart(new)
    assert apart.labels.bincount().tolist() == [12] * 6  # a quarter of the exemplars
    everything = sorted(map(tuple, torch.cat([new.images, memory.images]).flatten(1).tolist()))
    assert sorted(map(tuple, torch.cat([apart.images, others.images]).flatten(1).tolist())) == everything
    trained: list[Any] = []

    def fit(module: Any, data: Any, **more: Any) -> Any:
        trained.append(data)
        return one_pass(module, data, **more)

    corrected_by: list[Any] = []
    monkeypatch.setattr(method, "correct", corrected_by.append)
    method.learn_task(scenario.tasks[2], fit)
    assert [len(data) for data in trained] == [len(everything) - 6 * 12]
    assert [data.labels.bincount().tolist() for data in corrected_by] == [[12] * 6]


def test_the_pair_is_fitted_to_what_the_network_answers_in_evaluation_mode() -> None:
    method, scenario = bic()
    dropout, norm = nn.Dropout(0.5), nn.BatchNorm1d(16)
    method.network.features.extend([dropout, norm])
    method.learn_task(scenario.tasks[0], one_pass)
    method.index = 1
    apart, _ = method.set_apart(scenario.tasks[1].train)
    start = copy.deepcopy(norm.state_dict())
    with torch.no_grad():
        logits = method.eval()(apart.batch(torch.arange(len(apart))).x)
    method.train().correct(apart)
    new = method.head.task_of_output == 1
    a, b = fitted(masked(logits, torch.arange(10) < 4), apart.labels, new, method.ridge).tolist()
    assert (method.head.a[1].item(), method.head.b[1].item()) == pytest.approx((a, b), rel=1e-3)
    assert all(torch.equal(value, start[name]) for name, value in norm.state_dict().items())
    assert dropout.training


def test_one_exemplar_of_each_old_class_is_left_for_training() -> None:
    method, scenario = bic("memory=200", "method.held_out=0.999")
    method.learn_task(scenario.tasks[0], one_pass)
    method.index = 1
    assert method.memory.labels.bincount().tolist() == [100] * 2
    apart, others = method.set_apart(scenario.tasks[1].train)
    assert apart.labels.bincount().tolist() == [99] * 4
    assert others.labels.bincount().tolist()[:2] == [1, 1]


def test_a_new_class_that_would_be_set_apart_whole_is_named() -> None:
    method, scenario = bic("memory=200", "method.held_out=0.5")
    method.learn_task(scenario.tasks[0], one_pass)
    method.index = 1
    few = scenario.tasks[1].train
    rows = torch.cat([(few.labels == 2).nonzero().squeeze(1)[:50], (few.labels == 3).nonzero().squeeze(1)])
    with pytest.raises(
        InputError, match=r"^method\.held_out=0\.5: sets aside 50 images of class '2', which has no others; choose"
    ):
        method.set_apart(few[rows])


def test_the_teacher_answers_with_the_pairs_of_its_tasks() -> None:
    method, scenario = bic()
    for task in scenario.tasks[:2]:
        method.learn_task(task, one_pass)
    answers: list[Tensor] = []
    x = scenario.tests[0].batch(torch.arange(20)).x
    expected = method(x).detach()

    def fit(module: Any, data: Any, *, step: Any = None, **more: Any) -> Any:
        phase = one_pass(module, data, step=step, **more)
        answers.append(step.keywords["teacher"].network(x))
        return phase

    method.learn_task(scenario.tasks[2], fit)
    assert torch.equal(answers[0], expected)
    assert method.head.a[1] != 1


def test_an_old_class_of_which_all_exemplars_would_be_set_apart_is_named() -> None:
    """Nothing of it would be left to train on, and it would be forgotten without a word."""
    method, scenario = bic()
    first = scenario.tasks[0].train
    rows = torch.cat([(first.labels == 0).nonzero().squeeze(1), (first.labels == 1).nonzero().squeeze(1)[:1]])
    method.index = 0
    method.keep_exemplars(first[rows])
    method.index = 1
    with pytest.raises(
        InputError, match=r"^method\.held_out=0\.1: sets aside 1 image of class '1', which has no others; choose"
    ):
        method.set_apart(scenario.tasks[1].train)
