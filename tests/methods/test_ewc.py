"""EWC's own promises: one merged quadratic, the Fisher of the training softmax."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as functional
from conftest import made, one_pass
from torch import Tensor

from cl_bench.config import InputError
from cl_bench.data.batches import Data
from cl_bench.data.tasks import Scenario
from cl_bench.methods.ewc import EWC
from cl_bench.methods.parts.quadratic import QuadraticPenalty


def random_weights(seed: int, *, zeros: bool = False) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weights = {"a": torch.rand(3, 4, generator=generator), "b": torch.rand(5, generator=generator)}
    if zeros:
        weights["a"][0] = 0  # weights that matter to no task
    return weights


def test_the_merged_penalty_equals_the_sum_of_separate_ones() -> None:
    """In value and gradient, after every further anchor."""
    penalty, anchors = QuadraticPenalty(random_weights(0)), []
    for k in range(4):
        anchors.append((random_weights(10 + k), random_weights(20 + k, zeros=True)))
        penalty.add(*anchors[-1])
        theta = {name: value.requires_grad_() for name, value in random_weights(30 + k).items()}
        separate = sum((weight[n] * (theta[n] - anchor[n]).square()).sum() for anchor, weight in anchors for n in theta)
        expected = torch.autograd.grad(separate, list(theta.values()))  # type: ignore[arg-type]
        merged = penalty(theta)
        got = torch.autograd.grad(merged, list(theta.values()))
        assert merged.item() == pytest.approx(separate.item(), rel=1e-5)  # type: ignore[union-attr]
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(got, expected, strict=True))


def test_the_online_form_keeps_the_latest_anchor_and_decays_the_weights() -> None:
    penalty = QuadraticPenalty(random_weights(0))
    for k in range(3):
        penalty.replace(random_weights(10 + k), random_weights(20 + k), decay=0.5)
    theta = random_weights(40)
    weight = {n: 0.25 * random_weights(20)[n] + 0.5 * random_weights(21)[n] + random_weights(22)[n] for n in theta}
    expected = sum((weight[n] * (theta[n] - random_weights(12)[n]).square()).sum() for n in theta)
    assert penalty(theta).item() == pytest.approx(expected.item(), rel=1e-5)  # type: ignore[union-attr]


def test_without_decay_the_weights_are_the_mean_over_the_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    method, scenario = ewc("class", "method.online=true", "method.decay=null")
    found: list[dict[str, Tensor]] = []

    def noted(data: Data) -> dict[str, Tensor]:
        found.append({name: torch.rand_like(p) for name, p in method.weights.items()})
        return found[-1]

    monkeypatch.setattr(method, "fisher", noted)
    for task in scenario.tasks[:3]:
        method.learn_task(replace(task, train=task.train[torch.arange(32)]), one_pass)
    for number, (name, weight) in enumerate(zip(found[0], method.penalty.weight, strict=True)):
        assert torch.allclose(weight, torch.stack([F[name] for F in found]).mean(0), atol=1e-6)
        assert torch.equal(method.penalty.anchor[number], method.weights[name])


def ewc(kind: str, *overrides: str) -> tuple[EWC, Scenario]:
    scenario, method = made("ewc", f"scenario={kind}_incremental", "network.hidden=[16]", "optimizer=sgd", *overrides)
    return method, scenario


@pytest.mark.parametrize("kind", ["class", "task", "domain"])
def test_fisher_uses_the_softmax_of_training(kind: str) -> None:
    """Against a loop over images and labels in float64; outputs that take no part have no importance."""
    method, scenario = ewc(kind)
    method.index = 1
    data = scenario.tasks[1].train[torch.arange(12)]
    exact = copy.deepcopy(method.network).double()
    allowed = {"class": [0, 1, 2, 3], "task": [2, 3], "domain": [0, 1]}[kind]
    expected = {name: torch.zeros_like(p) for name, p in exact.named_parameters()}
    for image in data.images:
        x = image.double()[None] / 255
        p = exact(x)[0, allowed].softmax(0).detach()
        for c in range(len(allowed)):
            log_p = exact(x)[0, allowed].log_softmax(0)[c]
            for name, g in zip(expected, torch.autograd.grad(log_p, list(exact.parameters())), strict=True):
                expected[name] += p[c] * g.square() / len(data)
    found = method.fisher(data)
    for name, value in expected.items():
        assert torch.allclose(found[name].double(), value, rtol=1e-3, atol=1e-4 * float(value.max()))
    silent = [o for o in range(method.problem.n_outputs) if o not in allowed]
    assert not found["head.bias"][silent].any()


def test_a_strong_pull_holds_the_weights_and_none_leaves_them() -> None:
    moved = []
    for strength in (0.0, 1e3):
        method, scenario = ewc("task", f"method.strength={strength}")
        network = method.network
        start = copy.deepcopy(network.state_dict())
        method.penalty.add(
            dict(network.named_parameters()), {n: torch.ones_like(p) for n, p in network.named_parameters()}
        )
        method.index, optimizer = 1, torch.optim.SGD(network.parameters(), lr=1e-4)
        for _ in range(50):
            method.train_step(scenario.tasks[1].train.batch(torch.arange(64)), optimizer)
        moved.append(sum((p - start[n]).square().sum().item() for n, p in network.named_parameters()))
    assert moved[1] < 0.5 * moved[0]


def test_fisher_samples_bounds_the_images_used(monkeypatch: pytest.MonkeyPatch) -> None:
    method, scenario = ewc("class", "method.fisher_samples=10")
    method.index, seen = 0, []
    monkeypatch.setattr(
        "cl_bench.methods.ewc.fisher", lambda _, batches, *a, **k: seen.extend(len(y) for _, y in batches)
    )
    method.fisher(scenario.tasks[0].train)
    assert sum(seen) == 10


def test_consolidating_every_so_many_mini_batches() -> None:
    """Against a loop by hand: the anchor is the latest weights, its F a moving average of those of mini-batches."""
    settings = ("method.online=true", "method.consolidate_every=3", "method.fisher_rate=0.7", "method.strength=20")
    method, scenario = ewc("class", *settings, "optimizer.lr=0.1")
    network, batches = copy.deepcopy(method.network), list(scenario.tasks[0].train.batches(24))[:7]
    weights, running, anchor, F = list(network.parameters()), [torch.zeros(())] * 4, [], []
    optimizer, other, method.index = method.configure_optimizers(), torch.optim.SGD(weights, lr=0.1), 0
    for number, batch in enumerate(batches, start=1):
        method.train_step(batch, optimizer)
        loss = functional.cross_entropy(network(batch.x)[:, :2], batch.y)
        for f, p, old in zip(F, weights, anchor, strict=False):  # none at first
            loss = loss + 10 * (f * (p - old).square()).sum()
        other.zero_grad()
        loss.backward()
        other.step()
        here = [torch.zeros_like(p) for p in weights]
        for x, y in zip(batch.x, batch.y, strict=True):
            log_p = network(x[None])[0, :2].log_softmax(0)[y]
            for total, g in zip(here, torch.autograd.grad(log_p, weights), strict=True):
                total += g.square() / len(batch.y)
        running = [0.7 * new + 0.3 * old for new, old in zip(here, running, strict=True)]
        if number % 3 == 0:
            anchor, F = [p.detach().clone() for p in weights], running
    for found, expected in ((method.weights.values(), weights), (method.penalty.anchor, anchor)):
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, expected, strict=True))
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-7) for a, b in zip(method.penalty.weight, F, strict=True))


def test_consolidating_with_a_task_moves_the_anchor_where_its_end_does() -> None:
    """Weights and anchor bit for bit; F is an average over mini-batches, not that of all images at the end."""
    states = []
    for every in ("null", "9"):
        method, scenario = ewc("class", "method.online=true", f"method.consolidate_every={every}")
        data = scenario.tasks[0].train[torch.arange(9 * 32)]
        method.learn_task(replace(scenario.tasks[0], train=data), one_pass)
        states.append(method.state_dict())
    kept, moved = states
    assert all(torch.equal(value, moved[name]) for name, value in kept.items() if name.startswith("network"))
    assert all(torch.equal(value, moved[name]) for name, value in kept.items() if "penalty.anchor" in name)
    F = [torch.cat([v.flatten() for name, v in state.items() if "penalty.weight" in name]) for state in states]
    assert torch.corrcoef(torch.stack(F))[0, 1] > 0.5
    assert not torch.equal(*F)


def test_anchors_of_tasks_do_not_move() -> None:
    with pytest.raises(InputError, match=r"^method\.consolidate_every=5: .* set method\.online=true$"):
        ewc("class", "method.consolidate_every=5")
