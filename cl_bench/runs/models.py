"""Models of a run: the tensors that predictions after a task need, and the meaning of the outputs.

`models/task4/` has `model.safetensors` and `labels.json`. They need neither the data set nor this version of cl_bench.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cl_bench
from cl_bench import files
from cl_bench.config import InputError
from cl_bench.record import Results
from cl_bench.runs.continued import tasks_before

if TYPE_CHECKING:
    from torch import Tensor

    from cl_bench.data.problem import Problem
    from cl_bench.methods.base import Method
    from cl_bench.runs.folder import RunFolder

WEIGHTS, LABELS = "model.safetensors", "labels.json"
SCHEMA = 1  # of labels.json


@dataclass(frozen=True)
class Model:
    """A model from its files.

    problem: the meaning of its outputs, without view and augmentation, which are functions. state: the tensors that
    predictions need. view: whether tasks have different views of images.
    """

    problem: Problem
    state: dict[str, Any]
    view: bool


class Models:
    """The models of the run in a folder.

    key: of the run; the models of another one are not its own.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder / "models", key

    def place(self, after: int) -> Path:
        """The folder of the model after a task."""
        return self.folder / f"task{after}"

    def has(self, after: int) -> bool:
        """Whether the model after a task exists; its content is not checked."""
        try:
            labels = self._labels(after)
            return labels["bytes"] is None or (self.place(after) / WEIGHTS).stat().st_size == labels["bytes"]
        except (files.Damaged, OSError):
            return False

    def begun(self, after: int) -> bool:
        """Whether any file of the model after a task exists, complete or not."""
        return (self.place(after) / LABELS).exists()

    def lacking(self, tasks: Iterable[int]) -> list[int]:
        """The tasks whose model is missing."""
        return [after for after in tasks if not self.has(after)]

    def write(self, method: Method, after: int) -> None:
        """Writes the model of a method after a task; only the labels while it cannot predict yet (`measurable`)."""
        content = as_safetensors(method) if method.measurable else None
        place = self.place(after)
        place.mkdir(parents=True, exist_ok=True)
        if content is not None:
            files.write(place / WEIGHTS, lambda file: file.write_bytes(content))
        labels = labels_of(method.problem, after) | {
            "key": self.key,
            "bytes": None if content is None else len(content),
            "digest": None if content is None else hashlib.sha256(content).hexdigest(),
        }
        text = json.dumps(files.sealed(labels), indent=1)
        files.write(place / LABELS, lambda file: file.write_text(text, encoding="utf-8"))

    def read(self, after: int) -> Model | None:
        """The model after a task; None if there is none. Raises InputError for a damaged model."""
        place = self.place(after)
        again = "delete it, then its run with keep_models=last or all makes it again"
        try:
            labels = self._labels(after)
            if labels["bytes"] is None:
                raise InputError(f"after={after}: the method has learned nothing until then")
            content = (place / WEIGHTS).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InputError(f"{place}: can't be read ({error.strerror})") from None
        except files.Damaged as error:
            raise InputError(f"{place / LABELS}: {error}; {again}") from None
        if hashlib.sha256(content).hexdigest() != labels["digest"]:
            raise InputError(f"{place / WEIGHTS}: is damaged, or is not the file that {LABELS} names; {again}")
        try:
            return Model(problem_of(labels), from_safetensors(content), bool(labels["view"]))
        except Exception as error:  # safetensors raises its own class, JSON another, a wrong field any
            raise InputError(
                f"{place}: is not a model of cl_bench ({type(error).__name__}: {error}); {again}"
            ) from None

    def _labels(self, after: int) -> dict[str, Any]:
        """The content of labels.json. Raises FileNotFoundError, or files.Damaged with the reason."""
        labels = files.load_json(self.place(after) / LABELS)
        if not isinstance(labels, dict) or not {"schema", "key", "after", "bytes", "digest"} <= labels.keys():
            raise files.Damaged("is not a labels.json of cl_bench")
        if labels["schema"] != SCHEMA:
            raise files.Damaged(f"has schema {labels['schema']}, and this cl_bench reads {SCHEMA}")
        if labels["key"] != self.key or labels["after"] != after:
            raise files.Damaged("belongs to another run or task")
        return labels


def wanted(keep: str, n_tasks: int, first: int = 0) -> list[int]:
    """The tasks whose models a finished run has. Tasks before `first` are of the run that it continues.

    >>> wanted("last", 3), wanted("all", 3), wanted("all", 3, first=1), wanted("none", 3)
    ([2], [0, 1, 2], [1, 2], [])
    """
    return {"last": [n_tasks - 1], "all": [*range(first, n_tasks)]}.get(keep, [])


def keep_of(settings: Mapping[str, Any]) -> str:
    """The models that a run keeps; a trial of a search keeps none."""
    return "none" if "trial" in settings else settings.get("keep_models", "none")


