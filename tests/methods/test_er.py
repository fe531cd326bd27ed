"""ER's own promises: what the loss weighs, and when an image enters the memory."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import one_pass

from cl_bench.config import InputError
from cl_bench.data.datasets import digits
from cl_bench.data.scenarios import Scenario, split
from cl_bench.methods.er import ER
from cl_bench.methods.parts.memory import Budget
from cl_bench.networks.mlp import MLP
from cl_bench.networks.optimizers import SGD


def er(kind: str = "class", **settings: Any) -> tuple[ER, Scenario]:
    torch.manual_seed(0)
    scenario = split(digits(), 0, kind=kind, n_tasks=5)  # type: ignore[arg-type]
    network = MLP(scenario.problem.image_shape, scenario.problem.n_outputs, hidden=(16,))
    return ER(scenario.problem, network, SGD(), **settings), scenario


@pytest.mark.parametrize("kind", ["class", "task", "domain"])
@pytest.mark.parametrize("weighting", ["joint", "by_task"])
def test_the_loss_is_the_mean_over_all_or_weighs_memory_by_the_tasks(kind: str, weighting: str) -> None:
    method, scenario = er(kind, memory=Budget(30, "class"), selection="random", weighting=weighting, n_replay=50)
    for index in range(3):
        method.task = index
        method.learn(scenario.tasks[index], one_pass)
    batch = scenario.tasks[2].train.batch(torch.arange(20))
    state = torch.get_rng_state()
    loss = method.loss(batch)
    torch.set_rng_state(state)
    old = method.memory.data(batch_like := scenario.tasks[2].train).batch(method.memory.draw(50))
    assert batch_like.view is None
    sums = [F.cross_entropy(method.active(method(one.x), one.y), one.y, reduction="sum").item() for one in (batch, old)]
    expected = sum(sums) / 70 if weighting == "joint" else sums[0] / 20 / 3 + sums[1] / 50 * 2 / 3
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_an_image_enters_a_reservoir_after_its_own_step() -> None:
    method, scenario = er(memory=Budget(200))
    data = scenario.tasks[0].train
    method.task, method._like = 0, data
    optimizer = method.configure_optimizers()
    plain = copy.deepcopy(method)
    for rows in torch.arange(96).split(32):
        batch = data.batch(rows)
        assert len(method.memory) == rows[0]
        method.step(batch, optimizer)
        assert torch.equal(method.memory.images, data.images[: rows[-1] + 1])
    # the first step is fine-tuning: there is nothing yet to replay
    assert plain.loss(data.batch(torch.arange(32))).item() == pytest.approx(
        F.cross_entropy(plain.active(plain(data.batch(torch.arange(32)).x), data.labels[:32]), data.labels[:32]).item()
    )


def test_images_of_one_task_stay_out_of_a_memory_drawn_at_its_end() -> None:
    method, scenario = er(memory=Budget(7, "class"), selection="random")
    for index in (0, 1):
        method.task = index

        def watched(module: Any, data: Any, index: int = index, **more: Any) -> None:
            assert set(method.memory.task.tolist()) == set(range(index))
            one_pass(module, data, **more)
            assert set(method.memory.task.tolist()) == set(range(index))

        method.learn(scenario.tasks[index], watched)
    assert method.memory.labels.bincount().tolist() == [7] * 4


def test_a_reservoir_is_not_weighed_as_the_past_alone() -> None:
    """It holds images of the current task too."""
    with pytest.raises(InputError, match=r"^method\.weighting=by_task: .* set method\.selection=random$"):
        er(memory=Budget(200), weighting="by_task")
