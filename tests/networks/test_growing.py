"""Modules that grow: sizes and lengths come from the state, and nothing is drawn on the way."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from conftest import Recorder
from test_base import standardized
from torch import Tensor, nn

from cl_bench.data.batches import Data
from cl_bench.methods.parts.memory import Memory, Reservoir
from cl_bench.networks.growing import Growing
from cl_bench.networks.masked import MaskedDCGenerator, MaskedGenerator, MaskedMLP


class Tower(Growing):
    """One tensor, one buffer, two lists, and another of its kind inside."""

    kept: Tensor

    def __init__(self, depth: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.register_buffer("kept", torch.zeros(0))
        self.masks, self.floors = nn.ParameterList(), nn.ModuleList()
        self.inner = Tower(depth - 1) if depth else nn.Linear(2, 2)

    def grow(self, floors: int) -> None:
        self.weight = nn.Parameter(torch.randn(floors))
        self.kept = torch.randn(floors, 3)
        self.masks = nn.ParameterList(nn.Parameter(torch.rand(n + 1) > 0.5, False) for n in range(floors))
        self.floors = nn.ModuleList(nn.Linear(n + 1, 2) for n in range(floors))
        if isinstance(self.inner, Tower):
            self.inner.grow(floors + 1)

    def new_part(self, name: str, index: int, state: Mapping[str, Tensor]) -> nn.Module:
        assert name == "floors"
        return nn.Linear(state[f"floors.{index}.weight"].shape[1], 2)


def generator(kind: str, mask: str, tasks: int) -> MaskedGenerator:
    """After some tasks of random masks, in the middle of another one."""
    shape = (1, 8, 8)
    made = MaskedMLP(shape, 3, z_dim=4, hidden=(6, 5)) if kind == "mlp" else MaskedDCGenerator(shape, 3, z_dim=4)
    made.mask_by(mask, "after")  # type: ignore[arg-type]
    for task in range(tasks + 1):
        made.begin()
        with torch.no_grad():
            for layer in made.hidden:
                layer.embedding.normal_()
        if task < tasks:
            made.end()
    return made


def same(one: nn.Module, other: nn.Module) -> bool:
    """Bit for bit, with the same names, types, and the same choice of what is trained."""
    states, trained = (
        [dict(module.state_dict()) for module in (one, other)],
        [{name: p.requires_grad for name, p in module.named_parameters()} for module in (one, other)],
    )
    mine, theirs = states
    equal = all(value.dtype == theirs[name].dtype and torch.equal(value, theirs[name]) for name, value in mine.items())
    return mine.keys() == theirs.keys() and equal and trained[0] == trained[1]


@pytest.mark.parametrize("floors", [0, 1, 3])
def test_sizes_and_lengths_are_those_of_the_state(floors: int) -> None:
    """Of a module within another too; and smaller than they were."""
    one, other = Tower(), Tower()
    one.grow(floors)
    other.grow(2)
    other.load_state_dict(one.state_dict())
    assert same(one, other)
    assert len(other.floors) == len(other.masks) == len(other.weight) == floors


@pytest.mark.parametrize("tasks", [0, 3])
@pytest.mark.parametrize("mask", ["activations", "weights"])
@pytest.mark.parametrize("kind", ["mlp", "dcgan"])
def test_a_masked_generator_is_bit_equal_after_loading_and_draws_the_same(kind: str, mask: str, tasks: int) -> None:
    torch.manual_seed(0)
    one, other = generator(kind, mask, tasks), generator(kind, mask, 0)
    other.load_state_dict(one.state_dict())
    assert same(one, other)
    z, y = torch.randn(5, 4), torch.arange(5) % 3
    with torch.no_grad():
        for task in range(tasks + 1):
            assert torch.equal(one.eval()(z, y, task), other.eval()(z, y, task))
    assert one.end() == other.end()  # and it goes on: what is reserved is known to both


def test_loading_draws_no_random_number() -> None:
    """What is drawn after a kill is what would have been drawn without."""
    tower, masked = Tower(), generator("mlp", "activations", 2)
    tower.grow(3)
    fresh, begun = Tower(), generator("mlp", "activations", 0)
    before = torch.get_rng_state()
    fresh.load_state_dict(tower.state_dict())
    begun.load_state_dict(masked.state_dict())
    assert torch.equal(torch.get_rng_state(), before)


def test_what_follows_from_the_data_set_is_kept() -> None:
    """The mean and deviation of a network are in no state; its copies have them, and nothing is drawn."""
    made = [standardized("pnn", "scenario=task_incremental", "method.earlier=random") for _ in range(2)]
    (scenario, one), (_, other) = made
    for task in scenario.tasks[:3]:
        one.learn_task(task, Recorder())
    before = torch.get_rng_state()
    other.load_state_dict(one.state_dict())
    assert torch.equal(torch.get_rng_state(), before)
    x = scenario.tasks[2].train.batch(torch.arange(4)).x
    assert all(torch.equal(one(x, index=index), other(x, index=index)) for index in range(3))


def test_memories_take_their_size_from_the_state() -> None:
    data = Data(torch.randint(256, (7, 1, 2, 2)).to(torch.uint8), torch.arange(7), torch.zeros(7, dtype=torch.int16))
    memory, reservoir = Memory(), Reservoir(5, n_logits=3)
    memory.add(data)
    reservoir.after_step(data.batch(torch.arange(7)), torch.randn(7, 3))
    for one, other in ((memory, Memory()), (reservoir, Reservoir(5, n_logits=3))):
        other.load_state_dict(one.state_dict())
        assert len(other) == len(one) == (7 if one is memory else 5)
        for part in one.PARTS:
            assert torch.equal(getattr(one, part), getattr(other, part))


def test_a_kind_that_does_not_say_what_its_parts_are_is_named() -> None:
    class Silent(Growing):
        def __init__(self, n: int) -> None:
            super().__init__()
            self.weight, self.parts = nn.Parameter(torch.zeros(1)), nn.ModuleList(nn.Linear(1, 1) for _ in range(n))

    with pytest.raises(NotImplementedError, match="Silent must say what a part of parts is"):
        Silent(0).load_state_dict(Silent(2).state_dict())
