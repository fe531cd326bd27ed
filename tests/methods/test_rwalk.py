"""RWalk's own promises: both of its terms, and their sum as one quadratic."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import made, train
from torch import Tensor, nn

from cl_bench.data.batches import Batch, Data, Step
from cl_bench.data.tasks import Scenario
from cl_bench.methods.rwalk import RWalk, scaled
from cl_bench.networks.optimizers import Optimizer

ADAM = ("optimizer.lr=0.01",)
DECAYING = ("optimizer=sgd", "optimizer.lr=0.5", "optimizer.momentum=0.9", "optimizer.weight_decay=0.01")
STRENGTH, DAMPING, RATE, INTERVAL = 0.3, 1e-4, 0.7, 3


def rwalk(kind: str, optimizer: tuple[str, ...] = ADAM) -> tuple[RWalk, Scenario]:
    """In float64, so that only mistakes make a difference."""
    settings = {"strength": STRENGTH, "damping": DAMPING, "fisher_rate": RATE, "interval": INTERVAL}
    chosen = (f"method.{name}={value}" for name, value in settings.items())
    scenario, method = made("rwalk", f"scenario={kind}_incremental", "network.hidden=[8]", *optimizer, *chosen)
    return method.double(), scenario


def mini_batches(data: Data) -> list[Batch]:
    """Eight, so that the last interval is cut short."""
    batches = [data.batch(rows) for rows in torch.arange(len(data)).split(16)[:8]]
    return [batch._replace(x=batch.x.double()) for batch in batches]


def fit(module: Any, data: Data, *, step: Step | None = None, **_: Any) -> Any:
    """A short training phase."""
    train(module, mini_batches(data), step)


def unit(terms: list[Tensor]) -> list[Tensor]:
    flat = torch.cat([one.flatten() for one in terms])
    return [(one - flat.min()) / (flat.max() - flat.min()) for one in terms]


class StepByStep:
    """RWalk, one image, parameter and step at a time."""

    def __init__(self, network: nn.Module, optimizer: Optimizer) -> None:
        self.network, self.optimizer, self.weights = network, optimizer, list(network.parameters())
        self.F, self.s = self.zeros(), self.zeros()
        self.importance, self.anchors = self.zeros(), self.here()

    def zeros(self) -> list[Tensor]:
        return [torch.zeros_like(p) for p in self.weights]

    def here(self) -> list[Tensor]:
        return [p.detach().clone() for p in self.weights]

    def learn(self, batches: list[Batch], allowed: list[int], *, first: bool) -> None:
        optimizer, new = self.optimizer(self.weights), self.zeros()
        for begin in range(0, len(batches), INTERVAL):
            start, saved = self.here(), self.zeros()
            here = self.fisher(batches[begin], allowed)
            self.F = [RATE * f + (1 - RATE) * old for f, old in zip(here, self.F, strict=True)]
            for batch in batches[begin : begin + INTERVAL]:
                loss = F.cross_entropy(self.network(batch.x)[:, allowed], batch.y - allowed[0])
                gradients, before = torch.autograd.grad(loss, self.weights), self.here()
                for i, p in enumerate(self.weights):
                    p.grad = gradients[i] + 2 * STRENGTH * self.importance[i] * (p.detach() - self.anchors[i])
                optimizer.step()
                for i, p in enumerate(self.weights):
                    saved[i] -= gradients[i] * (p.detach() - before[i])
            for i, p in enumerate(self.weights):
                ratio = saved[i] / (0.5 * self.F[i] * (p.detach() - start[i]) ** 2 + DAMPING)
                new[i] += ratio.clamp(min=0)
        self.s = new if first else [(a + b) / 2 for a, b in zip(self.s, new, strict=True)]
        self.importance = [f + s for f, s in zip(unit(self.F), unit(self.s), strict=True)]
        self.anchors = self.here()

    def fisher(self, batch: Batch, allowed: list[int]) -> list[Tensor]:
        """The mean of squared gradients of single images."""
        total = self.zeros()
        for x, y in zip(batch.x, batch.y, strict=True):
            log_p = self.network(x[None])[0, allowed].log_softmax(0)[y - allowed[0]]
            for one, g in zip(total, torch.autograd.grad(log_p, self.weights), strict=True):
                one += g**2 / len(batch.y)
        return total


@pytest.mark.parametrize("optimizer", [ADAM, DECAYING], ids=["adam", "sgd"])
@pytest.mark.parametrize("kind", ["class", "task", "domain"])
def test_both_terms_equal_a_loop_over_images_and_steps(kind: str, optimizer: tuple[str, ...]) -> None:
    """Over three tasks under a pull that matters; in float64."""
    method, scenario = rwalk(kind, optimizer)
    expected = StepByStep(copy.deepcopy(method.network), method.optimizer)
    for task in scenario.tasks[:3]:
        method.learn_task(task, fit)
        t = task.index
        allowed = {"class": list(range(2 * t + 2)), "task": [2 * t, 2 * t + 1], "domain": [0, 1]}[kind]
        expected.learn(mini_batches(task.train), allowed, first=t == 0)
        for found, what in (
            (method.fisher, expected.F),
            (method.score, expected.s),
            (method.penalty.weight, expected.importance),
            (method.penalty.anchor, expected.anchors),
        ):
            for a, b in zip(found, what, strict=True):
                torch.testing.assert_close(a.data, b, rtol=1e-7, atol=1e-9)
    assert all(not left.any() for part in (method.path, method.task_score) for left in part)


def test_the_merged_penalty_equals_the_sum_of_separate_ones() -> None:
    """In value and gradient: one for the Fisher information, one for each task's score, all to the latest weights."""
    method, scenario = rwalk("domain")
    weights, scores = method.weights, []

    def and_look(module: Any, data: Data, **_: Any) -> Any:
        fit(module, data)
        module.end_interval()
        scores.append([one.clone() for one in module.task_score])

    for task in scenario.tasks[:3]:
        method.learn_task(task, and_look)
    anchor, information = [p.detach().clone() for p in weights.values()], scaled(method.fisher)
    fit(method, scenario.tasks[3].train)
    merged = method.penalty(weights)
    mean = [first / 4 + second / 4 + third / 2 for first, second, third in zip(*scores, strict=True)]
    top = torch.stack([one.max() for one in mean]).max()  # the least is 0: dark pixels
    gaps = [(p - a).square() for p, a in zip(weights.values(), anchor, strict=True)]
    apart: Any = sum((f * gap).sum() for f, gap in zip(information, gaps, strict=True))
    for share, one in zip((0.25, 0.25, 0.5), scores, strict=True):
        apart = apart + sum((share * s / top * gap).sum() for s, gap in zip(one, gaps, strict=True))
    assert merged.item() == pytest.approx(apart.item(), rel=1e-9)
    gradients = zip(*(torch.autograd.grad(value, list(weights.values())) for value in (merged, apart)), strict=True)
    assert all(torch.allclose(a, b, rtol=1e-9) for a, b in gradients)


def test_what_does_not_act_has_no_importance() -> None:
    """Heads of other tasks and pixels that are always dark, though weight decay moves them."""
    method, scenario = rwalk("task", DECAYING)
    for task in scenario.tasks[:2]:
        method.learn_task(task, fit)
    omega = dict(zip(method.weights, method.penalty.weight, strict=True))
    assert not omega["head.weight"][4:].any()
    assert not omega["head.bias"][4:].any()
    x = torch.cat([batch.x for task in scenario.tasks[:2] for batch in mini_batches(task.train)])
    dark = (x == 0).flatten(1).all(0)
    assert dark.any()
    assert not omega["features.1.weight"][:, dark].any()
    assert omega["head.bias"][:4].any()


def test_terms_are_scaled_over_all_weights_at_once() -> None:
    one, other = scaled([torch.tensor([1.0, 2.0]), torch.tensor([[5.0]])])
    assert one.tolist() == [0.0, 0.25]
    assert other.tolist() == [[1.0]]
    assert all(not same.any() for same in scaled([torch.ones(2), torch.ones(3)]))  # nothing to tell apart
