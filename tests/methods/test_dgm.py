"""Dynamic generative memory: what a task has reserved stays as it is, bit for bit, and the rest stays constant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Compose, Recorder, learn, made, there
from torch import Tensor

from cl_bench.methods.dgm import DGM
from cl_bench.networks.masked import MaskedDCGenerator, MaskedGenerator, MaskedLayer, MaskedMLP
from cl_bench.networks.masks import gate
from cl_bench.networks.optimizers import Adam
from cl_bench.runs.loop import run

MASKS = ("activations", "weights")
GENERATORS = ("mlp", "dcgan")
DECAY = "method.optimizer.weight_decay=0.1"  # it moves weights whose gradient is 0, as momentum does


TRAINER: dict[str, Any] = {"epochs": 2, "batch_size": 64}


def images(method: DGM, task: int) -> Tensor:
    """Of the classes of a past task, for the same noise each time."""
    y = torch.tensor(method.problem.outputs[task]).repeat_interleave(20)
    z = torch.randn(len(y), method.generator.z_dim, generator=torch.Generator().manual_seed(task))
    with torch.no_grad():
        return method.generator(z, y, task)


@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize("mask", MASKS)
def test_images_of_past_classes_never_change_by_a_bit(mask: str, generator: str, tmp_path: Path) -> None:
    scenario, method = made("dgm", f"method.mask={mask}", f"generator@method.generator={generator}", DECAY)
    before: list[Tensor] = []
    for task in range(4):
        learn(method, scenario, task, tmp_path, **TRAINER)
        after = [images(method, past) for past in range(task + 1)]
        for old, new in zip(before, after, strict=False):
            assert torch.equal(old, new)
        before = after
        assert after[-1].std() > 0.01  # it draws something
        method.train()  # nor by looking at them in training mode
        assert torch.equal(images(method, 0), after[0])


def test_without_freezing_they_do_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guarantee's test can fail."""
    monkeypatch.setattr(MaskedGenerator, "restore_frozen", lambda self: None)
    scenario, method = made("dgm")
    learn(method, scenario, 0, tmp_path, **TRAINER)
    before = images(method, 0)
    learn(method, scenario, 1, tmp_path, **TRAINER)
    assert not torch.equal(before, images(method, 0))


def test_a_mask_before_normalization_leaks(tmp_path: Path) -> None:
    """As in the released code: a closed unit gives relu(bias), through weights that later tasks may move."""
    scenario, method = made("dgm", "method.mask_position=before", "trainer.epochs=10")
    learn(method, scenario, 0, tmp_path, **TRAINER)
    for layer in method.generator.hidden:  # every other unit closed, with a bias that shows
        for mask in (layer.masks[0], layer.reserved[:16]):
            mask.copy_(torch.arange(16) % 2 == 1)
        norm: Any = layer.norms[0]
        norm.running_mean.zero_()
        norm.bias.data.fill_(0.5)
    before = images(method, 0)
    learn(method, scenario, 1, tmp_path, **TRAINER)
    assert (images(method, 0) - before).abs().max() > 1e-4


@pytest.mark.parametrize("mask", MASKS)
def test_free_capacity_is_constant_and_reservations_only_grow(mask: str, tmp_path: Path) -> None:
    scenario, method = made("dgm", f"method.mask={mask}")
    free = [layer.size for layer in method.generator.hidden]
    reserved = [torch.zeros(0)] * len(free)
    for task in range(4):
        capacity = learn(method, scenario, task, tmp_path, **TRAINER)["capacity"]
        for number, layer in enumerate(method.generator.hidden):
            if mask == "activations":
                assert layer.free == free[number]
            else:  # whole units are added, so at most one unit's weights too many, or what wider inputs bring
                surplus = layer.free - free[number]
                assert surplus >= 0
            old = reserved[number]
            if task:
                assert layer.reserved[tuple(slice(n) for n in old.shape)][old].all()
            reserved[number] = layer.reserved.clone()
            assert capacity.free[number] == layer.size - layer.reserved.sum()
            assert capacity.reserved[number] == layer.reserved.sum()
        if mask == "activations":
            grown = sum(free) + sum(capacity.reserved)
            assert method.sparsity_weight == pytest.approx(method.sparsity * grown / sum(free))
    assert sum(layer.size for layer in method.generator.hidden) > sum(free)  # something was reserved


