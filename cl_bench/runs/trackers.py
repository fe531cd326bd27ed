"""Trackers: other places for the numbers of a run, besides `log.csv`. A tracker that fails never ends a run."""

from __future__ import annotations

import json
import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from cl_bench import files
from cl_bench.config import InputError
from cl_bench.record import COSTS, Results, thinned
from cl_bench.runs.curves import Row, read
from cl_bench.runs.loggers import EVALUATED, MEASURED, STREAM, CSVLog, RunLogger, is_number

log = logging.getLogger(__name__)

MACHINE_KEYS = ("data_dir", "output_root", "reference")  # paths on one machine: no part of what was tried
APART = (MEASURED, STREAM, EVALUATED)  # in the place of a phase, and none: they have no steps
PATH_KEYS = ("path", "datasets")  # of a person's own images: the file's name says which, its folder is their affair


@dataclass(frozen=True)
class About:
    """A run, when it begins or continues.

    Args:
        folder: of the run.
        key, name, config: of the run.
        group: common to the repetitions with other seeds.
        tags: words to find it by.
        kept: the content of its log.csv.
    """

    folder: Path
    key: str
    name: str
    config: dict[str, Any]
    group: str
    tags: Sequence[str]
    kept: Sequence[Row]

    @property
    def output_root(self) -> Path:
        return self.folder.parents[1]


class Sent(NamedTuple):
    """What was already sent of a run: up to this step, and the measurements of these tasks."""

    step: int
    tasks: Sequence[int]


class Point(NamedTuple):
    """Values of one moment.

    step: of the run. task: that was learned. phase: of it, or what stands in its place, see `loggers`.
    of_phase: mini-batches of this phase in all tasks so far.
    values: by PHASE/NAME.
    """

    step: int
    task: int
    phase: str
    of_phase: int
    values: dict[str, float]

    @property
    def at(self) -> int:
        """Where it stands on an axis: the task for what is measured after one, the images of a stream that came, the
        mini-batches of the run so far for all else.

        >>> Point(40, 1, "task", 0, {"task/ACC": 0.5}).at, Point(40, 1, "train", 20, {"train/loss": 2.0}).at
        (1, 40)
        """
        if self.phase == MEASURED:
            return self.task
        return int(self.values.get(f"{STREAM}/images", self.step))


class Tracker(ABC):
    """A place for the numbers of a run, beside log.csv.

    An exception in it becomes one warning. Then it is off for the rest of the run, and log.csv continues. Numbers that
    were sent before a kill are not sent again.

    title: its name in warnings. package: must be installed, with the extra of the same name.
    """

    title: ClassVar[str]
    package: ClassVar[str | None] = None

    def __init__(self) -> None:
        if self.package and not find_spec(self.package):
            way = f"pip install 'cl_bench[{self.package}]'"
            raise InputError(f"logger={self.package}: needs the package {self.package}, which isn't installed: {way}")
        self.on = False

    def start(self, about: About, sent: Sent | None) -> None:
        """Begins or continues a run. sent: None for a run that begins."""
        self._sent_step, self._sent_tasks = sent or Sent(-1, ())
        self._steps: Counter[str] = Counter()  # of each phase
        self._last = 0  # step of the run that they add up to
        for row in about.kept:
            self._count(row.step, row.phase)
        self.on = True
        with self.guard():
            self.open(about, continued=sent is not None)

    def write(self, rows: Sequence[Row]) -> None:
        """Sends values that log.csv got. The values of one step come one after another."""
        points = []
        for (step, task, phase), of_point in groupby(rows, key=lambda row: row[:3]):
            self._count(step, phase)
            if not (task in self._sent_tasks if phase == MEASURED else step <= self._sent_step):
                values = few_accuracies({f"{phase}/{row.name}": row.value for row in of_point})
                points.append(Point(step, task, phase, self._steps[phase], values))
        if points and self.on:
            with self.guard():
                self.send(points)

    def _count(self, step: int, phase: str) -> None:
        """What came since the last call were steps of this phase: a point stands at the last of its steps."""
        if phase not in APART:
            self._steps[phase] += step - self._last
            self._last = step

    def task(self, results: Results, samples: Path | None) -> None:
        """Sends the numbers of a learned task. samples: a picture of generated images."""
        task = results.tasks[-1].task
        if self.on and samples and task not in self._sent_tasks:
            with self.guard():
                self.send_picture(f"{MEASURED}/samples", samples, task)

    def finish(self, results: Results, folder: Path) -> None:
        """Sends the final numbers and the figures in the folder of the run."""
        if not self.on:
            return
        with self.guard():
            final = {**results.metrics, **{name: getattr(results, name) for name in COSTS}}
            self.end({name: float(value) for name, value in final.items() if is_number(value)})
            for picture in sorted(folder.glob("figures/*.png")):
                self.send_picture(f"figures/{picture.stem}", picture, results.tasks[-1].task)

    def close(self, failed: bool) -> None:
        """Nothing more comes."""
        if self.on:
            with self.guard():
                self.stop(failed)
        self.on = False

    @contextmanager
    def guard(self) -> Iterator[None]:
        """An error inside ends the tracker and not the run."""
        try:
            yield
        except Exception as error:  # hours of training outweigh their dashboard
            self.on = False
            with suppress(Exception):
                self.stop(failed=True)
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            log.warning("%s is off for the rest of this run; log.csv is still written (%s)", self.title, reason)

    @abstractmethod
    def open(self, about: About, continued: bool) -> None:
        """Get ready to send. continued: the run was begun before, and some of it may have been sent."""

    @abstractmethod
    def send(self, points: Sequence[Point]) -> None:
        """Points that were not sent before."""

    @abstractmethod
    def send_picture(self, name: str, picture: Path, task: int) -> None:
        """A PNG file, after a task."""

    @abstractmethod
    def end(self, final: Mapping[str, float]) -> None:
        """The numbers that a finished run has in the end."""

    @abstractmethod
    def stop(self, failed: bool) -> None:
        """Releases everything, also what `open` had begun."""


