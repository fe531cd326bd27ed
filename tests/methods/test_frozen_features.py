"""Heads without gradients: an order means nothing, one task after another is all at once, nothing is forgotten."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from operator import add
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import Compose, Recorder, learn, made, one_pass
from torch import Tensor

from cl_bench.config import InputError
from cl_bench.config.compose import compose
from cl_bench.config.names import key_of
from cl_bench.data.batches import Data
from cl_bench.data.problem import Task
from cl_bench.methods.parts.frozen_features import FrozenFeatures
from cl_bench.runs.loop import run

HEADS = ("ncm", "simple_cil", "slda", "fecam", "ranpac")
MORE = {"ranpac": ("method.projections=100",)}
of_heads = pytest.mark.parametrize("name", HEADS)


def head(name: str, *overrides: str) -> tuple[Any, FrozenFeatures]:
    return made(name, "network.hidden=[32]", *MORE.get(name, ()), *overrides)


def answers(method: FrozenFeatures, scenario: Any) -> Tensor:
    return torch.cat([method(next(test.batches()).x) for test in scenario.tests])


def taken_in(name: str, parts: list[Data]) -> tuple[Any, FrozenFeatures]:
    """Of these images, one part as a task after another."""
    scenario, method = head(name)
    for index, part in enumerate(parts):
        method.learn_task(Task(index, (), part, part), one_pass)
    return scenario, method


@of_heads
def test_any_order_and_any_number_of_tasks_give_the_same_answers(name: str) -> None:
    """Task by task, all images at once, and shuffled across tasks and mini-batches."""
    scenario, one = head(name)
    for task in scenario.tasks:
        one.learn_task(task, one_pass)
    expected = answers(one, scenario)
    whole = reduce(add, [task.train for task in scenario.tasks])
    shuffled = whole[torch.randperm(len(whole), generator=torch.Generator().manual_seed(3))]
    by_label = whole[whole.labels.argsort(descending=True)]
    halves = [shuffled[torch.arange(start, len(whole), 2)] for start in (0, 1)]
    for parts in ([whole], [by_label], halves):
        _, other = taken_in(name, parts)
        torch.testing.assert_close(answers(other, scenario), expected, rtol=1e-6, atol=1e-6)
    assert not torch.equal(expected, answers(taken_in(name, halves[:1])[1], scenario))  # half of the images


def test_a_network_that_never_learns_is_in_evaluation_mode() -> None:
    """Else its running statistics would follow the images, and features would depend on the mini-batch."""
    scenario, method = head("ncm")
    norm = torch.nn.BatchNorm1d(32)
    method.network.features.extend([norm, torch.nn.Dropout(0.5)])
    features, data = method.network.features.eval(), scenario.tasks[0].train
    expected = torch.zeros(10, 32, dtype=torch.float64)
    expected.index_add_(0, data.labels, features(data.batch(torch.arange(len(data))).x).detach().double())
    start = {name: value.clone() for name, value in norm.state_dict().items()}
    method.train().learn_task(scenario.tasks[0], one_pass)
    assert all(torch.equal(value, start[name]) for name, value in norm.state_dict().items())
    torch.testing.assert_close(method.sums, expected, rtol=1e-5, atol=1e-4)


@of_heads
def test_the_fit_of_runs_takes_in_each_image_once_as_it_is(name: str, tmp_path: Path) -> None:
    """The last mini-batch of 36 has one image, which nothing joins; nothing is augmented."""
    scenario, method = head(name)
    few = scenario.tasks[0].train[torch.arange(36)]
    spoiled = replace(few, augment=torch.zeros_like)
    learn(method, replace_task(scenario, spoiled), 0, tmp_path, batch_size=7, epochs=3)
    _, expected = taken_in(name, [few])
    assert method.counts.sum() == 36
    torch.testing.assert_close(method.sums, expected.sums, rtol=1e-12, atol=1e-12)


def replace_task(scenario: Any, train: Data) -> Any:
    return type(scenario)(scenario.problem, [replace(scenario.tasks[0], train=train)], scenario.tests)


@of_heads
def test_a_head_of_the_first_task_trains_the_network_there_and_nowhere_else(name: str) -> None:
    scenario, method = head(name, "method.first_task=true")
    before = [p.detach().clone() for p in method.network.parameters()]
    fit = Recorder(steps=2)
    method.learn_task(scenario.tasks[0], fit)
    assert [call.phase for call in fit.calls] == ["first task", "statistics"]
    after = [p.detach().clone() for p in method.network.parameters()]
    assert any(not torch.equal(p, q) for p, q in zip(before, after, strict=True))
    method.learn_task(scenario.tasks[1], fit)
    assert [call.phase for call in fit.calls[2:]] == ["statistics"]
    assert all(torch.equal(p, q) for p, q in zip(after, method.network.parameters(), strict=True))


@of_heads
def test_before_any_image_and_for_classes_that_did_not_come(name: str) -> None:
    scenario, method = head(name)
    assert answers(method, scenario).unique().numel() == 1
    method.learn_task(scenario.tasks[2], one_pass)
    found = answers(method, scenario)
    assert set(found.argmax(1).tolist()) == {4, 5}
    assert found.isfinite().all()


@of_heads
def test_what_has_no_effect_is_in_no_key(name: str) -> None:
    plain = key_of(compose(f"method={name}"))
    assert plain == key_of(compose(f"method={name}", "trainer.epochs=7", "optimizer=sgd"))
    assert plain != key_of(compose(f"method={name}", "method.first_task=true"))
    trained = (f"method={name}", "method.first_task=true")
    assert key_of(compose(*trained)) != key_of(compose(*trained, "trainer.epochs=7"))
    with pytest.raises(InputError, match=r"optimizer.lr=-1"):
        compose(f"method={name}", "optimizer.lr=-1")


def test_a_stream_refuses_what_means_nothing_there(small: Compose) -> None:
    stream = ("method=ncm", "scenario.passes=online")
    with pytest.raises(InputError, match=r"^scenario.updates_per_batch=2: method=ncm learns without gradients"):
        run(small(*stream, "scenario.updates_per_batch=2"))
    with pytest.raises(InputError, match=r"^method.first_task=true: in a stream"):
        run(small(*stream, "method.first_task=true"))


def test_features_with_nothing_to_train_are_not_trained_on_the_first_task(small: Compose) -> None:
    with pytest.raises(InputError, match=r"^method.first_task=true: the features of this network have nothing to tr"):
        run(small("method=ncm", "method.first_task=true", "network=linear"))


def test_a_state_that_is_loaded_answers_at_once() -> None:
    """What was worked out of other sums is not used, though they count as many images."""
    scenario, method = head("slda")
    other = head("slda")[1]
    n = min(len(task.train) for task in scenario.tasks)
    few = torch.arange(n)
    method.learn_task(replace(scenario.tasks[0], train=scenario.tasks[0].train[few]), one_pass)
    other.learn_task(replace(scenario.tasks[1], train=scenario.tasks[1].train[few]), one_pass)
    expected = answers(method, scenario)
    assert not torch.equal(answers(other, scenario), expected)
    other.load_state_dict(method.state_dict())
    assert torch.equal(answers(other, scenario), expected)


@pytest.mark.parametrize(
    ("name", "overrides", "line"),
    [
        ("ranpac", ("method.projections=10000",), "method.projections=10000: sums of their products need"),
        ("slda", ("network.hidden=[4000]",), "network: gives 4,000 features; sums of their products need"),
        ("fecam", ("network.hidden=[2000]",), "method=fecam: 10 covariances of 2000 features"),
    ],
)
def test_sums_that_no_machine_holds_are_one_line(
    name: str, overrides: tuple[str, ...], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=2**25))
    with pytest.raises(InputError) as caught:
        made(name, *overrides)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "key", "more"), [("slda", "shrinkage", ()), ("ranpac", "ridge", ("method.projections=null",))]
)
def test_a_diagonal_that_rounding_loses_gives_the_answer_of_a_small_one(name: str, key: str, more: Any) -> None:
    """Features come in pairs of equal ones, as channels of a gray image do; there is no inverse without it."""
    x = torch.randint(9, (200, 32), generator=torch.Generator().manual_seed(0)).double().repeat_interleave(2, 1)
    found = []
    for value in (1e-30, 1e-8):
        method = made(name, "network=linear", f"method.{key}={value}", *more)[1]
        method.add(x, torch.arange(200) % 10)
        found.append(method.scores(x))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)
