"""Progressive networks: what a column learned stays as it is, and the sums are those of the paper."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import Call, Recorder, learn, made
from test_isolation import NETWORKS, OPTIMIZERS
from torch import Tensor, nn

from cl_bench.config import InputError
from cl_bench.data.tasks import Scenario
from cl_bench.methods.pnn import PNN
from cl_bench.networks.columns import Column, Lateral
from cl_bench.networks.plain import Weighted, in_order


def pnn(*overrides: str) -> tuple[Scenario, Any]:
    return made("pnn", "scenario=task_incremental", *overrides)


def grown(*overrides: str, tasks: int = 3, steps: int = 2) -> tuple[Scenario, Any]:
    """After some tasks of a few steps each."""
    scenario, method = pnn(*overrides)
    for task in scenario.tasks[:tasks]:
        method.learn_task(task, Recorder(steps))
    return scenario, method


def state_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


@torch.no_grad()
def answers(method: PNN, scenario: Scenario, task: int) -> Tensor:
    return method(next(scenario.tests[task].batches()).x, index=task)


@pytest.mark.parametrize(("network", "optimizer"), [("mlp", "sgd"), ("cnn", "adam")])
def test_old_columns_and_their_logits_never_change_by_a_bit(network: str, optimizer: str, tmp_path: Path) -> None:
    scenario, method = pnn(*NETWORKS[network], *OPTIMIZERS[optimizer])
    logits: list[Tensor] = []
    states: list[dict[str, Tensor]] = []
    for task in range(3):
        learn(method, scenario, task, tmp_path, epochs=2, batch_size=32)
        assert len(method.columns) == task + 1
        for column, state in zip(method.columns, states, strict=False):
            assert all(torch.equal(value, state[name]) for name, value in column.state_dict().items())
        found = [answers(method, scenario, past) for past in range(task + 1)]
        assert all(torch.equal(old, new) for old, new in zip(logits, found, strict=False))
        logits, states = found, [state_of(column) for column in method.columns]
        own = found[task][:, list(scenario.problem.outputs[task])]
        assert own.std(0).min() > 1e-3  # it tells images apart
        if task:  # its adapters learn too
            assert all(p.grad is not None and p.grad.any() for p in method.columns[task].laterals.parameters())


def test_the_gradient_of_an_old_column_is_none() -> None:
    scenario, method = grown(*NETWORKS["mlp"], tasks=2, steps=0)
    batch = scenario.tasks[1].train.batch(torch.arange(16))
    method.train_step(batch, method.configure_optimizers())
    assert all(p.grad is None for p in method.columns[0].parameters())
    assert all(p.grad is not None for p in method.columns[1].parameters())


@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_without_what_the_adapters_give_a_column_stands_alone(network: str) -> None:
    scenario, method = grown(*NETWORKS[network])
    column = method.columns[2]
    x = scenario.tasks[2].train.batch(torch.arange(8)).x
    outputs = list(scenario.problem.outputs[2])
    with torch.no_grad():
        alone = column.head(column.features(x))
        assert not torch.allclose(method(x, index=2)[:, outputs], alone)
        for lateral in column.laterals:
            lateral.U.weight.zero_()
        assert torch.equal(method(x, index=2)[:, outputs], alone)


def by_loops(columns: list[Column], x: Tensor) -> Tensor:
    """The logits of the last column, by the formula, in float64: over columns, in each over layers."""
    given: list[list[Tensor]] = []  # to each layer with weights of each column
    for k, column in enumerate(columns):
        h, inputs = x, []
        for layer in [*in_order(column.features), column.head]:
            if not isinstance(layer, Weighted):
                h = layer(h)
                continue
            inputs.append(h)
            i, total = len(inputs) - 1, apply(layer, h)
            if k and i:
                lateral: Any = column.laterals[i - 1]
                n = h.shape[1]
                V = lateral.V.weight.double()  # a block of its columns for each earlier column
                projected = torch.zeros_like(h) + lateral.V.bias.double().view(1, -1, *[1] * (h.dim() - 2))
                for j in range(k):
                    block = V[:, j * n : (j + 1) * n]
                    scaled = lateral.scale[j].double() * given[j][i]
                    projected = projected + (scaled @ block.T if h.dim() == 2 else F.conv2d(scaled, block))
                total = total + apply(lateral.U, projected.clamp(min=0))
            h = total
        given.append(inputs)
    return h


def apply(layer: Any, h: Tensor) -> Tensor:
    bias = None if layer.bias is None else layer.bias.double()
    if isinstance(layer, nn.Linear):
        return F.linear(h, layer.weight.double(), bias)
    return F.conv2d(h, layer.weight.double(), bias, stride=2, padding=1)


@torch.no_grad()
@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_the_logits_are_those_of_two_nested_loops(network: str) -> None:
    scenario, method = grown(*NETWORKS[network], steps=0)
    x = scenario.tasks[2].train.batch(torch.arange(8)).x.double()
    expected = by_loops(list(method.columns), x)
    found = method.double()(x, index=2)[:, list(scenario.problem.outputs[2])]
    assert torch.allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("hidden", [[32, 24], [20], [16, 12, 8]])
def test_parameters_are_those_of_the_closed_formula(hidden: list[int]) -> None:
    n_tasks = 4
    _, method = grown(f"network.hidden={hidden}", tasks=n_tasks, steps=0)
    widths = [64, *hidden, 2]
    column = sum(n * m + m for n, m in pairwise(widths))
    expected = column
    for k in range(2, n_tasks + 1):
        laterals = sum((k - 1) * n * n + n + n * m + (k - 1) for n, m in pairwise(widths[1:]))
        expected += column + laterals
    assert sum(p.numel() for p in method.parameters()) == expected


def test_what_it_notes_is_the_number_of_parameters() -> None:
    scenario, method = pnn()
    noted = [method.learn_task(task, Recorder()) for task in scenario.tasks[:2]]
    assert [found["parameters"] for found in noted] == [64 * 32 + 32 + 66, 2 * 2146 + 32 * 32 + 32 + 32 * 2 + 1]


def test_a_column_begins_random_or_as_the_one_before() -> None:
    for init in ("random", "previous"):
        _, method = grown(f"method.init={init}", steps=0)
        first, second = ([p.detach() for p in method.columns[k].features.parameters()] for k in (1, 2))
        assert [torch.equal(a, b) for a, b in zip(first, second, strict=True)] == [init == "previous"] * 2
        heads = [method.columns[k].head.weight for k in (1, 2)]
        assert not torch.equal(heads[0], heads[1])
    scenario, method = grown("method.init=previous", tasks=2)
    method.learn_task(scenario.tasks[2], Recorder(0))
    first, second, third = (column.features[1].weight for column in method.columns)
    assert torch.equal(third, second)  # what the last one learned, not what it began as
    assert not torch.equal(second, first)


def test_the_control_takes_from_random_columns_that_never_learn(tmp_path: Path) -> None:
    scenario, method = pnn("method.earlier=random")
    states: list[dict[str, Tensor]] = []
    for task in range(3):
        learn(method, scenario, task, tmp_path, epochs=1)
        assert len(method.random) == task
        for column, state in zip(method.random, states, strict=False):
            assert all(torch.equal(value, state[name]) for name, value in column.state_dict().items())
        states = [state_of(column) for column in method.random]
    before = answers(method, scenario, 2)
    with torch.no_grad():
        for p in method.columns[0].parameters():  # what another task learned plays no part
            p.zero_()
        assert torch.equal(answers(method, scenario, 2), before)
        for p in method.random[0].parameters():
            p.zero_()
    assert not torch.equal(answers(method, scenario, 2), before)


def test_a_task_without_a_column_has_no_answer() -> None:
    scenario, method = grown(tasks=1)
    own = answers(method, scenario, 3)[:, list(scenario.problem.outputs[3])]
    assert not own.any()
    others = answers(method, scenario, 0)[:, list(scenario.problem.outputs[3])]
    assert (others == torch.finfo(torch.float32).min).all()


@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_the_scale_of_each_column_is_small_at_first_and_has_a_gradient(network: str) -> None:
    scales: list[Tensor] = []

    def look(call: Call) -> None:
        module: Any = call.module
        scales.extend(lateral.scale.detach().clone() for lateral in module.columns[-1].laterals)

    scenario, method = pnn(*NETWORKS[network])
    for task in scenario.tasks[:3]:
        scales.clear()
        method.learn_task(task, Recorder(1, look))
        begun, ended = scales[: len(scales) // 2], scales[len(scales) // 2 :]
        assert all(len(scale) == task.index and scale.min() > 0 and scale.max() < 0.1 for scale in begun)
        assert not any(torch.equal(a, b) for a, b in zip(begun, ended, strict=True))


def test_a_lateral_of_a_convolution_has_its_shape() -> None:
    layer = nn.Conv2d(3, 5, 3, stride=2, padding=1)
    lateral = Lateral(layer, n_columns=2, n_scales=4)
    h = [torch.randn(4, 3, 9, 9) for _ in range(2)]
    assert lateral(h).shape == layer(h[0]).shape
    assert sum(p.numel() for p in lateral.parameters()) == 4 + 6 * 3 + 3 + math.prod(layer.weight.shape)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            ("network=resnet18", "network.width=2"),
            "network: method=pnn builds its columns of a plain ",
        ),
        (
            ("network=dcgan", "network.norm=batch"),
            "network: .* BatchNorm2d is none of these; choose network=mlp",
        ),
        (
            ("method.init=previous", "method.earlier=random"),
            "method.init=previous: copies a learned column",
        ),
        (("scenario=class_incremental",), "method=pnn: does not work in scenario=class_incremental"),
    ],
)
def test_what_it_can_not_do_is_one_line(overrides: tuple[str, ...], line: str) -> None:
    with pytest.raises(InputError, match=f"^{line}") as error:
        pnn(*overrides)
    assert "\n" not in str(error.value)
