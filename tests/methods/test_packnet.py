"""PackNet: what is pruned is the smallest of a task's own, stays 0, and is what later tasks have."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import Compose, there
from test_isolation import OPTIMIZERS, answers, beginning, learn

from cl_bench.config import InputError
from cl_bench.data.tasks import Scenario
from cl_bench.methods.packnet import PackNet
from cl_bench.runs.loop import run


def packnet(*overrides: str) -> tuple[Scenario, PackNet]:
    return beginning("packnet", *overrides)


def test_the_smallest_of_the_tasks_own_weights_are_pruned(small: Compose) -> None:
    _, method = packnet("network.hidden=[3]")
    weight, owner = method.owned[0]  # (3, 64)
    method.index = 1
    with torch.no_grad():
        weight.copy_(torch.arange(1.0, 193.0).view(3, 64) * (-1.0) ** torch.arange(64))
        owner.fill_(1)
        owner[0] = 0  # of the task before, and all of them smaller
    method.prune(0.3)  # of 128: 38.4
    expected = torch.arange(192).view(3, 64)
    pruned = (expected >= 64) & (expected < 64 + 38)
    assert torch.equal(owner == method.nobody, pruned)
    assert torch.equal(weight == 0, pruned)
    assert (owner[0] == 0).all()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_pruned_weights_stay_0_and_owned_ones_stay(optimizer: str, small: Compose, tmp_path: Path) -> None:
    scenario, method = packnet("method.prune=0.5", *OPTIMIZERS[optimizer])
    kept = []
    for task in range(4):
        learn(method, scenario, task, tmp_path)
        for number, (weight, owner) in enumerate(method.owned):
            free = owner == method.nobody
            assert not weight[free].any()
            assert int(free.sum()) == round(weight.numel() * 0.5 ** (task + 1))
            kept.append((number, owner == task, weight[owner == task].clone()))
        for number, own, value in kept:
            weight, owner = method.owned[number]
            assert torch.equal(weight[own], value)
        assert not any((owner > task).logical_and(owner != method.nobody).any() for _, owner in method.owned)


def test_the_second_training_moves_what_is_left(
    small: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario, method = packnet()
    pruned = []
    prune = PackNet.prune

    def look(self: PackNet, share: float) -> None:
        prune(self, share)
        pruned.extend(weight.detach().clone() for weight, _ in self.owned)

    monkeypatch.setattr(PackNet, "prune", look)
    learn(method, scenario, 0, tmp_path)
    for before, (weight, owner) in zip(pruned, method.owned, strict=True):
        assert not torch.equal(before[owner == 0], weight[owner == 0])


def test_a_task_is_answered_with_the_weights_up_to_it(small: Compose, tmp_path: Path) -> None:
    scenario, method = packnet()
    for task in range(3):
        learn(method, scenario, task, tmp_path)
    before = [answers(method, scenario, task) for task in range(3)]
    with torch.no_grad():
        for weight, owner in method.owned:
            weight[owner > 1] = 1e6  # of the third task, and free
    for task, expected in enumerate(before):
        assert torch.equal(answers(method, scenario, task), expected) == (task < 2)
    with torch.no_grad():
        for weight, owner in method.owned:
            weight[owner == 0] = 1e6  # of the first, which the second stands on
    assert not torch.equal(answers(method, scenario, 1), before[1])


def test_biases_are_those_of_the_first_task(small: Compose, tmp_path: Path) -> None:
    scenario, method = packnet("optimizer.weight_decay=0.1")
    bias = method.weights["features.1.bias"]
    start = bias.detach().clone()
    learn(method, scenario, 0, tmp_path)
    first = bias.detach().clone()
    assert not torch.equal(start, first)
    learn(method, scenario, 1, tmp_path)
    assert torch.equal(bias, first)


def test_equal_parts(small: Compose) -> None:
    results = run(small("method=packnet", "scenario=task_incremental", "method.prune=null"))
    capacities = [there(record.diagnostics.capacity) for record in results.tasks]
    for new in zip(*(capacity.new for capacity in capacities), strict=True):
        assert max(new) - min(new) <= 2
    assert capacities[-1].free == [0]
    phases = [[phase.phase for phase in record.phases] for record in results.tasks]
    assert phases == [["train", "retrain"]] * 4 + [["train"]]


def test_how_long_it_trains_again(small: Compose) -> None:
    results = run(small("method=packnet", "scenario=task_incremental", "method.retrain_epochs=1"))
    assert [phase.steps for phase in results.tasks[0].phases] == [6, 3]
    results = run(small("method=packnet", "scenario=task_incremental", "method.retrain_steps=4"))
    assert [phase.steps for phase in results.tasks[0].phases] == [6, 4]


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (("method.prune=0.0",), "method.prune=0.0: leaves no free weight for task 2 of 5; prune a larger share"),
        (
            ("method.prune=[0.5,0.5,0,0.5,0.5]",),
            "method.prune=[0.5, 0.5, 0.0, 0.5, 0.5]: leaves no free weight for task 4",
        ),
        (("network.hidden=[]",), "network: method=packnet needs hidden layers, and this network has none"),
        (("method.prune=0.001", "network.hidden=[5]"), "method.prune=0.001: leaves no free weight for task 2 of 5"),
        (("method.prune=[0.5]",), "method.prune=[0.5]: needs one number, or one for each of 5 tasks"),
        (("method.prune=1.0",), "method.prune=1.0: "),
        (("method.prune=0.9999",), "method.prune=0.9999: leaves no weight of a layer to the first task; prune less"),
    ],
)
def test_no_capacity_is_said_before_anything_is_trained(overrides: tuple[str, ...], line: str, small: Compose) -> None:
    with pytest.raises(InputError) as error:
        packnet(*overrides)
    assert str(error.value).startswith(line)


def test_the_first_full_layer_is_not_the_end(small: Compose) -> None:
    """64 weights, 2 of them in the second layer: that one is full long before the other."""
    results = run(small("method=packnet", "scenario=task_incremental", "method.prune=0.5", "network.hidden=[2,1]"))
    assert there(results.tasks[-1].diagnostics.capacity).free[1] == 0
    assert there(results.tasks[-1].diagnostics.capacity).free[0] > 0
