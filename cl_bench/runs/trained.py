"""The trained method after a task of a run, rebuilt from the settings and a checkpoint, and its predictions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cl_bench.config import InputError
from cl_bench.config.content import content_of
from cl_bench.config.plugins import allowed
from cl_bench.config.schema import Node, check
from cl_bench.config.weights import weights_of
from cl_bench.data.batches import at_once
from cl_bench.data.on_disk import rows_at_once
from cl_bench.data.pictures import read_pictures
from cl_bench.data.problem import masked
from cl_bench.data.tasks import Scenario
from cl_bench.evaluation.scores import Score, check_numbers
from cl_bench.runs.asked import is_one_of
from cl_bench.runs.folder import RunFolder
from cl_bench.runs.models import Models, put_in
from cl_bench.runs.setup import checked, method_of, own_scenario, prepare, scenario_of, takes_dataset
from cl_bench.seeding import usual_torch


class Trained:
    """The method of a run as it was after a task, in evaluation mode. It predicts on the device on which it is.

    Its model (see `runs.models`) has the meaning of its outputs. Without a model a checkpoint is used, and the data set
    is read for this meaning.

    Args:
        settings: of the run, from its results, without `plugins`: a results file must not import code.
        folder: of the run.
        key: of its results. A model or a checkpoint of another run is not used.
        after: the task, 0 for the first.
        whole: whether it should have what only further learning needs, which only a checkpoint has; without a
            checkpoint the model is used.

    Raises InputError if there is no usable model or checkpoint, if the data have changed, or if nothing was learned yet
    (joint training before its last task).
    """

    @usual_torch()
    def __init__(self, settings: Mapping[str, Any], folder: Path, key: str, after: int, *, whole: bool = False) -> None:
        self.settings, self.folder, self.after = settings, folder, after
        self.nodes = checked(settings)
        self._scenario: Scenario | None = None
        checkpoints, models = RunFolder(folder, key), Models(folder, key)
        model = None if whole and after in checkpoints.ends() else models.read(after)
        if model:
            self.problem, self._seen_by_task = model.problem, model.view
            self.method = method_of(settings, self.nodes, self.problem)
            put_in(self.method, model.state, models.place(after))
        else:
            state = checkpoints.state_after(after)
            self._check_content()
            self._scenario, self.method = prepare(settings, self.nodes)
            self.problem, self._seen_by_task = self._scenario.problem, True
            put_in(self.method, state["method"], folder / "checkpoints", whole=True)
        self.whole = not model
        self.method.eval()
        if not self.method.measurable:
            raise InputError(f"after={after}: {settings['choices']['method']} has learned nothing until then")

    @property
    def scenario(self) -> Scenario:
        """The tasks of the run, with their images. Raises InputError if they have changed."""
        if self._scenario is None:
            self._check_content()
            self._scenario = scenario_of(self.settings, self.nodes)
        return self._scenario

    @usual_torch()
    def answers(self, images: Any, task: int | None, top: int | None = None) -> np.ndarray:
        """The names of the predicted classes, see `Run.predict`."""
        return self.named(self.logits(images, task), task, top)

    def named(self, logits: Tensor, task: int | None, top: int | None = None) -> np.ndarray:
        """The names of the classes with the highest logits."""
        answering = int(self.answering(task).sum())
        if top is not None and not is_one_of(top, range(1, answering + 1)):
            raise InputError(f"top={top}: {answering} classes answer; choose 1 to {answering}")
        best = logits.argmax(1) if top is None else logits.topk(top, 1).indices
        return np.array(self.problem.class_names)[best.numpy()]

    def scores(self, images: Any, task: int | None) -> np.ndarray:
        """The softmax of the logits, see `Run.scores`."""
        return sureness(self.logits(images, task))

    def answering(self, task: int | None) -> Tensor:
        """The outputs that may answer for an image, of a task where that is given, bool (n_outputs,)."""
        return self.problem.mask(self.problem.rules["evaluation"], self.after)[task or 0]

    @usual_torch()
    @torch.no_grad()
    def logits(self, images: Any, task: int | None) -> Tensor:
        """The logits of some images, on the CPU, with the lowest value for outputs that may not answer."""
        problem, device = self.problem, self.method.device
        x = as_images(images, self.image_shape)
        allowed = self.answering(task).to(device)
        view = None if task is None else self.view(task, device)
        found = []
        for part in x.split(at_once(self.image_shape, 1024)):
            seen = part.to(device) / 255 if part.dtype == torch.uint8 else part.to(device, torch.float32)
            if view is not None and task is not None:
                seen = view(seen, torch.full((len(seen),), self.first_visit(task), dtype=torch.int16, device=device))
            seen = problem.pictures.features(seen) if problem.pictures else seen
            logits = self.method.eval()(seen, index=task if problem.kind == "task" else None)
            found.append(masked(logits, allowed).cpu())
        answers = torch.cat(found)
        check_numbers(answers.isnan().any(1).sum())
        return answers

    def view(self, task: int, device: torch.device) -> nn.Module | None:
        """How a task sees its images, without these images; None: as they are. Raises InputError where a task changes
        no answer."""
        view = None
        if self.problem.pictures:  # of a run on features: what is given are images all the same
            view = self.problem.pictures.view and self.problem.pictures.view.to(device)
        elif self._seen_by_task:
            view = self.scenario.tasks[task].train[torch.arange(0)].to(device).view
        if view is None and (kind := self.problem.kind) != "task":
            raise InputError(f"task={task}: has no effect, because this run is {kind}-incremental; leave it out")
        return view

    def first_visit(self, task: int) -> int:
        """The task that the images of a task carry: its first visit, where tasks come twice (`scenario.repeat`)."""
        return task % (self.problem.n_tasks // (2 if self.settings["scenario"].get("repeat") else 1))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Of the images that it is given, (C, H, W), also where it learned from their features."""
        return (self.problem.pictures or self.problem).image_shape

    def pictures(self, pictures: Sequence[Path]) -> Iterator[np.ndarray]:
        """Picture files as the images of this run, uint8 (N, C, H, W), some of many at a time; see `data.pictures`."""
        channels, height, width = self.image_shape
        if height != width or channels not in (1, 3):
            shape = "x".join(map(str, self.image_shape))
            raise InputError(f"images: this run takes {shape}, and pictures become square, with 1 or 3 channels")
        background = (self.settings.get("dataset") or {}).get("background", "white")
        size = rows_at_once((len(pictures), *self.image_shape))
        for start in range(0, len(pictures), size):
            yield read_pictures(pictures[start : start + size], height, channels == 1, background, "images")

    @usual_torch()
    def accuracies(self, dataset: Mapping[str, Any] | None, classes: Sequence[Sequence[str]]) -> np.ndarray:
        """The accuracy on the test images of each task, or on those that all tasks share, as the run measured it.

        dataset: another data set, as a node of the configuration, cut into the same tasks. classes: of the run's tasks.
        Raises InputError when its tasks, classes or images are not those of the run.
        """
        nodes = self.nodes
        if dataset is None:
            scenario = self.scenario
        else:
            if self.settings.get("continue_from"):
                raise InputError(
                    "dataset: this run continued another run, so it has several data sets; leave dataset out"
                )
            if not takes_dataset(nodes["scenario"]):
                raise InputError("dataset: the scenario of this run has its own images; leave dataset out")
            dataset = self._sized(self._of_classes(dataset, classes))
            other = check(dataset, "dataset", packages=allowed(self.settings["plugins"]))
            try:
                measured = {"dataset": other, "scenario": without_validation(nodes["scenario"])}
                scenario = own_scenario(self.settings, nodes | measured)
            except InputError as error:
                if not str(error).startswith("scenario."):
                    raise
                has = f"the run has classes {brief([name for names in classes for name in names])}"
                raise InputError(f"dataset: cannot be split into the tasks of this run; {has} ({error})") from None
            for name, what in (("image_shape", "images of shape"), ("class_names", "classes")):
                ours, theirs = getattr(self.problem, name), getattr(scenario.problem, name)
                if ours != theirs:
                    raise InputError(f"dataset: the run has {what} {brief(ours)}, this data set {brief(theirs)}")
            for number, (ours, task) in enumerate(zip(classes, scenario.tasks, strict=True), 1):
                if list(ours) != list(task.names):
                    theirs = f"this data set {brief(task.names)}; the order must be the same"
                    raise InputError(f"dataset: the run has classes {brief(ours)} in task {number}, {theirs}")
        # the masks are those of the run: in a blurry stream other images stray to other parts
        score = Score(Scenario(self.problem, scenario.tasks, scenario.tests).to(self.method.device))
        score.to(self.method.device).measure(self.method, self.after)
        return np.array(score.results().R[self.after], dtype=float)

    def _of_classes(self, dataset: Mapping[str, Any], classes: Sequence[Sequence[str]]) -> Mapping[str, Any]:
        """The node of a data set, with the classes that this run took of its own by their names, where none are set."""
        taken = list(map(str, (self.settings.get("dataset") or {}).get("classes") or []))
        named = {name for names in classes for name in names}.issuperset(taken)
        return {**dataset, "classes": taken} if named and taken and dataset.get("classes", ()) is None else dataset

    def _sized(self, dataset: Mapping[str, Any]) -> Mapping[str, Any]:
        """The node of pictures in folders, with the size of this run's images where none is set."""
        if "test_fraction" not in dataset or dataset["size"] is not None:
            return dataset
        if self.image_shape[1] != self.image_shape[2]:
            raise InputError("dataset: pictures become square, and the images of this run are not square")
        return {**dataset, "size": self.image_shape[1]}

    def _check_content(self) -> None:
        if content_of(self.settings) != self.settings.get("content"):
            raise InputError(f"{self.folder}: the images that it was trained on were moved or changed")
        if weights_of(self.settings) != self.settings.get("weights", {}):
            raise InputError(f"{self.folder}: the weights of its features were moved or changed")


def sureness(logits: Tensor) -> np.ndarray:
    """The softmax of logits, see `Run.scores`."""
    return logits.double().softmax(1).numpy()


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
        if isinstance(images, np.ndarray):
            raise InputError(f"images: are {images.dtype}; give uint8, 0 to 255, or floats in [0, 1]") from None
        raise InputError(f"images: are not an array; give one of shape {' or '.join(forms)}") from None
    if x.layout != torch.strided or x.is_meta:
        raise InputError("images: are a sparse, nested or meta tensor; give a dense one, e.g. images.to_dense()")
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
        raise InputError(
            f"images: have values from {x.min():g} to {x.max():g}; floats must be in [0, 1]; otherwise give uint8"
        )
    return x


def without_validation(scenario: Node) -> Node:
    """A scenario that splits no training images, of which a set to be tested on may have few."""
    none = {name: 0.0 for name in scenario.values if name == "val_fraction"}
    return replace(scenario, values={**scenario.values, **none})


def brief(value: Any) -> str:
    """The first of many names, as text."""
    names = list(map(str, value))
    return " ".join(names if len(names) <= 10 else [*names[:10], f"... ({len(names)})"])
