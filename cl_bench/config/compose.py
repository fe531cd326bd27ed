"""The configuration of a run as plain Python."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import Any

from cl_bench.config.checks import STREAM, WORKED_OUT, check_budget, stream_of
from cl_bench.config.declared import declared, reads_memory, trains, unread_in
from cl_bench.config.errors import InputError, nearest, typed
from cl_bench.config.idle import check_idle, typed_key
from cl_bench.config.names import CONF, GROUPS, TUNED, check_name, file_of, options_of
from cl_bench.config.plugins import allowed
from cl_bench.config.schema import check, types_of
from cl_bench.config.training import at
from cl_bench.config.tuned import by_files, picked_up


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
            raise InputError(f"{key}: this key cannot be set; it is computed from {origin}")
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
        raise InputError(f"tuned_on={label}: only a search sets this key, to all_tasks or first_N_tasks; leave it out")
    if settings.get("tuned_on") is None:  # a label, there only where it says something: it is in the key of a run
        settings.pop("tuned_on", None)
    found = {str(key): value for key, value in settings.items()}
    for group in GROUPS:
        check_file(group, choices.get(group), found.get(group))
    if isinstance(found.get("method"), dict):
        given = config.hydra if "hydra" in config else HydraConfig.get() if HydraConfig.initialized() else None
        _settle(found, given.overrides.task if given else [], choices)
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


def check_file(group: str, choice: Any, node: Any) -> None:
    """Raises InputError for a choice whose file, plugin's or person's, doesn't say what is to be built."""
    if choice in (None, "null", "none") or (isinstance(node, dict) and node.get("_target_")):
        return
    if choice not in options_of(group) or "_target_" not in file_of(group, choice):
        must = "must have _target_: PACKAGE.MODULE.NAME, and the keys of that class or function"
        raise InputError(f"{group}={choice}: its file {group}/{choice}.yaml {must}")


def _settle(settings: dict[str, Any], overrides: Iterable[str], choices: Mapping[str, Any]) -> None:
    """Puts in what follows from the method and leaves out what has no effect, so that equal runs have equal keys.

    choices: Hydra's. Raises InputError for one of these overrides that has no effect.
    """
    method, scenario = choices.get("method"), settings.get("scenario")
    check_idle(settings, overrides, types_of(STREAM, "scenario").keys() - {"passes"})
    if isinstance(scenario, dict) and scenario.get("passes") == "epochs":
        settings["scenario"] = scenario = {key: scenario[key] for key in scenario.keys() - stream_of(scenario).keys()}
    elif isinstance(scenario, dict) and scenario.get("passes") == "online" and isinstance(settings["trainer"], dict):
        settings["trainer"] = settings["trainer"] | {"epochs": 1, "batch_size": scenario.get("batch_size")}
    typed_keys, idle = {typed_key(override) for override in overrides}, unread_in(settings)
    usual = {"method": method, "scenario": choices.get("scenario"), "trainer": "default"}
    usual |= {"optimizer": "adam", "network": "mlp"}
    for group, _, name in (key.partition(".") for key in sorted(typed_keys & idle.keys())):
        node = settings[group]
        own = {key: node[key] for key in node.keys() - stream_of(node)} if group == "scenario" else node
        check(own, group, packages=allowed(settings.get("plugins")))
        # files are read where something was typed in vain alone
        files = file_of("", "config")["memory"] if group == "memory" else by_files(group, usual.get(group), choices)
        if group in idle:
            settings[group] = files
        elif name in files:
            settings[group] = node | {name: files[name]}
    scenario = settings.get("scenario")
    if isinstance(scenario, dict) and scenario.get("train_mask", "") in (None, "seen", "all", "current"):
        if scenario.get("kind") != "class":
            scenario["train_mask"] = None
        elif scenario["train_mask"] is None:
            scenario["train_mask"] = declared(settings, "train_mask")
    if not reads_memory(settings) and "memory" in settings:
        check_budget(settings.pop("memory"))
    if isinstance(logger := settings.get("logger"), dict) and isinstance(logger.get("loggers"), list):
        logger["loggers"] = named_loggers(logger["loggers"])
    trainer, optimizer = settings.get("trainer"), settings.get("optimizer")
    if not isinstance(trainer, dict) or not isinstance(optimizer, dict):
        return
    if not trains(settings):
        check(optimizer, "optimizer", packages=allowed(settings.get("plugins")))
        settings["optimizer"] = file_of("optimizer", "adam")
        settings["trainer"] = trainer | {"epochs": 1, "iterations": None}
    elif trainer.get("iterations") is not None and at(settings, "scenario.passes") != "online":
        epochs, by_file = trainer.get("epochs"), by_files("trainer", "default", choices)["epochs"]
        if epochs not in (None, by_file) and "trainer.iterations" not in typed_keys:  # a file sets both
            both = f"trainer.epochs={epochs}: has no effect with trainer.iterations={trainer['iterations']}"
            raise InputError(f"{both}; leave it out, or set trainer.iterations=null")
        settings["trainer"] = trainer | {"epochs": by_file}


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
        why = "names a logger twice" if twice else "names none"
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
    if f"{key}.".startswith("hparams_search.space."):
        return f"++{override}"
    if key in ("features", "experiment", "hparams_search", *TUNED) and value == "null":
        return f"~{key}"
    return f"memory.images={value}" if key == "memory" and not value.lstrip().startswith("{") else override
