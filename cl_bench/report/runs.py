"""results.json files -> runs: read, told apart from copies, chosen by conditions."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from cl_bench.config import InputError
from cl_bench.config.content import by_content
from cl_bench.config.errors import nearest, no_such_folder
from cl_bench.config.names import WITHOUT_EFFECT, as_ever, name_of
from cl_bench.config.signatures import parameters
from cl_bench.config.training import with_scheduler
from cl_bench.config.tuned import leaves
from cl_bench.config.weights import by_weights
from cl_bench.process import without_collector
from cl_bench.record import COSTS, PLASTICITY, SIZES, Damaged, Results, load_results
from cl_bench.report.labels import as_typed, read_value

MEMORY = ("memory_images", "memory_bytes")
"""Real images kept, and their bytes; of a generator its bytes, and as many images as they would hold."""

CURVES = ("evaluate_every", "evaluate_unit", "evaluate_on")
"""What is measured besides, while a task is learned: it moves no number that is compared."""

MACHINE = ("trainer.threads", "trainer.accelerator")
"""Where a run is computed: it moves a sum's last digits, not what is compared."""

REFERENCED = ("intransigence", "retention", "plasticity_gap")
"""Metrics that compare with the run that `reference` names."""

IDLE = {f"{group}.{name}" if group else name for group, names in WITHOUT_EFFECT.items() for name in names}
IDLE |= {"seed", "came_from.digest", *MACHINE, *CURVES}
"""The dotted keys in which runs may differ and are still repetitions of one configuration."""


@dataclass(frozen=True)
class Run:
    """One results.json.

    config: every value that has an effect on the numbers, by its dotted key, without the seed.
    R: accuracies, shape (T, T), None for what was not measured; (T, 1) on a test set that all tasks share.
    """

    folder: Path
    results: Results
    config: Mapping[str, Any]
    dataset: str
    scenario: str
    method: str
    changed: float

    @property
    def seed(self) -> int:
        return self.results.seed

    @property
    def finished(self) -> bool:
        return self.results.status == "finished"

    @property
    def R(self) -> list[list[float | None]]:
        return self.results.R

    @property
    def n_tasks(self) -> int:
        return len(self.R)

    @property
    def shared_test(self) -> bool:
        return self.results.shared_test

    @property
    def tasks_done(self) -> int:
        return len(self.results.tasks)

    @cached_property
    def identity(self) -> Hashable:
        """Equal for runs that differ in their seed alone."""
        values = {key: as_typed(value) for key, value in self.config.items()}
        names = [self.dataset, self.scenario, self.method, self.n_tasks, self.shared_test, self.results.measured_on]
        return json.dumps([values, asdict(self.results.masks), names], sort_keys=True)

    @property
    def compared_with(self) -> tuple[str, ...]:
        """What `reference` names, by the folders of these runs without their seeds: a data set, scenario and method."""
        named = self.results.config.get("reference") or []
        return tuple(sorted(Path(str(path)).parent.name for path in ([named] if isinstance(named, str) else named)))

    @property
    def evaluated(self) -> tuple[Any, ...]:
        """When all tasks were measured while one was learned, see `CURVES`."""
        return tuple(self.results.config.get(key) for key in CURVES)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What a run can be chosen by."""
        names = {name: getattr(self, name) for name in ("method", "dataset", "scenario", "seed")}
        experiment = self.results.config["choices"].get("experiment")
        return {**self.config, **names, "experiment": experiment, "status": self.results.status}

    def number(self, name: str) -> float | None:
        """A metric, a cost, or a number of PLASTICITY or SIZES: online accuracy is over all images of a stream or else
        the mean over the tasks, the others are those of the last task (`late_...`: the mean over the last tasks). None
        where it was not measured."""
        if name in COSTS:
            return getattr(self.results, name)
        if name in self.results.metrics:
            return self.results.metrics[name]
        if name.startswith("late_"):
            return self.results.late_plasticity.get(name)
        if name in PLASTICITY:
            values = self.per_task(name)
            if name != "online_accuracy":
                return values[-1]
            return None if None in values else math.fsum(values) / len(values)  # type: ignore[arg-type]
        if name in SIZES:
            return self.per_task(name)[-1]
        if name in MEMORY:
            return self.results.memory and getattr(self.results.memory, name.removeprefix("memory_"))
        return None

    def per_task(self, name: str) -> list[float | None]:
        """A number of PLASTICITY or SIZES for each task."""
        found = {
            record.task: getattr(record, name) if name in SIZES else record.of_plasticity[name]
            for record in self.results.tasks
        }
        return [found.get(task) for task in range(self.n_tasks)]

    @cached_property
    def while_learning(self) -> dict[str, dict[tuple[int, int], tuple[int, float]]]:
        """(steps of the run, mean accuracy on the tasks so far) while tasks were learned, by the kind of images and by
        (number of the phase, its steps)."""
        found: dict[str, dict[tuple[int, int], tuple[int, float]]] = {}
        start = 0
        for number, phase in enumerate(phase for record in self.results.tasks for phase in record.phases):
            if phase.evaluation:
                for step, accuracies in phase.evaluation.points:
                    known = [accuracy for accuracy in accuracies if accuracy is not None]
                    mean = math.fsum(known) / max(len(known), 1)
                    found.setdefault(phase.evaluation.on, {})[number, step] = start + step, mean
            start += phase.steps
        return found

    def accuracies(self) -> list[float | None]:
        """Mean accuracy on the tasks seen so far, or on the test set that all share, after each task; None where one of
        them was not measured."""
        seen = [row[: after + 1] for after, row in enumerate(self.R)]
        return [None if None in row else math.fsum(row) / len(row) for row in seen]  # type: ignore[arg-type]


@dataclass(frozen=True)
class Unread:
    """A folder of a run that counts nowhere. damaged: its results.json can't be read, or is at odds with another."""

    folder: Path
    reason: str
    damaged: bool = False


