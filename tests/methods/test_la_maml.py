"""La-MAML's own promises: the gradients of weights and rates, which rates step what, and how far."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import learn, made, there, train
from torch import Tensor, nn

from cl_bench.config import InputError
from cl_bench.data.batches import Batch
from cl_bench.data.tasks import Scenario
from cl_bench.methods.la_maml import LaMAML
from cl_bench.networks.base import Network


def la_maml(*overrides: str) -> tuple[LaMAML, Scenario]:
    """On images of the digits, as tasks of ten classes."""
    chosen = ("scenario=permuted", "network.hidden=[16]", "optimizer=sgd", "method.glances=1")
    scenario, method = made("la_maml", *chosen, *overrides)
    method.index = 0
    return method, scenario


def rows(scenario: Scenario, first: int, last: int) -> Batch:
    return scenario.tasks[0].train.batch(torch.arange(first, last))


def in_float64(batch: Batch) -> Batch:
    return batch._replace(x=batch.x.double())


def gradient_by_hand(theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Of the mean cross-entropy of a linear network, by its weight and bias as one matrix: the bias is its last
    column."""
    x = torch.cat([x.flatten(1), torch.ones_like(x.flatten(1)[:, :1])], dim=1)
    return ((x @ theta.T).softmax(1) - F.one_hot(y, len(theta))).T @ x / len(y)


def test_gradients_are_those_of_the_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a linear network, in float64: d l / d alpha = -1[alpha > 0] mean_i h_i sum_(j<=i) g_j, and the mean of h_i."""
    method, scenario = la_maml("method.n_replay=7")
    train(method, [rows(scenario, 0, 30)])
    old = in_float64(rows(scenario, 30, 37))
    monkeypatch.setattr(method.memory, "sample", lambda n: old if n == 7 else None)
    method.network = Network([nn.Flatten()], 64, 10).double()
    method.__dict__["weights"] = dict(method.network.named_parameters())
    generator = torch.Generator().manual_seed(0)
    method.rates = nn.ParameterList(  # a third of them below 0
        nn.Parameter(0.3 * torch.rand(p.shape, generator=generator, dtype=torch.float64) - 0.1, False)
        for p in method.network.parameters()
    )
    batch = in_float64(rows(scenario, 40, 46))
    torch.manual_seed(1)
    loss, for_weights, for_rates = method.look_ahead(batch)

    def matrix(weight: Tensor, bias: Tensor) -> Tensor:
        return torch.cat([weight.detach(), bias.detach()[:, None]], dim=1)

    theta, alpha = matrix(*method.network.parameters()), matrix(*method.rates)
    x, y = torch.cat([old.x, batch.x]), torch.cat([old.y, batch.y])
    torch.manual_seed(1)
    g, h, losses = torch.zeros_like(theta), [], []
    for_alpha = torch.zeros_like(theta)
    for i in torch.randperm(6).tolist():
        step = gradient_by_hand(theta, batch.x[i : i + 1], batch.y[i : i + 1])
        theta = theta - alpha.clamp(min=0) * step
        g += step
        h.append(gradient_by_hand(theta, x, y))
        for_alpha -= (alpha > 0) * h[-1] * g / 6
        losses.append(F.cross_entropy(x.flatten(1) @ theta[:, :-1].T + theta[:, -1], y))
    assert torch.allclose(matrix(*for_weights), torch.stack(h).mean(0), atol=1e-12)
    assert torch.allclose(matrix(*for_rates), for_alpha, atol=1e-12)
    assert torch.allclose(loss, torch.stack(losses).mean(), atol=1e-12)
    assert for_alpha.abs().max() > 1e-3
    assert ((alpha < 0) & (torch.stack(h).mean(0) != 0)).any()


def test_gradients_are_those_of_autograd_to_first_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a network with a hidden layer: g_j held fixed, the rest by one call of autograd."""
    method, scenario = la_maml("method.inner_lr=0.2")
    train(method, [rows(scenario, 0, 30)])
    old, batch = (in_float64(rows(scenario, first, first + 5)) for first in (20, 30))
    monkeypatch.setattr(method.double().memory, "sample", lambda n: old)
    torch.manual_seed(1)
    _, for_weights, for_rates = method.look_ahead(batch)
    torch.manual_seed(1)
    x, y = torch.cat([old.x, batch.x]), torch.cat([old.y, batch.y])
    start = [p.detach().clone().requires_grad_() for p in method.network.parameters()]
    rates = [rate.detach().clone().requires_grad_() for rate in method.rates]
    theta, losses = start, []

    def loss(weights: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
        named = dict(zip(method.weights, weights, strict=True))
        return F.cross_entropy(torch.func.functional_call(method.network, named, (x,)), y)

    for i in torch.randperm(5).tolist():
        g = torch.autograd.grad(loss(theta, batch.x[i : i + 1], batch.y[i : i + 1]), theta)
        theta = [p - rate.relu() * part for p, rate, part in zip(theta, rates, g, strict=True)]
        losses.append(loss(theta, x, y))
    expected = torch.autograd.grad(torch.stack(losses).mean(), [*start, *rates])
    for ours, theirs in zip([*for_weights, *for_rates], expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-12)
        assert theirs.abs().max() > 1e-4


def test_looking_ahead_leaves_the_weights_where_they_are() -> None:
    method, scenario = la_maml()
    before = copy.deepcopy(method.network.state_dict())
    method.look_ahead(rows(scenario, 0, 10))
    assert all(torch.equal(value, before[name]) for name, value in method.network.state_dict().items())


def after_two_tasks(folder: Path, *overrides: str) -> LaMAML:
    method, scenario = la_maml("memory=30", "trainer.batch_size=32", *overrides)
    for index in (0, 1):
        learn(method, scenario, index, folder, epochs=1, batch_size=32)
    return method


def test_rates_that_do_not_learn_are_those_of_c_maml(tmp_path: Path) -> None:
    """Sync bit for bit; La-MAML to rounding, where the rate of C-MAML's optimizer is the same."""
    c_maml = after_two_tasks(tmp_path / "1", "method.variant=c_maml", "optimizer.lr=0.1", "method.inner_lr=0.1")
    sync, own, learned = (
        after_two_tasks(tmp_path / variant, f"method.variant={variant}", f"method.rate_lr={rate_lr}", *more)
        for variant, rate_lr, more in (
            ("sync", 0, ("optimizer.lr=0.1", "method.inner_lr=0.1")),
            ("la_maml", 0, ("method.inner_lr=0.1",)),
            ("la_maml", 0.3, ("method.inner_lr=0.1",)),
        )
    )
    weights = [list(method.network.parameters()) for method in (c_maml, sync, own, learned)]
    assert all(map(torch.equal, weights[0], weights[1]))
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(weights[0], weights[2], strict=True))
    assert not all(torch.allclose(a, b, atol=1e-2) for a, b in zip(weights[0], weights[3], strict=True))
    assert all(rate.eq(torch.tensor(0.1)).all() for method in (c_maml, sync, own) for rate in method.rates)
    assert not any(rate.eq(torch.tensor(0.1)).all() for rate in learned.rates)