class TrackedLog(CSVLog):
    """`log.csv`, and the same numbers in other places: `logger=many`.

    loggers: the other places.
    """

    def __init__(self, loggers: Sequence[Tracker]) -> None:
        super().__init__()
        self.loggers = list(loggers)

    def open(self, config: dict[str, Any], group: str, tags: list[str], step: int) -> None:
        sent = sent_before(self._folder)
        super().open(config, group, tags, step)
        about = About(self._folder, self._key, self._name, config, group, tags, read(self._path))
        for tracker in self.loggers:
            tracker.start(about, sent)

    def write(self, rows: Sequence[Row]) -> None:
        super().write(rows)
        for tracker in self.loggers:
            tracker.write(rows)

    def task(self, results: Results, samples: Path | None) -> None:
        super().task(results, samples)
        for tracker in self.loggers:
            tracker.task(results, samples)

    def finish(self, results: Results) -> None:
        super().finish(results)
        for tracker in self.loggers:
            tracker.finish(results, self._folder)

    def close(self, failed: bool) -> None:
        super().close(failed)
        for tracker in self.loggers:
            tracker.close(failed)


def sent_before(folder: Path) -> Sent | None:
    """What was sent of the run in a folder; None if the run begins. It is written there for the next time, because
    log.csv loses what came after the checkpoint from which a run continues."""
    log_csv, note = folder / "log.csv", folder / "sent.json"
    if not log_csv.exists():
        return None
    rows = read(log_csv)
    try:
        step, tasks = Sent(**files.load_json(note))
    except (FileNotFoundError, files.Damaged, TypeError):
        step, tasks = -1, ()
    sent = Sent(
        max([step, *(row.step for row in rows)]),
        sorted({*tasks, *(row.task for row in rows if row.phase == MEASURED)}),
    )
    text = json.dumps(files.sealed(sent._asdict()))
    files.write(note, lambda file: file.write_text(text, encoding="utf-8"))
    return sent


def logger_of(built: RunLogger | Tracker) -> RunLogger:
    """The logger of a run: a tracker comes with log.csv."""
    return TrackedLog([built]) if isinstance(built, Tracker) else built


def few_accuracies(values: dict[str, float]) -> dict[str, float]:
    """The values, without those of most tasks if there are many tasks: a panel is drawn for each name."""
    accuracies = [name for name in values if name.startswith(f"{MEASURED}/accuracy/")]
    shown = {accuracies[i] for i in thinned(len(accuracies))}
    return {name: value for name, value in values.items() if name in shown or name not in accuracies}


def without_paths(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration as it would be on any machine.

    >>> without_paths({"data_dir": "/disk", "dataset": {"path": "/disk/mine.npz"}, "scenario": {"kind": "class"}})
    {'dataset': {'path': 'mine.npz'}, 'scenario': {'kind': 'class'}}
    """

    def bare(key: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return without_paths(value)
        if isinstance(value, list | tuple):
            return [bare(key, part) for part in value]
        return Path(value).name if key in PATH_KEYS and isinstance(value, str) else value

    return {key: bare(key, value) for key, value in config.items() if key not in MACHINE_KEYS}
