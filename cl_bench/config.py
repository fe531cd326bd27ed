"""From YAML to checked objects, and from a configuration to the name of its run's folder.

A constructor's typed signature is the schema of its YAML: `check` refuses an unknown key or a value of the
wrong type in one line, before anything is trained or even imported: no torch is needed until something is built.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import inspect
import json
import sys
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Annotated, Any, get_args, get_type_hints

from annotated_types import Ge, Gt, Le, Lt

from cl_bench import signatures
from cl_bench.content import by_content, content_of
from cl_bench.tuned import picked_up

CONF = next(
    folder for folder in (Path(__file__).parent / "conf", Path(__file__).parents[1] / "conf") if folder.is_dir()
)
"""The YAML files: inside an installed wheel, else beside the package in a checkout."""

GROUPS = ("method", "dataset", "scenario", "network", "optimizer", "trainer", "logger")
"""The nouns of a command line; each is a folder of YAML files."""

TUNED = {"benchmark": ("dataset",), "tuned": ("method", "dataset"), "tuned/scenario": ("method", "dataset", "scenario")}
"""Groups whose choice follows by itself from those of others, where there is a file of these names."""

Positive = Annotated[int, Gt(0), Le(10**9)]
Side = Annotated[int, Gt(0), Le(1024)]
Rate = Annotated[float, Gt(0), Le(1e30)]  # what is beyond no float32 holds
NonNegative = Annotated[float, Ge(0), Le(1e30)]
Share = Annotated[float, Ge(0), Le(1)]
Decay = Annotated[float, Ge(0), Lt(1)]

WITHOUT_EFFECT = {
    "": ("output_root", "data_dir", "resume", "checkpoint_every", "debug", "logger", "choices", "reference"),
    "trainer": ("chunk", "log_every", "progress"),
}
"""Keys that change no number, by group: they are left out of a run's key."""


class KnownError(Exception):
    """Something went wrong and one line, the message, says all about it."""


class InputError(KnownError, ValueError):
    """What a person asked for can't be done; the message is one line that names the key and the way out."""


class NotApplicable(InputError):
    """A method has no meaning in a scenario: an error of one run, and in a sweep over both a combination to leave out.

    method, scenario: their names, as chosen.
    """

    def __init__(self, method: str, scenario: str, kind: str, kinds: Iterable[str]) -> None:
        names = {"class": "class_incremental", "task": "task_incremental", "domain": "domain_incremental"}
        ways = ", ".join(f"scenario={names[kind]}" for kind in kinds)
        super().__init__(f"method={method}: has no meaning in scenario={scenario} ({kind}-incremental); try {ways}")
        self.method, self.scenario = method, scenario


class Stopped(BaseException):
    """A signal asked the run to stop; everything is saved. No Exception: a whole sweep stops, not one run of it."""

    def __init__(self, signal: int) -> None:
        super().__init__(f"stopped by signal {signal}")
        self.signal = signal


def nearest(name: str, choices: Iterable[str], prefix: str = "") -> str:
    """'; did you mean X?' with the choice most like `name`, or the list of choices when none is near.

    prefix: what stands before each choice when it is typed, such as 'method.'.
    """
    choices = sorted(map(str, choices))
    near = difflib.get_close_matches(str(name), choices, n=1, cutoff=0.5)
    if near:
        return f"; did you mean '{prefix}{near[0]}'?"
    return f"; choose from {', '.join(prefix + choice for choice in choices)}" if choices else ""


def target(node: Mapping[str, Any], where: str) -> Any:
    """The class or function of this package that `node["_target_"]` names.

    Raises InputError for anything outside the package: a configuration must not run other code.
    """
    path = node.get("_target_")
    if path is None:
        raise InputError(f"{where}: needs a choice{nearest('', options_of(where))}")
    if not isinstance(path, str) or not path.startswith("cl_bench."):
        raise InputError(f"{where}._target_={path}: not a part of cl_bench")
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        raise InputError(f"{where}._target_={path}: there is no such thing") from None
    if not callable(found) or not getattr(found, "__module__", "").startswith("cl_bench."):
        raise InputError(f"{where}._target_={path}: not a part of cl_bench")
    return found


