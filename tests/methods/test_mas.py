"""MAS's own promises: the importance of the paper, per image, and one merged quadratic."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from conftest import made
from torch import Tensor, nn

from cl_bench.data.batches import Data
from cl_bench.data.tasks import Scenario
from cl_bench.methods.mas import MAS

ALLOWED = {  # outputs that take part in task 2 of 5, by kind and training mask
    ("class", "seen"): [0, 1, 2, 3],
    ("class", "all"): list(range(10)),
    ("class", "current"): [2, 3],
    ("task", "seen"): [2, 3],
    ("domain", "seen"): [0, 1],
}


def mas(kind: str, mask: str = "seen", network: str = "mlp", strength: float = 1.0) -> tuple[MAS, Scenario]:
    chosen = [f"scenario={kind}_incremental", f"network={network}", f"method.strength={strength}", "optimizer=sgd"]
    chosen += [f"scenario.train_mask={mask}"] if kind == "class" else []
    chosen += ["network.hidden=[16]"] if network == "mlp" else []
    scenario, method = made("mas", *chosen)
    return method, scenario


def one_by_one(network: nn.Module, data: Data, allowed: list[int]) -> dict[str, Tensor]:
    """The mean over images of |d ||f(x)||^2 / d theta|, in float64."""
    exact = copy.deepcopy(network).double().eval()
    total = {name: torch.zeros_like(p) for name, p in exact.named_parameters()}
    for image in data.images:
        norm = exact(image.double()[None] / 255)[0, allowed].square().sum()
        for name, g in zip(total, torch.autograd.grad(norm, list(exact.parameters())), strict=True):
            total[name] += g.abs() / len(data)
    return total


@pytest.mark.parametrize("network", ["mlp", "cnn"])
@pytest.mark.parametrize(("kind", "mask"), ALLOWED)
def test_importance_equals_a_loop_over_images(kind: str, mask: str, network: str) -> None:
    """In float64; outputs that take no part, and pixels that are always dark, have no importance."""
    method, scenario = mas(kind, mask, network)
    method.index, allowed = 1, ALLOWED[kind, mask]
    data = scenario.tasks[1].train[torch.arange(12)]
    found = method.importance(data)
    for name, value in one_by_one(method.network, data, allowed).items():
        assert torch.allclose(found[name].double(), value, rtol=1e-3, atol=1e-5 * float(value.max())), name
    silent = [o for o in range(method.problem.n_outputs) if o not in allowed]
    assert not found["head.weight"][silent].any()
    assert not found["head.bias"][silent].any()
    if network == "mlp":
        dark = (data.images == 0).all(0).flatten()
        assert dark.any()
        assert not found["features.1.weight"][:, dark].any()


def test_importance_is_a_mean_over_all_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many mini-batches they come in."""
    method, scenario = mas("class")
    method.index, data = 0, scenario.tasks[0].train
    whole = method.importance(data)
    batches = Data.batches
    monkeypatch.setattr(Data, "batches", lambda self, size: batches(self, 50))
    for name, value in method.importance(data).items():
        assert torch.allclose(value, whole[name], rtol=1e-4, atol=1e-6), name


def test_the_merged_penalty_equals_the_sum_of_separate_ones() -> None:
    """In value and gradient: every task's importance pulls to the latest weights."""
    method, scenario = mas("task", strength=0.3)
    weights, separate = method.weights, []
    for task in scenario.tasks[:3]:
        method.learn_task(task, fit=lambda *_, **__: shake(method.network))  # type: ignore[arg-type]
        separate.append(method.importance(task.train))
    anchor = {name: p.detach().clone() for name, p in weights.items()}
    shake(method.network)
    method.index, batch = 3, scenario.tasks[3].train.batch(torch.arange(20))
    penalty = sum((omega[n] * (weights[n] - anchor[n]).square()).sum() for omega in separate for n in weights)
    expected = F.cross_entropy(method(batch.x)[:, [6, 7]], batch.y - 6) + 0.3 * penalty
    found = method.loss(batch)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    gradients = zip(*(torch.autograd.grad(loss, list(weights.values())) for loss in (found, expected)), strict=True)
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6 * float(b.abs().max())) for a, b in gradients)


@torch.no_grad()
def shake(network: nn.Module) -> None:
    """Other weights, near those that were."""
    for p in network.parameters():
        p += 0.1 * torch.randn_like(p)
