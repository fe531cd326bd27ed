"""What is known of a run, as its results.json holds it: typed records, and how they are written and read, whole or not
at all. No torch in here."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from annotated_types import MinLen

from cl_bench.config import InputError
from cl_bench.config_record import Config
from cl_bench.files import Damaged, load_content
from cl_bench.network_record import (
    LARGEST,
    PLASTICITY,
    Accuracy,
    ByClass,
    Capacity,
    Cost,
    Count,
    Generated,
    Measured,
    MemoryUse,
    Phase,
    Plasticity,
)

SCHEMA = 2
"""Of results.json; another one is another number, and isn't read."""

MOST_TASKS = 40
"""So many tasks are drawn or printed one by one; of more, some are chosen (`thinned`)."""

LATE = 10
"""The last tasks, over which `Results.late_plasticity` is a mean."""

COSTS = ("seconds", "bytes_kept", "parameters", "peak_memory_mb", "peak_gpu_memory_mb")
"""What a run took: fields of `Results`."""

SIZES = ("answer_bytes", "bytes_kept")
"""Bytes after each task, of what answers need and of all that is kept: fields of `TaskRecord`."""

NO_SHARES = ("FID", "retention", "growth_rate")
"""Metrics that may be beyond 1, by the beginnings of their names."""

R = TypeVar("R")


@dataclass(frozen=True)
class Masks:
    """Which outputs compete, see `data.problem.Problem.rules`."""

    train: str
    evaluation: str
    baseline: str


@dataclass(frozen=True)
class Diagnostics:
    """What a method found out while it learned a task.

    generator_bytes: of the generator that it keeps. replay_histogram: replayed images of each class. disagreement:
    share of them that the old solver takes for another class. plasticity: (mean, deviation) of mask values at equally
    spaced moments. more: anything else, by name; plain Python values.
    """

    capacity: Capacity | None = None
    generator_bytes: Count | None = None
    replay_histogram: list[Count] | None = None
    disagreement: Accuracy = None
    plasticity: Sequence[tuple[Measured, Measured]] | None = None
    more: dict[str, Any] | None = None

    @classmethod
    def of(cls, noted: Mapping[str, Any]) -> Diagnostics:
        """Of what a method noted by name. Raises InputError for what no results.json can hold.

        >>> Diagnostics.of({"generator_bytes": 80, "rounds": 3}).more
        {'rounds': 3}
        """
        if not isinstance(noted, Mapping):  # such as what a phase returned
            raise InputError(f"notes of the method: learn returns a {type(noted).__name__}; return a dictionary")
        named = {field.name for field in fields(cls)} - {"more"}
        more = {name: value for name, value in noted.items() if name not in named}
        found = {name: value for name, value in noted.items() if name in named} | {"more": more or None}
        try:
            return from_json(cls, to_json(found))
        except (Damaged, TypeError) as error:
            raise InputError(f"notes of the method: {error}; use plain Python values") from None


@dataclass(frozen=True)
class TaskRecord:
    """What is known of a task once it is learned.

    task: its index. seconds: of training. bytes_kept: of all that is kept. answer_bytes: of what answers need.
    plasticity: before it. top5: accuracy of the five first answers on the tasks so far, where more may answer.
    by_class: accuracy on each class; of many tasks only some have it.
    """

    task: Count
    phases: list[Phase]
    seconds: Cost
    bytes_kept: Count
    diagnostics: Diagnostics
    generated: Generated | None
    memory: MemoryUse | None
    answer_bytes: Count | None = None
    plasticity: Plasticity | None = None
    top5: Accuracy = None
    by_class: ByClass | None = None

    @property
    def online_accuracy(self) -> float | None:
        """On the task's images, of the first training that had them, each before the step that learned it."""
        return next((phase.online_accuracy for phase in self.phases if phase.online_accuracy is not None), None)

    @cached_property
    def of_plasticity(self) -> dict[str, float | None]:
        """The numbers of PLASTICITY, None where one was not measured."""
        found = self.plasticity
        before = (found.dead_units, found.mean_rank, found.weight_magnitude) if found else (None, None, None)
        return dict(zip(PLASTICITY, (self.online_accuracy, *before), strict=True))

    @property
    def validation(self) -> float | None:
        """The accuracy on validation images at the end of training, where it was measured."""
        accuracies = [accuracy for phase in self.phases for _, accuracy in phase.validation]
        return accuracies[-1] if accuracies else None


