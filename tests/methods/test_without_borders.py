"""A-GEM, EWC and SI in a stream, where nobody says where a task ends."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import Compose, Killed, killed_after, made, without_clocks
from test_contract import equal
from torch.utils._python_dispatch import TorchDispatchMode

from cl_bench.config import InputError
from cl_bench.config.names import folder_of
from cl_bench.methods import gem
from cl_bench.runs.loop import run

STREAM = ("scenario=class_incremental", "scenario.passes=online", "network.hidden=[16]", "optimizer=sgd")
CONSOLIDATING = {
    "ewc": ("method=ewc", "method.online=true", "method.consolidate_every=7"),
    "si": ("method=si", "method.consolidate_every=7"),
}


def streamed(*chosen: str) -> dict[str, torch.Tensor]:
    """The weights after two tasks of the digits, 10 images at a time and two steps with each."""
    scenario, method = made(chosen[0].removeprefix("method="), *STREAM, *chosen[1:])
    optimizer = method.configure_optimizers()
    for task in scenario.tasks[:2]:
        for batch in map(task.train.batch, torch.arange(150).split(10)):
            method.begin_step(batch)
            for left in (1, 0):
                method.train_step(batch._replace(updates_left=left), optimizer)
    return {name: weight.detach() for name, weight in method.network.named_parameters()}


@pytest.mark.parametrize("name", CONSOLIDATING)
def test_without_a_pull_it_is_fine_tuning_bit_for_bit(name: str) -> None:
    fine_tuned = streamed("method=finetune")
    assert equal(fine_tuned, streamed(*CONSOLIDATING[name], "method.strength=0"))
    assert not equal(fine_tuned, streamed(*CONSOLIDATING[name], "method.strength=0.1"))


@pytest.mark.parametrize("name", CONSOLIDATING)
def test_killed_and_resumed_equals_uninterrupted(name: str, small: Compose) -> None:
    """Between two consolidations: after the second chunk of eight mini-batches, and intervals are of seven."""
    settings = [
        small(*STREAM, *CONSOLIDATING[name], "scenario.n_tasks=2", "trainer.chunk=8", root=root)
        | {"checkpoint_every": seconds}
        for root, seconds in (("whole", 3600), ("killed", 0))
    ]
    with killed_after(2), pytest.raises(Killed):
        run(settings[1])
    whole, resumed = map(run, settings)
    states = [
        torch.load(folder_of(each) / "checkpoints" / "task1.pt", weights_only=True)["method"] for each in settings
    ]
    assert equal(*states)
    assert without_clocks(resumed) == without_clocks(whole)


class Waits(TorchDispatchMode):
    """Notes operations whose result, or its shape, the CPU must know before it goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name == "index" and any(index is not None and index.dtype == torch.bool for index in args[1])
        if by_mask or name in ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal", "is_nonzero"):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", CONSOLIDATING)
def test_no_step_waits_for_a_gpu(name: str) -> None:
    """Nor does one that consolidates; so nothing in them is read back."""
    scenario, method = made(CONSOLIDATING[name][0].removeprefix("method="), *STREAM, *CONSOLIDATING[name][1:])
    optimizer = method.configure_optimizers()
    batches = [scenario.tasks[0].train.batch(rows) for rows in torch.arange(160).split(10)]
    with Waits() as waits:
        for batch in batches:
            method.begin_step(batch)
            method.train_step(batch, optimizer)
        assert not waits.found
        float(batches[0].x.sum())
    assert waits.found == ["_local_scalar_dense"]  # one would be seen
    assert method.countdown.seen == 16


def test_agem_raises_the_loss_on_no_image_that_came() -> None:
    """With all of the reservoir in each draw: the gradient that the optimizer is given, against memory's own."""
    scenario, method = made("agem", *STREAM, "memory=40", "method.n_replay=40")
    parameters, optimizer, corrected = list(method.network.parameters()), method.configure_optimizers(), 0
    for task in scenario.tasks[:3]:
        for rows in torch.arange(100).split(10):
            batch, kept = task.train.batch(rows), len(method.memory)
            method.begin_step(batch)
            g, r = gem.gradient(method.loss(batch), parameters), None
            if kept:
                r = gem.gradient(method.loss(method.memory.data.batch(torch.arange(kept))), parameters)
            method.train_step(batch, optimizer)
            taken = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
            if r is None:
                assert torch.equal(taken, g)
                continue
            assert taken @ r > -1e-5 * taken.norm() * r.norm()
            corrected += bool(g @ r < 0)
    assert corrected
    assert len(method.memory) == 40
    assert method.memory.seen == 300
    assert set(method.memory.task_ids.tolist()) == {0, 1, 2}


@pytest.mark.parametrize(
    ("chosen", "line"),
    [
        (("method=ewc",), r"^method\.online=false: .*scenario\.passes=online.*; set method\.online=true$"),
        (("method=ewc", "method.online=true"), r"^method\.consolidate_every=null: .* such as method\.consol"),
        (("method=si",), r"^method\.consolidate_every=null: .*scenario\.passes=online.* method\.consol"),
        (
            ("method=agem", "memory.per=class"),
            r"^memory\.per=class: a reservoir has one total size; set memory\.per=total$",
        ),
    ],
)
def test_what_needs_borders_is_refused_in_a_line(chosen: tuple[str, ...], line: str) -> None:
    with pytest.raises(InputError, match=line):
        made(chosen[0].removeprefix("method="), *STREAM, *chosen[1:])
