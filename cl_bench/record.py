"""What a results.json holds, and how it is read: whole or not at all. No torch in here."""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NotRequired

from annotated_types import Ge, Le, MinLen
from typing_extensions import TypedDict  # pydantic asks for it below Python 3.12

from cl_bench.files import Damaged, unsealed

MOST_TASKS = 40
"""So many tasks are drawn or printed one by one; of more, some are chosen (`thinned`)."""

STATUSES = ("running", "failed", "finished")

LARGEST = 1e30
"""What is beyond is no measurement, and its square would be no number."""

Accuracy = Annotated[float, Ge(0), Le(1)] | None
Measured = Annotated[float, Ge(-LARGEST), Le(LARGEST)] | None
Cost = Annotated[float, Ge(0), Le(LARGEST)]
Count = Annotated[int, Ge(0), Le(10**18)]


class Choices(TypedDict):
    """The names that were chosen for the groups of the configuration."""

    method: str
    dataset: str
    scenario: str
    experiment: NotRequired[str | None]


class Config(TypedDict):
    """What is read of a configuration by name; the rest of it may be anything that JSON can hold."""

    seed: Count
    choices: Choices
    method: dict[str, Any]
    scenario: dict[str, Any]
    dataset: NotRequired[dict[str, Any]]
    content: NotRequired[str | list[Any]]
    trainer: NotRequired[dict[str, Any]]
    memory: NotRequired[dict[str, Any] | None]
    reference: NotRequired[str | None]


class Masks(TypedDict):
    """Which outputs compete, see `data.scenarios.Problem.rules`."""

    train: str
    evaluation: str
    baseline: str


@dataclass(frozen=True)
class Phase:
    """One training of one network.

    phase: its name. steps: mini-batches. optimizer_steps: of each optimizer. losses: the last value of each number that
    was logged. validation: (step, accuracy on validation images).
    """

    phase: str
    steps: Count
    optimizer_steps: list[Count]
    seconds: Cost
    losses: dict[str, float]
    validation: list[tuple[Count, float]]


class TaskRecord(TypedDict):
    """What is read of the record of a task."""

    task: Count
    phases: NotRequired[list[dict[str, Any]]]
    seconds: NotRequired[Cost]
    bytes_kept: NotRequired[Count]
    facts: NotRequired[dict[str, Any]]
    generated: NotRequired[dict[str, Any] | None]
    memory: NotRequired[dict[str, Any] | None]


class Results(TypedDict):
    """The fields of a results.json that are read; shapes are those of T tasks, None is NaN."""

    key: NotRequired[str]
    name: str
    status: str
    reason: NotRequired[str | None]
    seed: Count
    config: Config
    versions: NotRequired[dict[str, str]]
    provenance: NotRequired[dict[str, Any]]
    kind: NotRequired[str]
    masks: Masks
    measured_on: NotRequired[str]
    classes: Annotated[list[list[str]], MinLen(1)]
    class_names: NotRequired[list[str]]
    R: list[list[Accuracy]]
    R_task_masked: NotRequired[list[list[Accuracy]] | None]
    b: list[Accuracy]
    n_test: list[Count]
    metrics: dict[str, Measured]
    memory: NotRequired[dict[str, Count] | None]
    tasks: list[TaskRecord]
    parameters: Count
    bytes_kept: Count
    seconds: Cost
    peak_memory_mb: NotRequired[Cost | None]
    peak_gpu_memory_mb: NotRequired[Cost | None]
    device: NotRequired[str]


def load_results(folder: Path) -> dict[str, Any]:
    """The content of a folder's results.json.

    Raises FileNotFoundError where there is none, and Damaged where there is one that can't be read, is half written,
    or doesn't hold what a run writes.
    """
    content = load_json(folder / "results.json")
    try:
        results = unsealed(content)
    except Damaged as error:
        raise Damaged(f"results.json is damaged ({error})") from None
    if reason := wrong(results):
        raise Damaged(f"results.json is damaged ({reason})")
    return results


def load_json(file: Path) -> Any:
    """The value in a JSON file.

    Raises FileNotFoundError where there is none, and Damaged where it is no file (opening a pipe waits for ever), can't
    be read, is no JSON, or holds what can't be written again: NaN, infinity, half a character, numbers without end.
    """
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            raise Damaged(f"{file.name} is no file")
        value = json.loads(file.read_bytes(), parse_int=whole)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except FileNotFoundError:
        raise
    except NotADirectoryError as error:
        raise FileNotFoundError(*error.args) from None
    except OSError as error:
        raise Damaged(f"{file.name} can't be read ({error.strerror})") from None
    except Damaged:
        raise
    except (ValueError, RecursionError):
        raise Damaged(f"{file.name} is damaged (no whole JSON)") from None
    return value


def whole(digits: str) -> int:
    """A whole number of JSON. Raises ValueError for one that no float and no table can hold."""
    if len(digits) > 30:
        raise ValueError("a number too large")
    return int(digits)


def wrong(results: Any) -> str:
    """Why a value isn't the content of a results.json, '' if it is."""
    from pydantic import ValidationError

    try:
        _schema().validate_python(results, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        return ": ".join([*[".".join(map(str, first["loc"]))] * bool(first["loc"]), first["msg"].lower()])
    T = len(results["classes"])
    matrices = {name: results[name] for name in ("R", "R_task_masked") if results.get(name) is not None}
    rows = {f"{name}.{i}": row for name, matrix in matrices.items() for i, row in enumerate(matrix)}
    for name, values in {"b": results["b"], **matrices, **rows}.items():
        if len(values) != T:
            return f"{name}: {len(values)} values for {T} tasks"
    trial = "trial" in results["config"]  # of a search; it may learn the first tasks alone
    if len(results["n_test"]) > T or (len(results["n_test"]) < T and not trial):
        return f"n_test: {len(results['n_test'])} values for {T} tasks"
    if [task["task"] for task in results["tasks"]] != list(range(len(results["tasks"]))):
        return "tasks: not one after another"
    if len(results["tasks"]) > T or (len(results["tasks"]) < T and results["status"] == "finished" and not trial):
        return f"tasks: {len(results['tasks'])} of {T}, status {results['status']}"
    if results["status"] not in STATUSES:
        return f"status: {results['status']}"
    if results["seed"] != results["config"]["seed"]:
        return "seed: not that of the configuration"
    for name, value in results["metrics"].items():
        if value is not None and abs(value) > 1 + 1e-9 and not name.startswith("FID"):
            return f"metrics.{name}: no share"
    return unusable(results["config"], "config")


def unusable(value: Any, where: str) -> str:
    """Why a value of a configuration can't be one, by its dotted key; '' if it can."""
    if isinstance(value, Mapping):
        return next(filter(None, (unusable(one, f"{where}.{key}") for key, one in value.items())), "")
    if isinstance(value, list):
        return next(filter(None, (unusable(one, f"{where}.{i}") for i, one in enumerate(value))), "")
    number = isinstance(value, int | float)
    return f"{where}: {value} is too large" if number and abs(value) > LARGEST else ""


@cache
def _schema() -> Any:
    from pydantic import TypeAdapter  # a sweep's workers and a run that begins have no use for it

    return TypeAdapter(Results)


def thinned(n: int, most: int = MOST_TASKS) -> list[int]:
    """Which of n things in a row to show: all, or `most` of them at equal distances, the first and the last included.

    >>> thinned(5), thinned(9, most=3)
    ([0, 1, 2, 3, 4], [0, 4, 8])
    """
    if n <= most:
        return list(range(n))
    return [round(i * (n - 1) / (most - 1)) for i in range(most)]
