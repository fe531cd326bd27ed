"""What is measured of a network's plasticity: dead units, effective rank, weights, and answers before each update."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import METHODS, Compose, learn, made, there
from torch import Tensor, nn

from cl_bench.config.declared import declared
from cl_bench.config.names import folder_of
from cl_bench.data.batches import Batches
from cl_bench.data.problem import masked
from cl_bench.evaluation.plasticity import effective_rank, plasticity
from cl_bench.methods.base import Classifier
from cl_bench.runs.curves import read
from cl_bench.runs.loop import run
from cl_bench.seeding import derive


def test_the_effective_rank_is_that_of_the_singular_values() -> None:
    for H in (torch.randn(50, 7), torch.randn(5, 30), torch.randn(40, 3) @ torch.randn(3, 20)):
        sigma = np.linalg.svd(H.double().numpy(), compute_uv=False)
        p = sigma / sigma.sum()
        expected = math.exp(-sum(value * math.log(value) for value in p if value > 1e-12))
        assert effective_rank(H) == pytest.approx(expected, rel=1e-4)
    assert effective_rank(torch.zeros(4, 3)) == 0
    assert effective_rank(torch.full((4, 3), math.nan)) is None


@pytest.mark.parametrize(
    "network", [["network.hidden=[8,6]"], ["network=cnn", "network.channels=[8]", "network.hidden=6"]]
)
def test_dead_units_give_0_on_every_image_of_the_new_task(network: list[str]) -> None:
    scenario, method = made("finetune", "scenario=domain_incremental", *network)
    layers: list[Any] = [layer for layer in method.network.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    with torch.no_grad():
        layers[0].bias[[2, 5]] = -100.0
        layers[0].weight[3], layers[0].bias[3] = 0.0, 1.0  # constant, not dead
        layers[1].bias.fill_(-100.0)
    found = there(plasticity(method, scenario.tasks[1].train, 1))
    assert found.units == [8, 6]
    assert found.dead == [found.dead[0], 6]
    assert found.dead[0] >= 2
    assert found.dead_units == (found.dead[0] + 6) / 14
    assert there(found.effective_rank[0]) > 1
    assert found.effective_rank[1] == 0
    weights = torch.cat([layer.weight.flatten() for layer in layers])
    assert found.weight_magnitude == pytest.approx(float(weights.detach().abs().mean()), rel=1e-5)
    x = next(scenario.tasks[1].train.batches(len(scenario.tasks[1].train))).x
    h = layers[0](x if isinstance(layers[0], nn.Conv2d) else x.flatten(1)).relu()
    zero = (h == 0).transpose(0, 1).flatten(1).all(1) if h.dim() > 2 else (h == 0).all(0)
    assert found.dead[0] == int(zero.sum())


def test_the_units_of_a_linear_layer_for_tokens_are_its_outputs() -> None:
    """Each row of pixels is a token: not the tokens, though these are where a convolution has its channels."""
    scenario, method = made("finetune", "scenario=domain_incremental")
    layer, width = nn.Linear(scenario.problem.image_shape[-1], 6), 6 * scenario.problem.image_shape[-2]
    with torch.no_grad():
        layer.bias[[1, 4]] = -100.0
    features = nn.Sequential(nn.Flatten(1, 2), layer, nn.ReLU(), nn.Flatten(), nn.Linear(width, 3), nn.ReLU())
    method.network.features, method.network.head = features, nn.Linear(3, 10)
    data = scenario.tasks[1].train
    found = there(plasticity(method, data, 1))
    assert found.units == [6, 3]
    h = layer(next(data.batches(len(data))).x.flatten(1, 2)).relu().detach()
    assert found.dead[0] == int((h == 0).all(0).all(0).sum()) >= 2
    assert found.effective_rank[0] == pytest.approx(there(effective_rank(h.mean(1))), rel=1e-4)


@pytest.mark.parametrize("n", [3, 2000, 2001, 7000])
def test_at_most_2000_images_at_equal_distances_are_looked_at(n: int) -> None:
    scenario, method = made("finetune", "scenario=domain_incremental")
    data = scenario.tasks[0].train
    data = replace(data[torch.arange(n) % len(data)], task_ids=torch.zeros(n, dtype=torch.int16))
    assert there(plasticity(method, data, 0)).images == min(n, 2000)


def test_images_that_go_through_different_layers_have_no_plasticity_and_end_no_run(
    small: Compose, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each image finds its own mask: of three mini-batches of a probe one may need more masks than another."""
    monkeypatch.setattr("cl_bench.data.batches.at_once", lambda *_, **__: 7)
    results = run(small("method=supsup", "scenario=domain_incremental", "trainer.iterations=3"))
    assert [record.plasticity is None for record in results.tasks] == [False, False, True, True, True]
    why = "not every image goes through the same hidden layers"
    assert caplog.messages == [f"plasticity can't be measured: NaN ({why})"]


