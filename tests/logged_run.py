"""What the runner and Lightning tell the logger of a run of two tasks, without the run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from example_records import capacity, results, task_record

from cl_bench.record import Diagnostics, Phase, TaskRecord
from cl_bench.runs.loggers import RunLogger

CONFIG = {
    "seed": 0,
    "data_dir": "somewhere",
    "dataset": {"data_dir": "else", "name": "digits"},
    "output_root": "o",
    "choices": {"method": "dgr", "dataset": "digits"},
}
R = [[0.9, 0.1], [0.6, 0.8]]
STEPS = 40  # of each phase, logged every 10
PHASES = ("generator", "solver")


def record(task: int) -> TaskRecord:
    return task_record(
        task,
        bytes_kept=100 * task,
        phases=[Phase(phase, STEPS, [STEPS], 0.5, {}, [(STEPS, 0.5 + task / 4)]) for phase in PHASES],
        diagnostics=Diagnostics.of({"replayed": 32 * task, "by": "generator", "capacity": capacity(free=[3, 4])}),
    )


RESULTS = results(R, metrics={"ACC": 0.7, "BWT": -0.3, "FWT": None}, bytes_kept=100, seconds=3.0)


def learn(logger: RunLogger, folder: Path, start: int = 0, stop: int = 4 * STEPS) -> None:
    """What the runner and Lightning call in a run of two tasks, from step `start` until it breaks off."""
    folder.mkdir(exist_ok=True)
    logger.start(folder, "0123abcd", "digits-class-dgr-seed0", CONFIG, "digits-class-dgr", ["dgr"], start)
    step = 0
    for task in range(2):
        for phase in PHASES:
            first, step = max(start, step), step + STEPS
            if first >= step:
                continue
            logger.phase(task, phase, first)
            for i in range(first + 1, step + 1):
                if i > stop:
                    return
                if i % 10 == 0:
                    logger.log_metrics({"loss": 1 / i, "epoch": 0}, i - first)
        if start <= step:
            metrics = {"ACC": sum(R[task]) / 2, "BWT": -0.3 if task else None}
            so_far = replace(RESULTS, tasks=[record(i) for i in range(task + 1)], metrics=metrics)
            logger.task(so_far, folder / "samples" / "task1.png" if task else None)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.name.startswith("cl_bench")]


def complete(logger: RunLogger) -> None:
    logger.finish(RESULTS)
    logger.close(failed=False)