def complete(results: Results, folder: Path, settings: Mapping[str, Any]) -> bool:
    """Whether a finished run has the models that these settings require."""
    return not Models(folder, results.key).lacking(
        wanted(keep_of(settings), len(results.classes), tasks_before(settings))
    )


def check_states(folder: RunFolder, results: Results | None, settings: Mapping[str, Any]) -> None:
    """Raises InputError if a required model cannot be made: its task is learned, and the state at the end of the task
    does not exist any more."""
    there, keep = folder.ends(), keep_of(settings)
    finished = results is not None and results.status == "finished"
    n_learned = len(results.tasks) if results and finished else 1 + max(there, default=-1)
    tasks = wanted(keep, n_learned, tasks_before(settings)) if keep == "all" or finished else []
    gone = [task for task in Models(folder.path, folder.key).lacking(tasks) if task not in there]
    if gone:
        which = ", ".join(map(str, gone[:10])) + ", ..." * (len(gone) > 10)
        ways = "resume=false trains again"
        if keep == "all" and n_learned - 1 in there:
            ways = f"keep_models=last needs only the last one, {ways}"
        raise InputError(f"keep_models={keep}: {folder.path} has no state after task {which} any more; {ways}")


def labels_of(problem: Problem, after: int) -> dict[str, Any]:
    """The meaning of a model's outputs, and which of them may answer: all that a user of the model needs."""
    answer = problem.mask(problem.rules["evaluation"], after)
    return {
        "schema": SCHEMA,
        "cl_bench": cl_bench.__version__,
        "after": after,
        "kind": problem.kind,
        "image_shape": list(problem.image_shape),
        "mean": problem.mean and list(problem.mean),
        "std": problem.std and list(problem.std),
        "labels": list(problem.class_names),
        "outputs": [list(outputs) for outputs in problem.outputs],
        "answering": "of the task given" if problem.kind == "task" else answer[0].nonzero().squeeze(1).tolist(),
        "train_mask": problem.train_mask,
        "online": problem.online,
        "n_meta": problem.n_meta,
        "view": problem.view is not None,
    }


def problem_of(labels: Mapping[str, Any]) -> Problem:
    """The problem that labels describe."""
    from cl_bench.data.problem import Problem

    channels, height, width = labels["image_shape"]
    return Problem(
        kind=labels["kind"],
        image_shape=(channels, height, width),
        outputs=tuple(tuple(outputs) for outputs in labels["outputs"]),
        train_mask=labels["train_mask"],
        mean=labels["mean"] and tuple(labels["mean"]),
        std=labels["std"] and tuple(labels["std"]),
        class_names=tuple(labels["labels"]),
        online=labels["online"],
        n_meta=labels["n_meta"],
    )


def answer_state(method: Method) -> dict[str, Any]:
    """The part of a method's `state_dict` that predictions need.

    It is the whole state for a class that has its own `forward` but no `answers_by`.
    """
    kinds = type(method).__mro__
    forward, named = (next(kind for kind in kinds if name in vars(kind)) for name in ("forward", "answers_by"))
    needed = method.answers_by if issubclass(named, forward) else ("",)
    return {
        name: value
        for name, value in method.state_dict().items()
        if name == "_extra_state" or (name.startswith(needed) and not name.startswith("optimizer_state."))
    }


def as_safetensors(method: Method) -> bytes:
    """The state as the content of a safetensors file, with values that are not tensors in its metadata.

    Raises InputError for values that JSON cannot hold.
    """
    import torch
    from safetensors.torch import save

    state = answer_state(method)
    tensors = {
        name: value.detach().cpu().contiguous().clone() for name, value in state.items() if torch.is_tensor(value)
    }
    try:
        plain = json.dumps({name: value for name, value in state.items() if name not in tensors})
    except TypeError as error:
        name = type(method).__name__.lower()
        raise InputError(
            f"keep_models: method={name} has a state that a safetensors file cannot have ({error})"
        ) from None
    return save(tensors, {"plain": plain})  # of two keys safetensors writes now one first, now the other


def put_in(method: Method, state: Mapping[str, Any], where: Path, *, whole: bool = False) -> None:
    """Loads the state for predictions, or a whole state, into a new method. Raises InputError for the state of another
    network, for example after a change of the code."""
    try:
        unexpected = method.load_state_dict(state, strict=whole).unexpected_keys
    except RuntimeError as error:  # of a size that differs
        reason = str(error).strip().splitlines()[-1].strip()
        raise InputError(f"{where}: belongs to another network ({reason})") from None
    if odd := [*(name for name in answer_state(method) if name not in state), *unexpected]:
        says = "isn't there" if odd[0] not in state else "isn't part of this one"
        raise InputError(f"{where}: belongs to another network ({odd[0]} {says})")


def from_safetensors(content: bytes) -> dict[str, Tensor | Any]:
    """The state that `as_safetensors` was given."""
    from safetensors.torch import load

    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return {**load(content), **json.loads(header["__metadata__"]["plain"])}