@dataclass(frozen=True, kw_only=True)
class Results:
    """All that is known of a run of T tasks; None is what was not measured.

    R: accuracy after task i (row) on task j, or on the one test set that all tasks share, a single column.
    R_task_masked: the same with the task given. b: of the untrained network. n_test: images of each task, or of that
    set. measured_on: test images, or validation images. seconds: of training. chance, joint: after each task, mean
    accuracy on the tasks so far of one that guesses, and of the joint run that `reference` names.
    """

    schema: Literal[2] = SCHEMA
    key: str
    name: str
    status: Literal["running", "failed", "finished"]
    reason: str | None = None
    seed: Count
    config: dict[str, Any]
    versions: dict[str, str]
    provenance: dict[str, Any]
    kind: str
    masks: Masks
    measured_on: str
    classes: Annotated[list[list[str]], MinLen(1)]
    class_names: list[str]
    R: list[list[Accuracy]]
    b: list[Accuracy]
    R_task_masked: list[list[Accuracy]] | None
    n_test: list[Count]
    metrics: dict[str, Measured]
    memory: MemoryUse | None
    tasks: list[TaskRecord]
    parameters: Count
    bytes_kept: Count
    seconds: Cost
    peak_memory_mb: Cost
    peak_gpu_memory_mb: Cost | None
    device: str
    chance: list[Accuracy] | None = None
    joint: list[Accuracy] | None = None

    @property
    def shared_test(self) -> bool:
        """Whether all tasks share one test set; of a damaged record, what most of its fields say."""
        return len(self.classes) > 1 and [len(self.b), len(self.n_test), *map(len, self.R[:1])].count(1) > 1

    @property
    def tests(self) -> Sequence[int | str]:
        """What the columns of R are called: the tasks, from 0, or `all` of them."""
        return ["all"] if self.shared_test else range(len(self.b))

    @property
    def late_plasticity(self) -> dict[str, float]:
        """`late_NAME`: the mean of a number of PLASTICITY over the last LATE tasks, where all of them have it."""
        late = [record.of_plasticity for record in self.tasks[-LATE:]]
        found = {name: [task[name] for task in late] for name in PLASTICITY}
        return {
            f"late_{name}": math.fsum(values) / len(values)  # type: ignore[arg-type]
            for name, values in found.items()
            if values and None not in values
        }

    @property
    def stream(self) -> list[tuple[Count, Measured]]:
        """(images that came, accuracy on what came) of a stream that was measured while it was learned."""
        return [point for record in self.tasks for phase in record.phases for point in phase.stream or ()]


class Outdated(Damaged):
    """A results.json of another schema."""


