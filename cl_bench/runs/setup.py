"""The scenario and the untrained method of a run, made from its settings."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from cl_bench.config import InputError
from cl_bench.config.compose import check_settings
from cl_bench.config.errors import typed
from cl_bench.config.names import GROUPS, place
from cl_bench.config.schema import build, check_kind
from cl_bench.data.datasets import Dataset
from cl_bench.data.scenarios import Scenario
from cl_bench.methods.base import Method
from cl_bench.methods.parts.memory import Budget
from cl_bench.networks.optimizers import Optimizer
from cl_bench.runs.fit import Fit
from cl_bench.runs.loggers import RunLogger
from cl_bench.seeding import seeded

log = logging.getLogger(__name__)


def prepare(settings: Mapping[str, Any]) -> tuple[Scenario, Method]:
    """The scenario and the untrained method, each random weight drawn from the seed."""
    seed = settings["seed"]
    context: dict[str, Any] = {"data_dir": place(settings["data_dir"], "data_dir"), "seed": seed}
    # everything is checked before any image is read
    check_settings({key: value for key, value in settings.items() if key != "trial"})
    for group, made in zip(GROUPS, (Method, Dataset, Scenario, nn.Module, Optimizer, Fit, RunLogger), strict=True):
        if settings[group]:  # dataset=none
            check_kind(settings[group], group, made)
    if "datasets" not in settings["scenario"]:
        if settings["choices"]["dataset"] == "none":
            raise InputError("dataset=none: only scenario=sequence goes without a data set; choose one, e.g. digits")
        context["dataset"] = build(settings["dataset"], "dataset", **context)
    scenario: Scenario = build(settings["scenario"], "scenario", **context)
    if not all(len(task.train) for task in scenario.tasks):
        raise InputError(f"scenario.val_fraction={settings['scenario']['val_fraction']}: leaves nothing to train on")
    if "trial" in settings:
        scenario = on_validation(scenario, settings["trial"]["first_tasks"], settings["scenario"]["val_fraction"])
    problem = scenario.problem
    given: dict[str, Any] = {"problem": problem, "image_shape": problem.image_shape, "n_outputs": problem.n_outputs}
    given |= {"mean": problem.mean, "std": problem.std}
    if "memory" in settings:
        check_kind(settings["memory"], "memory", Budget)
        available = sum(len(task.train) for task in scenario.tasks)
        memory: Budget = build(settings["memory"], "memory", available=available)
        if memory.bytes is None and memory.per == "total" and memory.images > available:
            log.warning("%s: there are only %d training images, and no more are kept", memory, available)
        given["memory"] = memory
    optimizer = build(settings["optimizer"], "optimizer")
    check_memory(settings["network"], "network", **given)
    for key, node in settings["method"].items():  # a generator, a GAN
        if isinstance(node, Mapping) and "_target_" in node:
            check_memory(node, f"method.{key}", **given)
            anew(node, f"method.{key}")
    with seeded(seed, "network"):
        network = build(settings["network"], "network", **given)
    with seeded(seed, "method"):
        method = build(settings["method"], "method", **given, network=network, optimizer=optimizer)
    return scenario, method


def check_memory(node: Mapping[str, Any], where: str, **shapes: Any) -> None:
    """Raises InputError for networks that this machine can't hold, before any memory is taken for them."""
    try:
        with torch.device("meta"):
            built = build(node, where, **shapes)
        weights = sum(p.numel() for p in built.parameters()) if isinstance(built, nn.Module) else 0
    except RuntimeError:  # a number of weights that torch can't count
        weights = sys.maxsize
    gigabytes = 4 * 4 * weights / 2**30  # weights, gradients, and the two moments of Adam
    import psutil  # brings what this system has in place of POSIX's

    memory = psutil.virtual_memory().total / 2**30
    if gigabytes > memory:
        key, size = max(sizes(node, where), key=lambda one: max(np.ravel(one[1]), default=0))
        needs = f"needs {gigabytes:,.0f} GB of memory to train, and this machine has {memory:,.0f} GB"
        raise InputError(f"{key}={typed(size)}: {needs}; make it smaller")


def anew(node: Mapping[str, Any], where: str) -> None:
    """Raises InputError for an optimizer of a method's own that would go on: generators and their critics change from
    task to task, so their optimizers start anew."""
    if node.get("keep_state"):
        raise InputError(f"{where}.keep_state=true: the optimizers of a GAN start anew in every task; choose false")
    for key, part in node.items():
        if isinstance(part, Mapping):
            anew(part, f"{where}.{key}")


def sizes(node: Mapping[str, Any], where: str) -> Iterator[tuple[str, Any]]:
    """The dotted keys of whole numbers and of lists in a node and in the nodes in it, with their values."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from sizes(value, f"{where}.{key}")
        elif isinstance(value, int | list):
            yield f"{where}.{key}", value


def on_validation(scenario: Scenario, first_tasks: int | None, val_fraction: float) -> Scenario:
    """The scenario as a search may see it: validation images of the first tasks (None: all) in place of the test
    images, so that no test image can have a say in what is chosen."""
    n_tasks = scenario.problem.n_tasks
    if (first_tasks or 1) > n_tasks:
        raise InputError(f"hparams_search.first_tasks={first_tasks}: there are {n_tasks} tasks; null: all of them")
    tests = [task.val for task in scenario.tasks[:first_tasks]]
    if not all(map(len, tests)):
        raise InputError(f"scenario.val_fraction={val_fraction}: sets no images apart to choose by; try 0.1")
    return Scenario(scenario.problem, scenario.tasks, tests)
