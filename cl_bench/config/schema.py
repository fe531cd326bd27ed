"""From YAML to objects in two steps: `check` makes a tree of nodes, before anything begins; `build` only constructs.

The typed signature of a `_target_` is the schema. An unknown key or a value of the wrong type is refused in one line,
before anything is trained or even imported: no torch is needed until something is built.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints

from cl_bench.config import signatures
from cl_bench.config.errors import InputError, nearest, typed
from cl_bench.config.names import options_of
from cl_bench.config.plugins import allowed, check_path

NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
"""The kinds of parameters that a key can stand for: no *args, no **kwargs."""

GIVEN: dict[str, tuple[str, ...]] = {
    "method": ("problem", "network", "optimizer", "memory"),
    "dataset": ("data_dir", "seed"),
    "scenario": ("dataset", "data_dir", "seed"),
    "network": ("image_shape", "n_outputs", "mean", "std"),
    "features": ("data_dir", "seed"),
    "trainer": ("folder", "logger", "seed", "checkpoint_every", "schedule"),
    "memory": ("available",),
}
"""The parameters of a group's object that a run gives. They are keys only where they can be given by name alone."""

NODE = "must be {_target_: PACKAGE.MODULE.CLASS, KEY: VALUE}"


@dataclass(frozen=True)
class Node:
    """A checked part of a configuration: what `build` makes an object of.

    where: the key under which a person finds it. target: the class or function, or its dotted path, not yet imported.
    values: of the types that its signature names. parts: the nodes in it. lists: the lists of nodes in it.
    """

    where: str
    target: Callable[..., Any] | str
    values: Mapping[str, Any]
    parts: Mapping[str, Node]
    lists: Mapping[str, Sequence[Node]] = field(default_factory=dict)

    def key(self, name: str) -> str:
        """A key of this node as a person types it."""
        return f"{self.where}.{name}" if self.where else name


def target(node: Mapping[str, Any], where: str, plugins: Any = ()) -> Any:
    """The class or function that `node["_target_"]` names. Raises InputError, see `path_of` and `imported`."""
    return imported(path_of(node, where, allowed(list(plugins))), where)


def path_of(node: Mapping[str, Any], where: str, packages: Sequence[str]) -> str:
    """The `_target_` of a node. Raises InputError for one outside these packages: no other code is imported."""
    if node.get("_target_") is None:
        raise InputError(f"{where}: needs a choice{nearest('', options_of(where))}")
    return check_path(node["_target_"], where, packages)


def imported(target: Callable[..., Any] | str, where: str) -> Any:
    """The class or function of that path. Raises InputError where there is none, and for what its package has from
    elsewhere."""
    if not isinstance(target, str):
        return target
    key, (module, _, name) = f"{where}._target_={target}", target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except (Exception, SystemExit) as error:  # a slip of the pen in somebody's package can be anything
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            found = None
        else:
            raise InputError(f"{key}: can't be imported ({type(error).__name__}: {error})") from error
    if found is None:
        raise InputError(f"{key}: does not exist")
    home = str(getattr(found, "__module__", None))
    if not callable(found) or home.partition(".")[0] != target.partition(".")[0]:
        raise InputError(f"{key}: not a part of {target.partition('.')[0]}")
    return found


def check(
    node: Mapping[str, Any],
    where: str,
    constructor: Callable[..., Any] | str | None = None,
    packages: Sequence[str] = (signatures.PACKAGE,),
) -> Node:
    """`node` and the nodes in it, each value checked against the signature of its `_target_`.

    where: the key under which a person finds the node, for messages. constructor: instead of `_target_`. packages:
    those whose code may be named.
    Raises InputError for an unknown key, a wrong type or a value out of range.
    """
    from pydantic import ConfigDict, PydanticUserError, ValidationError, create_model

    found = constructor or path_of(node, where, packages)
    types = types_of(found, where)
    prefix = where and f"{where}."
    given = set(GIVEN.get(where.partition("=")[0], ())) & types.keys()
    keys = types.keys() - (given and given - by_name_alone(found, where))
    parts, lists, values = {}, {}, {}
    for key, value in node.items():
        if key == "_target_":
            continue
        if key not in keys:
            raise InputError(f"{prefix}{key}: no such key{nearest(key, keys, prefix)}")
        if isinstance(value, Mapping) and "_target_" in value:
            parts[key] = check(value, f"{prefix}{key}", packages=packages)
        elif isinstance(value, list) and any(isinstance(part, Mapping) for part in value):
            lists[key] = [check_part(part, f"{prefix}{key}[{i}]", packages) for i, part in enumerate(value)]
        else:
            values[key] = value

    config = ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False, protected_namespaces=())
    try:
        model = create_model("Checked", __config__=config, **{key: (types[key], ...) for key in values})  # type: ignore[call-overload]
        # as JSON, because there a list is what a tuple is written as, and strictly: true is no number, 1.0 no integer
        checked = model.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise InputError(_first(error, prefix, values)) from None
    except PydanticUserError as error:  # of somebody's annotations
        raise InputError(
            f"{where}._target_={found}: its types can't be checked ({str(error).splitlines()[0]})"
        ) from None
    return Node(where, found, {key: getattr(checked, key) for key in values}, parts, lists)