def test_new_units_are_invisible_to_past_tasks() -> None:
    torch.manual_seed(0)
    generator = MaskedMLP((1, 8, 8), 3, z_dim=4, hidden=(6, 5))
    generator.mask_by("activations", "after")
    generator.begin()
    z, y = torch.randn(7, 4), torch.zeros(7, dtype=torch.int64)
    generator.end()
    before = generator(z, y, 0)
    for layer in generator.hidden:
        layer.grow(layer.weight.shape[0] + (3 if layer is not generator.hidden[0] else 0), layer.units + 3)
        with torch.no_grad():
            new = torch.ones_like(layer.weight, dtype=torch.bool)
            new[tuple(slice(n - 3) for n in new.shape)] = False
            layer.weight[~layer.reserved.expand_as(layer.weight) & new] = 1e6
    assert torch.equal(generator(z, y, 0), before)


def test_the_regularizer_on_a_hand_example() -> None:
    """Units: 2 in the first layer, 3 in the second; past tasks reserve one of each."""
    generator = MaskedMLP((1, 8, 8), 2, z_dim=2, hidden=(2, 3))
    generator.mask_by("activations", "after")
    generator.begin()
    generator.anneal(2.0)
    first, second = generator.hidden
    first.reserved[:] = torch.tensor([True, False])
    second.reserved[:] = torch.tensor([False, True, False])
    with torch.no_grad():
        first.embedding[:] = torch.tensor([5.0, 0.5])
        second.embedding[:] = torch.tensor([0.0, 9.0, -1.0])
    # sigmoid(1), sigmoid(0), sigmoid(-2) over the three free units
    assert generator.sparsity().item() == pytest.approx((0.7310586 + 0.5 + 0.1192029) / 3, rel=1e-6)
    generator.sparsity().backward()
    assert first.embedding.grad is not None
    assert first.embedding.grad[0] == 0  # what is reserved costs nothing
    assert first.embedding.grad[1] > 0


def test_its_weight_grows_with_the_network(tmp_path: Path) -> None:
    scenario, method = made("dgm")
    weights = []
    for task in range(3):
        weights.append(method.sparsity_weight)
        learn(method, scenario, task, tmp_path, **TRAINER)
    assert weights[0] == method.sparsity
    assert weights[0] < weights[1] <= weights[2]


def test_annealing_hits_both_ends() -> None:
    _, method = made("dgm", "method.s_max=400")
    method.n_epochs = 11
    scales = []
    for method.epoch in range(11):
        scales.append(method.scale)
    assert scales[0] == 1 / 400
    assert scales[-1] == 400
    assert scales[5] == pytest.approx((400 + 1 / 400) / 2)
    method.epoch, method.n_epochs = 0, 1
    assert method.scale == 400  # a single epoch is the last one


def test_the_gate_is_a_sigmoid_with_the_slope_of_hard_attention() -> None:
    e = torch.tensor([-2.0, 0.0, 0.003, 1.0], requires_grad=True)
    mask = gate(e, 1000.0, slope=1000.0)
    assert torch.equal(mask, torch.sigmoid(1000 * e))
    mask.sum().backward()
    sigmoid = torch.sigmoid(e.detach())
    assert e.grad is not None
    assert torch.allclose(e.grad, 1000 * sigmoid * (1 - sigmoid))


