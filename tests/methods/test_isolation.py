"""PackNet and HAT: what is answered for a past task never changes, whatever the optimizer does to a weight."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Compose, made, there
from conftest import learn as learn_by
from torch import Tensor

from cl_bench.config import InputError
from cl_bench.data.batches import Batch
from cl_bench.data.tasks import Scenario
from cl_bench.methods.parts.isolation import Isolation
from cl_bench.networks.masks import Frozen
from cl_bench.runs.loop import run

METHODS = ("packnet", "hat")
GENTLE = {"packnet": (), "hat": ("method.embedding_lr=0.01",)}  # in so short a training no layer may close altogether
# each moves a weight whose gradient is 0
OPTIMIZERS = {
    "sgd": ("optimizer=sgd", "optimizer.lr=0.05", "optimizer.momentum=0.9", "optimizer.weight_decay=0.001"),
    "adam": ("optimizer=adam", "optimizer.lr=0.01", "optimizer.weight_decay=0.001"),
}
NETWORKS = {
    "mlp": ("network=mlp", "network.hidden=[32,24]"),
    "cnn": ("network=cnn", "network.channels=[16,24]", "network.hidden=48"),
    "dcgan": ("network=dcgan", "network.width=8", "network.depth=2"),
    "resnet_gan": ("network=resnet_gan", "network.width=6"),
}


def beginning(method: str, *overrides: str) -> tuple[Scenario, Any]:
    return made(method, "scenario=task_incremental", *overrides)


def learn(method: Isolation, scenario: Scenario, index: int, folder: Path) -> dict[str, Any]:
    return learn_by(method, scenario, index, folder, epochs=8, batch_size=32)


@torch.no_grad()
def answers(method: Isolation, scenario: Scenario, task: int) -> Tensor:
    """The logits of a task's own outputs, for its test images."""
    x = next(scenario.tests[task].batches()).x
    return method(x, index=task)[:, list(scenario.problem.outputs[task])]


@pytest.mark.parametrize(
    ("method", "network", "optimizer"),
    [(method, *pair) for method in METHODS for pair in (("mlp", "adam"), ("cnn", "sgd"))]
    + [
        pytest.param(method, *pair, marks=pytest.mark.slow)
        for method in METHODS
        for pair in (("mlp", "sgd"), ("cnn", "adam"))
    ]
    + [("packnet", "resnet_gan", "adam"), ("hat", "dcgan", "adam")],
)
def test_logits_of_past_tasks_never_change_by_a_bit(method: str, network: str, optimizer: str, tmp_path: Path) -> None:
    scenario, learner = beginning(method, *GENTLE[method], *NETWORKS[network], *OPTIMIZERS[optimizer])
    before: list[Tensor] = []
    for task in range(3):
        start = {name: weight.detach().clone() for name, weight in learner.weights.items()}
        learn(learner, scenario, task, tmp_path)
        after = [answers(learner, scenario, past) for past in range(task + 1)]
        for old, new in zip(before, after, strict=False):
            assert torch.equal(old, new)
        before = after
        assert after[-1].std(0).min() > 1e-3  # it tells images apart
        features = [name for name in start if not name.startswith("head.")]
        assert any(not torch.equal(start[name], learner.weights[name]) for name in features)  # not with its head alone
        learner.eval()
        assert torch.equal(answers(learner, scenario, 0), after[0])
        learner.train()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("method", METHODS)
def test_gradients_of_zero_would_not_do(
    method: str, optimizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guarantee's test can fail: so it does where what is held has a gradient of 0 and isn't put back."""
    held: list[Frozen] = []

    class Noted(Frozen):
        def __init__(self, parts: Mapping[Any, Tensor]) -> None:
            super().__init__(parts)
            held.append(self)

    def step(self: Isolation, batch: Batch, optimizers: torch.optim.Optimizer) -> dict[str, Tensor]:
        def stop(*_: object) -> None:
            for parameter, part, _value in held[-1].parts:
                assert parameter.grad is not None
                parameter.grad.mul_(1 - part)

        handle = optimizers.register_step_pre_hook(stop)
        logs = plain(self, batch, optimizers)
        handle.remove()
        return logs

    scenario, learner = beginning(method, *NETWORKS["mlp"], *OPTIMIZERS[optimizer])
    plain = Isolation.train_step
    monkeypatch.setattr("cl_bench.methods.parts.isolation.Frozen", Noted)
    learn(learner, scenario, 0, tmp_path)
    before = answers(learner, scenario, 0)
    monkeypatch.setattr(Isolation, "train_step", step)
    learn(learner, scenario, 1, tmp_path)
    assert torch.equal(before, answers(learner, scenario, 0))
    monkeypatch.setattr(Frozen, "restore", lambda self: None)
    learn(learner, scenario, 2, tmp_path)
    assert not torch.equal(before, answers(learner, scenario, 0))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scenario", ["class_incremental", "domain_incremental"])
def test_without_the_task_it_has_no_meaning(method: str, scenario: str) -> None:
    with pytest.raises(InputError) as error:
        made(method, f"scenario={scenario}")
    line = f"method={method}: does not work in scenario={scenario}"
    assert str(error.value).startswith(line)
    assert str(error.value).endswith("try scenario=task_incremental")


@pytest.mark.parametrize("method", METHODS)
def test_running_statistics_are_refused(method: str) -> None:
    with pytest.raises(InputError, match=r"^network: .*network\.norm=none"):
        beginning(method, "network=dcgan", "network.norm=batch")


@pytest.mark.parametrize("method", METHODS)
def test_a_run_tells_what_is_used_and_what_is_left(method: str, small: Compose) -> None:
    results = run(small(f"method={method}", "scenario=task_incremental", "network.hidden=[40,30]"))
    reserved = [0, 0]
    for record in results.tasks:
        capacity = there(record.diagnostics.capacity)
        for layer in range(2):
            assert capacity.reserved[layer] == reserved[layer] + capacity.new[layer]
            assert capacity.reused[layer] <= reserved[layer]
            assert capacity.free[layer] == capacity.total[layer] - capacity.reserved[layer] >= 0
            if method == "packnet":
                assert capacity.free[layer] == round(capacity.total[layer] * 0.75 ** (record.task + 1))
        reserved = capacity.reserved
        assert sum(capacity.new) > 0
    assert capacity.total == ([64 * 40, 40 * 30] if method == "packnet" else [40, 30])
    assert results.metrics["BWT"] == 0.0
