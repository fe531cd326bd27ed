"""ER's own promises: what the loss weighs, and when an image enters the memory."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import made, one_pass, train

from cl_bench.config import InputError
from cl_bench.data.batches import Data
from cl_bench.data.tasks import Scenario
from cl_bench.methods.er import ER
from cl_bench.record import Phase


def er(*overrides: str) -> tuple[ER, Scenario]:
    scenario, method = made("er", "network.hidden=[16]", "optimizer=sgd", *overrides)
    return method, scenario


@pytest.mark.parametrize("kind", ["class", "task", "domain"])
@pytest.mark.parametrize("weighting", ["joint", "by_task"])
def test_the_loss_is_the_mean_over_all_or_weighs_memory_by_the_tasks(kind: str, weighting: str) -> None:
    settings = ("memory=30", "memory.per=class", "method.selection=random", "method.n_replay=50")
    method, scenario = er(f"scenario={kind}_incremental", f"method.weighting={weighting}", *settings)
    for task in scenario.tasks[:3]:
        method.learn_task(task, one_pass)
    batch = scenario.tasks[2].train.batch(torch.arange(20))
    state = torch.get_rng_state()
    loss = method.loss(batch)
    torch.set_rng_state(state)
    old = method.memory.sample(50)
    sums = [F.cross_entropy(method.active(method(one.x), one.y), one.y, reduction="sum").item() for one in (batch, old)]
    expected = sum(sums) / 70 if weighting == "joint" else sums[0] / 20 / 3 + sums[1] / 50 * 2 / 3
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_an_image_enters_a_reservoir_after_its_own_step() -> None:
    method, scenario = er("memory=200")
    data, plain = scenario.tasks[0].train, copy.deepcopy(method)
    plain.index = 0

    def watched(module: ER, data: Data, **_: Any) -> Any:
        for rows in torch.arange(96).split(32):
            assert len(method.memory) == rows[0]
            train(module, [data.batch(rows)])
            assert torch.equal(method.memory.images, data.images[: rows[-1] + 1])

    method.learn_task(scenario.tasks[0], watched)  # type: ignore[arg-type]
    # the first step is fine-tuning: there is nothing yet to replay
    assert plain.loss(data.batch(torch.arange(32))).item() == pytest.approx(
        F.cross_entropy(plain.active(plain(data.batch(torch.arange(32)).x), data.labels[:32]), data.labels[:32]).item()
    )


def test_images_of_one_task_stay_out_of_a_memory_drawn_at_its_end() -> None:
    method, scenario = er("memory=7", "memory.per=class", "method.selection=random")
    for index in (0, 1):

        def watched(module: Any, data: Any, index: int = index, **more: Any) -> Phase:
            assert set(method.memory.task_ids.tolist()) == set(range(index))
            phase = one_pass(module, data, **more)
            assert set(method.memory.task_ids.tolist()) == set(range(index))
            return phase

        method.learn_task(scenario.tasks[index], watched)
    assert method.memory.labels.bincount().tolist() == [7] * 4


def test_a_reservoir_is_not_weighed_as_the_past_alone() -> None:
    """It holds images of the current task too."""
    with pytest.raises(InputError, match=r"^method\.weighting=by_task: .* set method\.selection=random$"):
        er("memory=200", "method.weighting=by_task")
