"""Schedules against those of torch, as functions and in the phases of a method."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Compose, learn
from torch.optim import lr_scheduler as theirs

from cl_bench.data.batches import Batch, Step
from cl_bench.data.problem import Task
from cl_bench.methods.base import Fit, Learner
from cl_bench.networks.schedules import Cosine, MultiStep, Plateau, Schedule
from cl_bench.runs.setup import prepare

LR = 0.5


def optimizer_of_torch() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.zeros(1)], lr=LR)


def rates(optimizer: torch.optim.Optimizer, schedule: Any, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def cosine_of_torch(steps: int, warm: int, floor: float) -> list[float]:
    optimizer = optimizer_of_torch()
    schedule: Any = theirs.CosineAnnealingLR(optimizer, steps - warm, eta_min=floor * LR)
    if warm:
        rising = theirs.LinearLR(optimizer, 1 / (warm + 1), total_iters=warm)
        schedule = theirs.SequentialLR(optimizer, [rising, schedule], [warm])
    return rates(optimizer, schedule, steps)


def multistep_of_torch(steps: int, warm: int, milestones: list[int], gamma: float) -> list[float]:
    optimizer = optimizer_of_torch()
    falling = theirs.MultiStepLR(optimizer, milestones, gamma=gamma)
    rising = [theirs.LinearLR(optimizer, 1 / (warm + 1), total_iters=warm)] if warm else []
    return rates(optimizer, theirs.ChainedScheduler([falling, *rising]), steps)


@pytest.mark.parametrize(("steps", "warmup", "warm"), [(20, 0.0, 0), (20, 0.25, 5), (7, 0.3, 2), (1, 0.9, 0)])
@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_cosine(steps: int, warmup: float, warm: int, floor: float) -> None:
    schedule = Cosine(warmup=warmup, floor=floor)
    ours = [LR * schedule.at(step, steps) for step in range(steps)]
    assert ours == pytest.approx(cosine_of_torch(steps, warm, floor))


@pytest.mark.parametrize(("warmup", "warm"), [(0.0, 0), (0.25, 5)])
def test_multistep(warmup: float, warm: int) -> None:
    schedule = MultiStep(warmup=warmup, milestones=(0.5, 0.75), gamma=0.2)
    ours = [LR * schedule.at(step, 20) for step in range(20)]
    assert ours == pytest.approx(multistep_of_torch(20, warm, [10, 15], 0.2))


@pytest.mark.parametrize("monitor", ["val_accuracy", "train_loss"])
@pytest.mark.parametrize("patience", [1, 3])
def test_plateau(monitor: Any, patience: int) -> None:
    values = torch.rand(40, generator=torch.Generator().manual_seed(0)).tolist()
    optimizer, found = optimizer_of_torch(), []
    mode: Any = "max" if monitor == "val_accuracy" else "min"
    schedule = theirs.ReduceLROnPlateau(optimizer, mode, factor=0.5, patience=patience, eps=0.0)
    for value in values:
        schedule.step(value)
        found.append(optimizer.param_groups[0]["lr"])
    ours = Plateau(warmup=0.0, monitor=monitor, factor=0.5, patience=patience)
    assert found == [LR * ours.after(values[: n + 1]) for n in range(40)]
    assert len(set(found)) > 4


@pytest.mark.parametrize("keep", ["false", "true"])
@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_each_phase_of_a_method_follows_its_schedule_anew(
    keep: str, chunk: int, small: Compose, tmp_path: Path
) -> None:
    chosen = ("optimizer=sgd", f"optimizer.lr={LR}", "optimizer.momentum=0.9", f"optimizer.keep_state={keep}")
    schedule = MultiStep(warmup=0.25, milestones=(0.5, 0.75), gamma=0.2)
    found = rates_of_phases(schedule, 20, chunk, small("method=finetune", *chosen), tmp_path)
    assert found == pytest.approx(multistep_of_torch(20, 5, [10, 15], 0.2) * 2)


def rates_of_phases(schedule: Schedule, steps: int, chunk: int, settings: dict[str, Any], folder: Path) -> list[float]:
    """The step size at each step of two tasks."""
    scenario, method = prepare(settings)
    found: list[float] = []

    def step(batch: Batch, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
        found.append(optimizer.param_groups[0]["lr"])
        return method.train_step(batch, optimizer)

    for task in range(2):
        how = partial(train_by, step, steps)
        learn(method, scenario, task, folder, how=how, schedule=schedule, chunk=chunk)
    return found


def train_by(step: Step, steps: int, method: Learner, task: Task, fit: Fit) -> None:
    fit(method, task.train, phase="train", step=step, steps=steps)