def check_part(part: Any, where: str, packages: Sequence[str]) -> Node:
    """A node in a list of nodes. Raises InputError for anything else."""
    if not isinstance(part, Mapping) or "_target_" not in part:
        raise InputError(f"{where}={typed(part)}: {NODE}")
    return check(part, where, packages=packages)


def by_name_alone(target: Callable[..., Any] | str, where: str) -> set[str]:
    """The parameters that no position stands for; read from source as in `types_of`."""
    if isinstance(target, str) and target.rpartition(".")[0] not in sys.modules:
        with suppress(LookupError):
            return signatures.by_name_alone(target)
    parameters = inspect.signature(imported(target, where)).parameters.values()
    return {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}


def types_of(target: Callable[..., Any] | str, where: str) -> dict[str, Any]:
    """The type of each key that a node may have; read from source as long as its module isn't imported.

    Raises InputError for what can't be imported or called.
    """
    if isinstance(target, str) and target.rpartition(".")[0] not in sys.modules:
        try:
            return signatures.parameters(target)
        except LookupError:  # not there, not plain to read, or somebody else's: the import will show it
            pass
    constructor = imported(target, where)
    function = constructor.__init__ if inspect.isclass(constructor) else constructor
    try:
        parameters = inspect.signature(constructor).parameters.values()
    except ValueError as error:  # written in C
        raise InputError(f"{where}._target_={target}: its signature can't be read ({error})") from None
    return {parameter.name: _hint(function, parameter.name) for parameter in parameters if parameter.kind in NAMED}


def _hint(function: Any, name: str) -> Any:
    """The type of a parameter, or of what is returned; Any where none is named, or none that is there when it runs."""
    function = inspect.unwrap(function)
    place = SimpleNamespace(__annotations__={name: getattr(function, "__annotations__", {}).get(name, Any)})
    try:
        return get_type_hints(place, getattr(function, "__globals__", {}), include_extras=True)[name]
    except (AttributeError, NameError, TypeError):
        return Any


def check_kind(node: Node, wanted: Any) -> None:
    """Raises InputError when what a node builds, or a node in it, isn't what is wanted there, by the type of its
    place. That needs the classes themselves, and so imports them."""
    found = imported(node.target, node.where)
    made = found if inspect.isclass(found) else _hint(found, "return")
    kinds = tuple(kind for kind in get_args(wanted) or (wanted,) if inspect.isclass(kind) and kind is not Any)
    if kinds and not (inspect.isclass(made) and issubclass(made, kinds)):
        names = " or ".join(kind.__name__ for kind in kinds)
        says = (
            "" if made is not Any else f"; a function must declare it: def {found.__name__}(...) -> {kinds[0].__name__}"
        )
        raise InputError(f"{node.where}._target_={node.target}: is not of type {names}{says}")
    types = types_of(node.target, node.where)
    for key, part in node.parts.items():
        check_kind(part, types[key])
    for key, parts in node.lists.items():
        for part in parts:
            check_kind(part, (*get_args(types[key]), Any)[0])


def build(node: Node, **context: Any) -> Any:
    """The object that a checked node describes: its target called with its values, and with what its parts build.

    A parameter that the node doesn't name is taken from `context` when it is there (the data folder, the shape
    of the images), in the parts too. What parts build may be anything; see `check_kind`.
    Raises InputError for a parameter without a value.
    """
    constructor = imported(node.target, node.where)
    values = {**node.values, **{key: build(part, **context) for key, part in node.parts.items()}}
    values |= {key: [build(part, **context) for part in parts] for key, parts in node.lists.items()}
    for name, parameter in inspect.signature(constructor).parameters.items():
        if name in context and name not in values:
            values[name] = context[name]
        if name not in values and parameter.default is parameter.empty and parameter.kind in NAMED:
            raise InputError(f"{node.key(name)}: needs a value")
    return constructor(**values)


def _first(error: Any, prefix: str, values: Mapping[str, Any]) -> str:
    """The first complaint of a pydantic ValidationError as one line."""
    if not error.errors()[0]["loc"]:  # half a character, or a thousand lists in lists
        return f"{prefix or 'a value'}: can't be written as JSON ({error.errors()[0]['msg']})"
    # a location also holds the branches of a union ("int", "list[int]"); only the key helps a person
    key = error.errors()[0]["loc"][0]
    problems = [problem for problem in error.errors() if problem["loc"][0] == key]
    reasons = dict.fromkeys(
        f"{problem['msg'][0].lower()}{problem['msg'][1:]}".replace("array", "list") for problem in problems
    )
    reason = " or ".join(reasons)
    if problems[0]["type"] in ("needs_python_object", "dataclass_type"):
        reason = f"has several keys; set one of them: {prefix}{key}.KEY=VALUE"
        if isinstance(values[key], list):
            reason = f"each {NODE}"
    return f"{prefix}{key}={typed(values[key])}: {reason}"
