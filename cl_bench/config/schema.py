"""From a node of YAML to a checked object: the typed signature of its `_target_` is the schema.

An unknown key or a value of the wrong type is refused in one line, before anything is trained or even imported: no
torch is needed until something is built.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from collections.abc import Mapping
from typing import Any, get_args, get_type_hints

from cl_bench.config import signatures
from cl_bench.config.errors import InputError, nearest, typed
from cl_bench.config.names import options_of


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
