"""Schedules: factors of an optimizer's step size during a training.

A factor depends only on the step and on the measurements of the training so far. So a training that continues after a
kill needs only these measurements.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt

from cl_bench.config import Positive, Rate, Share

Along = Annotated[float, Ge(0), Lt(1)]
Monitor = Literal["val_accuracy", "train_loss"]


@dataclass(frozen=True)
class Schedule:
    """A schedule that begins with a linear warm-up.

    Args:
        warmup: share of a training's steps, in [0, 1). For W steps of warm-up, the factor of step s (from 0) is
            (s + 1) / (W + 1).
    """

    warmup: Along

    @property
    def goes_by(self) -> Monitor | None:
        """What must be measured after each pass; None: nothing."""
        return None

    def at(self, step: int, steps: int) -> float:
        """The factor of a step, counted from 0. steps: of the whole training."""
        warm = int(self.warmup * steps)
        return (step + 1) / (warm + 1) if step < warm else self.decayed(step, steps, warm)

    def decayed(self, step: int, steps: int, warm: int) -> float:
        """The factor of a step after the warm-up. warm: steps of the warm-up."""
        return 1.0

    def after(self, values: Sequence[float]) -> float:
        """One more factor, from the measurements after each pass so far."""
        return 1.0


@dataclass(frozen=True)
class Cosine(Schedule):
    """floor + (1 - floor) (1 + cos(pi s / S)) / 2 at step s of the S steps after the warm-up (Loshchilov and Hutter,
    2017).

    Args:
        warmup: see `Schedule`.
        floor: the factor at the end.

    >>> [round(Cosine(warmup=0.0, floor=0.0).at(step, 4), 3) for step in range(4)]
    [1.0, 0.854, 0.5, 0.146]
    >>> [round(Cosine(warmup=0.25, floor=0.0).at(step, 8), 3) for step in range(4)]
    [0.333, 0.667, 1.0, 0.933]
    """

    floor: Share

    def decayed(self, step: int, steps: int, warm: int) -> float:
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * (step - warm) / (steps - warm))) / 2


@dataclass(frozen=True)
class MultiStep(Schedule):
    """gamma^n, where n is the number of milestones that are past.

    Args:
        warmup: see `Schedule`.
        milestones: shares of a training's steps, in [0, 1): (0.5, 0.75) are epochs 80 and 120 of 160.
        gamma: factor at each milestone, above 0.

    >>> schedule = MultiStep(warmup=0.0, milestones=(0.5, 0.75), gamma=0.1)
    >>> [round(schedule.at(step, 4), 3) for step in range(4)]
    [1.0, 1.0, 0.1, 0.01]
    """

    milestones: tuple[Along, ...]
    gamma: Rate

    def decayed(self, step: int, steps: int, warm: int) -> float:
        return self.gamma ** sum(step / steps >= share for share in self.milestones)


@dataclass(frozen=True)
class Plateau(Schedule):
    """A factor each time that the measurement has stopped to improve, as in torch's `ReduceLROnPlateau`.

    Args:
        warmup: see `Schedule`.
        monitor: measured after each pass. `val_accuracy`: on the task's validation images; `train_loss`: the mean loss
            of the pass.
        factor: in (0, 1).
        patience: passes without improvement before the step size is multiplied.

    >>> Plateau(warmup=0.0, monitor="val_accuracy", factor=0.5, patience=1).after([0.7, 0.9, 0.8, 0.9, 0.8])
    0.5
    """

    monitor: Monitor
    factor: Annotated[float, Gt(0), Lt(1)]
    patience: Positive

    @property
    def goes_by(self) -> Monitor:
        return self.monitor

    def after(self, values: Sequence[float]) -> float:
        import torch

        optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        mode: Literal["min", "max"] = "min" if self.monitor == "train_loss" else "max"
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode, self.factor, self.patience, eps=0.0)
        for value in values:
            schedule.step(value)
        return optimizer.param_groups[0]["lr"]