def test_a_mask_that_ends_closed_reserves_nothing() -> None:
    layer = MaskedLayer(3, 4)
    layer.begin()
    with torch.no_grad():
        layer.embedding[:] = torch.tensor([-1.0, 0.0, 1.0, -0.1])
    count = layer.end()
    assert (count.total, count.new, count.reused, count.reserved) == (4, 2, 0, 2)  # 0 counts as open
    layer.begin()
    with torch.no_grad():
        layer.embedding[:] = torch.tensor([1.0, 1.0, -1.0, -1.0])
    count = layer.end()
    assert (count.total, count.new, count.reused, count.reserved) == (4, 1, 1, 3)


def test_the_discriminator_starts_anew_and_replays_every_past_class(tmp_path: Path) -> None:
    scenario, method = made("dgm", "method.n_gen=60")
    learn(method, scenario, 0, tmp_path, **TRAINER)
    diagnostics = learn(method, scenario, 1, tmp_path, **TRAINER)
    assert diagnostics["replay_histogram"][:4] == [30, 30, 0, 0]
    method.index = 2
    replay = method.generate_replay(120)
    assert torch.equal(torch.bincount(replay.labels), torch.full((4,), 30))
    before = method.discriminator.critic.weight.clone()
    fit = Recorder()
    method.learn_task(scenario.tasks[2], fit)
    assert fit["gan"].data is scenario.tasks[2].train  # the critic sees the task only
    step: Any = fit["gan"].step
    assert len(step.keywords["replay"]) == 120
    assert step.keywords["share"] == len(scenario.tasks[2].train) / (len(scenario.tasks[2].train) + 120)
    assert not torch.equal(before, method.discriminator.critic.weight)


def test_frozen_weights_stay_under_adam_with_momentum_of_earlier_steps() -> None:
    """Masking the gradient alone would not do: Adam's moments go on moving a weight."""
    torch.manual_seed(0)
    generator = MaskedDCGenerator((1, 8, 8), 2, z_dim=3, width=2)
    generator.mask_by("activations", "after")
    generator.begin()
    generator.end()
    generator.begin()
    optimizer = Adam(lr=0.1, betas=(0.9, 0.999), weight_decay=0.5)(
        [p for p in generator.parameters() if p.requires_grad]
    )
    used = generator.hidden[0].used(None).clone()
    before = generator.hidden[0].weight.detach().clone()
    for _ in range(3):
        optimizer.zero_grad()
        generator(torch.randn(4, 3), torch.ones(4, dtype=torch.int64), 1).sum().backward()
        optimizer.step()
        generator.restore_frozen()
    after = generator.hidden[0].weight
    assert torch.equal(after[used], before[used])
    assert not torch.equal(after[~used], before[~used])


@pytest.mark.parametrize("sparsity", [0.01, 1])
def test_a_task_that_opens_nothing_of_a_layer_is_said(
    sparsity: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No noise and no class comes through a closed layer."""
    scenario, method = made("dgm", f"method.sparsity={sparsity}")
    learn(method, scenario, 0, tmp_path, **TRAINER)
    drawn = images(method.eval(), 0)
    why = "the generator uses nothing of layer 1, so all images of a class are the same; decrease method.sparsity"
    assert caplog.messages == ([f"task 1: {why}"] if torch.equal(drawn, drawn[:1].expand_as(drawn)) else [])
    assert len(caplog.messages) == (sparsity == 1)


def test_a_run_tells_its_capacity(small: Compose) -> None:
    results = run(small("method=dgm"))
    for record in results.tasks:
        capacity = there(record.diagnostics.capacity)
        assert len(capacity.new) == len(capacity.layers)
        assert capacity.size <= capacity.size_worst
        assert len(there(record.diagnostics.plasticity)) == 50
        assert there(record.diagnostics.generator_bytes) > 4 * there(capacity.parameters)
    steps = results.tasks[0].phases[0]
    assert steps.optimizer_steps == [steps.steps, steps.steps // 2]
