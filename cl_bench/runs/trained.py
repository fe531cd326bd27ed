"""A method as it was after a task of its run, rebuilt from the run's settings and a checkpoint, and its answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cl_bench.config import InputError
from cl_bench.config.content import content_of
from cl_bench.config.names import place
from cl_bench.config.plugins import allowed
from cl_bench.config.schema import build, check
from cl_bench.config.weights import weights_of
from cl_bench.data.batches import at_once
from cl_bench.data.features import as_features
from cl_bench.data.problem import masked
from cl_bench.data.streams import as_stream
from cl_bench.evaluation.scores import Score
from cl_bench.runs.folder import RunFolder
from cl_bench.runs.setup import checked, prepare, takes_dataset


class Trained:
    """The method of a run as it was after a task, in evaluation mode; it answers where it is, on a CPU or a GPU.

    Args:
        settings: of the run, as its results hold them, but for `plugins`: what a file says is no reason to import code.
            The data set is read, which says what its outputs stand for.
        folder: of the run. key: of its results; a checkpoint of another run is not used.
        after: the task, 0 for the first.

    Raises InputError when its checkpoint isn't there or can't be used, its data are other ones than they were, or it
    had learned nothing by then (joint training before its last task).
    """

    def __init__(self, settings: Mapping[str, Any], folder: Path, key: str, after: int) -> None:
        state = RunFolder(folder, key).state_after(after)
        if content_of(settings) != settings.get("content"):
            raise InputError(f"{folder}: the images that it was trained on aren't where they were, or changed")
        if weights_of(settings) != settings.get("weights", {}):
            raise InputError(f"{folder}: the weights of its features are other ones than they were")
        self.settings, self.after = settings, after
        self.scenario, self.method = prepare(settings)
        self.method.load_state_dict(state["method"])
        self.method.eval()
        if not self.method.measurable:
            raise InputError(f"after={after}: {settings['choices']['method']} has learned nothing by then")

    @torch.no_grad()
    def answers(self, images: Any, task: int | None) -> np.ndarray:
        """The names of the classes that it sees, as `Run.predict` explains."""
        problem, device = self.scenario.problem, self.method.device
        if problem.kind == "task" and task is None:
            raise InputError(f"task: this run is task-incremental; say of which task the images are{self._tasks}")
        if task is not None and task not in range(problem.n_tasks):
            raise InputError(f"task={task}: there is no such task{self._tasks}")
        pictures = problem.pictures  # of a run on features: what is given are images all the same
        shape = pictures.image_shape if pictures else problem.image_shape
        x = as_images(images, shape)
        allowed = problem.mask(problem.rules["evaluation"], self.after)[task or 0].to(device)
        view = None
        if task is not None:  # as a function on this device, without the images
            view = self.scenario.tasks[task].train[torch.arange(0)].to(device).view
            view = pictures.view and pictures.view.to(device) if pictures else view
        found = []
        for part in x.split(at_once(shape, 1024)):
            seen = part.to(device) / 255 if part.dtype == torch.uint8 else part.to(device, torch.float32)
            if view is not None and task is not None:
                seen = view(seen, torch.full((len(seen),), task, dtype=torch.int16, device=device))
            seen = pictures.features(seen) if pictures else seen
            logits = self.method.eval()(seen, index=task if problem.kind == "task" else None)
            found.append(masked(logits, allowed).argmax(1).cpu())
        return np.array(problem.class_names)[torch.cat(found).numpy()]

    def accuracies(self, dataset: Mapping[str, Any] | None) -> np.ndarray:
        """The accuracy on the test images of each task, or on those that all tasks share, as the run measured it.

        dataset: another data set, as a node of the configuration, cut into the same tasks.
        Raises InputError when its tasks, classes or images are not those of the run.
        """
        scenario = self.scenario
        if dataset is not None:
            nodes = checked(self.settings)
            if not takes_dataset(nodes["scenario"]):
                raise InputError("dataset: the scenario of this run has images of its own; there is none to replace")
            context = {"data_dir": place(self.settings["data_dir"], "data_dir"), "seed": self.settings["seed"]}
            other = build(check(dataset, "dataset", packages=allowed(self.settings["plugins"])), **context)
            scenario = build(nodes["scenario"], **context, dataset=other)
            if "features" in nodes:
                scenario = as_features(scenario, build(nodes["features"], **context), self.method.device)
            if "stream" in nodes:
                scenario = as_stream(scenario, build(nodes["stream"]), context["seed"])
            for name, what in (("image_shape", "images of shape"), ("class_names", "classes")):
                ours, theirs = getattr(self.scenario.problem, name), getattr(scenario.problem, name)
                if ours != theirs:
                    raise InputError(f"dataset: the run has {what} {brief(ours)}, this data set {brief(theirs)}")
        score = Score(scenario.to(self.method.device))
        score.to(self.method.device).measure(self.method, self.after)
        return np.array(score.results().R[self.after], dtype=float)

    @property
    def _tasks(self) -> str:
        return f", 0 to {self.scenario.problem.n_tasks - 1}"


def as_images(images: Any, shape: tuple[int, int, int]) -> Tensor:
    """Images as (N, C, H, W), uint8 or floats in [0, 1], from a tensor, an array or lists.

    >>> as_images(np.zeros((5, 8, 8, 3), dtype=np.uint8), (3, 8, 8)).shape
    torch.Size([5, 3, 8, 8])

    Raises InputError for another shape or type, or numbers out of range.
    """
    channels, height, width = shape
    forms = [f"(N, {channels}, {height}, {width})", f"(N, {height}, {width}, {channels})"]
    forms += [f"(N, {height}, {width})"] * (channels == 1)
    try:
        x = images if isinstance(images, Tensor) else torch.tensor(np.ascontiguousarray(images))
    except (TypeError, ValueError):
        raise InputError(f"images: are no array; give one of shape {' or '.join(forms)}") from None
    found = tuple(x.shape)
    if found[1:] == (height, width) and channels == 1:
        x = x.unsqueeze(1)
    elif found[1:] == (height, width, channels) != shape:
        x = x.permute(0, 3, 1, 2)
    if tuple(x.shape[1:]) != shape or x.dim() != 4:
        raise InputError(f"images: have shape {found}; this run takes {' or '.join(forms)}")
    if x.dtype != torch.uint8 and not x.is_floating_point():
        kind = str(x.dtype).removeprefix("torch.")
        raise InputError(f"images: are {kind}; give uint8, 0 to 255, or floats in [0, 1]")
    if x.is_floating_point() and x.numel() and not (x.min() >= 0 and x.max() <= 1):  # nor NaN
        raise InputError(f"images: go from {x.min():g} to {x.max():g}; floats must be in [0, 1], else give uint8")
    return x


def brief(value: Any) -> str:
    """A few of many names."""
    names = list(map(str, value))
    return " ".join(names if len(names) <= 10 else [*names[:10], f"... ({len(names)})"])
