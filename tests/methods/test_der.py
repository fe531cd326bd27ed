"""DER's own promises: old logits are those of the step in which an image came, and what the loss makes of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from cl_bench.data.datasets import digits
from cl_bench.data.scenarios import Scenario, split
from cl_bench.methods.base import frozen
from cl_bench.methods.der import DER
from cl_bench.methods.parts.memory import Budget
from cl_bench.networks.mlp import MLP
from cl_bench.networks.optimizers import SGD


def der(**settings: Any) -> tuple[DER, Scenario]:
    torch.manual_seed(0)
    scenario = split(digits(), 0, kind="class", n_tasks=5)
    network = MLP(scenario.problem.image_shape, scenario.problem.n_outputs, hidden=(16,))
    return DER(scenario.problem, network, SGD(), **settings), scenario


def trained(method: DER, scenario: Scenario, steps: int) -> list[Any]:
    """Steps of 10 images, alternating between two tasks; returns the network as it was before each of them."""
    optimizer, before = method.configure_optimizers(), []
    for step in range(steps):
        method.task = step % 2
        method._like = scenario.tasks[step % 2].train
        before.append(frozen(method.network))
        method.step(method._like.batch(torch.arange(10 * step, 10 * step + 10)), optimizer)
    return before


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_stored_logits_are_those_at_insertion(beta: float) -> None:
    """Of the network before the very step in which the image came, never touched afterwards."""
    method, scenario = der(memory=Budget(40), beta=beta)
    before = trained(method, scenario, steps=20)
    memory, steps = method.memory, set()
    assert len(memory) == 40
    for image, task, logits in zip(memory.images, memory.task.tolist(), memory.logits, strict=True):
        same = (scenario.tasks[task].train.images == image).flatten(1).all(1).nonzero().squeeze(1)
        step = int(same[0]) // 10
        steps.add(step)
        assert torch.allclose(before[step](image[None] / 255)[0], logits, atol=1e-6)
        assert not torch.allclose(method(image[None] / 255)[0], logits, atol=1e-3)
    assert len(steps) > 5  # not only the first that came


@pytest.mark.parametrize(("beta", "draws"), [(0.0, 1), (0.5, 2)])
def test_the_loss_is_of_independent_draws_and_a_mean_over_every_output(beta: float, draws: int) -> None:
    method, scenario = der(memory=Budget(40), alpha=0.3, beta=beta, n_replay=15)
    trained(method, scenario, steps=8)
    state = torch.get_rng_state()
    loss = method.replay_loss(15)
    torch.set_rng_state(state)
    rows = [method.memory.draw(15) for _ in range(draws)]
    kept = [method.memory.data(scenario.tasks[0].train).batch(one) for one in rows]
    expected = 0.3 * (method(kept[0].x) - method.memory.logits[rows[0]]).square().sum() / (15 * 10)
    if beta:
        assert not torch.equal(rows[0], rows[1])
        expected = expected + beta * F.cross_entropy(method.active(method(kept[1].x), kept[1].y), kept[1].y)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
