"""`evaluate_every`: accuracy on all tasks so far, while one is learned."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from cl_bench.data.batches import Data
from cl_bench.data.problem import Task
from cl_bench.data.tasks import Scenario
from cl_bench.evaluation.scores import Score
from cl_bench.methods.base import Learner, Method
from cl_bench.network_record import Evaluation, Phase
from cl_bench.record import thinned
from cl_bench.seeding import seeded

log = logging.getLogger(__name__)

POINTS = 2000
"""Largest number of points of a whole run in its results; log.csv has all."""


@dataclass(frozen=True)
class Evaluate:
    """Measures all tasks so far while one is learned.

    Args:
        learner: is measured; other modules of the method, such as a generator, are not.
        every, unit: `evaluate_every` and `evaluate_unit`.
        on: test images, or validation images.
        tasks: the tasks that are measured, see `Evaluation`.
        names: of these tasks, for the curves; the mean has its own name.
        measure: the accuracy on each of these tasks, given the number of steps of the phase.
        most: largest number of points per phase in the results.
    """

    learner: Method
    every: int
    unit: str
    on: str
    tasks: list[int] | None
    names: Sequence[str]
    measure: Callable[[int], list[float]]
    most: int

    def phase(self, module: Learner, steps: int, per_pass: int) -> Evaluating | None:
        """The curve for a phase of this length that trains this module; None if it is not the learner."""
        if module is not self.learner:
            return None
        return Evaluating(self, self.every * (per_pass if self.unit == "epochs" else 1), steps)


@dataclass
class Evaluating:
    """The curve of one phase. Its last step is one of its points, whatever `every` says."""

    how: Evaluate
    every: int
    steps: int
    points: list[tuple[int, list[float]]] = field(default_factory=list)
    _logged: int = 0

    def due(self, done: int) -> bool:
        return done % self.every == 0 or done == self.steps

    def look(self, done: int) -> None:
        self.points.append((done, self.how.measure(done)))

    def restore(self, points: Sequence[tuple[int, list[float]]]) -> None:
        """Takes over the measurements before a kill, which are in the log."""
        self.points, self._logged = list(points), len(points)

    def new_points(self) -> Iterator[tuple[int, dict[str, float]]]:
        """The measurements that are not in the log yet."""
        kind = self.how.on.partition(" ")[0]
        new, self._logged = self.points[self._logged :], len(self.points)
        for done, accuracies in new:
            named = {f"{kind}_accuracy/{name}": value for name, value in zip(self.how.names, accuracies, strict=True)}
            yield done, {f"{kind}_accuracy/mean": sum(accuracies) / len(accuracies)} | named

    @property
    def record(self) -> Evaluation:
        kept = [self.points[place] for place in thinned(len(self.points), self.how.most)]
        return Evaluation(self.how.on, self.how.tasks, kept)


def evaluate(
    settings: Mapping[str, Any], scenario: Scenario, score: Score, method: Method, task: Task
) -> Evaluate | None:
    """The `Evaluate` for `evaluate_every` while this task is learned; None if it is not set.

    If there are many tasks, only some are measured: the same ones in the whole run, and the current task.
    """
    every, n_tasks, index = settings.get("evaluate_every"), len(scenario.tasks), task.index
    if not every:
        return None
    followed = [other for other in thinned(n_tasks) if other <= index]
    tasks: list[int] | None = followed if index in followed else [*followed, index]
    names = [str(other) for other in followed] + ["current"] * (index not in followed)
    on_validation = settings.get("evaluate_on") == "validation"
    if on_validation:
        images: dict[int, Data] = {other: scenario.tasks[other].val for other in tasks}
    elif scenario.shared_test:
        images, tasks, names = {0: scenario.tests[0]}, None, ["all"]
    else:
        images = {other: scenario.tests[other] for other in tasks}
    trial = "trial" in settings  # of a search, which has validation images in the place of the test images

    def measure(done: int) -> list[float]:
        with seeded(
            settings["seed"], "evaluation", index, done
        ):  # a network that draws takes nothing from the training
            found = score.or_nan.attempt("evaluate_every", partial(score.accuracies, method, index, images))
            return [math.nan] * len(images) if found is None else found

    return Evaluate(
        learner=method,
        every=every,
        unit=settings.get("evaluate_unit", "steps"),
        on="validation images" if on_validation or trial else "test images",
        tasks=tasks,
        names=names,
        measure=measure,
        most=max(2, POINTS // n_tasks),
    )


def warn_if_idle(settings: Mapping[str, Any], phases: Sequence[Phase]) -> bool:
    """Warns if `evaluate_every` has measured nothing while a task was learned. Returns whether it warned."""
    every, method = settings.get("evaluate_every"), settings["choices"]["method"]
    idle = bool(every) and not any(phase.evaluation for phase in phases)
    if idle:
        names = ", ".join(dict.fromkeys(phase.phase for phase in phases))
        what = f"trains a part of itself alone, in phase {names}" if names else "has no training of steps"
        log.warning("evaluate_every=%s: nothing is measured while method=%s learns, which %s", every, method, what)
    return idle