def check(node: Mapping[str, Any], where: str, constructor: Any = None) -> dict[str, Any]:
    """The values of `node`, and of the nodes in it, each checked against the signature of its `_target_`.

    Nothing is built yet, so a node can be checked before what else its constructor needs is known.

    where: the key under which a person finds the node, for messages. constructor: instead of `_target_`.
    Raises InputError for an unknown key, a wrong type or a value out of range.
    """
    from pydantic import ConfigDict, ValidationError, create_model

    types = types_of(node, where, constructor)
    prefix = where and f"{where}."
    nodes, values = {}, {}
    for key, value in node.items():
        if key == "_target_":
            continue
        if key not in types:
            raise InputError(f"{prefix}{key}: no such key{nearest(key, types, prefix)}")
        if isinstance(value, Mapping) and "_target_" in value:
            nodes[key] = value
            check(value, f"{prefix}{key}")
        else:
            values[key] = value

    config = ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False, protected_namespaces=())
    model = create_model("Checked", __config__=config, **{key: (types[key], ...) for key in values})  # type: ignore[call-overload]
    try:
        # as JSON, because there a list is what a tuple is written as, and strictly: true is no number, 1.0 no integer
        checked = model.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise InputError(_first(error, prefix, values)) from None
    return nodes | {key: getattr(checked, key) for key in values}


def types_of(node: Mapping[str, Any], where: str, constructor: Any = None) -> dict[str, Any]:
    """The type of each key that a node may have; read from source as long as its module isn't imported.

    Otherwise as `check`.
    """
    path = str(node.get("_target_"))
    if constructor is None and path.rpartition(".")[0] not in sys.modules:
        try:
            return signatures.parameters(path)
        except LookupError:  # not there, or not plain to read: the import will show it
            pass
    constructor = constructor or target(node, where)
    hints = get_type_hints(constructor.__init__ if inspect.isclass(constructor) else constructor, include_extras=True)
    return {name: hints.get(name, Any) for name in inspect.signature(constructor).parameters}


def check_kind(node: Mapping[str, Any], where: str, wanted: Any) -> None:
    """Raises InputError when what a node builds, or a node in it, isn't what is wanted there, by the type of its
    place. That needs the classes themselves, and so imports them."""
    found = target(node, where)
    made = found if inspect.isclass(found) else get_type_hints(found).get("return", Any)
    kinds = tuple(kind for kind in get_args(wanted) or (wanted,) if inspect.isclass(kind) and kind is not Any)
    if made is not Any and kinds and not issubclass(made, kinds):
        names = " or ".join(kind.__name__ for kind in kinds)
        raise InputError(f"{where}._target_={node['_target_']}: is no {names}")
    for key, value in node.items():
        if isinstance(value, Mapping) and "_target_" in value:
            check_kind(value, f"{where}.{key}", types_of(node, where)[key])


def build(node: Mapping[str, Any], where: str, constructor: Any = None, **context: Any) -> Any:
    """The object that `node` describes: `_target_` called with the node's keys, each checked first.

    A parameter that the node doesn't name is taken from `context` when it is there (the data folder, the shape
    of the images), nested nodes are built with the same context.

    Otherwise as `check`. What nested nodes build may be anything; see `check_kind`.
    """
    constructor = constructor or target(node, where)
    values = check(node, where, constructor)
    prefix = where and f"{where}."
    for key, value in values.items():
        if isinstance(value, Mapping) and "_target_" in value:
            values[key] = build(value, f"{prefix}{key}", **context)
    for name, parameter in inspect.signature(constructor).parameters.items():
        if name in context and name not in values:
            values[name] = context[name]
        if name not in values and parameter.default is parameter.empty:
            raise InputError(f"{prefix}{name}: needs a value")
    return constructor(**values)


