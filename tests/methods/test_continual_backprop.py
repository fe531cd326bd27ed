"""Continual backpropagation: utilities against a loop, which units are replaced and when, and what that changes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import learn, made, there, train
from torch import Tensor, nn

from cl_bench.config import InputError
from cl_bench.data.batches import Batch
from cl_bench.data.tasks import Scenario
from cl_bench.methods.continual_backprop import ContinualBackprop, Units
from cl_bench.methods.parts.entry_adam import EntryAdam

SGD = ("optimizer=sgd", "optimizer.momentum=0.9")


def method_of(*overrides: str) -> tuple[Scenario, ContinualBackprop]:
    return made("continual_backprop", "scenario=domain_incremental", "network.hidden=[12,9]", *overrides)


def batches(scenario: Scenario, n: int, size: int = 16) -> list[Batch]:
    data = scenario.tasks[0].train
    return [data.batch(torch.arange(size * i, size * (i + 1)) % len(data)) for i in range(n)]


@pytest.mark.parametrize("utility", ["adaptable_contribution", "contribution"])
@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_utilities_are_those_of_a_loop(utility: str, network: str) -> None:
    """Over units, images, positions and weights, in float64 beside float32."""
    sizes = ["network.hidden=[7,6]"] if network == "mlp" else ["network.channels=[4,5]", "network.hidden=6"]
    settings = [f"network={network}", *sizes, f"method.utility={utility}", "method.replacement_rate=0"]
    scenario, method = made("continual_backprop", "scenario=domain_incremental", *settings, *SGD)
    optimizer, steps = method.configure_optimizers(), 3
    u, mean = ([[0.0] * units.n for units in method.units] for _ in range(2))
    for step, batch in enumerate(batches(scenario, steps, 5), 1):
        activations = method.through(batch.x)[1]  # before the step, whose loss is of the same ones
        method.train_step(batch, optimizer)
        for layer, (units, h) in enumerate(zip(method.units, activations, strict=True)):
            below, above = units.layers
            for i in range(units.n):
                values = h[:, i].flatten().tolist()
                mean[layer][i] = 0.99 * mean[layer][i] + 0.01 * sum(values) / len(values)
                outgoing = outgoing_of(above, i, units.n)
                incoming = below.weight[i].flatten().abs().tolist()
                center = 0.0 if utility == "contribution" else mean[layer][i] / (1 - 0.99**step)
                c = sum(abs(value - center) for value in values) / len(values) * sum(outgoing) / len(outgoing)
                c /= 1.0 if utility == "contribution" else sum(incoming) / len(incoming)
                u[layer][i] = 0.99 * u[layer][i] + 0.01 * c
    for layer, units in enumerate(method.units):
        assert units.utility.tolist() == pytest.approx(u[layer], rel=1e-4, abs=1e-8)
        assert units.mean.tolist() == pytest.approx(mean[layer], rel=1e-4, abs=1e-8)
        assert units.age.tolist() == [steps] * units.n


def outgoing_of(above: Any, i: int, n: int) -> list[float]:
    """The sizes of the weights that lead on from unit i of n."""
    positions = above.weight.shape[1] // n
    return above.weight[:, i * positions : (i + 1) * positions].flatten().abs().tolist()


def test_as_many_are_replaced_as_are_due_and_none_before_it_is_mature() -> None:
    scenario, method = method_of("method.replacement_rate=0.02", "method.maturity=7", *SGD)
    optimizer = method.configure_optimizers()
    expected = [0.0, 0.0]
    for batch in batches(scenario, 60):
        before = [units.age.clone() for units in method.units]
        method.train_step(batch, optimizer)
        for layer, units in enumerate(method.units):
            mature = before[layer] + 1 > 7
            expected[layer] += 0.02 * int(mature.sum())
            assert (units.age[~mature] == before[layer][~mature] + 1).all()  # none of them began anew
            assert abs(units.replaced - expected[layer]) <= 1
            assert units.mature == int((units.age > 7).sum())  # counted without a look at the ages
    assert all(units.replaced > 5 for units in method.units)


def test_the_least_useful_of_the_mature_units_are_replaced() -> None:
    _, method = method_of()
    units = method.units[0]
    units.age.fill_(200)
    units.utility.copy_(torch.arange(12.0))
    units.age[:2] = 100  # of less use, and safe
    assert sorted(units.least_useful(3).tolist()) == [2, 3, 4]


@pytest.mark.parametrize("optimizer", [("optimizer=sgd", "optimizer.momentum=0"), SGD])
def test_rate_0_is_plain_sgd_bit_by_bit(optimizer: tuple[str, ...], tmp_path: Path) -> None:
    scenario, method = method_of("method.replacement_rate=0", *optimizer)
    _, plain = made("finetune", "scenario=domain_incremental", "network.hidden=[12,9]", *optimizer)
    plain.network.load_state_dict(method.network.state_dict())
    for name, one in (("ours", method), ("plain", plain)):
        for index in (0, 1):
            learn(one, scenario, index, tmp_path / name)
    ours, theirs = method.network.state_dict(), plain.network.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_a_constant_unit_is_replaced_without_a_trace() -> None:
    """What it gave goes to the biases of the next layer; the new unit gives nothing to it."""
    scenario, method = method_of("method.replacement_rate=0", *SGD)
    with torch.no_grad():
        for units in method.units:
            units.layers[0].weight[3] = 0.0
            there(units.layers[0].bias)[3] = 0.7
    x = batches(scenario, 1)[0].x
    for _ in range(5):
        for units, h in zip(method.units, method.through(x)[1], strict=True):
            units.after_step(h, 0.0, torch.optim.SGD(method.parameters(), 0.1))
    before = method(x)
    optimizer = method.configure_optimizers()
    for units in method.units:
        with torch.no_grad():
            units.replace(torch.tensor([3]), optimizer)
    assert torch.allclose(method(x), before, atol=1e-6)
    for units in method.units:
        weight = units.layers[0].weight[3]
        assert 0 < float(weight.detach().abs().max()) <= units.layers[0].weight.shape[1] ** -0.5
        others = [row for row in range(len(units.outgoing)) if row != 3]  # that one is new itself
        assert not units.outgoing[others, 3].any()
        assert [float(values[3]) for values in (units.utility, units.mean, units.age)] == [0, 0, 0]


def test_a_channel_before_a_flattened_layer_is_replaced_without_a_trace() -> None:
    settings = ("network=cnn", "network.channels=[4]", "network.hidden=6")
    scenario, method = made("continual_backprop", "scenario=domain_incremental", *settings, *SGD)
    units = method.units[0]
    with torch.no_grad():
        units.layers[0].weight[2] = 0.0
        units.layers[0].bias[2] = 0.3
    x = batches(scenario, 1)[0].x
    optimizer = method.configure_optimizers()
    units.after_step(method.through(x)[1][0], 0.0, optimizer)
    before = method(x)
    with torch.no_grad():
        units.replace(torch.tensor([2]), optimizer)
    assert torch.allclose(method(x), before, atol=1e-6)
    assert not method.network.features[-2].weight.view(6, 4, -1)[:, 2].any()


def test_what_is_not_constant_changes_the_next_layer_by_what_the_mean_misses() -> None:
    scenario, method = method_of(*SGD)
    units, x = method.units[0], batches(scenario, 1)[0].x
    optimizer = method.configure_optimizers()
    h = method.through(x)[1][0]
    units.after_step(h, 0.0, optimizer)

    def given() -> Tensor:
        return nn.functional.linear(method.through(x)[1][0], units.layers[1].weight, units.layers[1].bias)

    outgoing, before, mean = units.layers[1].weight[:, 5].clone(), given(), h[:, 5].mean()
    with torch.no_grad():
        units.replace(torch.tensor([5]), optimizer)
    expected = -(h[:, 5] - mean)[:, None] * outgoing
    assert torch.allclose(given() - before, expected, atol=1e-5)


@pytest.mark.parametrize("overrides", [SGD, ("optimizer=adam",)])
def test_the_optimizer_forgets_what_it_knew_of_a_replaced_unit_alone(overrides: tuple[str, ...]) -> None:
    scenario, method = method_of("method.replacement_rate=0", *overrides)
    optimizer = method.configure_optimizers()
    for batch in batches(scenario, 4):
        method.train_step(batch, optimizer)
    units, old = method.units[0], copy.deepcopy(optimizer.state_dict()["state"])
    with torch.no_grad():
        units.replace(torch.tensor([4, 1]), optimizer)
    names = list(method.weights)
    touched = {
        names[0]: (slice(None), [1, 4], 0),
        names[1]: (slice(None), [1, 4], 0),
        names[2]: (slice(None), [1, 4], 1),
    }
    for number, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if torch.is_tensor(value) and value.dim():
                expected = old[number][name].clone()
                assert expected.any()
                if names[number] in touched:
                    _, rows, dim = touched[names[number]]
                    expected.index_fill_(dim, torch.tensor(rows), 0.0)
                assert torch.equal(value, expected), (names[number], name)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_entry_adam_is_adam_and_begins_anew_where_its_state_is_0(kind: type[torch.optim.Adam]) -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Parameter(torch.randn(5, 3)), nn.Parameter(torch.zeros(5, 3))
    theirs.data.copy_(ours.data)
    late = nn.Parameter(ours.detach()[2].clone())  # a row that begins at step 6
    settings: dict[str, Any] = {"lr": 0.1, "betas": (0.9, 0.999), "weight_decay": 0.5}
    mine = EntryAdam([ours], **settings, decoupled=kind is torch.optim.AdamW)
    adam = kind([theirs], **settings)
    anew = None
    for step in range(20):
        if step == 6:
            for value in mine.state[ours].values():
                value[2] = 0.0
            late.data.copy_(ours.detach()[2])
            anew = kind([late], **settings)
        g = torch.randn(5, 3)
        ours.grad, theirs.grad, late.grad = g.clone(), g.clone(), g[2].clone()
        for optimizer in filter(None, (mine, adam, anew)):
            optimizer.step()
    rows = [0, 1, 3, 4]
    assert torch.allclose(ours[rows], theirs[rows], atol=1e-6)
    assert torch.allclose(ours[2], late, atol=1e-6)
    assert not torch.allclose(ours[2], theirs[2], atol=1e-2)


def test_counts_are_part_of_the_state() -> None:
    scenario, method = method_of("method.replacement_rate=0.05", "method.maturity=3", *SGD)
    train(method, batches(scenario, 9))
    _, other = method_of("method.replacement_rate=0.05", "method.maturity=3", *SGD)
    other.load_state_dict(copy.deepcopy(method.state_dict()))
    for one, two in zip(method.units, other.units, strict=True):
        assert isinstance(one, Units)
        assert one.get_extra_state() == two.get_extra_state()
        assert one.replaced > 0
        assert one.mature == two.mature == int((two.age > 3).sum())


def test_the_number_replaced_is_noted(tmp_path: Path) -> None:
    scenario, method = method_of("method.replacement_rate=0.05", "method.maturity=1", *SGD)
    noted = [learn(method, scenario, index, tmp_path)["replaced"] for index in (0, 1)]
    assert noted[0] > 0
    assert sum(noted) == sum(units.replaced for units in method.units)


@pytest.mark.parametrize(
    "network",
    [["network=resnet18", "network.width=2"], ["network=dcgan", "network.norm=batch"], ["network.hidden=[]"]],
)
def test_other_networks_are_refused_in_one_line(network: list[str]) -> None:
    with pytest.raises(InputError, match=r"^network: method=continual_backprop .*choose network=mlp or network=cnn$"):
        made("continual_backprop", *network)
