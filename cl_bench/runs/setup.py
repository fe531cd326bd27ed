"""The scenario and the untrained method of a run, made from its settings."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import torch
from torch import nn

from cl_bench.config import InputError
from cl_bench.config.checks import check_settings
from cl_bench.config.content import content_of
from cl_bench.config.declared import check_applicable
from cl_bench.config.errors import typed
from cl_bench.config.names import GROUPS, place
from cl_bench.config.schema import Node, build, check_kind, types_of
from cl_bench.config.training import check_validation
from cl_bench.data.datasets import Dataset
from cl_bench.data.features import Features, as_features
from cl_bench.data.joined import joined
from cl_bench.data.problem import Problem
from cl_bench.data.streams import Stream, as_stream
from cl_bench.data.tasks import Scenario
from cl_bench.methods.base import Classifier, Method
from cl_bench.methods.parts.memory import Budget
from cl_bench.methods.parts.sizes import machine_memory
from cl_bench.networks.base import Network, batch_norms
from cl_bench.networks.optimizers import Optimizer
from cl_bench.networks.schedules import Schedule
from cl_bench.runs.continued import earlier, settings_of, tasks_before
from cl_bench.runs.fit import Fit, device_of
from cl_bench.runs.loggers import RunLogger
from cl_bench.runs.trackers import Tracker
from cl_bench.seeding import seeded


def checked(settings: Mapping[str, Any]) -> dict[str, Node]:
    """The nodes of the settings by group. Each has the type of its group."""
    nodes = check_settings({key: value for key, value in settings.items() if key != "trial"})  # a search sets that
    for group, node in nodes.items():
        check_kind(node, KINDS[group])
    return nodes


KINDS: dict[str, Any] = {
    **dict(
        zip(GROUPS, (Method, Dataset, Scenario, Network, Optimizer, Schedule, Fit, RunLogger | Tracker), strict=True)
    ),
    "features": Features,
    "memory": Budget,
    "stream": Stream,
}
"""What is to be built of each group's node."""


def prepare(settings: Mapping[str, Any], nodes: Mapping[str, Node] | None = None) -> tuple[Scenario, Method]:
    """The scenario and the untrained method. All random weights are drawn from the seed.

    nodes: of the settings, if they are already checked: this is done before images are read.
    """
    nodes = nodes or checked(settings)
    scenario = scenario_of(settings, nodes)
    available = sum(len(task.train) for task in scenario.tasks)
    val_fraction = settings["scenario"].get("val_fraction")
    if "trial" in settings:
        scenario = on_validation(scenario, settings["trial"]["first_tasks"], val_fraction)
    if smoothing := settings.get("label_smoothing"):
        scenario = Scenario(replace(scenario.problem, label_smoothing=smoothing), scenario.tasks, scenario.tests)
    method = method_of(settings, nodes, scenario.problem, available)
    to_learn = scenario.tasks[tasks_before(settings) :]
    if not all(len(task.val) for task in to_learn):
        if method.needs_validation:
            chosen = f"method={settings['choices']['method']}"
            raise InputError(f"scenario.val_fraction={val_fraction}: {chosen} needs validation images; try 0.1")
        check_validation(settings)
    if settings["trainer"].get("freeze_batch_norm") and not (
        isinstance(method, Classifier) and batch_norms(method.network)
    ):
        raise InputError("trainer.freeze_batch_norm=true: this network has no batch normalization; set false")
    if settings.get("evaluate_on") == "validation" and not all(len(task.val) for task in scenario.tasks):
        none = f"scenario.val_fraction={val_fraction} sets no images aside; try 0.1"  # the set itself may bring some
        some = val_fraction or any(len(task.val) for task in scenario.tasks)
        raise InputError(f"evaluate_on=validation: {'a task has no images set aside; choose test' if some else none}")
    return scenario, method


def scenario_of(settings: Mapping[str, Any], nodes: Mapping[str, Node]) -> Scenario:
    """The tasks of the settings, after those of a run that is continued; reads their images. nodes: of the settings."""
    if not settings.get("continue_from"):
        return own_scenario(settings, nodes)
    before = settings_of(earlier(settings), settings)
    where = f"continue_from={settings['continue_from']}"
    if "features" in nodes or before.get("features"):
        raise InputError(f"{where}: a run on features (features=...) can't be continued; leave features out")
    if content_of(before) != before.get("content"):
        raise InputError(f"{where}: the images that it was trained on were moved or changed")
    return joined(scenario_of(before, checked(before)), own_scenario(settings, nodes))


