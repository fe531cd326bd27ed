"""Hard attention to the task: its masks, their slope and schedule, what is held, what is left."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from conftest import Compose
from test_isolation import NETWORKS, answers, beginning, learn

from cl_bench.config import InputError
from cl_bench.config.names import folder_of
from cl_bench.data.tasks import Scenario
from cl_bench.methods.hat import CLAMP, HAT
from cl_bench.methods.parts.isolation import Isolation
from cl_bench.runs.loop import run


def hat(*overrides: str) -> tuple[Scenario, HAT]:
    return beginning("hat", *overrides)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_the_slope_is_that_of_the_compensated_gradient(at: int, small: Compose) -> None:
    """Section 2.5 of the paper: q s_max (cosh(s e) + 1) / (s (cosh(e) + 1)), q the true gradient, in float64."""
    _, method = hat("network.hidden=[7]", "method.s_max=5")
    e = torch.tensor([-1.4, -0.3, 0.0, 0.01, 0.2, 0.7, 1.5])
    with torch.no_grad():
        method.embeddings[0].copy_(e)
    method.step_index, method.n_steps, method.n_epochs = at, 3, 1
    s = method.s
    weight = torch.arange(1.0, 8.0)
    (method.gates()[0] * weight).sum().backward()
    exact = e.double().requires_grad_()
    (torch.sigmoid(s * exact) * weight).sum().backward()
    assert torch.equal(method.gates()[0], torch.sigmoid(s * e))
    assert exact.grad is not None
    expected = exact.grad * 5 * (torch.cosh(s * exact) + 1) / (s * (torch.cosh(exact) + 1))
    found = method.embeddings[0].grad
    assert found is not None
    assert torch.allclose(found.double(), expected, rtol=1e-5)


def test_each_pass_anneals_from_one_end_to_the_other(small: Compose) -> None:
    _, method = hat("method.s_max=400")

    def scales(steps: int, epochs: int) -> list[float]:
        method.n_steps, method.n_epochs, found = steps, epochs, []
        for method.step_index in range(steps):
            found.append(method.s)
        return found

    low = 1 / 400
    assert scales(10, 2) == pytest.approx([low + (400 - low) * b / 4 for b in range(5)] * 2)
    assert scales(3, 3) == [400] * 3  # a pass of a single mini-batch
    cut = scales(11, 3)  # passes of 4 mini-batches, of which the last would have 3
    assert cut[-1] == 400
    assert cut[0] == low
    assert sum(one == low for one in cut) == sum(one == 400 for one in cut) == 3


def test_the_regularizer_on_a_hand_example(small: Compose) -> None:
    scenario, method = hat("network.hidden=[2,3]", "method.sparsity=2")
    batch = scenario.tasks[0].train.batch(torch.arange(8))
    method.index, method.step_index, method.n_steps, method.n_epochs = 0, 0, 1, 1
    method.share = torch.tensor([0, 1, 1, 0, 1]) / 3  # one free unit of the first layer, two of the second
    with torch.no_grad():
        method.embeddings[0].copy_(torch.tensor([5.0, 0.5]) / 400)
        method.embeddings[1].copy_(torch.tensor([0.0, 9.0, -2.0]) / 400)
    cross_entropy = Isolation.loss(method, batch)
    # sigmoid(0.5), sigmoid(0), sigmoid(-2) over the three free units
    opened = (0.6224593 + 0.5 + 0.1192029) / 3
    assert (method.loss(batch) - cross_entropy).item() == pytest.approx(2 * opened, rel=1e-5)


def test_masks_before_and_after_relu_are_the_same(small: Compose) -> None:
    scenario, method = hat("network.hidden=[9,6]")
    x = scenario.tasks[0].train.batch(torch.arange(8)).x
    for embedding in method.embeddings:
        torch.nn.init.normal_(embedding)
    method.step_index, method.n_steps, method.n_epochs = 0, 2, 1  # soft ones
    first, second = method.gates()
    one, two = method.weighted
    after = first * one(x.flatten(1)).relu()
    after = second * two(after).relu()
    assert torch.equal(method(x), method.network.head(after))


def test_what_lies_between_units_of_past_tasks(small: Compose) -> None:
    """Convolution, convolution, flattened 2x2 positions of each channel, linear."""
    _, method = hat("network=cnn", "network.channels=[2,3]", "network.hidden=4")
    one, two, three = cast(list[Any], method.weighted)
    reserved = [torch.tensor([1, 0]), torch.tensor([0, 1, 1]), torch.tensor([1, 0, 0, 1])]
    parts = method.between([units.bool() for units in reserved])
    assert torch.equal(parts[one.weight][:, 0, 1, 1].int(), torch.tensor([1, 0]))
    assert torch.equal(parts[two.weight][:, :, 2, 0].int(), torch.tensor([[0, 0], [1, 0], [1, 0]]))
    row = torch.tensor([0] * 4 + [1] * 8)
    assert torch.equal(parts[three.weight].int(), torch.stack([row, 0 * row, 0 * row, row]))


def test_weights_used_and_free_are_those_between_units(small: Compose, tmp_path: Path) -> None:
    scenario, method = hat("network.hidden=[9,7]")
    for task in range(2):
        capacity = learn(method, scenario, task, tmp_path)["capacity"]
    one, two = ([int(mask[task].sum()) for task in range(2)] for mask in method.masks)
    both = [int((mask[0] | mask[1]).sum()) for mask in method.masks]
    assert capacity.weights_used == [64 * one[1], one[1] * two[1]]
    assert capacity.weights_free == [64 * (9 - both[0]), 9 * 7 - both[0] * both[1]]


@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_a_closed_unit_is_invisible_to_its_task(network: str, small: Compose, tmp_path: Path) -> None:
    """Whatever no past task stands on may take any value."""
    scenario, method = hat(*NETWORKS[network])
    for task in range(2):
        learn(method, scenario, task, tmp_path)
    before = [answers(method, scenario, task) for task in range(2)]
    reserved = [mask[:2].any(0) for mask in method.masks]
    assert not all(units.all() for units in reserved)
    with torch.no_grad():
        for weight, part in method.between(reserved).items():
            weight[~part] = 1e6
    assert all(torch.equal(answers(method, scenario, task), before[task]) for task in range(2))


def test_masks_end_binary_and_embeddings_stay_in_reach(small: Compose, tmp_path: Path) -> None:
    scenario, method = hat("method.embedding_lr=100")
    learn(method, scenario, 0, tmp_path)
    embedding, mask = method.embeddings[0], method.masks[0]
    assert embedding.abs().max() == CLAMP
    assert torch.equal(mask[0], embedding >= 0)
    assert mask[1:].all()  # a task not learned yet sees the whole network


def test_while_a_task_is_learned_its_masks_are_those_being_learned(small: Compose) -> None:
    """As `learn` will keep them: what is validated during a phase is the network that the task will have."""
    scenario, method = hat("network.hidden=[40]")
    x = scenario.tasks[0].train.batch(torch.arange(50)).x
    found: list[torch.Tensor] = []

    def fit(module: Any, *_: object, **__: object) -> Any:
        found.append(module(x, index=0))

    method.learn_task(scenario.tasks[0], fit)
    assert 0 < method.masks[0][0].sum() < 40
    assert torch.equal(found[0], method(x, index=0))
    method.index = 1
    assert torch.equal(found[0], method(x, index=0))


def test_a_new_task_draws_new_masks(small: Compose, tmp_path: Path) -> None:
    scenario, method = hat("method.embedding_lr=1e-9")
    masks = []
    for task in range(2):
        learn(method, scenario, task, tmp_path)
        masks.append(method.embeddings[0].detach().clone())
    assert not torch.allclose(masks[0], masks[1])
    assert masks[1].std() == pytest.approx(1.0, abs=0.4)


def test_a_higher_price_reserves_less(small: Compose, tmp_path: Path) -> None:
    reserved = []
    for sparsity in (0, 0.75, 20):
        scenario, method = hat(f"method.sparsity={sparsity}", "network.hidden=[60]")
        for task in range(2):
            capacity = learn(method, scenario, task, tmp_path)["capacity"]
        reserved.append(capacity.reserved[0])
    assert reserved[0] > reserved[1] > reserved[2]


def test_no_capacity_is_one_line(small: Compose) -> None:
    """Each task opens about half of the units; where that is free of charge, few tasks take all."""
    settings = small("method=hat", "scenario=task_incremental", "network.hidden=[4]", "method.sparsity=0")
    line = r"method\.sparsity=0\.0: task [2-5] of 5 has no free unit; increase it, or make the network wider"
    with pytest.raises(InputError, match=f"^{line}$"):
        run(settings)
    kept = json.loads((folder_of(settings) / "results.json").read_text())
    assert kept["status"] == "failed"
    assert re.fullmatch(line, kept["reason"])
    assert kept["tasks"][-1]["diagnostics"]["capacity"]["free"] == [0]


def test_a_layer_that_closes_altogether_is_said(
    small: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scenario, method = hat("network.hidden=[20,10]", "method.sparsity=500")
    learn(method, scenario, 0, tmp_path)
    assert "task 1: no unit of layer 1 is used" in caplog.text
    assert "decrease method.sparsity" in caplog.text


def test_a_network_that_is_no_sequence_is_refused(small: Compose) -> None:
    with pytest.raises(InputError, match=r"^network: method=hat .* Residual .*network=mlp or network=cnn"):
        hat("network=resnet_gan")


def test_a_single_image_is_a_batch(small: Compose) -> None:
    scenario, method = hat(*NETWORKS["cnn"])
    method.index = 0
    method.share = torch.ones(sum(len(mask[0]) for mask in method.masks))
    assert torch.isfinite(method.loss(scenario.tasks[0].train.batch(torch.arange(1))))
