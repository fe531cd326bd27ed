"""Progress & Compress: who moves when, what the knowledge base takes in, and what holds it."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Call, Recorder, learn, made, train
from test_isolation import NETWORKS, OPTIMIZERS
from torch import Tensor, nn

from cl_bench.config import InputError
from cl_bench.data.batches import Batch
from cl_bench.data.tasks import Scenario
from cl_bench.methods.parts.importance import fisher
from cl_bench.methods.progress_compress import ProgressCompress
from cl_bench.networks.base import Network, reset_parameters
from cl_bench.networks.columns import Column


def method_of(*overrides: str, kind: str = "task") -> tuple[Scenario, Any]:
    return made("progress_compress", f"scenario={kind}_incremental", *overrides)


def column_of(network: Network) -> Column:
    return Column(network.features, network.head)


def copies(module: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def kullback_leibler(method: ProgressCompress, batch: Batch, known: Column | None, outputs: list[int]) -> Tensor:
    """Written out, over these outputs."""
    p = (method.column_logits(batch.x, known)[:, outputs] / method.temperature).softmax(1)
    q = (method.network(batch.x)[:, outputs] / method.temperature).softmax(1)
    return (p * (p.log() - q.log())).sum(1).mean()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_each_phase_moves_its_own_network_and_the_other_not_by_a_bit(network: str, optimizer: str) -> None:
    """With what moves a weight without a gradient, and with moments that go on."""
    seen: list[tuple[str, list[Tensor], list[Tensor]]] = []

    def look(call: Call) -> None:
        module: Any = call.module
        seen.append((call.phase, copies(module.network), copies(module.column)))

    scenario, method = method_of(*NETWORKS[network], *OPTIMIZERS[optimizer], "optimizer.keep_state=true")
    for task in scenario.tasks[:3]:
        method.learn_task(task, Recorder(2, look))
    assert [phase for phase, *_ in seen] == ["progress", "progress", "compress", "compress"] * 3
    for (phase, known, column), (_, known_after, column_after) in zip(seen[::2], seen[1::2], strict=True):
        assert same(known, known_after) == (phase == "progress")
        assert same(column, column_after) == (phase == "compress")


def test_the_knowledge_base_answers() -> None:
    scenario, method = method_of()
    x = scenario.tasks[0].train.batch(torch.arange(8)).x
    assert torch.equal(method(x, index=0), method.network(x))


@pytest.mark.parametrize(("kind", "outputs"), [("task", [2, 3]), ("domain", [0, 1]), ("class", [0, 1, 2, 3])])
def test_without_a_penalty_it_is_distillation_over_the_outputs_that_take_part(kind: str, outputs: list[int]) -> None:
    scenario, method = method_of("method.strength=0", kind=kind)
    method.index = 1
    known = column_of(copy.deepcopy(method.network))
    batch = scenario.tasks[1].train.batch(torch.arange(32))
    loss = method.compress(batch, known)
    assert torch.allclose(loss, kullback_leibler(method, batch, known, outputs), rtol=1e-5)
    gradients = torch.autograd.grad(loss, list(method.network.parameters()))
    others = [output for output in range(method.problem.n_outputs) if output not in outputs]
    assert not gradients[-1][others].any()  # of the head's bias


def test_pure_distillation_makes_both_say_the_same() -> None:
    """On a few images, at the first task, without laterals, and at the second."""
    scenario, method = method_of("method.strength=0", "optimizer=adam", "optimizer.lr=0.01", "network.hidden=[32,32]")
    for task in scenario.tasks[:2]:
        method.index = task.index
        known = column_of(copy.deepcopy(method.network)) if task.index else None
        reset_parameters(method.column)
        batch = task.train.batch(torch.arange(16))
        step = partial(method.train_step, objective=partial(method.compress, known=known))
        outputs = list(scenario.problem.outputs[task.index])
        before = kullback_leibler(method, batch, known, outputs)
        train(method, [batch] * 300, step)
        assert kullback_leibler(method, batch, known, outputs) < 1e-5 < 1e-4 < before


def test_the_penalty_pulls_by_lambda_gamma_f() -> None:
    scenario, method = method_of("method.strength=7", "method.decay=0.6")
    method.index = 1
    torch.manual_seed(1)
    anchor = {name: p.detach() + 0.1 * torch.randn_like(p) for name, p in method.weights.items()}
    weight = {name: torch.rand_like(p) for name, p in method.weights.items()}
    method.penalty.replace(anchor, weight)
    batch = scenario.tasks[1].train.batch(torch.arange(32))
    P = list(method.weights.values())
    total = torch.autograd.grad(method.compress(batch, None), P)
    method.index = 0
    distillation = torch.autograd.grad(method.compress(batch, None), P)
    for name, p, a, b in zip(method.weights, P, total, distillation, strict=True):
        expected = 7 * 0.6 * weight[name] * (p.detach() - anchor[name])
        assert torch.allclose(a - b, expected, rtol=1e-3, atol=1e-6)


def test_f_is_a_decaying_sum_of_the_knowledge_bases_own_each_of_norm_1() -> None:
    scenario, method = method_of("method.decay=0.5", "network.hidden=[16]")
    expected = {name: torch.zeros_like(p) for name, p in method.weights.items()}
    for task in scenario.tasks[:3]:
        method.learn_task(task, Recorder(3))
        batch = next(task.train.batches(1000))
        new = fisher(method.network, [(batch.x, batch.y)], method.active, labels="exact")
        norm = sum(float(value.double().square().sum()) for value in new.values()) ** 0.5
        expected = {name: 0.5 * old + new[name] / norm for name, old in expected.items()}
        for found, (name, value) in zip(method.penalty.weight, expected.items(), strict=True):
            assert torch.allclose(found, value, rtol=1e-3, atol=1e-5), name
        anchors = zip(method.penalty.anchor, method.weights.values(), strict=True)
        assert all(torch.equal(anchor, p) for anchor, p in anchors)


def test_a_fisher_information_of_0_stays_0() -> None:
    """A network that is sure of everything has none; it must not become NaN."""
    scenario, method = method_of("network.hidden=[4]", kind="domain")
    method.index = 0
    with torch.no_grad():
        for p in method.network.parameters():
            p.zero_()
        method.network.head.bias[0] = 1e4
    assert not any(value.any() for value in method.fisher(scenario.tasks[0].train).values())


@torch.no_grad()
@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_the_column_is_that_of_the_formula(network: str) -> None:
    """Layer after layer in float64: h = f(W h + alpha * U relu(V h_KB + c) + b)."""
    scenario, method = method_of(*NETWORKS[network])
    x = scenario.tasks[0].train.batch(torch.arange(8)).x.double()
    method.double()
    known, column = method.network.features, method.column
    other, h, count = x, x, 0
    for theirs, layer in zip(flat(known), flat(column.features), strict=True):
        z = layer(h)
        if isinstance(layer, nn.Linear | nn.Conv2d):
            z, count = z + lateral(method.column.laterals[count - 1], other) if count else z, count + 1
        other, h = theirs(other), z
    expected = column.head(h) + lateral(method.column.laterals[-1], other)
    assert torch.allclose(method.column_logits(x, column_of(method.network)), expected, rtol=1e-12)
    assert torch.equal(method.column_logits(x, None), column.head(column.features(x)))


def lateral(part: Any, h: Tensor) -> Tensor:
    return part.scale.view(-1, *[1] * (h.dim() - 2)) * part.U(part.V(h).clamp(min=0))


def flat(features: nn.Sequential) -> list[nn.Module]:
    return [layer for layer in features.modules() if not isinstance(layer, nn.Sequential)]


def test_the_first_task_takes_nothing_from_a_random_knowledge_base() -> None:
    taken: list[bool] = []

    def look(call: Call) -> None:
        module: Any = call.module
        if call.phase == "progress":
            taken.append(all(p.grad is not None for p in module.column.laterals.parameters()))

    scenario, method = method_of()
    for task in scenario.tasks[:2]:
        method.learn_task(task, Recorder(1, look))
    assert taken[1::2] == [False, True]


def test_what_the_column_says_stays_while_the_knowledge_base_moves() -> None:
    """It stands on the knowledge base as its task found it."""
    scenario, method = method_of()
    said: list[Tensor] = []
    x = scenario.tasks[1].train.batch(torch.arange(8)).x

    def look(call: Call) -> None:
        module: Any = call.module
        step: Any = call.step
        if call.phase == "compress" and module.index == 1:
            known = step.keywords["objective"].keywords["known"]
            said.append(module.column_logits(x, known).detach())

    for task in scenario.tasks[:2]:
        method.learn_task(task, Recorder(3, look))
    assert torch.equal(*said)


@pytest.mark.parametrize("again", [True, False])
def test_the_column_begins_anew_or_goes_on(again: bool) -> None:
    scenario, method = method_of(f"method.reinitialize={again}")
    method.learn_task(scenario.tasks[0], Recorder(1))
    before = copies(method.column)
    method.learn_task(scenario.tasks[1], Recorder())
    after = copies(method.column)
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [not again] * len(before)


def test_the_scale_of_each_unit_is_small_at_first() -> None:
    _, method = method_of("network.hidden=[32,24]")
    scales = [lateral.scale for lateral in method.column.laterals]
    assert [len(scale) for scale in scales] == [24, method.problem.n_outputs]
    assert all(0 <= scale.min() < scale.max() < 0.1 for scale in scales)


def test_the_knowledge_base_takes_in_what_the_column_learned(tmp_path: Path) -> None:
    """After the first task it is within a point of the column."""
    scenario, method = method_of("optimizer.lr=0.01")
    learn(method, scenario, 0, tmp_path, epochs=20)
    batch = next(scenario.tests[0].batches())
    outputs = list(scenario.problem.outputs[0])

    def accuracy(logits: Tensor) -> float:
        return float((logits[:, outputs].argmax(1) == batch.y).float().mean())

    column = accuracy(method.column_logits(batch.x, None))
    assert column > 0.95
    assert accuracy(method(batch.x, index=0)) >= column - 0.01


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (("network=resnet18", "network.width=2"), "network: method=progress_compress needs the layers of a plain"),
        (("network=dcgan", "network.norm=batch"), "network: .* BatchNorm2d is none of these; choose network=mlp"),
        (("method.temperature=0",), "method.temperature=0"),
        (("method.decay=1.5",), "method.decay=1.5"),
    ],
)
def test_what_it_can_not_do_is_one_line(overrides: tuple[str, ...], line: str) -> None:
    with pytest.raises(InputError, match=f"^{line}") as error:
        method_of(*overrides)
    assert "\n" not in str(error.value)


def test_a_kullback_leibler_divergence_of_outputs_that_take_no_part_is_no_number_gone_bad() -> None:
    """Their logits are at the lowest number, whatever the temperature."""
    for temperature in (1e-3, 1.0, 1e3):
        scenario, method = method_of(f"method.temperature={temperature}")
        method.index = 2
        batch = scenario.tasks[2].train.batch(torch.arange(16))
        loss = method.compress(batch, None)
        assert torch.isfinite(loss)
        assert all(torch.isfinite(g).all() for g in torch.autograd.grad(loss, list(method.network.parameters())))