def every_run(folders: Iterable[Path]) -> Iterator[Run | Unread]:
    """What lies in each folder of a run below these folders, copies of the same run too."""
    for folder in dict.fromkeys(run_folder for top in folders for run_folder in run_folders(top)):
        yield read_run(folder)


@without_collector()  # thousands of results hold no circle; to look for one takes a quarter of a report's time
def read(folders: Iterable[Path]) -> tuple[list[Run], list[Unread], int]:
    """All runs below some folders, those that can't be taken, and how many copies of the same run were left out.

    Raises InputError for a folder that isn't there, and where no run is.
    """
    found: dict[tuple[Hashable, int], Run] = {}
    unread, copies = [], 0
    folders = list(folders)
    for run in every_run(folders):
        if isinstance(run, Unread):
            unread.append(run)
            continue
        other = found.get((run.identity, run.seed))
        kept = run if not other or (run.finished, run.changed) > (other.finished, other.changed) else other
        found[run.identity, run.seed] = kept
        left = other if kept is run else run
        if left and left.finished and left.R != kept.R:
            unread.append(outdated(left, kept))
        else:
            copies += left is not None
    if not found and not unread:
        raise InputError(f"no results.json below {' or '.join(map(str, folders))}")
    return list(found.values()), unread, copies


def outdated(run: Run, newer: Run) -> Unread:
    """A run in whose place another one with the same configuration and seed is taken."""
    why = f"has the configuration and seed of {printable(newer.folder)}, which is newer, and other accuracies"
    return Unread(run.folder, why, damaged=True)


def say_damaged(unread: Iterable[Unread]) -> None:
    """A line on stderr for each run that can't be read."""
    for run in unread:
        if run.damaged:
            print(f"not read: {printable(run.folder)}: {run.reason}", file=sys.stderr)


def printable(path: Path) -> str:
    """A path as any terminal can show it."""
    return str(path).encode(errors="replace").decode()


def run_folders(top: Path) -> Iterator[Path]:
    """The folders of runs below a folder, or that folder itself, each once; links are followed.

    A person's own folder may have a results.json or checkpoints, too: only what has both has no runs below it.
    """
    if not top.is_dir():
        raise InputError(f"{top}: {no_such_folder(top)}")
    been = set()
    for path, below, files in os.walk(top, followlinks=True):
        place, signs = Path(path).resolve(), ("results.json" in files) + ("checkpoints" in below)
        if signs and place not in been:
            yield place
        ends = place in been or signs == 2
        below[:] = [] if ends else sorted(name for name in below if not name.startswith("."))
        been.add(place)


def read_run(folder: Path) -> Run | Unread:
    try:
        results, changed = load_results(folder), (folder / "results.json").stat().st_mtime
    except FileNotFoundError:
        return Unread(folder, "stopped before its first task was learned, or still learning it")
    except Damaged as error:
        return Unread(folder, str(error), damaged=True)
    except OSError as error:  # the folder went while it was read
        return Unread(folder, f"can't be read ({error.strerror})")
    settings = results.config
    scenario, method = settings["choices"]["scenario"], settings["choices"]["method"]
    dataset = name_of(settings).removesuffix(f"-{scenario}-{method}")
    config = {
        key: value
        for key, value in flat(as_ever(with_scheduler(by_weights(by_content(settings))))).items()
        if not key.startswith("memory.") or keeps_images(str(settings["method"].get("_target_")))
    }
    return Run(folder, results, config, dataset, scenario, method, changed)


@cache
def keeps_images(method: str) -> bool:
    """Whether the key `memory` has an effect on a run: whether its method takes it, as far as that is known."""
    try:
        return "memory" in parameters(method)
    except LookupError:
        return True


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The values with an effect on the numbers by their dotted keys, without the seed; a list is one value.

    >>> flat({"seed": 1, "debug": True, "trainer": {"epochs": 2, "chunk": 3}, "network": {"hidden": [4, 4]}})
    {'trainer.epochs': 2, 'network.hidden': [4, 4]}
    """
    kept = {key: value for key, value in settings.items() if key not in IDLE}
    return {key: value for key, value in leaves(kept) if key not in IDLE}


def select(runs: Iterable[Run], where: Sequence[str]) -> list[Run]:
    """The runs that meet every condition KEY=VALUE[,VALUE...], keys as on the command line of a run.

    Raises InputError for a key that no run has and a value that none has there.
    """
    runs = list(runs)
    for condition in where:
        key, equals, text = condition.partition("=")
        if not equals or not key:
            raise InputError(f"--where {condition}: can't be read; type KEY=VALUE or KEY=VALUE,VALUE")
        key = "memory.images" if key == "memory" else key  # as a run reads it
        if not any(key in run.facts for run in runs):
            known = {name for run in runs for name in run.facts}
            known = {name for name in known if name.endswith(f".{key}")} or known  # n_gen: method.n_gen
            raise InputError(f"--where {condition}: no run has a key '{key}'{nearest(key, known)}")
        present = {as_typed(run.facts[key]) for run in runs if key in run.facts}
        values = {as_typed(read_value(value)) for value in ([text] if text.startswith("[") else text.split(","))}
        if unknown := sorted(values - present):
            raise InputError(f"--where {condition}: no run has {key}={unknown[0]}{nearest(unknown[0], present)}")
        runs = [run for run in runs if key in run.facts and as_typed(run.facts[key]) in values]
        if not runs:
            raise InputError(f"--where {condition}: no run satisfies this and the conditions before it")
    return runs
