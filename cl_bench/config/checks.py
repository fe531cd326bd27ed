"""The checks of a configuration that need no data and no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le

from cl_bench.config.came_from import came_from
from cl_bench.config.content import content_of
from cl_bench.config.declared import check_applicable, declared, methods_with, reads_memory, trains
from cl_bench.config.errors import InputError, NotApplicable, nearest, typed
from cl_bench.config.names import GROUPS, options_of, place
from cl_bench.config.plugins import allowed
from cl_bench.config.schema import Node, build, check, path_of, types_of
from cl_bench.config.training import OFF, check_training, with_scheduler
from cl_bench.config.types import Decay, NonNegative, Positive
from cl_bench.config.weights import weights_of


@dataclass(frozen=True)
class Top:
    """The keys outside the groups; `conf/config.yaml` explains them."""

    seed: Annotated[int, Ge(0), Le(10**12)]
    plugins: list[str]
    output_root: str
    data_dir: str
    resume: bool
    checkpoint_every: NonNegative
    reference: str | list[str] | None
    debug: bool
    tuned_on: str | None = None
    keep_checkpoints: Annotated[int, Ge(2), Le(10**9)] | None = 2
    measure_every: Positive = 1
    label_smoothing: Decay = 0.0
    evaluate_every: Positive | None = None
    evaluate_unit: Literal["steps", "epochs"] = "steps"
    evaluate_on: Literal["test", "validation"] = "test"
    keep_models: Literal["last", "all", "none"] = "none"
    continue_from: str | None = None


STREAM = "cl_bench.data.streams.Stream"
"""Its parameters are keys of `scenario`, whichever that is."""

WORKED_OUT: dict[str, tuple[Callable[[Mapping[str, Any]], Any], str]] = {
    "content": (content_of, "dataset.path and scenario.datasets"),
    "came_from": (came_from, "continue_from"),
    "weights": (weights_of, "features.weights and network.weights"),
}
"""The keys that are no person's to set: how each follows from the settings, and from which."""

BELOW = (*GROUPS, "features", "memory", "choices", *WORKED_OUT)
"""The keys of settings that are no plain values of `Top`."""


def check_settings(settings: Mapping[str, Any]) -> dict[str, Node]:
    """Checks all of a configuration that can be known without data, and without torch, whose import takes seconds.

    Returns the node of each group that is chosen, and of `memory` where the method keeps images.
    Raises InputError for an unknown key, a wrong type, a missing value, or a scenario that the method has no
    meaning in.
    """
    settings = with_scheduler(settings)
    for group in GROUPS:
        if not isinstance(settings.get(group), Mapping):
            raise InputError(f"{group}: needs a choice{nearest('', options_of(group))}")
    build(check({key: value for key, value in settings.items() if key not in BELOW}, "", Top))
    for key in ("output_root", "data_dir", "continue_from"):  # a shell's variable that isn't set is no wish for none
        if settings.get(key) is not None:
            place(settings[key], key)
    check_evaluation(settings)
    if "features" in settings and (keep := settings.get("keep_models", "none")) != "none":
        why = "the network that computes the features would be missing in the model; checkpoints are used instead"
        raise InputError(f"keep_models={keep}: {why}; set none")
    check_means(settings)
    packages = allowed(settings["plugins"])
    chosen = [group for group in GROUPS if settings[group] or group not in ("dataset", "scheduler")]  # none of them
    chosen += ["features"] * ("features" in settings)
    stream, nodes = stream_of(settings["scenario"]), {}
    if stream:
        nodes["stream"] = check(stream, "scenario", STREAM)
    if stream.get("passes") == "online":
        check_stream(settings)
    apart = {**settings, "scenario": {key: value for key, value in settings["scenario"].items() if key not in stream}}
    nodes |= {group: check(apart[group], group, packages=packages) for group in chosen}
    if reads_memory(settings):
        nodes["memory"] = check_budget(settings.get("memory"))
    refused = declared(settings, "refused") if trains(settings) else dict.fromkeys(OFF, "learns without gradients")
    check_training(settings, refused)
    if settings["scenario"].get("kind"):
        check_applicable(settings, settings["scenario"]["kind"])
    if "features" in settings and nodes["method"].parts:  # a generator draws pixels, from 0 to 1
        why = "generates images, and with features=... there are no images; leave features out"
        raise NotApplicable(settings["choices"]["method"], settings["choices"]["scenario"], why)
    return nodes


def stream_of(scenario: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a scenario that say how images come; none where they come task by task, see `_settle`."""
    return {key: scenario[key] for key in types_of(STREAM, "scenario") if key in scenario}


def check_evaluation(settings: Mapping[str, Any]) -> None:
    """Raises InputError for a wish to measure while a task is learned that can't be fulfilled."""
    every, scenario = settings.get("evaluate_every"), settings["scenario"]
    for key, usual in (("evaluate_unit", "steps"), ("evaluate_on", "test")):
        if every is None and settings.get(key, usual) != usual:
            raise InputError(f"{key}={settings[key]}: nothing is measured while a task is learned; set evaluate_every")
    if every is not None and scenario.get("passes") == "online":
        stream = "a stream (scenario.passes=online) is measured by numbers of images; set scenario.measure_every"
        raise InputError(f"evaluate_every={every}: {stream}")


def check_means(settings: Mapping[str, Any]) -> None:
    """Raises InputError for a mean of the images that nothing sees: features and their networks have their own."""
    dataset, network = settings.get("dataset") or {}, settings["network"]
    if not str(dataset.get("_target_")).startswith("cl_bench."):
        return
    for key, off in (("mean", None), ("std", None), ("normalize", False)):
        value = dataset.get(key, off)
        if value == off:
            continue
        if "features" in settings:
            whose = "with features=... the pre-trained network scales the images"
        elif "mean" not in types_of(path_of(network, "network", allowed(settings.get("plugins"))), "network"):
            whose = f"network._target_={network['_target_']} scales images itself"
        else:
            continue
        raise InputError(f"dataset.{key}={typed(value)}: {whose}, so this has no effect; set {typed(off)}")


def check_stream(settings: Mapping[str, Any]) -> None:
    """Raises InputError for what has no meaning where images come as a stream."""
    if declared(settings, "needs_borders"):
        others = ", ".join(methods_with("needs_borders", False))
        why = f"must know where a task ends, which is unknown in a stream (scenario.passes=online); try method={others}"
        raise NotApplicable(settings["choices"]["method"], settings["choices"]["scenario"], why)
    if settings["trainer"].get("iterations"):
        raise InputError(
            f"trainer.iterations={settings['trainer']['iterations']}: a stream (scenario.passes=online) has one pass; "
            "leave it null, and set scenario.updates_per_batch"
        )
    updates = settings["scenario"].get("updates_per_batch")
    if not declared(settings, "trains") and updates != 1:
        raise InputError(
            f"scenario.updates_per_batch={updates}: method={settings['choices']['method']} "
            "learns without gradients and "
            "uses each image once; set 1"
        )


def check_budget(node: Any) -> Node:
    """Raises InputError for what is no budget."""
    if not isinstance(node, Mapping):
        raise InputError(f"memory={typed(node)}: has several keys; set one of them: memory.images=200")
    return check(node, "memory")
