"""The configuration of a run as plain Python, checked as far as that needs no data and no torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le

from cl_bench.config import signatures
from cl_bench.config.came_from import came_from
from cl_bench.config.content import content_of
from cl_bench.config.errors import InputError, NotApplicable, nearest, typed
from cl_bench.config.idle import check_idle, typed_key, unread
from cl_bench.config.names import CONF, GROUPS, TUNED, check_name, file_of, options_of, place
from cl_bench.config.plugins import allowed
from cl_bench.config.schema import Node, build, check, imported, path_of, types_of
from cl_bench.config.training import OFF, check_training, with_scheduler
from cl_bench.config.tuned import at, picked_up
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
        why = "a model of a run on features would lack the network that makes them; its checkpoints are used"
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
        why = "generates images, and there are none to learn from (features=...); leave features out"
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
        stream = "a stream (scenario.passes=online) is measured after so many images; set scenario.measure_every"
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
            whose = "features=... work on images that their own network scales"
        elif "mean" not in types_of(path_of(network, "network", allowed(settings.get("plugins"))), "network"):
            whose = f"network._target_={network['_target_']} scales images in its own way"
        else:
            continue
        raise InputError(f"dataset.{key}={typed(value)}: {whose}, and this would say nothing; set {typed(off)}")


def check_stream(settings: Mapping[str, Any]) -> None:
    """Raises InputError for what has no meaning where images come as a stream."""
    if declared(settings, "needs_borders"):
        others = ", ".join(methods_with("needs_borders", False))
        why = f"must know where a task ends, and a stream (scenario.passes=online) doesn't say; try method={others}"
        raise NotApplicable(settings["choices"]["method"], settings["choices"]["scenario"], why)
    if settings["trainer"].get("iterations"):
        raise InputError(
            f"trainer.iterations={settings['trainer']['iterations']}: a stream (scenario.passes=online) comes once; "
            "leave it null, and set scenario.updates_per_batch"
        )
    updates = settings["scenario"].get("updates_per_batch")
    if not declared(settings, "trains") and updates != 1:
        raise InputError(
            f"scenario.updates_per_batch={updates}: method={settings['choices']['method']} learns without gradients, "
            "each image once; set 1"
        )


def check_applicable(settings: Mapping[str, Any], kind: str) -> None:
    """Raises NotApplicable when the method has no meaning in this kind of scenario."""
    kinds = declared(settings, "kinds")
    if kind not in kinds:
        method, scenario = settings["choices"]["method"], settings["choices"]["scenario"]
        names = {"class": "class_incremental", "task": "task_incremental", "domain": "domain_incremental"}
        ways = ", ".join(f"scenario={names[kind]}" for kind in kinds)
        why = f"has no meaning in scenario={scenario} ({kind}-incremental); try {ways}"
        raise NotApplicable(method, scenario, why)


def declared(settings: Mapping[str, Any], name: str) -> Any:
    """What the class of the method says of itself: `kinds`, `train_mask`, `needs_borders`.

    Raises InputError for what is no method.
    """
    path = path_of(settings["method"], "method", allowed(settings.get("plugins")))
    try:
        return signatures.constant(path, name)
    except LookupError:
        found = getattr(imported(path, "method"), name, None)
    if found is None:
        raise InputError(f"method._target_={path}: is no Method")
    return found


def unread_in(settings: Mapping[str, Any]) -> dict[str, str]:
    """The keys that nothing reads in this configuration, see `idle.unread`."""
    return unread(settings, declared(settings, "unread"))


def methods_with(name: str, value: bool) -> list[str]:
    """The methods that can be chosen whose class says this of itself, see `declared`."""
    files = {method: {"method": file_of("method", method), "plugins": []} for method in options_of("method")}
    return [method for method, file in files.items() if declared(file, name) == value]


def trains(settings: Mapping[str, Any]) -> bool:
    """Whether the method trains anything by gradients: all of it, or a network on the first task."""
    return declared(settings, "trains") or settings["method"].get("first_task") is True


def reads_memory(settings: Mapping[str, Any]) -> bool:
    """Whether the method keeps real images, as many as `memory` says."""
    return "memory" in types_of(path_of(settings["method"], "method", allowed(settings.get("plugins"))), "method")


def check_budget(node: Any) -> Node:
    """Raises InputError for what is no budget."""
    if not isinstance(node, Mapping):
        raise InputError(f"memory={typed(node)}: has keys of its own, set one of them: memory.images=200")
    return check(node, "memory")


def plain(config: Any, choices: Mapping[str, Any]) -> dict[str, Any]:
    """A composed Hydra configuration as plain Python, with the names that were chosen for its groups."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    try:
        own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        settings = OmegaConf.to_container(own, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise InputError(f"{error.full_key}: needs a value") from None
    except OmegaConfBaseException as error:
        raise InputError(f"{error.full_key}: {str(error).splitlines()[0]}") from None
    assert isinstance(settings, dict)
    for group, choice in choices.items():
        check_name(group, str(choice))
    for key, (_, origin) in WORKED_OUT.items():
        if key in settings:
            raise InputError(f"{key}: no such key; it is worked out of {origin}")
    for group, names in TUNED.items():  # Hydra skips what isn't there of an optional group, asked for or not
        chosen, by_itself = choices.get(group), "-".join(str(choices.get(name)) for name in names)
        if chosen and chosen != by_itself:
            known = GlobalHydra.instance().config_loader().get_group_options(group)
            if chosen not in known:
                raise InputError(f"{group}={chosen}: no such file{nearest(chosen, known)}")
    try:
        picked = picked_up(settings, choices)
    except ValueError as error:
        raise InputError(str(error)) from None
    labeled = [values for values in picked.values() if "tuned_on" in values]
    if labeled and all(len(values) == 1 for values in labeled):  # every value of theirs was set to something else
        settings["tuned_on"] = None
    if (label := settings.get("tuned_on")) is not None and not re.fullmatch(r"(all|first_[1-9]\d*)_tasks", str(label)):
        raise InputError(f"tuned_on={label}: is what a search writes, all_tasks or first_N_tasks; leave it out")
    if settings.get("tuned_on") is None:  # a label, there only where it says something: it is in the key of a run
        settings.pop("tuned_on", None)
    found = {str(key): value for key, value in settings.items()}
    if isinstance(found.get("method"), dict):
        given = config.hydra if "hydra" in config else HydraConfig.get() if HydraConfig.initialized() else None
        _settle(found, given.overrides.task if given else [], choices.get("method"))
    for key, (worked_out, _) in WORKED_OUT.items():
        if value := worked_out(found):
            found[key] = value
    groups = ("method", "dataset", "scenario", "experiment")
    kept = {
        name: {key: value for key, value in values.items() if at(found, key) == value}
        for name, values in picked.items()
    }
    return found | {
        "choices": {group: choices.get(group) for group in groups}
        | {"picked_up": {name: values for name, values in kept.items() if values.keys() - {"tuned_on"}}}
    }


def _settle(settings: dict[str, Any], overrides: Iterable[str], method: Any) -> None:
    """Puts in what follows from the method and leaves out what has no effect, so that equal runs have equal keys.

    method: the name that was chosen. Raises InputError for one of these overrides that has no effect.
    """
    scenario = settings.get("scenario")
    check_idle(settings, overrides, types_of(STREAM, "scenario").keys() - {"passes"})
    if isinstance(scenario, dict) and scenario.get("passes") == "epochs":
        settings["scenario"] = scenario = {key: scenario[key] for key in scenario.keys() - stream_of(scenario).keys()}
    elif isinstance(scenario, dict) and scenario.get("passes") == "online" and isinstance(settings["trainer"], dict):
        settings["trainer"] = settings["trainer"] | {"epochs": 1, "batch_size": scenario.get("batch_size")}
    if isinstance(scenario, dict) and scenario.get("train_mask", "") in (None, "seen", "all", "current"):
        if scenario.get("kind") != "class":
            scenario["train_mask"] = None
        elif scenario["train_mask"] is None:
            scenario["train_mask"] = declared(settings, "train_mask")
    if not reads_memory(settings) and "memory" in settings:
        check_budget(settings.pop("memory"))
    typed_keys = {typed_key(override) for override in overrides}
    idle = typed_keys & unread_in(settings).keys()
    if idle and method in options_of("method"):  # files are read where something was typed in vain alone
        usual = {"method": file_of("method", method), "optimizer": file_of("optimizer", "adam")}
        usual["memory"] = file_of("", "config")["memory"]
        for group, name in (key.split(".") for key in idle):
            check(settings[group], group, packages=allowed(settings.get("plugins")))
            if name in usual[group]:
                settings[group] = settings[group] | {name: usual[group][name]}
    if isinstance(logger := settings.get("logger"), dict) and isinstance(logger.get("loggers"), list):
        logger["loggers"] = named_loggers(logger["loggers"])
    trainer, optimizer = settings.get("trainer"), settings.get("optimizer")
    if not isinstance(trainer, dict) or not isinstance(optimizer, dict):
        return
    its_own = "optimizer" in settings["method"] and any(key.startswith("optimizer") for key in typed_keys)
    if its_own or not trains(settings):
        check(optimizer, "optimizer", packages=allowed(settings.get("plugins")))
        settings["optimizer"] = file_of("optimizer", "adam")
    if not trains(settings):
        settings["trainer"] = trainer | {"epochs": 1, "iterations": None}


def named_loggers(loggers: list[Any]) -> list[Any]:
    """The nodes of several loggers, of which some may be given by their names: `logger=many`.

    Raises InputError for a name that there is no logger of, for one that comes twice, and for none at all.
    """
    known = [name for name in options_of("logger") if name not in ("csv", "many")]  # log.csv is always written
    nodes = []
    for name in loggers:
        if isinstance(name, str) and name not in known:
            raise InputError(
                f"logger.loggers={typed(loggers)}: there is no logger {name!r} to add{nearest(name, known)}"
            )
        nodes.append(file_of("logger", name) if isinstance(name, str) else name)
    twice = [node for i, node in enumerate(nodes) if node in nodes[:i]]
    if twice or not nodes:
        why = "names one of them twice" if twice else "names none"
        raise InputError(f"logger.loggers={typed(loggers)}: {why}{nearest('', known)}")
    return nodes


def compose(*overrides: str) -> dict[str, Any]:
    """The plain configuration of `python -m cl_bench OVERRIDES`, from Python."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from cl_bench.config.search_path import with_plugins

    with_plugins()
    inside = GlobalHydra.instance().is_initialized()  # in a job of the command line
    with nullcontext() if inside else initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", [written_out(override) for override in overrides], return_hydra_config=True)
        return plain(config, config.hydra.runtime.choices)


def written_out(override: str) -> str:
    """An override as Hydra wants it: memory=100 is memory.images=100, a group without a choice is ~GROUP, and all that
    is legal is there, so that +KEY is KEY, but in the space of a search, which may have any key.

    >>> written_out("memory=100,200"), written_out("memory={images: 9, per: class}"), written_out("seed=1")
    ('memory.images=100,200', 'memory={images: 9, per: class}', 'seed=1')
    >>> written_out("experiment=null"), written_out("+method.strength=1"), written_out("hparams_search.space.seed=1")
    ('~experiment', 'method.strength=1', '++hparams_search.space.seed=1')
    """
    override = override if override.startswith("+hydra") else override.lstrip("+")
    key, _, value = override.partition("=")
    if key.startswith("hparams_search.space."):
        return f"++{override}"
    if key in ("features", "experiment", "hparams_search", *TUNED) and value == "null":
        return f"~{key}"
    return f"memory.images={value}" if key == "memory" and not value.lstrip().startswith("{") else override
