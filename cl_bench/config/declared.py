"""What the class of a method says of itself, and what follows, without torch, whose import takes seconds."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from cl_bench.config import signatures
from cl_bench.config.errors import InputError, NotApplicable
from cl_bench.config.idle import unread
from cl_bench.config.names import file_of, options_of
from cl_bench.config.plugins import allowed
from cl_bench.config.schema import imported, path_of, types_of


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
    return found


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
        ways = ", ".join(f"scenario={names[kind]}" for kind in kinds)
        why = f"does not work in scenario={scenario} ({kind}-incremental); try {ways}"
        raise NotApplicable(method, scenario, why)