def _first(error: Any, prefix: str, values: Mapping[str, Any]) -> str:
    """The first complaint of a pydantic ValidationError as one line."""
    if not error.errors()[0]["loc"]:  # half a character, or a thousand lists in lists
        return f"{prefix or 'a value'}: can't be written as JSON ({error.errors()[0]['msg']})"
    # a location also holds the branches of a union ("int", "list[int]"); only the key helps a person
    key = error.errors()[0]["loc"][0]
    problems = [one for one in error.errors() if one["loc"][0] == key]
    reasons = dict.fromkeys(f"{one['msg'][0].lower()}{one['msg'][1:]}".replace("array", "list") for one in problems)
    reason = " or ".join(reasons)
    if problems[0]["type"] in ("needs_python_object", "dataclass_type"):
        reason = f"has keys of its own, set one of them: {prefix}{key}.KEY=VALUE"
    return f"{prefix}{key}={typed(values[key])}: {reason}"


def typed(value: Any) -> str:
    """A value as a person types it on the command line."""
    return str(value) if isinstance(value, str | float) else json.dumps(value, separators=(",", ":"))


@dataclass(frozen=True)
class Top:
    """The keys outside the groups; `conf/config.yaml` explains them."""

    seed: Annotated[int, Ge(0), Le(10**12)]
    output_root: str
    data_dir: str
    resume: bool
    checkpoint_every: NonNegative
    reference: str | None
    debug: bool
    tuned_on: str | None = None


def check_settings(settings: Mapping[str, Any]) -> None:
    """Checks all of a configuration that can be known without data, and without torch, whose import takes seconds.

    Raises InputError for an unknown key, a wrong type, a missing value, or a scenario that the method has no
    meaning in.
    """
    for group in GROUPS:
        if not isinstance(settings.get(group), Mapping):
            raise InputError(f"{group}: needs a choice{nearest('', options_of(group))}")
    build(
        {key: value for key, value in settings.items() if key not in (*GROUPS, "memory", "choices", "content")}, "", Top
    )
    for group in GROUPS:
        if settings[group] or group != "dataset":  # dataset=none
            check(settings[group], group)
    if reads_memory(settings):
        check_memory(settings.get("memory"))
    kind, kinds = settings["scenario"].get("kind"), declared(settings["method"], "kinds")
    if kind and kind not in kinds:
        raise NotApplicable(settings["choices"]["method"], settings["choices"]["scenario"], kind, kinds)


def declared(method: Mapping[str, Any], name: str) -> Any:
    """What the class of a method says of itself: `kinds`, `train_mask`. Raises InputError for what is no method."""
    try:
        return signatures.constant(str(method.get("_target_")), name)
    except LookupError:
        found = getattr(target(method, "method"), name, None)
    if found is None:
        raise InputError(f"method._target_={method['_target_']}: is no Method")
    return found


def reads_memory(settings: Mapping[str, Any]) -> bool:
    """Whether the method keeps real images, as many as `memory` says."""
    return "memory" in types_of(settings["method"], "method")


def check_memory(node: Any) -> None:
    """Raises InputError for what is no budget."""
    if not isinstance(node, Mapping):
        raise InputError(f"memory={typed(node)}: has keys of its own, set one of them: memory.images=200")
    check(node, "memory")


def check_name(group: str, choice: str) -> None:
    """Raises InputError for a choice that leads out of its group's folder. Folders inside it are part of a name."""
    path = PureWindowsPath(choice)  # knows both kinds of slash, and drives
    if ".." in path.parts or path.anchor or choice.startswith("~"):
        raise InputError(f"{group}={choice}: is a path, not a name; --config-dir=FOLDER adds files of your own")


def options_of(group: str) -> list[str]:
    """What can be chosen for a group: the names of its YAML files, with FOLDER/ before those in a folder of it."""
    top = CONF / group
    return sorted(file.relative_to(top).with_suffix("").as_posix() for file in top.rglob("*.yaml"))


