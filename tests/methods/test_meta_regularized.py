"""The three terms reduce to methods that are known, bit for bit; the meta-parameters have a closed form."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Recorder, made, one_pass
from torch import Tensor

from cl_bench.methods.base import Classifier
from cl_bench.methods.meta_regularized import MetaRegularized

KINDS = ("class", "task", "domain")
SMALL = ("network.hidden=[16]", "optimizer=sgd", "optimizer.lr=0.1", "optimizer.momentum=0.9")


def learned(method: str, kind: str, *settings: str, n_tasks: int = 3) -> tuple[Any, list[list[Tensor]]]:
    """The method after some tasks; the weights at first and after each."""
    scenario, learner = made(method, f"scenario={kind}_incremental", *SMALL, *settings)
    weights = [weights_of(learner)]
    for task in scenario.tasks[:n_tasks]:
        learner.learn_task(task, one_pass)
        weights.append(weights_of(learner))
    return learner, weights


def weights_of(learner: Classifier) -> list[Tensor]:
    return [weight.detach().clone() for weight in learner.network.parameters()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_without_both_terms_it_is_finetune(kind: str) -> None:
    _, ours = learned("meta_regularized", kind, "method.strength=0", "method.pull=0")
    _, finetuned = learned("finetune", kind)
    assert same(ours[-1], finetuned[-1])


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_pull_it_is_lwf(kind: str) -> None:
    terms = ("method.strength=0.7", "method.temperature=3")
    _, ours = learned("meta_regularized", kind, "method.pull=0", *terms)
    _, distilled = learned("lwf", kind, *terms)
    assert same(ours[-1], distilled[-1])


@pytest.fixture
def anchor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The class of the page about adding a method."""
    page = (Path(__file__).parents[2] / "docs" / "adding_a_method.md").read_text()
    code = page[page.index("**`anchor.py`**") :].split("```python\n")[1].split("```")[0]
    (tmp_path / "anchor.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    yield __import__("anchor").Anchor
    sys.modules.pop("anchor")


def test_without_distillation_and_with_the_last_weights_as_meta_parameters_it_is_the_docs_anchor(anchor: Any) -> None:
    _, ours = learned("meta_regularized", "domain", "method.strength=0", "method.pull=0.3", "method.rate=1")
    scenario, plain = made("finetune", "scenario=domain_incremental", *SMALL)
    method = anchor(plain.problem, plain.network, plain.optimizer, strength=0.15)
    for task in scenario.tasks[:3]:
        method.learn_task(task, one_pass)
    assert same(ours[-1], weights_of(method))
    _, unpulled = learned("finetune", "domain")
    assert not same(ours[-1], unpulled[-1])


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0, None])
def test_the_meta_parameters_have_a_closed_form(rate: float | None) -> None:
    """eps sum_k (1 - eps)^(t - k) theta_k + (1 - eps)^t theta_0; the mean of theta_1 to theta_t with 1/t."""
    method, weights = learned("meta_regularized", "class", f"method.rate={'null' if rate is None else rate}", n_tasks=4)
    t = 4
    shares = [1 / t] * t if rate is None else [rate * (1 - rate) ** (t - k) for k in range(1, t + 1)]
    shares = [1 - sum(shares), *shares]
    expected = [
        sum(share * p.double() for share, p in zip(shares, ps, strict=True)) for ps in zip(*weights, strict=True)
    ]
    for found, meta in zip(method.meta, expected, strict=True):
        assert torch.allclose(found.double(), torch.as_tensor(meta), atol=1e-6)
    assert same(list(method.meta), weights[-1]) == (rate == 1)
    assert same(list(method.meta), weights[0]) == (rate == 0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_pull_is_on_weights_that_an_earlier_task_had(kind: str) -> None:
    """Value and gradient against a loop over rows of the head."""
    scenario, method = made("meta_regularized", f"scenario={kind}_incremental", *SMALL, "method.pull=0.8")
    assert isinstance(method, MetaRegularized)
    method.index, batch = 2, scenario.tasks[2].train.batch(torch.arange(20))
    with torch.no_grad():
        for p in method.network.parameters():
            p += torch.randn_like(p)
    old = {"class": range(4), "task": range(4), "domain": range(2)}[kind]
    first, bias, head, head_bias = (weight - meta for weight, meta in zip(weights_of(method), method.meta, strict=True))
    expected = first.square().sum() + bias.square().sum()
    expected = expected + sum(head[row].square().sum() + head_bias[row] ** 2 for row in old)
    without = super(MetaRegularized, method).loss(batch)
    torch.testing.assert_close(method.loss(batch) - without, 0.4 * expected)
    gradient = torch.autograd.grad(method.distance(), [method.network.head.weight])[0]
    assert gradient.any(1).nonzero().squeeze(1).tolist() == list(old)


@pytest.mark.parametrize("start", ["previous", "meta"])
def test_where_a_task_begins(start: str) -> None:
    """And what the old network is, whose answers are kept: always the one that the last task left."""
    scenario, method = made("meta_regularized", "scenario=domain_incremental", *SMALL, f"method.start={start}")
    method.learn_task(scenario.tasks[0], one_pass)
    left, meta = weights_of(method), [p.detach().clone() for p in method.meta]
    fit = Recorder(look=lambda call: begun.append(weights_of(method)))
    begun: list[list[Tensor]] = []
    method.learn_task(scenario.tasks[1], fit)
    assert same(begun[0], meta if start == "meta" else left)
    assert not same(left, meta)
    step: Any = fit["train"].step
    assert same(list(step.keywords["teacher"].network.parameters()), left)
