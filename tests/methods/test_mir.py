"""MIR's own promises: what the foreseen step would harm most is replayed, and nothing else tells which it is."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import made, one_pass, there, train
from torch import Tensor

from cl_bench.config import InputError
from cl_bench.data.batches import Batch
from cl_bench.data.tasks import Scenario
from cl_bench.methods.gem import gradient
from cl_bench.methods.mir import MIR

NETWORKS = {"mlp": ("network.hidden=[16]",), "resnet18": ("network=resnet18", "network.width=2")}


def mir(*overrides: str, network: str = "mlp") -> tuple[MIR, Scenario]:
    settings = ("optimizer=sgd", "optimizer.lr=0.1", "memory=60")
    scenario, method = made("mir", *NETWORKS[network], *settings, *overrides)
    for task in scenario.tasks[:2]:
        method.learn_task(task, one_pass)
    method.index = 2
    return method, scenario


def slope(method: MIR, batch: Batch) -> Tensor:
    return gradient(method.loss(batch), list(method.network.parameters()))


def harm(method: MIR, old: Batch, g: Tensor, lr: float) -> Tensor:
    return torch.cat(method.interference([(old.x, old.y)], g, lr))


@pytest.mark.parametrize("network", NETWORKS)
def test_a_step_of_length_0_interferes_with_nothing(network: str) -> None:
    method, scenario = mir(network=network)
    g = slope(method, scenario.tasks[2].train.batch(torch.arange(10)))
    old = method.memory.data.batch(torch.arange(60))
    assert torch.equal(harm(method, old, g, 0.0), torch.zeros(60))
    assert harm(method, old, g, 0.1).abs().min() > 0


@pytest.mark.parametrize("kind", ["class", "task", "domain"])
@pytest.mark.parametrize("network", NETWORKS)
def test_the_scores_are_those_of_a_step_that_is_made(kind: str, network: str) -> None:
    """By a copy, image by image. The method itself stays as it was, its running statistics and its mode too."""
    method, scenario = mir(f"scenario={kind}_incremental", network=network)
    method.train()
    g = slope(method, scenario.tasks[2].train.batch(torch.arange(10)))
    old = method.memory.data.batch(torch.arange(25))
    moved, state = copy.deepcopy(method), copy.deepcopy(method.network.state_dict())
    with torch.no_grad():
        start = 0
        for p in moved.network.parameters():
            p -= 0.3 * g[start : start + p.numel()].view_as(p)
            start += p.numel()
    expected = []
    for x, y in zip(old.x.split(1), old.y.split(1), strict=True):
        after, before = (F.cross_entropy(m.active(m.eval()(x), y), y) for m in (moved, copy.deepcopy(method)))
        expected.append(float(after - before))
    found = harm(method, old, g, 0.3)
    assert found.tolist() == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert all(torch.equal(value, state[name]) for name, value in method.network.state_dict().items())
    assert all(module.training for module in method.network.modules())


@pytest.mark.parametrize("at_a_time", [1, 7, 100])
def test_the_largest_scores_are_retrieved(at_a_time: int, monkeypatch: pytest.MonkeyPatch) -> None:
    method, scenario = mir("method.n_candidates=40")
    monkeypatch.setattr("cl_bench.data.batches.AT_ONCE", 1)  # so that images are looked at `at_a_time`
    g = slope(method, scenario.tasks[2].train.batch(torch.arange(10)))
    torch.manual_seed(3)
    candidates = method.memory.sample(40)
    torch.manual_seed(3)
    found = method.retrieve(6, g, 0.1, at_a_time=at_a_time)
    scores = harm(method, candidates, g, 0.1)
    rows = scores.argsort(descending=True)[:6]
    assert torch.equal(found.x, candidates.x[rows])
    assert torch.equal(found.y, candidates.y[rows])
    assert scores[rows].min() >= scores[[row for row in range(40) if row not in rows.tolist()]].max()


@pytest.mark.parametrize(("settings", "n"), [((), 50), (("method.n_candidates=33",), 33)])
def test_they_are_chosen_from_five_times_as_many_or_as_the_key_says(
    settings: tuple[str, ...], n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, scenario = mir("method.n_replay=10", *settings)
    sizes: list[int] = []
    sample = method.memory.sample

    def noted(n: int) -> Batch:
        sizes.append(n)
        return sample(n)

    monkeypatch.setattr(method.memory, "sample", noted)
    train(method, [scenario.tasks[2].train.batch(torch.arange(4))])
    assert sizes == [n]


def test_the_gradient_is_that_of_the_mean_over_the_mini_batch_and_what_was_retrieved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    method, scenario = mir("method.n_replay=15")
    batch, kept = scenario.tasks[2].train.batch(torch.arange(10)), {}
    retrieve = method.retrieve

    def noted(*args: Any, **more: Any) -> Batch:
        kept["old"], kept["lr"] = retrieve(*args, **more), args[2]
        return kept["old"]

    monkeypatch.setattr(method, "retrieve", noted)
    plain = copy.deepcopy(method)
    optimizer = method.configure_optimizers()
    optimizer.param_groups[0]["lr"] = 0.02  # as milestones change it
    logs = method.train_step(batch, optimizer)
    assert kept["lr"] == 0.02
    x, y = torch.cat([batch.x, kept["old"].x]), torch.cat([batch.y, kept["old"].y])
    loss = F.cross_entropy(plain.active(plain(x), y), y)
    taken = torch.cat([there(p.grad).flatten() for p in method.network.parameters()])
    assert torch.allclose(taken, gradient(loss, list(plain.network.parameters())), atol=1e-6)
    assert float(logs["loss"]) == pytest.approx(float(loss), rel=1e-5)


def test_the_first_step_is_fine_tuning_and_then_images_are_kept() -> None:
    scenario, method = made("mir", *NETWORKS["mlp"], "optimizer=sgd")
    method.index, batch = 0, scenario.tasks[0].train.batch(torch.arange(10))
    g = slope(method, batch)
    method.train_step(batch._replace(updates_left=1), method.configure_optimizers())
    assert torch.equal(torch.cat([there(p.grad).flatten() for p in method.network.parameters()]), g)
    assert not len(method.memory)
    method.train_step(batch, method.configure_optimizers())
    assert torch.equal(method.memory.labels, batch.y)


def test_fewer_candidates_than_are_retrieved_are_refused() -> None:
    with pytest.raises(InputError, match=r"^method\.n_candidates=9: fewer than method\.n_replay=10, .* at least 10$"):
        made("mir", "method.n_candidates=9", "method.n_replay=10")
    made("mir", "method.n_candidates=10", "method.n_replay=10")
    scenario, method = made("mir", "method.n_candidates=9")
    with pytest.raises(InputError, match=r"^method\.n_candidates=9: fewer than the 10 images of a mini-batch"):
        method.learn_task(scenario.to("cpu", batch_size=10).tasks[0], one_pass)
    with pytest.raises(InputError, match=r"^method\.n_candidates=9: fewer than the 10 images"):
        method.learn_stream(scenario.to("cpu", batch_size=10).tasks[0].train, one_pass)
