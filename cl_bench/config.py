"""From YAML to checked objects, and from a configuration to the name of its run's folder.

A constructor's typed signature is the schema of its YAML: `build` refuses an unknown key or a value of the
wrong type in one line, before anything is trained. Nothing here imports torch.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import inspect
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from annotated_types import Ge, Gt, Le

CONF = next(
    folder
    for folder in (Path(__file__).parent / "conf", Path(__file__).parents[1] / "conf")
    if folder.is_dir()
)
"""The YAML files: inside an installed wheel, else beside the package in a checkout."""

Positive = Annotated[int, Gt(0)]
Rate = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Share = Annotated[float, Ge(0), Le(1)]

WITHOUT_EFFECT = {
    "": ("output_root", "data_dir", "resume", "checkpoint_every", "debug", "logger", "choices", "reference"),
    "trainer": ("chunk", "progress"),
}
"""Keys that change no number, by group: they are left out of a run's key."""


class InputError(ValueError):
    """What a person asked for can't be done; the message is one line that names the key and the way out."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """'; did you mean X?' with the choice most like `name`, or the list of choices when none is near."""
    choices = sorted(map(str, choices))
    near = difflib.get_close_matches(str(name), choices, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; choose from {', '.join(choices)}"


def target(node: Mapping[str, Any], where: str) -> Any:
    """The class or function of this package that `node["_target_"]` names.

    Raises InputError for anything outside the package: a configuration must not run other code.
    """
    path = node.get("_target_")
    if not isinstance(path, str) or not path.startswith("cl_bench."):
        raise InputError(f"{where}._target_={path}: not a part of cl_bench")
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        raise InputError(f"{where}._target_={path}: there is no such thing") from None


def build(node: Mapping[str, Any], where: str, constructor: Any = None, **context: Any) -> Any:
    """The object that `node` describes: `_target_` called with the node's keys, each checked first.

    A parameter that the node doesn't name is taken from `context` when it is there (the data folder, the shape
    of the images), nested nodes are built with the same context.

    where: the key under which a person finds the node, for messages. constructor: instead of `_target_`.
    Raises InputError for an unknown key, a wrong type or a value out of range.
    """
    from pydantic import ConfigDict, ValidationError, create_model

    constructor = constructor or target(node, where)
    prefix = where and f"{where}."
    parameters = inspect.signature(constructor).parameters
    values = {key: value for key, value in node.items() if key != "_target_"}
    for key in values:
        if key not in parameters:
            known = [name for name in parameters if name not in context]
            raise InputError(f"{prefix}{key}: no such key{nearest(key, known)}")

    given: dict[str, Any] = {
        name: context[name] for name in parameters if name in context and name not in values
    }
    for key, value in values.items():
        if isinstance(value, Mapping) and "_target_" in value:
            given[key] = build(value, f"{prefix}{key}", **context)

    hints = get_type_hints(
        constructor.__init__ if inspect.isclass(constructor) else constructor, include_extras=True
    )
    fields: dict[str, Any] = {
        name: (hints.get(name, Any), ... if parameter.default is parameter.empty else parameter.default)
        for name, parameter in parameters.items()
        if name not in given
    }
    config = ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False, protected_namespaces=())
    model = create_model("Checked", __config__=config, **fields)
    try:
        checked = model(**{key: value for key, value in values.items() if key not in given})
    except ValidationError as error:
        raise InputError(_first(error, prefix)) from None
    return constructor(**given, **{name: getattr(checked, name) for name in fields})


def _first(error: Any, prefix: str) -> str:
    """The first complaint of a pydantic ValidationError as one line."""
    problem = error.errors()[0]
    # the location also holds the branches of a union ("int", "list[int]"); only keys and indices help a person
    key = ".".join(str(part) for part in problem["loc"][:1])
    reason = "; ".join(
        dict.fromkeys(one["msg"] for one in error.errors() if one["loc"][:1] == problem["loc"][:1])
    )
    if problem["type"] == "missing":
        return f"{prefix}{key}: needs a value"
    return f"{prefix}{key}={problem['input']}: {reason[0].lower()}{reason[1:]}"


@dataclass(frozen=True)
class Top:
    """The keys outside the groups; `conf/config.yaml` explains them."""

    seed: Annotated[int, Ge(0)]
    output_root: str
    data_dir: str
    resume: bool
    checkpoint_every: NonNegative
    reference: str | None
    debug: bool


def check_top(settings: Mapping[str, Any]) -> None:
    """Checks the keys outside the groups. Raises InputError for an unknown one or a wrong type."""
    build({key: value for key, value in settings.items() if not isinstance(value, Mapping)}, "", Top)


def key_of(config: Mapping[str, Any]) -> str:
    """Eight hex digits that name what a run computes: equal for configurations with equal results."""
    kept = {name: node for name, node in config.items() if name not in WITHOUT_EFFECT[""]}
    for group, names in WITHOUT_EFFECT.items():
        if group:
            kept[group] = {name: value for name, value in kept.get(group, {}).items() if name not in names}
    text = json.dumps(kept, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def name_of(config: Mapping[str, Any]) -> str:
    """DATASET-SCENARIO-METHOD, as chosen on the command line."""
    choices = config["choices"]
    return "-".join(str(choices[group]) for group in ("dataset", "scenario", "method"))


def folder_of(config: Mapping[str, Any]) -> Path:
    """Where the run of this configuration lives: the same command finds its own folder again."""
    return Path(config["output_root"]) / name_of(config) / f"seed{config['seed']}-{key_of(config)}"


def plain(config: Any, choices: Mapping[str, Any]) -> dict[str, Any]:
    """A composed Hydra configuration as plain Python, with the names that were chosen for its groups."""
    from omegaconf import OmegaConf
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    try:
        own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        settings = OmegaConf.to_container(own, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise InputError(f"{error.full_key}: needs a value") from None
    except OmegaConfBaseException as error:
        raise InputError(str(error).splitlines()[0]) from None
    assert isinstance(settings, dict)
    groups = ("method", "dataset", "scenario", "experiment")
    return {str(key): value for key, value in settings.items()} | {
        "choices": {group: choices.get(group) for group in groups}
    }


def compose(*overrides: str) -> dict[str, Any]:
    """The plain configuration of `python -m cl_bench OVERRIDES`, from Python."""
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", list(overrides), return_hydra_config=True)
    return plain(config, config.hydra.runtime.choices)


def explain(error: Exception, overrides: Iterable[str]) -> str | None:
    """Hydra's complaint about a command line as one line, or None when it isn't one of its complaints."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    if not isinstance(error, HydraException | OmegaConfBaseException):
        return None
    text = str(error)
    options = re.search(
        r"Could not find '([^']+)/([^'/]+)'.*Available options in '[^']+':\s*(.*)", text, re.DOTALL
    )
    if options:
        group, choice, known = options.groups()
        return f"{group}={choice}: no such {group}{nearest(choice, known.split()[:200])}"
    group = re.search(r"Could not override '([^']+)'. No match in the defaults list", text)
    unknown = re.search(r"Could not override '([^']+)'", text)
    if group or unknown:
        key = (group or unknown).group(1)  # type: ignore[union-attr]
        return f"{key}: no such key{nearest(key, _keys())}"
    return text.splitlines()[0]


def _keys() -> list[str]:
    """Every key that the default configuration has, with the groups' files added, dotted."""
    from omegaconf import OmegaConf

    keys = {str(key) for key in OmegaConf.load(CONF / "config.yaml") if key not in ("defaults", "hydra")}  # type: ignore[union-attr]
    for file in CONF.glob("*/*.yaml"):
        group = file.parent.name
        if group not in ("tuned", "experiment", "hparams_search"):
            keys |= {group} | {f"{group}.{key}" for key in OmegaConf.load(file)}  # type: ignore[union-attr]
    return sorted(keys)
