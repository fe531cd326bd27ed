"""DER's own promises: old logits are those of the step in which an image came, and what the loss makes of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import made, train

from cl_bench.data.tasks import Scenario
from cl_bench.methods.base import frozen
from cl_bench.methods.der import DER


def der(*overrides: str) -> tuple[DER, Scenario]:
    settings = ("network.hidden=[16]", "optimizer=sgd", "scenario.train_mask=seen", "memory=40")
    scenario, method = made("der", *settings, *overrides)
    return method, scenario


def trained(method: DER, scenario: Scenario, steps: int) -> list[Any]:
    """Steps of 10 images, alternating between two tasks; returns the network as it was before each of them."""
    before: list[Any] = []

    def one_step(module: Any, data: Any, **_: Any) -> Any:
        rows = torch.arange(10 * len(before), 10 * len(before) + 10)
        before.append(frozen(method.network))
        train(module, [data.batch(rows)])

    for step in range(steps):
        method.learn_task(scenario.tasks[step % 2], one_step)
    return before


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_stored_logits_are_those_at_insertion(beta: float) -> None:
    """Of the network before the very step in which the image came, never touched afterwards."""
    method, scenario = der(f"method.beta={beta}")
    before = trained(method, scenario, steps=20)
    memory, steps = method.memory, set()
    assert len(memory) == 40
    for image, task, logits in zip(memory.images, memory.task_ids.tolist(), memory.logits, strict=True):
        same = (scenario.tasks[task].train.images == image).flatten(1).all(1).nonzero().squeeze(1)
        step = int(same[0]) // 10
        steps.add(step)
        assert torch.allclose(before[step](image[None] / 255)[0], logits, atol=1e-6)
        assert not torch.allclose(method(image[None] / 255)[0], logits, atol=1e-3)
    assert len(steps) > 5  # not only the first that came


@pytest.mark.parametrize(("beta", "draws"), [(0.0, 1), (0.5, 2)])
def test_the_loss_is_of_independent_draws_and_a_mean_over_every_output(beta: float, draws: int) -> None:
    method, scenario = der("method.alpha=0.3", f"method.beta={beta}", "method.n_replay=15")
    trained(method, scenario, steps=8)
    state = torch.get_rng_state()
    loss = method.replay_loss(15)
    torch.set_rng_state(state)
    rows = [method.memory.draw(15) for _ in range(draws)]
    kept = [method.memory.data.batch(one) for one in rows]
    expected = 0.3 * (method(kept[0].x) - method.memory.logits[rows[0]]).square().sum() / (15 * 10)
    if beta:
        assert not torch.equal(rows[0], rows[1])
        expected = expected + beta * F.cross_entropy(method.active(method(kept[1].x), kept[1].y), kept[1].y)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