def key_of(config: Mapping[str, Any]) -> str:
    """Eight hex digits that name what a run computes: equal for configurations with equal results."""
    kept = {name: node for name, node in by_content(config).items() if name not in WITHOUT_EFFECT[""]}
    for group, names in WITHOUT_EFFECT.items():
        if group:
            kept[group] = {name: value for name, value in kept.get(group, {}).items() if name not in names}
    text = json.dumps(kept, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def name_of(config: Mapping[str, Any]) -> str:
    """DATASET-SCENARIO-METHOD, as chosen on the command line; own data by the beginning of their digest."""
    choices, content = config["choices"], config.get("content")
    several = config["scenario"].get("datasets")
    if isinstance(several, list):
        content = content if isinstance(content, list) else several
        names = [
            Path(str(name)).stem if name == own else f"npz.{str(own)[:8]}"
            for name, own in zip(several, content, strict=False)
        ]
        dataset = "+".join(names)
    else:
        dataset = f"{choices['dataset']}.{str(content)[:8]}" if content else choices["dataset"]
    return f"{dataset}-{choices['scenario']}-{choices['method']}"


def folder_of(config: Mapping[str, Any]) -> Path:
    """Where the run of this configuration lives: the same command finds its own folder again."""
    root = place(config["output_root"], "output_root")
    return root / name_of(config) / f"seed{config['seed']}-{key_of(config)}"


def place(path: str, where: str) -> Path:
    """A path as a person types it, with ~ for a home. Raises InputError for one that can't be."""
    try:
        if path and "\0" not in path:
            return Path(path).expanduser()
    except RuntimeError:  # ~NAME of nobody
        pass
    raise InputError(f"{where}={path!r}: is no path")


def plain(config: Any, choices: Mapping[str, Any]) -> dict[str, Any]:
    """A composed Hydra configuration as plain Python, with the names that were chosen for its groups."""
    from hydra.core.global_hydra import GlobalHydra
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
    if "content" in settings:
        raise InputError("content: no such key; it is worked out of dataset.path and scenario.datasets")
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
    if settings.get("tuned_on") is None:  # a label, there only where it says something: it is in the key of a run
        settings.pop("tuned_on", None)
    found = {str(key): value for key, value in settings.items()}
    if isinstance(found.get("method"), dict):
        _settle(found)
    if content := content_of(found):
        found["content"] = content
    groups = ("method", "dataset", "scenario", "experiment")
    return found | {
        "choices": {group: choices.get(group) for group in groups}
        | {"picked_up": {name: values for name, values in picked.items() if values.keys() - {"tuned_on"}}}
    }


def _settle(settings: dict[str, Any]) -> None:
    """Puts in what follows from the method and leaves out what has no effect, so that equal runs have equal keys."""
    method, scenario = settings["method"], settings.get("scenario")
    if isinstance(scenario, dict) and scenario.get("train_mask", "") in (None, "seen", "all", "current"):
        if scenario.get("kind") != "class":
            scenario["train_mask"] = None
        elif scenario["train_mask"] is None:
            scenario["train_mask"] = declared(method, "train_mask")
    if not reads_memory(settings) and "memory" in settings:
        check_memory(settings.pop("memory"))


def compose(*overrides: str) -> dict[str, Any]:
    """The plain configuration of `python -m cl_bench OVERRIDES`, from Python."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    inside = GlobalHydra.instance().is_initialized()  # in a job of the command line
    with nullcontext() if inside else initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", [written_out(override) for override in overrides], return_hydra_config=True)
        return plain(config, config.hydra.runtime.choices)


def written_out(override: str) -> str:
    """memory=100 for memory.images=100; anything else as it is.

    >>> written_out("memory=100,200"), written_out("memory={images: 9, per: class}"), written_out("seed=1")
    ('memory.images=100,200', 'memory={images: 9, per: class}', 'seed=1')
    """
    key, _, value = override.partition("=")
    return f"memory.images={value}" if key == "memory" and not value.lstrip().startswith("{") else override


def explain(error: Exception, overrides: Iterable[str]) -> str | None:
    """What is wrong with a command line, by the error that Hydra had with it; None when Hydra can't have meant it."""
    from hydra.errors import HydraException, MissingConfigException, OverrideParseException
    from omegaconf import DictConfig
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
    from yaml import MarkedYAMLError

    if isinstance(error, OSError) and error.filename:
        return f"output_root: can't write {error.filename} ({error.strerror})"
    cause = error.__cause__
    if isinstance(error, MissingConfigException) and "/" in str(error.missing_cfg_file):
        depth = 1 + str(error.missing_cfg_file).startswith("hydra/")  # hydra/launcher is a group
        *names, choice = str(error.missing_cfg_file).split("/", depth)
        group = "/".join(names)
        try:
            check_name(group, choice)
        except InputError as wrong:
            return str(wrong)
        known = {*(error.options or []), *options_of(group)}  # Hydra's list has files of one's own, but no folders
        return f"{group}={choice}: no such {group}{nearest(choice, known)}"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: can't be read; type KEY=VALUE, and quote a VALUE with special characters"
    if isinstance(error, MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        return f"{mark.name}, line {mark.line + 1}: is no YAML ({error.problem})"
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and isinstance(cause.parent_node, DictConfig):
        return _unknown(str(cause.full_key), cause.parent_node)
    if isinstance(cause, OmegaConfBaseException):
        return f"{cause.full_key}: {str(cause).splitlines()[0]}"
    text = " ".join(str(error).split())
    named = text.split("'")[1] if "'" in text else ""
    if text.startswith("Ambiguous value"):
        return f"{named}: several values are a sweep and need -m; a list is written [1,2], a text with commas '1,2'"
    if "No match in the defaults list" in text:
        return f"{named}: there is no such group in this configuration"
    # Hydra stumbles over a choice that is a list
    no_name = isinstance(error, TypeError) or text.startswith(
        ("Config group override must be", "Error resolving interpolation")
    )
    unread = isinstance(error, UnicodeError) or text.startswith("Unsupported type")  # of a person's own --config-dir
    for override in overrides:
        key, _, value = override.partition("=")
        if not key:
            return f"{override}: no key; type KEY=VALUE"
        ours = "hydra" in key or not (CONF / key).is_dir() or set(value.split(",")) <= set(options_of(key))
        if not ours and "(" not in value:  # glob(*)
            if unread:
                return f"{override}: its file can't be read ({text})"
            if no_name:
                return f"{override}: no such {key}{nearest(value, options_of(key))}"
        if key.startswith("hydra.") and isinstance(error, AssertionError | TypeError):  # Hydra checks few of its own
            return f"{override}: Hydra has no use for this value"
    return text if isinstance(error, HydraException | ValueError) else None


def _unknown(full_key: str, parent: Any) -> str:
    """There is no such key in `parent`, the part of a configuration where it was looked for."""
    from omegaconf import OmegaConf

    above, _, key = full_key.rpartition(".")
    known = [path for path in _paths(OmegaConf.to_container(parent)) if not path.startswith("hydra")]
    deeper = [path for path in known if path.endswith(f".{key}")]  # where it is, had they typed all of it
    choices = [path for path in known if "." not in path]
    prefix = above and f"{above}."
    if deeper:
        return f"{full_key}: no such key; did you mean '{prefix}{min(deeper, key=len)}'?"
    return f"{full_key}: no such key{nearest(key, choices, prefix) or f'; {above} has none'}"


def _paths(node: Any) -> list[str]:
    """The dotted path of every key below a node."""
    if not isinstance(node, Mapping):
        return []
    keys = [str(key) for key in node if key != "_target_"]
    return keys + [f"{key}.{path}" for key in keys for path in _paths(node[key])]