def answers_before_steps(method: Classifier, data: Any, steps: int) -> list[Tensor]:
    """Whether each image of a phase's first pass is answered right, by a look of its own before each step."""
    problem, right = method.problem, []
    allowed = problem.mask(problem.rules["evaluation"], after=method.index)[method.index]
    optimizer: Any = method.configure_optimizers()
    for batch in (batches := Batches(data, batch_size=128, steps=steps, seed=derive(0, "batches", method.index, 0))):
        for step, part in batch:
            if step < batches.per_epoch:
                with torch.no_grad():
                    right.append(masked(method(part.x), allowed).argmax(1) == part.y)
            method.train_step(part, optimizer)
    return right


@pytest.mark.parametrize("kind", ["class", "task", "domain"])
def test_online_accuracy_is_of_answers_before_each_step_of_the_first_pass(kind: str, tmp_path: Path) -> None:
    scenario, method = made("finetune", f"scenario={kind}_incremental")
    _, other = made("finetune", f"scenario={kind}_incremental")
    other.load_state_dict(method.state_dict())
    for index in (0, 1):
        found = learn(method, scenario, index, tmp_path, how=noted)
        other.index = index
        data = scenario.tasks[index].train
        right = torch.cat(answers_before_steps(other, data, 2 * math.ceil(len(data) / 128)))
        assert len(right) == len(data)
        assert found == int(right.sum()) / len(right)


def test_online_accuracy_counts_an_image_that_joins_the_last_one_of_a_pass_once(tmp_path: Path) -> None:
    """129 images in mini-batches of 128: the first image is in both."""
    scenario, method = made("finetune", "optimizer=sgd", "optimizer.lr=1e-9")
    data = scenario.tasks[0].train[torch.arange(129)]
    right = masked(method(data.batch(torch.arange(129)).x), method.problem.mask("seen", 0)[0]).argmax(1) == data.labels
    scenario.tasks[0] = replace(scenario.tasks[0], train=data)
    assert learn(method, scenario, 0, tmp_path, how=noted) == int(right.sum()) / 129


def noted(method: Any, task: Any, fit: Any) -> Any:
    """The online accuracy of the first phase."""
    method.learn_task(task, fit)
    return fit.checkpoint.phases[0].online_accuracy


@pytest.mark.parametrize("method", [method for method in METHODS if "joint" not in method])
def test_every_method_knows_its_plasticity(method: str, small: Compose) -> None:
    kind = "task" if method in ("lwf", "packnet", "hat", "pnn", "clnp", "den") else "class"
    settings = small(f"method={method}", f"scenario={kind}_incremental", "scenario.n_tasks=2", "trainer.iterations=3")
    results = run(settings)
    trains = declared(settings, "trains")  # without steps down a gradient there are no answers before each of them
    for record in results.tasks:
        assert 0 <= there(record.online_accuracy) <= 1 if trains else record.online_accuracy is None
        if method == "pnn" and record.task:  # before the task begins there is no unit of its column
            continue
        assert sum(there(record.plasticity).units) > 0
        known = {name: value for name, value in record.of_plasticity.items() if value is not None}
        assert all(value >= 0 for value in known.values())
        fixed = {"weight_magnitude"} if method == "supsup" else set() if trains else {"online_accuracy"}
        assert known.keys() == {"online_accuracy", "dead_units", "effective_rank", "weight_magnitude"} - fixed
    logged = {row.name for row in read(folder_of(settings) / "log.csv") if row.phase == "task"}
    assert known.keys() <= logged


def test_images_that_join_a_mini_batch_do_not_count(tmp_path: Path) -> None:
    """Neither replayed ones nor, in cumulative training, those of earlier tasks."""
    for name in ("er", "cumulative"):
        scenario, method = made(name, "scenario=domain_incremental")
        for index in (0, 1):
            right = len(scenario.tasks[index].train) * learn(method, scenario, index, tmp_path / name, how=noted)
            assert right == pytest.approx(round(right), abs=1e-6)  # of its own images, no more and no less


def test_logits_of_other_images_are_not_taken_for_answers(tmp_path: Path) -> None:
    """A method whose first logits in a step are of replayed images has no online accuracy rather than a wrong one."""
    scenario, method = made("finetune", "scenario=class_incremental")

    class Backwards(type(method)):
        def loss(self, batch: Any) -> Tensor:
            other = scenario.tasks[1].train.batch(torch.arange(len(batch.y)))
            self.active(self(other.x), other.y)
            return super().loss(batch)

    method.__class__ = Backwards
    assert learn(method, scenario, 0, tmp_path, how=noted) is None