def to_json(value: Any) -> Any:
    """A record, or a nested value, as JSON can hold it: None for every number that is not finite.

    A field that is None by default stands there only where it has a value.

    >>> to_json({0: [0.5, math.nan, (math.inf, 1)], "memory": MemoryUse(images=2, bytes=128)})
    {'0': [0.5, None, [None, 1]], 'memory': {'images': 2, 'bytes': 128}}
    """
    if value is None or isinstance(value, str | int):  # first what there is most of
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if is_dataclass(value):
        content = {field.name: getattr(value, field.name) for field in fields(value)}
        absent = [field.name for field in fields(value) if field.default is None and content[field.name] is None]
        return to_json({name: part for name, part in content.items() if name not in absent})
    if isinstance(value, Mapping):
        return {str(key): to_json(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(part) for part in value]
    return value


def from_json(kind: type[R], content: Any) -> R:
    """The record that `to_json` was given. Raises Damaged, with the first field that is wrong."""
    return from_text(kind, json.dumps(content))


def from_text(kind: type[R], text: str | bytes) -> R:
    """The same of the text of a file; a key that no field has is left out."""
    from pydantic import ValidationError

    try:
        return _schema(kind).validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise Damaged(
            ": ".join([*[".".join(map(str, first["loc"]))] * bool(first["loc"]), first["msg"].lower()])
        ) from None


def load_results(folder: Path) -> Results:
    """The content of a folder's results.json.

    Raises FileNotFoundError where there is none, Outdated where it has another schema, and Damaged where it can't be
    read, is half written, or doesn't hold what a run writes.
    """
    content, text = load_content(folder / "results.json")
    try:
        if (schema := schema_of(content)) != SCHEMA:
            age = "an older" if schema < SCHEMA else "a newer"
            raise Outdated(f"results.json was written by {age} cl_bench; run it again")
        results = from_text(Results, text)
        from_json(Config, results.config)
        if reason := wrong(results):
            raise Damaged(reason)
    except Outdated:
        raise
    except Damaged as error:
        raise Damaged(f"results.json is damaged ({error})") from None
    return results


def schema_of(content: Any) -> int:
    """The schema of what a results.json holds; 1 where it is that of a run and names none, ours where it is no run's.

    >>> schema_of({"schema": 3, "config": {}, "R": []}), schema_of({"config": {}, "R": []}), schema_of([])
    (3, 1, 2)
    """
    if not isinstance(content, dict) or not {"config", "R"} <= content.keys():
        return SCHEMA
    schema = content.get("schema", 1)
    return schema if type(schema) is int else SCHEMA


def wrong(results: Results) -> str:
    """What can't be in results whose fields are right one by one, '' where nothing is."""
    T, columns = len(results.classes), 1 if results.shared_test else len(results.classes)
    matrices = {"R": results.R, "R_task_masked": results.R_task_masked or results.R}
    rows = {f"{name}.{i}": row for name, matrix in matrices.items() for i, row in enumerate(matrix)}
    lines = {"chance": results.chance or results.R, "joint": results.joint or results.R}
    for name, values in {**matrices, **lines}.items():
        if len(values) != T:
            return f"{name}: {len(values)} values for {T} tasks"
    trial = "trial" in results.config  # of a search; in earlier versions it had all tasks and learned the first ones
    for name, values in {"b": results.b, **rows, "n_test": results.n_test}.items():
        if len(values) > columns or (len(values) < columns and not (name == "n_test" and trial)):
            return f"{name}: {len(values)} values for {columns} test sets"
    if [record.task for record in results.tasks] != list(range(len(results.tasks))):
        return "tasks: not consecutive"
    if len(results.tasks) > T or (len(results.tasks) < T and results.status == "finished" and not trial):
        return f"tasks: {len(results.tasks)} of {T}, status {results.status}"
    if results.seed != results.config["seed"]:
        return "seed: differs from the configuration"
    for name, value in results.metrics.items():
        if value is not None and abs(value) > 1 + 1e-9 and not name.startswith(NO_SHARES):
            return f"metrics.{name}: no share"
    return unusable(results.config, "config")


def unusable(value: Any, where: str) -> str:
    """Why a value of a configuration can't be one, by its dotted key; '' if it can."""
    if isinstance(value, dict | list):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        return next(filter(None, (unusable(part, f"{where}.{key}") for key, part in parts)), "")
    number = isinstance(value, int | float)
    return f"{where}: {value} is too large" if number and abs(value) > LARGEST else ""


@cache
def _schema(kind: type[Any]) -> Any:
    from pydantic import TypeAdapter  # a sweep's workers and a run that begins have no use for it

    return TypeAdapter(kind)


def measured_rows(R: Sequence[Sequence[float | None]], most: int | None = None) -> list[int]:
    """The rows of R that were measured, from 0; `most`: if there are more, so many of them.

    >>> measured_rows([[None, None], [0.5, 0.9], [None, None], [0.5, 0.5]])
    [1, 3]
    """
    found = [i for i, row in enumerate(R) if any(value is not None and math.isfinite(value) for value in row)]
    return [found[i] for i in thinned(len(found), most)] if most else found


def thinned(n: int, most: int = MOST_TASKS) -> list[int]:
    """Which of n things in a row to show: all, or `most` of them at equal distances, the first and the last included.

    >>> thinned(5), thinned(9, most=3)
    ([0, 1, 2, 3, 4], [0, 4, 8])
    """
    if n <= most:
        return list(range(n))
    return [round(i * (n - 1) / (most - 1)) for i in range(most)]
