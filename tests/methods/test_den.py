"""DEN: what each step moves, what is selected, added and split, and what old tasks never see."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise, product
from typing import Any

import pytest
import torch
from conftest import Call, Compose, Recorder, made, there
from torch import Tensor

from cl_bench.config import InputError
from cl_bench.data.tasks import Scenario
from cl_bench.methods.den import DEN
from cl_bench.runs.loop import run

OPTIMIZERS = {  # each moves a weight whose gradient is 0
    "sgd": ("optimizer=sgd", "optimizer.lr=0.05", "optimizer.momentum=0.9", "optimizer.weight_decay=0.001"),
    "adam": ("optimizer=adam", "optimizer.lr=0.01", "optimizer.weight_decay=0.001"),
}
GENTLE = ("method.l1=0.01", "method.pull=0.5")  # in a few steps of a narrow network something must move
NEVER = 1e30
ROUNDING = 1e-6  # of logits: a machine may sum a wider layer in another order


def den(*overrides: str) -> tuple[Scenario, DEN]:
    return made("den", "scenario=task_incremental", "network.hidden=[12,9]", *GENTLE, *overrides)


def learned(look: Callable[[DEN, Call], None], *overrides: str, tasks: int = 3) -> tuple[Scenario, DEN]:
    """Some tasks of a few steps each. look: at the method, before and after each training."""
    scenario, method = den(*overrides)
    for task in scenario.tasks[:tasks]:
        method.learn_task(task, Recorder(6, lambda call: look(method, call)))
    return scenario, method


@torch.no_grad()
def answers(method: DEN, scenario: Scenario, task: int) -> Tensor:
    x = next(scenario.tests[task].batches()).x
    return method(x, index=task)[:, list(scenario.problem.outputs[task])]


def state(method: DEN) -> list[Tensor]:
    return [p.detach().clone() for p in method.network.parameters()]


def by_paths(method: DEN) -> list[set[int]]:
    """The units from which the current task's outputs can be reached: a search along weights that are not 0."""
    usable = [set(units.nonzero().flatten().tolist()) for units in method.usable(method.index)]
    reached = set(method.own.nonzero().flatten().tolist())
    found = []
    for layer, units in zip([method.head, *reversed(method.hidden[1:])], reversed(usable), strict=True):
        weight = layer.weight.detach()
        reached = {i for i in units if any(weight[j, i] != 0 for j in reached)}
        found.append(reached)
    return found[::-1]


def thin(method: DEN) -> None:
    """Most weights set to 0, so that a selection is no triviality."""
    with torch.no_grad():
        for layer in [*method.hidden, method.head]:
            layer.weight *= torch.rand_like(layer.weight) < 0.25


