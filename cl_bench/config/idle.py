"""Values that a person typed and that nothing reads: refused, or left out and said."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any

from cl_bench.config.errors import InputError, typed
from cl_bench.config.training import SGD, at

WHOLE = ("optimizer", "network")
"""Groups of which a method may read nothing at all."""

IN_STREAMS = {"trainer.epochs": "updates_per_batch", "trainer.batch_size": "batch_size"}


OF_SCENARIOS = (("scenario.stray", "scenario.disjoint", 1), ("scenario.angles", "scenario.max_angle", 0))
"""A key of a scenario, and the value of another one beside which nothing reads it."""


def check_idle(settings: Mapping[str, Any], overrides: Iterable[str], of_streams: Container[str]) -> None:
    """Raises InputError for an override that has no effect with the others.

    of_streams: keys of a scenario that only a stream has.
    """
    passes = at(settings, "scenario.passes")
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        if passes == "epochs" and key.startswith("scenario.") and key.removeprefix("scenario.") in of_streams:
            other = f", or trainer.batch_size={value}" if key == "scenario.batch_size" else ""
            raise InputError(f"{override}: has an effect only in a stream; set scenario.passes=online{other}")
        if passes == "online" and key in IN_STREAMS:
            way = f"scenario.{IN_STREAMS[key]}"
            raise InputError(f"{override}: has no effect in a stream (scenario.passes=online); set {way}")
        steps = "trainer.iterations" if key == "trainer.epochs" else f"{key.removesuffix('_epochs')}_steps"
        if key.endswith("epochs") and value != "null" and (n := at(settings, steps)) is not None:
            raise InputError(f"{override}: has no effect with {steps}={n}; leave it out, or set {steps}=null")


def unread(settings: Mapping[str, Any], declared: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The keys that nothing reads, each with the setting that makes it so ('' where nothing ever does).

    declared: what the method says of that, see `Method.unread`.
    """
    found: dict[str, str] = {}
    for name, beside in declared.items():
        keys = [name if "." in name else f"method.{name}"]
        if name in WHOLE:
            keys = [name, *(f"{name}.{key}" for key in settings.get(name) or {})]
        if not beside:
            found |= dict.fromkeys(keys, "")
        for other, values in beside.items():
            other = other if "." in other else f"method.{other}"
            value = at(settings, other)
            if (value is not None) if values is ... else value in (values if isinstance(values, tuple) else (values,)):
                found |= dict.fromkeys(keys, f"{other}={typed(value)}")
    if at(settings, "optimizer._target_") == SGD and not at(settings, "optimizer.momentum"):  # it has no moments
        found["optimizer.keep_state"] = "optimizer.momentum=0"
    if at(settings, "scenario.passes") == "online":  # an optimizer goes on to the end of the stream
        found["optimizer.keep_state"] = "scenario.passes=online"
    if (size := at(settings, "memory.bytes")) is not None:
        found["memory.images"] = f"memory.bytes={size}"
    if isinstance(at(settings, "method.optimizer"), Mapping):
        keys = (f"optimizer.{key}" for key in settings.get("optimizer") or {})
        found |= dict.fromkeys(("optimizer", *keys), "method.optimizer")
    for key, other, value in OF_SCENARIOS:
        if (there := at(settings, other)) == value:
            found[key] = f"{other}={typed(there)}"
    if (kind := at(settings, "scenario.kind")) in ("task", "domain"):
        found["scenario.train_mask"] = f"scenario.kind={kind}"
    return found


def typed_key(override: str) -> str:
    """The key that an override sets.

    >>> typed_key("++method.decay=1"), typed_key("memory=9")
    ('method.decay', 'memory.images')
    """
    key, _, value = override.lstrip("+").partition("=")
    return "memory.images" if key == "memory" and not value.startswith("{") else key


def without_effect(found: Mapping[str, str], overrides: Iterable[str]) -> list[str]:
    """A line for each override of a key that nothing reads. found: these keys, see `unread`."""
    lines = []
    for override in overrides:
        key = typed_key(override)
        if key in found:
            lines.append(f"{override}: has no effect" + (f" with {found[key]}" if found[key] else " with this method"))
    return lines