@pytest.mark.parametrize("variant", ["sync", "c_maml"])
def test_without_looking_ahead_it_is_plain_replay(variant: str) -> None:
    """A step on the mini-batch and as many images of memory, one mean over all; clipped, as every step of it."""
    chosen = ("optimizer.lr=0.1", "method.n_replay=4", "method.clip=0.5")
    method, scenario = la_maml(f"method.variant={variant}", "method.inner_lr=0", "method.rate_lr=0", *chosen)
    train(method, [rows(scenario, 0, 30)])
    network, batch = copy.deepcopy(method.network), rows(scenario, 30, 40)
    torch.manual_seed(2)
    train(method, [batch])
    torch.manual_seed(2)
    old = scenario.tasks[0].train.batch(torch.randperm(30)[:4])
    F.cross_entropy(network(torch.cat([old.x, batch.x])), torch.cat([old.y, batch.y])).backward()
    nn.utils.clip_grad_norm_(network.parameters(), 0.5)
    for ours, p in zip(method.network.parameters(), network.parameters(), strict=True):
        assert torch.allclose(ours, p - 0.1 * there(p.grad), atol=1e-6)
        assert not torch.equal(ours, p)


def test_rates_step_first_and_the_weights_by_what_they_are_then() -> None:
    """Both gradients scaled down to the same norm; a rate below 0 holds its weight, and learns no more."""
    method, scenario = la_maml("method.rate_lr=0.3", "method.clip=0.1", "method.inner_lr=0.05")
    for rate in method.rates:
        rate.view(-1)[::3] = -0.01
    twin, batch = copy.deepcopy(method), rows(scenario, 0, 10)
    torch.manual_seed(4)
    _, for_weights, for_rates = twin.look_ahead(batch)
    torch.manual_seed(4)
    train(method, [batch])

    def scaled(parts: list[Tensor]) -> list[Tensor]:
        norm = torch.cat([part.flatten() for part in parts]).norm()
        assert norm > 0.1
        return [0.1 * part / norm for part in parts]

    at = zip(method.network.parameters(), method.rates, twin.network.parameters(), twin.rates, strict=True)
    held = 0
    for (weight, rate, old, old_rate), g, for_rate in zip(at, scaled(for_weights), scaled(for_rates), strict=True):
        expected = old_rate - 0.3 * for_rate
        assert torch.allclose(rate, expected, atol=1e-6)
        assert torch.allclose(weight, old - expected.clamp(min=0) * g, atol=1e-6)
        assert torch.equal(rate[old_rate < 0], old_rate[old_rate < 0])
        assert torch.equal(weight[rate < 0], old[rate < 0])
        held += int((rate < 0).sum())
    assert held > 300


def test_images_are_kept_after_the_first_glance(monkeypatch: pytest.MonkeyPatch) -> None:
    """So later ones may replay them; and once, where a mini-batch of a stream comes several times."""
    method, scenario = la_maml("method.glances=3")
    sizes = []

    def look(batch: Batch, look_ahead: Any = method.look_ahead) -> Any:
        sizes.append(len(method.memory))
        return look_ahead(batch)

    monkeypatch.setattr(method, "look_ahead", look)
    batch = rows(scenario, 0, 10)
    train(method, [batch._replace(updates_left=1), batch, rows(scenario, 10, 20)])
    assert sizes == [0, 0, 0, 0, 10, 10, 10, 20, 20]


def test_it_answers_a_mini_batch_before_it_learns_any_of_it() -> None:
    method, scenario = la_maml()
    batch = rows(scenario, 0, 8)
    with torch.no_grad():
        expected = method(batch.x)
    method.asked = batch
    train(method, [batch])
    (answers,) = method.answers
    assert torch.equal(answers.logits, expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("network=resnet18", "network.width=2"), r"^network: its batch normalization .* method=la_maml learns .*$"),
        (("memory.per=task",), r"^memory\.per=task: .* set memory\.per=total$"),
        (("method.variant=maml",), r"^method\.variant=maml: "),
        (("method.inner_lr=-0.1",), r"^method\.inner_lr=-0\.1: "),
        (("method.clip=0",), r"^method\.clip=0: "),
    ],
)
def test_what_it_cannot_do_is_said_in_one_line(settings: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        made("la_maml", *settings)