@pytest.mark.parametrize("seed", range(3))
def test_selected_are_the_units_from_which_the_head_can_be_reached(seed: int) -> None:
    _, method = learned(lambda *_: None)
    torch.manual_seed(seed)
    thin(method)
    found = [set(units.nonzero().flatten().tolist()) for units in method.selected()]
    assert found == by_paths(method)
    assert all(0 < len(units) < len(layer.weight) for units, layer in zip(found, method.hidden, strict=True))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_weights_outside_of_the_selection_stay_bit_for_bit(optimizer: str) -> None:
    begun: list[tuple[list[Tensor], list[Tensor]]] = []
    compared: list[int] = []

    def look(method: DEN, call: Call) -> None:
        if call.phase != "retrain":
            return
        if not begun:
            begun.append((state(method), method.selected()))
            return
        (weights, units), below = begun.pop(), torch.ones(64, dtype=torch.bool)
        for number, above in enumerate([*units, method.own]):
            layer = [*method.hidden, method.head][number]
            inside = above[:, None] & below
            weight, bias = weights[2 * number : 2 * number + 2]
            assert torch.equal(layer.weight[~inside], weight[~inside])
            assert torch.equal(layer.bias[~above], bias[~above])
            assert not torch.equal(layer.weight[inside], weight[inside])
            compared.append(int((~inside).sum()))
            below = above

    scenario, method = den(*OPTIMIZERS[optimizer], "method.sigma=1e30", "method.tau=1e30")
    for task in scenario.tasks[:3]:
        thin(method)
        method.learn_task(task, Recorder(6, lambda call: look(method, call)))
    assert all(compared)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_selection_moves_the_head_and_expansion_the_new_units_alone(optimizer: str) -> None:
    begun: list[list[Tensor]] = []

    def look(method: DEN, call: Call) -> None:
        if call.phase not in ("select", "expand"):
            return
        if not begun:
            begun.append(state(method))
            return
        k = method.new_units if call.phase == "expand" else 0
        for number, (old, new) in enumerate(zip(begun.pop(), state(method), strict=True)):
            rows = len(old) - (k if number < 4 else 0)  # of the head, no row is added
            columns = old.shape[1] - (k if number > 1 else 0) if old.dim() > 1 else None
            if number < 4:
                assert (
                    torch.equal(old[:rows, :columns], new[:rows, :columns])
                    if columns
                    else torch.equal(old[:rows], new[:rows])
                )
                assert k == 0 or not torch.equal(old, new)
            else:
                assert torch.equal(old[~method.own], new[~method.own])
                assert not torch.equal(old[method.own], new[method.own])
                assert k == 0 or columns is None or torch.equal(old[:, :columns], new[:, :columns])

    learned(look, *OPTIMIZERS[optimizer])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_units_that_are_added_change_no_logit_of_an_old_task(optimizer: str) -> None:
    """Nor what they learn; and none of the current task before that."""
    before: list[list[Tensor]] = []
    scenario, method = den(*OPTIMIZERS[optimizer])

    def look(call: Call) -> None:
        found = [answers(method, scenario, task) for task in range(method.index + 1)]
        if call.phase == "retrain":
            before[:] = [found]
        if call.phase == "expand":
            for old, now in zip(before[0][:-1], found[:-1], strict=True):
                torch.testing.assert_close(now, old, rtol=0, atol=ROUNDING)
            before[0] = found

    for task in scenario.tasks[:3]:
        method.learn_task(task, Recorder(6, look))
        logits = [answers(method, scenario, past) for past in range(method.index + 1)]
        method.grow()
        for past, old in enumerate(logits):
            torch.testing.assert_close(answers(method, scenario, past), old, rtol=0, atol=ROUNDING)
        method.drop_idle()


def test_new_units_without_incoming_weights_are_taken_away_and_no_other() -> None:
    scenario, method = learned(lambda *_: None, tasks=2)
    widths = [len(layer.weight) for layer in method.hidden]
    method.grow()
    first, second = method.hidden
    with torch.no_grad():
        first.weight[-2] = 0
        second.weight[-3:] = 0
        second.weight[0] = 0  # an old one
    before = answers(method, scenario, 1)
    assert method.drop_idle() == [2, 0]
    assert [len(layer.weight) for layer in method.hidden] == [widths[0] + 2, widths[1]]
    assert [len(born) for born in method.born] == [len(until) for until in method.until] == [widths[0] + 2, widths[1]]
    torch.testing.assert_close(answers(method, scenario, 1), before)


def test_a_new_unit_that_reads_idle_units_alone_is_idle() -> None:
    _, method = learned(lambda *_: None, tasks=2)
    method.grow()
    first, second = method.hidden
    n_new = method.new_units
    with torch.no_grad():
        first.weight[-n_new:] = 0
        second.weight[-n_new:] = 0
        second.weight[-1, -1] = 1.0  # it reads a unit into which nothing leads
    assert method.drop_idle() == [0, 0]


