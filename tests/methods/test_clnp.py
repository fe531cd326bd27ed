"""CLNP: which units a task uses, what is cut and what is held."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Compose, learn, made, one_pass, there
from torch import Tensor

from cl_bench.config import InputError
from cl_bench.data.tasks import Scenario
from cl_bench.methods.clnp import CLNP
from cl_bench.networks.plain import inputs_from
from cl_bench.runs.loop import run

OPTIMIZERS = {  # each moves a weight whose gradient is 0
    "sgd": ("optimizer=sgd", "optimizer.lr=0.05", "optimizer.momentum=0.9", "optimizer.weight_decay=0.001"),
    "adam": ("optimizer=adam", "optimizer.lr=0.01", "optimizer.weight_decay=0.001"),
}
NETWORKS = {
    "mlp": ("network=mlp", "network.hidden=[40,30]"),
    "cnn": ("network=cnn", "network.channels=[16,24]", "network.hidden=40"),
}
EVERY = [(network, optimizer) for network in NETWORKS for optimizer in OPTIMIZERS]


def clnp(*overrides: str) -> tuple[Scenario, CLNP]:
    return made("clnp", "scenario=task_incremental", *overrides)


def tasks_learned(
    network: str, optimizer: str, folder: Path, look: Callable[[Scenario, CLNP, int, dict[str, Any]], None]
) -> None:
    """Three tasks; `look` is called after each."""
    scenario, method = clnp(*NETWORKS[network], *OPTIMIZERS[optimizer], "method.margin=0.05")
    for task in range(3):
        noted = learn(method, scenario, task, folder, epochs=6, batch_size=32)
        look(scenario, method, task, noted)


@torch.no_grad()
def answers(method: CLNP, scenario: Scenario, task: int) -> Tensor:
    x = next(scenario.tests[task].batches()).x
    return method(x, index=task)[:, list(scenario.problem.outputs[task])]


@pytest.mark.parametrize(("network", "optimizer"), EVERY)
def test_old_logits_never_change_by_a_bit(network: str, optimizer: str, tmp_path: Path) -> None:
    before: list[Tensor] = []
    added: list[int] = []

    def look(scenario: Scenario, method: CLNP, task: int, noted: dict[str, Any]) -> None:
        after = [answers(method, scenario, past) for past in range(task + 1)]
        for old, new in zip(before, after, strict=False):
            assert torch.equal(old, new)
        before[:] = after
        assert after[-1].std(0).min() > 1e-3  # it tells images apart
        added.append(sum(noted["capacity"].new))

    tasks_learned(network, optimizer, tmp_path, look)
    assert sum(added[1:]) > 0  # later tasks learned with more than their heads


@pytest.mark.parametrize(("network", "optimizer"), EVERY)
def test_interference_is_exactly_0_and_nothing_born_later_is_reached(
    network: str, optimizer: str, tmp_path: Path
) -> None:
    cut: list[int] = []

    def look(scenario: Scenario, method: CLNP, task: int, noted: dict[str, Any]) -> None:
        layers = [*method.weighted, method.network.head]
        for below, layer, above in zip(method.used, layers[1:-1], method.used[1:], strict=False):
            free = inputs_from(~below, layer.weight.shape[1])
            cut.append(layer.weight[above][:, free].numel())
            assert not layer.weight[above][:, free].any()
        for past in range(task + 1):  # back from its head along the weights that are not 0
            reached = method.task_of_output == past
            for layer, birth in zip(reversed(layers), [*reversed(method.born), None], strict=True):
                inputs = layer.weight[reached].flatten(2).any(2).any(0) if layer.weight.dim() > 2 else None
                inputs = layer.weight[reached].bool().any(0) if inputs is None else inputs
                if birth is not None:
                    reached = inputs.view(len(birth), -1).any(1)
                    assert reached.any()
                    assert int(birth[reached].max()) <= past

    tasks_learned(network, optimizer, tmp_path, look)
    assert sum(cut) > 0


def test_free_units_may_take_any_weights(tmp_path: Path) -> None:
    """Those that lead into units that no task uses."""

    def look(scenario: Scenario, method: CLNP, task: int, noted: dict[str, Any]) -> None:
        before = [answers(method, scenario, past) for past in range(task + 1)]
        kept = [p.detach().clone() for p in method.network.parameters()]
        with torch.no_grad():
            for layer, used in zip(method.weighted, method.used, strict=True):
                layer.weight[~used] = 1e3
                there(layer.bias)[~used] = 1e3
            assert all(torch.equal(answers(method, scenario, past), before[past]) for past in range(task + 1))
            for p, value in zip(method.network.parameters(), kept, strict=True):
                p.copy_(value)

    tasks_learned("mlp", "adam", tmp_path, look)


@pytest.mark.parametrize("margin", [0.0, 0.03, 0.2])
def test_the_threshold_is_the_largest_within_the_margin(margin: float, tmp_path: Path) -> None:
    scenario, method = clnp(f"method.margin={margin}", "network.hidden=[40,30]", "optimizer.lr=0.01")
    for task in range(2):
        noted = learn(method, scenario, task, tmp_path, epochs=6, batch_size=32)
        before, after = noted["val_accuracy"]
        assert before - after <= margin
        batch = scenario.tasks[task].val.batch(torch.arange(len(scenario.tasks[task].val)))
        own = list(scenario.problem.outputs[task])
        right = method(batch.x, index=task)[:, own].argmax(1) + own[0] == batch.y  # of the network that is left
        assert float(right.float().mean()) == pytest.approx(after)
        assert noted["capacity"].free[0] > 0


def test_the_search_finds_the_last_level_that_keeps_the_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario, method = clnp("network.hidden=[6,5]", "method.margin=0.1")
    activity = [torch.tensor([0.0, 0.5, 0.2, 0.2, 0.9, 0.1]), torch.tensor([0.3, 0.0, 0.7, 0.4, 0.6])]
    used = [torch.tensor([False] * 5 + [True]), torch.tensor([False] * 5)]
    looked: list[int] = []

    def accuracy(data: Any, units: list[Tensor]) -> float:
        n_units = int(sum(own.sum() for own in units))
        looked.append(n_units)
        assert units[0][5]  # an old unit is never taken away
        return 0.9 if n_units >= 6 else 0.79

    monkeypatch.setattr(method, "accuracy", accuracy)
    level, accuracies = method.threshold(activity, used, scenario.tasks[0].val)
    assert level == pytest.approx(0.3)  # left: 0.5, 0.9 and the old one, 0.7, 0.4, 0.6
    assert accuracies == (0.9, 0.9)
    assert len(looked) <= 5  # of 8 levels and none


@pytest.mark.parametrize(("right", "n"), [(182, 200), (194, 200), (910, 1000), (933, 1000)])
def test_a_loss_of_the_margin_itself_is_within_it(right: int, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario, method = clnp("network.hidden=[6,5]", "method.margin=0.005")
    activity, used = [torch.arange(6.0), torch.arange(5.0)], [torch.zeros(6).bool(), torch.zeros(5).bool()]

    def accuracy(data: Any, units: list[Tensor]) -> float:
        lost = 0 if all(own.all() for own in units) else n // 200
        return float((torch.arange(n) < right - lost).double().mean())

    monkeypatch.setattr(method, "accuracy", accuracy)
    assert method.threshold(activity, used, scenario.tasks[0].val)[0] == 5.0


def test_activity_is_the_mean_absolute_activation_over_images_and_positions(small: Compose) -> None:
    scenario, method = clnp("network=cnn", "network.channels=[3]", "network.hidden=4")
    data = scenario.tasks[0].train
    found = method.activity(data)
    x = data.batch(torch.arange(len(data))).x
    convolution, linear = method.weighted
    first = convolution(x).relu()
    second = linear(first.flatten(1)).relu()
    torch.testing.assert_close(found[0], torch.stack([first[:, c].abs().mean() for c in range(3)]))
    torch.testing.assert_close(found[1], second.abs().mean(0))


def test_a_negative_activation_counts_by_its_size() -> None:
    scenario, method = clnp("network=dcgan", "network.width=3", "network.depth=2")
    data, given = scenario.tasks[0].train, []
    x = data.batch(torch.arange(len(data))).x
    for layer in method.layers:
        x = layer(x)
        if isinstance(layer, torch.nn.LeakyReLU):
            given.append(x.transpose(0, 1).flatten(1))
    assert all((values < 0).any() for values in given)
    for found, values in zip(method.activity(data), given, strict=True):
        torch.testing.assert_close(found, values.abs().sum(1) / values.shape[1])


def test_weights_into_free_units_are_drawn_anew_and_the_others_stay(tmp_path: Path) -> None:
    scenario, method = clnp(*NETWORKS["cnn"], "optimizer.lr=0.01", "method.margin=0.05")
    learn(method, scenario, 0, tmp_path, epochs=6, batch_size=32)
    before = [p.detach().clone() for layer in method.weighted for p in layer.parameters()]
    method.renew(method.used)
    after = [p for layer in method.weighted for p in layer.parameters()]
    used = [units for units in method.used for _ in range(2)]  # weight and bias
    for old, new, units in zip(before, after, used, strict=True):
        assert torch.equal(old[units], new[units])
        assert (old[~units] != new[~units]).all()


def test_the_loss_has_l1_of_the_weights_and_not_of_the_biases(small: Compose) -> None:
    scenario, method = clnp("method.l1=0.5", "network.hidden=[7]")
    method.index = 0
    batch = scenario.tasks[0].train.batch(torch.arange(8))
    found = method.loss(batch)
    method.l1 = 0.0
    first, head = method.weighted[0], method.network.head
    expected = method.loss(batch) + 0.5 * (first.weight.abs().sum() + head.weight.abs().sum())
    torch.testing.assert_close(found, expected)


def test_more_l1_and_a_wider_margin_leave_more_units_free(tmp_path: Path) -> None:
    free = []
    for l1, margin in ((0, 0), (0.001, 0), (0.001, 0.2)):
        settings = (f"method.l1={l1}", f"method.margin={margin}", "network.hidden=[60]", "optimizer.lr=0.003")
        scenario, method = clnp(*settings)
        free.append(learn(method, scenario, 0, tmp_path, epochs=10, batch_size=32)["capacity"].free[0])
    assert free[0] < free[1] < free[2]


def test_a_run_tells_what_is_used_and_what_is_left(small: Compose) -> None:
    results = run(small("method=clnp", "scenario=task_incremental", "network.hidden=[60,50]"))
    reserved = [0, 0]
    for record in results.tasks:
        capacity, more = there(record.diagnostics.capacity), there(record.diagnostics.more)
        for layer, n_units in enumerate((60, 50)):
            assert capacity.reserved[layer] == reserved[layer] + capacity.new[layer]
            assert capacity.reused[layer] <= reserved[layer]
            assert capacity.free[layer] == n_units - capacity.reserved[layer] >= 0
        reserved = capacity.reserved
        assert more["threshold"] >= -1
        assert 0 <= more["val_accuracy"][1] <= 1
    assert results.metrics["BWT"] == 0.0


def test_a_full_layer_is_one_line(small: Compose) -> None:
    scenario, method = clnp("network.hidden=[30,8]", "method.l1=0.01")
    with torch.no_grad():
        method.born[0][:29] = 0
        method.born[1].fill_(0)
    line = r"method\.l1=0\.01: task 2 of 5 has no free unit in layer 2; increase it or method\.margin=0\.02, or make"
    with pytest.raises(InputError, match=f"^{line}"):
        method.learn_task(scenario.tasks[1], one_pass)


def test_without_validation_images_it_is_one_line(small: Compose) -> None:
    settings = small("method=clnp", "scenario=task_incremental", "scenario.val_fraction=0")
    with pytest.raises(InputError, match=r"^scenario\.val_fraction=0: method=clnp .*; try 0\.1$"):
        run(settings)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (("network=resnet18", "network.width=2"), r"network: every task changes its running statistics, .*network=mlp"),
        (("network=resnet_gan",), r"network: method=clnp frees units .* choose network=mlp or network=cnn"),
        (
            ("network=dcgan", "network.norm=batch"),
            r"network: every task changes its running statistics, .*network\.norm=none",
        ),
        (("scenario=domain_incremental",), r"method=clnp: does not work in scenario=domain_incremental"),
        (("scenario=class_incremental",), r"method=clnp: does not work in scenario=class_incremental"),
        (("method.margin=1.5",), r"method\.margin=1\.5"),
    ],
)
def test_what_it_cannot_do_is_one_line(overrides: tuple[str, ...], line: str, small: Compose) -> None:
    with pytest.raises(InputError, match=f"^{line}") as error:
        clnp(*overrides)
    assert "\n" not in str(error.value)
