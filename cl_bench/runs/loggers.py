"""The loggers of a run: always `log.csv` in the run's folder, and others by the settings (see `trackers`).

A run has many Lightning Trainers, and each counts its steps from 0. The loggers add them to one step count over the
whole run. So the curves of all phases fit together, also after a run was continued.
"""

from __future__ import annotations

import csv
import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger

from cl_bench.record import Results, to_json
from cl_bench.runs.curves import Row, read, rewrite

STREAM = "accuracy_on_stream"  # the phase name of measurements while a stream is learned
EVALUATED = "while_learning"  # the phase name of measurements while a task is learned
MEASURED = "task"  # the phase name of measurements after a task


class RunLogger(Logger):
    """The logger of one run, which all its Trainers use. A subclass defines where values go.

    The order of calls: `start`; for each task, `phase` before each Trainer and `log_points` (or Lightning's
    `log_metrics`) during it, then `task`; at the end `finish`. `close` always comes last, also after an error.
    """

    def __init__(self) -> None:
        super().__init__()
        self._name, self._key = "", ""
        self._task, self._phase, self._offset, self._step = 0, "", 0, 0
        self._there: set[tuple[int, str, str]] = set()  # step, phase and name of the last logged points before a kill

    @property
    def name(self) -> str:
        return self._name

    @property
    def version(self) -> str:
        return self._key

    def start(
        self,
        folder: Path,
        key: str,
        name: str,
        config: dict[str, Any],
        group: str,
        tags: list[str],
        step: int,
    ) -> None:
        """Begin a run, or continue it after `step` steps. Points that were logged after that step will come again."""
        self._folder, self._key, self._name = folder, key, name
        self.open(config, group, tags, step)

    def phase(self, task: int, phase: str, step: int) -> None:
        """The next Trainer is for this phase of this task; `step` is the number of steps before it."""
        self._task, self._phase, self._offset = task, phase, step

    def log_points(self, points: Iterable[tuple[int, Mapping[str, float]]], phase: str | None = None) -> None:
        """Log points of this phase's curves: the number of its steps so far, and the values by name.

        phase: another phase name, STREAM or EVALUATED.
        """
        rows = [
            Row(self._offset + step, self._task, phase or self._phase, name, float(value))
            for step, values in points
            for name, value in values.items()
        ]
        if rows:
            self._step = max(self._step, rows[-1].step)  # a stream may have been measured before the last loss
            self.write(rows)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log one point from Lightning, which adds its own epoch, or from a callback. It gets the last logged step or a
        later one, because Lightning counts chunks, not steps. Points from before a kill are not logged again."""
        at = max(self._offset + (step or 0), self._step)
        new = [name for name in metrics if name != "epoch" and (at, self._phase, name) not in self._there]
        self.log_points([(at - self._offset, {name: metrics[name] for name in new})])

    def log_hyperparams(self, params: object, *args: object, **kwargs: object) -> None:
        """Nothing: the configuration has been known since `start`."""

    def task(self, results: Results, samples: Path | None) -> None:
        """Log the numbers of the last record, at the last step. Called after a task was learned and all were measured.

        samples: a picture of generated images, if the method generates images.
        """
        task = results.tasks[-1].task
        self.write([Row(self._step, task, MEASURED, name, float(value)) for name, value in measured(results).items()])

    def finish(self, results: Results) -> None:
        """The run is complete."""

    def close(self, failed: bool) -> None:
        """Close everything that is open. (Lightning's own `finalize` comes after every phase.)"""

    @abstractmethod
    def open(self, config: dict[str, Any], group: str, tags: list[str], step: int) -> None:
        """Prepare for writing; see `start`."""

    @abstractmethod
    def write(self, rows: Sequence[Row]) -> None:
        """Write these values. All values of one step come one after another."""


class CSVLog(RunLogger):
    """`log.csv` in the run's folder: one value per row, with its step, task and phase."""

    def open(self, config: dict[str, Any], group: str, tags: list[str], step: int) -> None:
        self._path = self._folder / "log.csv"
        kept = [row for row in read(self._path) if row.step <= step]
        self._step = max((row.step for row in kept), default=0)
        self._there = {(row.step, row.phase, row.name) for row in kept if row.step == self._step}
        self._measured = {row.task for row in kept if row.phase == MEASURED}
        rewrite(self._path, kept)

    def task(self, results: Results, samples: Path | None) -> None:
        task = results.tasks[-1].task
        if task in self._measured:  # before a kill, just after the checkpoint
            rewrite(self._path, [row for row in read(self._path) if (row.task, row.phase) != (task, MEASURED)])
        super().task(results, samples)

    def write(self, rows: Sequence[Row]) -> None:
        with self._path.open("a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)


def measured(results: Results) -> dict[str, float]:
    """The numbers after the last task, without metrics that are not defined (yet)."""
    record = results.tasks[-1]
    noted: dict[str, Any] = to_json(record.diagnostics)
    values = {
        **{f"accuracy/{test}": value for test, value in zip(results.tests, results.R[record.task], strict=True)},
        **results.metrics,
        "seconds": record.seconds,
        "bytes_kept": record.bytes_kept,
        "answer_bytes": record.answer_bytes,
        "validation": record.validation,
        **record.of_plasticity,
        **{f"facts/{name}": value for name, value in (noted | noted.get("more", {})).items()},
        **{f"capacity/{name}": total(value) for name, value in noted.get("capacity", {}).items()},
    }
    return {name: value for name, value in values.items() if is_number(value)}


def total(value: Any) -> Any:
    """The sum of a list of numbers for each layer; other values do not change."""
    return sum(value) if isinstance(value, list) and all(map(is_number, value)) else value


def is_number(value: object) -> bool:
    """Whether a value can be drawn as a point."""
    return isinstance(value, int | float) and math.isfinite(value)
