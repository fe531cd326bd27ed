"""Every method learns what a loop written by hand learns, from the same weights, mini-batches and random numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import learn, made

from cl_bench.data.tasks import Scenario
from reference.experiment import (
    BY_HAND,
    EACH_IMAGE,
    EXPERIMENT,
    GANS,
    OURS,
    batch_size_of,
    by_hand,
    gap,
    learning,
    scenario_of,
    weights_of,
)

ROWS = torch.arange(12 * 128)  # twelve mini-batches: RWalk's second interval; three tasks: two old ones


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    """In which no machine's rounding makes the two part ways."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", BY_HAND)
def test_ours_learns_what_the_loop_by_hand_learns(name: str, tmp_path: Path) -> None:
    method_name = OURS[name][0].removeprefix("method=")
    scenario, method = made(method_name, scenario_of(name), "network.hidden=[32,24]", *EXPERIMENT, *OURS[name][1:])
    n_tasks, rows = (2, ROWS[: 5 * 128]) if name in GANS else (3, ROWS[:12] if name in EACH_IMAGE else ROWS)
    tasks = [replace(task, train=task.train[rows % len(task.train)]) for task in scenario.tasks[:n_tasks]]
    weights = [p.detach().clone() for p in weights_of(method)]
    ours = Scenario(scenario.problem, tasks, scenario.tests)
    theirs = by_hand(name, tasks, weights)
    for task in tasks:
        trainer = {"epochs": 1, "batch_size": batch_size_of(name), "precision": "64-true"}
        learn(method, ours, task.index, tmp_path, how=learning(name), **trainer)
    for what, timing in theirs.items():
        assert gap(weights_of(method), timing.weights, weights) < 1e-5, what