def own_scenario(settings: Mapping[str, Any], nodes: Mapping[str, Node]) -> Scenario:
    """The tasks of the settings alone. nodes: of the settings."""
    seed = settings["seed"]
    context: dict[str, Any] = {"data_dir": place(settings["data_dir"], "data_dir"), "seed": seed}
    if takes_dataset(nodes["scenario"]):
        if "dataset" not in nodes:
            known = "scenario=sequence and scenario=core50 have their own images"
            raise InputError(f"dataset=none: this scenario needs a data set, e.g. digits; {known}")
        context["dataset"] = build(nodes["dataset"], **context)
    scenario: Scenario = build(nodes["scenario"], **context)
    check_applicable(settings, scenario.problem.kind)  # of somebody's scenario it may not be known before
    if "features" in nodes:
        device = device_of(settings["trainer"].get("accelerator", "auto"))
        scenario = as_features(scenario, build(nodes["features"], **context), device)
    stream: Stream | None = build(nodes["stream"]) if "stream" in nodes else None
    if stream and stream.passes == "online":
        scenario = as_stream(scenario, stream, seed)
    elif any(task.train.order is not None for task in scenario.tasks):
        name = settings["choices"]["scenario"]
        raise InputError(f"scenario.passes=epochs: scenario={name} is a stream; set online")
    if empty := [task.index + 1 for task in scenario.tasks if not len(task.train)]:
        why = f"task {empty[0]} has no training image; choose fewer tasks, or use more images"
        raise InputError(f"scenario={settings['choices']['scenario']}: {why}")
    return scenario


def method_of(
    settings: Mapping[str, Any], nodes: Mapping[str, Node], problem: Problem, available: int | None = None
) -> Method:
    """The untrained method for a problem.

    available: number of training images of all tasks; None if nothing will be learned.
    """
    seed = settings["seed"]
    given: dict[str, Any] = {"problem": problem, "image_shape": problem.image_shape, "n_outputs": problem.n_outputs}
    given |= {"mean": problem.mean, "std": problem.std}
    if "memory" in nodes:
        given["memory"] = build(nodes["memory"], available=available)
    optimizer = build(nodes["optimizer"])
    for node in (nodes["network"], *nodes["method"].parts.values()):  # of a method: a generator, a GAN
        check_memory(node, **given)
    for node in nodes["method"].parts.values():
        anew(node)
    with seeded(seed, "network"):
        network = build(nodes["network"], **given)
    if problem.pictures:
        check_flat(network, settings)
    with seeded(seed, "method"):
        return build(nodes["method"], **given, network=network, optimizer=optimizer)


def takes_dataset(scenario: Node) -> bool:
    """Whether a scenario divides a data set, and does not have its own images."""
    return "dataset" in types_of(scenario.target, scenario.where)


def check_memory(node: Node, **shapes: Any) -> None:
    """Raises InputError if the networks need more memory than this machine has, before any memory is used for them."""
    try:
        with torch.device("meta"):
            built = build(node, **shapes)
        weights = sum(p.numel() for p in built.parameters()) if isinstance(built, nn.Module) else 0
    except RuntimeError:  # a number of weights that torch can't count
        weights = sys.maxsize
    gigabytes = 4 * 4 * weights / 2**30  # weights, gradients, and the two moments of Adam
    memory = machine_memory() / 2**30
    if gigabytes > memory:
        key, size = max(sizes(node), key=lambda item: max(np.ravel(item[1]), default=0))
        needs = f"needs {gigabytes:,.0f} GB of memory to train, and this machine has {memory:,.0f} GB"
        raise InputError(f"{key}={typed(size)}: {needs}; make it smaller")


def check_flat(network: nn.Module, settings: Mapping[str, Any]) -> None:
    """Raises InputError for a network that needs images, if the inputs are features."""
    if any(isinstance(part, nn.Conv2d) for part in network.modules()):
        raise InputError(
            f"network._target_={settings['network']['_target_']}: has convolutions, and features "
            "(features=...) are not images; "
            "no neighbors; choose network=linear or network=mlp"
        )


def anew(node: Node) -> None:
    """Raises InputError for `keep_state` in an optimizer of a method's own: generators and their critics change from
    task to task, so their optimizers start again."""
    if node.values.get("keep_state"):
        raise InputError(f"{node.key('keep_state')}=true: a GAN has new optimizers in every task; choose false")
    for part in node.parts.values():
        anew(part)


def sizes(node: Node) -> Iterator[tuple[str, Any]]:
    """The dotted keys of whole numbers and of lists in a node and its nested nodes, with their values."""
    for part in node.parts.values():
        yield from sizes(part)
    for name, value in node.values.items():
        if isinstance(value, int | list | tuple):
            yield node.key(name), value


def on_validation(scenario: Scenario, first_tasks: int | None, val_fraction: float | None) -> Scenario:
    """The scenario for a trial of a search: the first tasks (None: all), with their validation images in place of the
    test images, so that no test image can affect the choice."""
    n_tasks = scenario.problem.n_tasks
    if (first_tasks or 1) > n_tasks:
        raise InputError(f"hparams_search.first_tasks={first_tasks}: there are {n_tasks} tasks; null: all of them")
    tasks = scenario.tasks[:first_tasks]
    tests = [task.val for task in tasks]
    if not all(map(len, tests)):
        raise InputError(f"scenario.val_fraction={val_fraction}: sets no validation images aside; try 0.1")
    return Scenario(scenario.problem, tasks, [reduce(add, tests)] if scenario.shared_test else tests)