@pytest.mark.parametrize("only", [None, 0, 1])
def test_a_split_changes_no_logit_of_the_task_and_gives_old_weights_back(
    only: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """only: the one layer whose units are split."""
    seen: list[int] = []
    scenario, method = den("method.sigma=0.05", "optimizer.lr=0.02")
    split = method.split

    def watched(moved: list[Tensor], old: Any) -> list[int]:
        if only is not None:
            moved = [units & (number == only) for number, units in enumerate(moved)]
        index, before, n_before = method.index, state(method), [len(born) for born in method.born]
        mine = answers(method, scenario, index)
        count = split(moved, old)
        torch.testing.assert_close(answers(method, scenario, index), mine, rtol=1e-4, atol=1e-5)
        for number, (layer, units, (weight, bias)) in enumerate(zip(method.hidden, moved, old, strict=True)):
            n, inputs = weight.shape
            taken = units.nonzero().squeeze(1)
            seen.append(len(taken))
            assert torch.equal(layer.weight[taken, :inputs], weight[taken])
            assert torch.equal(layer.bias[taken], bias[taken])
            assert not layer.weight[taken, inputs:].any()
            assert torch.equal(layer.bias[n_before[number] :], before[2 * number + 1][taken])
            assert (method.until[number][taken] == index).all()
            assert (method.born[number][n_before[number] :] == index).all()
            stay = torch.ones(n, dtype=torch.bool)
            stay[taken] = False
            assert (method.until[number][:n][stay] != index).all()
        return count

    monkeypatch.setattr(method, "split", watched)
    for task in scenario.tasks[:3]:
        method.learn_task(task, Recorder(6))
    assert sum(seen) > 3


def test_when_every_unit_is_split_old_tasks_answer_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nothing of what they read has moved; and it stays so whatever the task learns after it."""
    scenario, method = den("method.sigma=0", "optimizer.lr=0.02", "optimizer.weight_decay=0.01")
    before: list[Tensor] = []
    for task in scenario.tasks[:4]:
        noted = method.learn_task(task, Recorder(6))
        after = [answers(method, scenario, past) for past in range(method.index + 1)]
        for old, new in zip(before, after, strict=False):
            torch.testing.assert_close(old, new, rtol=1e-4, atol=1e-5)
        before = after
        assert task.index == 0 or all(noted["split"])


def test_a_unit_is_split_where_it_has_moved_farther_than_sigma() -> None:
    moved: list[list[Tensor]] = []

    def look(method: DEN, call: Call) -> None:
        if call.phase in ("select", "drift"):
            moved.append(state(method))

    sigma = 0.15
    scenario, method = den(f"method.sigma={sigma}", "optimizer.lr=0.01", "method.tau=1e30")
    method.learn_task(scenario.tasks[0], Recorder(6))
    noted = method.learn_task(scenario.tasks[1], Recorder(6, lambda call: look(method, call)))
    first, last = moved[0], moved[-1]
    for number in (0, 1):
        distances = torch.stack([(a - b).norm() for a, b in zip(first[2 * number], last[2 * number], strict=True)])
        assert noted["split"][number] == int((distances > sigma).sum())
        assert noted["drift"][number] == pytest.approx(float(distances.max()))
    assert 0 < sum(noted["split"]) < 12 + 9


@pytest.mark.parametrize(("tau", "sigma"), [*product((0.0, NEVER), repeat=2)])
def test_at_infinity_it_never_grows_and_never_splits(tau: float, sigma: float) -> None:
    phases: list[str] = []
    _, method = learned(lambda _, call: phases.append(call.phase), f"method.tau={tau}", f"method.sigma={sigma}")
    assert ("expand" in phases) == (tau == 0)
    assert ("split" in phases) == (sigma == 0)
    new = [int((born > 0).sum()) for born in method.born]
    if tau == sigma == NEVER:
        assert new == [0, 0]
        assert [layer.weight.shape for layer in method.hidden] == [(12, 64), (9, 12)]
        assert all((until == 5).all() for until in method.until)
    else:
        assert all(new)


def test_the_loss_that_decides_is_the_mean_over_all_images() -> None:
    scenario, method = den()
    method.index = 1
    data = scenario.tasks[1].train
    batch = data.batch(torch.arange(len(data)))
    own = list(scenario.problem.outputs[1])
    expected = torch.nn.functional.cross_entropy(method(batch.x, index=1)[:, own], batch.y - own[0])
    assert method.mean_loss(data) == pytest.approx(float(expected.detach()), rel=1e-5)
    phases: list[str] = []
    for tau in (method.mean_loss(data) * 0.999, method.mean_loss(data) * 1.001):
        _, method = den(f"method.tau={tau}")
        method.learn_task(scenario.tasks[1], Recorder(0, lambda call: phases.append(call.phase)))
    assert phases.count("expand") == 2  # looked at before and after one training


def test_the_loss_that_decides_is_that_of_the_retrained_network() -> None:
    losses: list[float] = []

    def look(method: DEN, call: Call) -> None:
        if call.phase == "retrain":
            losses.append(method.mean_loss(scenario.tasks[1].train))

    scenario, method = den("optimizer.lr=0.01")
    method.learn_task(scenario.tasks[0], Recorder(6))
    noted = method.learn_task(scenario.tasks[1], Recorder(6, lambda call: look(method, call)))
    before, after = losses
    assert noted["loss"] == after != pytest.approx(before)


def test_the_pull_is_towards_what_was_before_the_task() -> None:
    """Ever so strong, it is felt by old weights alone."""
    scenario, method = den("method.pull=1e9", "method.sigma=1e30", "optimizer.lr=0.01")
    method.learn_task(scenario.tasks[0], Recorder(6))
    before = state(method)
    method.learn_task(scenario.tasks[1], Recorder(6))
    for old, new in zip(before[:4], state(method)[:4], strict=True):
        torch.testing.assert_close(new[tuple(map(slice, old.shape))], old)


def test_sizes_come_back_from_a_state() -> None:
    scenario, method = learned(lambda *_: None)
    _, other = den()
    other.load_state_dict(method.state_dict())
    assert [(layer.in_features, layer.out_features) for layer in other.hidden] == [
        tuple(reversed(layer.weight.shape)) for layer in method.hidden
    ]
    assert method.hidden[0].out_features > 12
    assert all(torch.equal(answers(method, scenario, task), answers(other, scenario, task)) for task in range(3))
    assert other.answer_bytes == method.answer_bytes


def test_a_run_tells_how_it_grew(small: Compose) -> None:
    results = run(small("method=den", "scenario=task_incremental", "network.hidden=[20,16]"))
    sizes = [20, 16]
    for record in results.tasks:
        capacity, more = there(record.diagnostics.capacity), there(record.diagnostics.more)
        assert [total - new for total, new in zip(capacity.total, capacity.new, strict=True)] == (
            sizes if record.task else [0, 0]
        )
        widths = [64, *capacity.total, 10]
        assert more["parameters"] == sum((n + 1) * m for n, m in pairwise(widths))
        assert there(record.answer_bytes) == 4 * more["parameters"] + 2 * 2 * sum(capacity.total)
        if record.task:
            parts = zip(capacity.new, more["added"], more["split"], strict=True)
            assert all(new == added + split for new, added, split in parts)
        sizes = capacity.total
    assert sizes[0] > 20


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (("network=cnn",), r"network: method=den needs .*, and Conv2d is neither; choose network=mlp"),
        (("network=resnet18",), r"network: method=den needs .* choose network=mlp"),
        (("network=dcgan", "network.norm=batch"), r"network: method=den needs .* choose network=mlp"),
        (("scenario=class_incremental",), r"method=den: does not work in scenario=class_incremental"),
        (("scenario=domain_incremental",), r"method=den: does not work in scenario=domain_incremental"),
        (("method.new_units=0",), r"method\.new_units=0"),
        (("method.tau=-1",), r"method\.tau=-1"),
        (("method.sigma=inf",), r"method\.sigma=inf"),
    ],
)
def test_what_it_cannot_do_is_one_line(overrides: tuple[str, ...], line: str) -> None:
    with pytest.raises(InputError, match=f"^{line}") as error:
        made("den", *(() if "scenario" in overrides[0] else ("scenario=task_incremental",)), *overrides)
    assert "\n" not in str(error.value)
