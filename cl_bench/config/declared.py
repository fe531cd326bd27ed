"""What the class of a method says of itself, and what follows, without torch, whose import takes seconds."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from cl_bench.config import signatures
from cl_bench.config.errors import InputError, NotApplicable, nearest
from cl_bench.config.idle import WHOLE, unread
from cl_bench.config.names import file_of, options_of
from cl_bench.config.plugins import allowed
from cl_bench.config.schema import imported, path_of, types_of
from cl_bench.config.training import OFF

TYPES: dict[str, Any] = {
    "kinds": tuple[Literal["class", "task", "domain"], ...],
    "train_mask": Literal["seen", "all", "current"],
    "refused": dict[str, str],
    "unread": dict[str, dict[str, Any]],
    "grows": bool,
    "needs_borders": bool,
    "trains": bool,
}
"""What a class of a method can say of itself that is read here."""


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
        raise InputError(f"method._target_={path}: is not of type Method")
    check_declared(path, name, found)
    return found


def check_declared(path: str, name: str, value: Any) -> None:
    """Raises InputError for a wrong value of a class attribute, and for a key in it that does not exist."""
    try:
        TypeAdapter(TYPES[name]).validate_python(value)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise InputError(f"method._target_={path}: {name}={value!r}: {reason[0].lower()}{reason[1:]}") from None
    if name in ("refused", "unread") and name in vars(imported(path, "method")):
        known = OFF if name == "refused" else {*WHOLE, *types_of(path, "method")}
        for key in value:
            if key not in known and (name == "refused" or "." not in key):
                raise InputError(f"method._target_={path}: {name} has {key!r}, which is no key{nearest(key, known)}")


def unread_in(settings: Mapping[str, Any]) -> dict[str, str]:
    """The keys that nothing reads in this configuration, see `idle.unread`."""
    return unread(settings, declared(settings, "unread"))


def methods_with(name: str, value: bool) -> list[str]:
    """The methods that can be chosen whose class says this of itself, see `declared`; not those that can't be read."""
    found = []
    for method in options_of("method"):
        with suppress(InputError):
            if declared({"method": file_of("method", method), "plugins": []}, name) == value:
                found.append(method)
    return found


def trains(settings: Mapping[str, Any]) -> bool:
    """Whether the method trains anything by gradients: all of it, or a network on the first task."""
    return declared(settings, "trains") or settings["method"].get("first_task") is True


def reads_memory(settings: Mapping[str, Any]) -> bool:
    """Whether the method keeps real images, as many as `memory` says."""
    return "memory" in types_of(path_of(settings["method"], "method", allowed(settings.get("plugins"))), "method")


def check_applicable(settings: Mapping[str, Any], kind: str) -> None:
    """Raises NotApplicable when the method has no meaning in this kind of scenario."""
    kinds = declared(settings, "kinds")
    if kind not in kinds:
        method, scenario = settings["choices"]["method"], settings["choices"]["scenario"]
        names = {"class": "class_incremental", "task": "task_incremental", "domain": "domain_incremental"}
        usual = file_of("scenario", scenario).get("kind", kind) if scenario in options_of("scenario") else kind
        # a kind that was typed stays with any other scenario
        ways = ", ".join(f"scenario={names[other]}" if kind == usual else f"scenario.kind={other}" for other in kinds)
        why = f"does not work in scenario={scenario} ({kind}-incremental); try {ways}"
        raise NotApplicable(method, scenario, why)
