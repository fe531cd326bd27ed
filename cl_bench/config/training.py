"""Keys of training that don't go with everything: what is refused, before anything is read or imported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cl_bench.config.errors import InputError, typed

OFF: dict[str, Any] = {
    "scheduler": {},
    "trainer.patience": None,
    "trainer.gradient_clip": None,
    "trainer.freeze_batch_norm": False,
    "label_smoothing": 0.0,
}
"""Keys that change how any method trains, each at the value that changes nothing."""

OF_TASKS = ("scheduler", "trainer.patience", "trainer.freeze_batch_norm")
"""Those that speak of a task's training from its beginning to its end."""

OURS = tuple(f"cl_bench.networks.schedules.{name}" for name in ("Cosine", "MultiStep", "Plateau"))
MULTISTEP = OURS[1]
SGD = "cl_bench.networks.optimizers.SGD"
OLD = ("milestones", "gamma")
"""Keys that SGD had before there was scheduler=multistep."""


def with_scheduler(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with a scheduler: those of a run from before there were any have none, or that of their SGD."""
    settings = {"scheduler": {}, **settings}
    optimizer = settings.get("optimizer")
    if isinstance(optimizer, Mapping) and optimizer.get("_target_") == SGD and not settings["scheduler"]:
        old = {name: optimizer[name] for name in OLD if name in optimizer}
        if old.get("milestones"):
            settings["scheduler"] = {"_target_": MULTISTEP, "warmup": 0.0, "gamma": 0.1} | old
        settings["optimizer"] = {key: value for key, value in optimizer.items() if key not in old}
    return settings


def without_scheduler(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings as they were written before there was a scheduler, where that can be said: SGD with milestones."""
    scheduler, optimizer = settings.get("scheduler") or {}, settings.get("optimizer") or {}
    kept = dict(settings)
    if optimizer.get("_target_") == SGD and scheduler.get("_target_") == MULTISTEP and not scheduler.get("warmup"):
        kept["optimizer"] = {**optimizer, **{name: scheduler.get(name) for name in OLD}}
        kept["scheduler"] = {}
    return kept


def check_training(settings: Mapping[str, Any], refused: Mapping[str, str]) -> None:
    """Raises InputError for a key that is set and has no meaning where images come as a stream, or with the method.

    refused: what the method says of itself.
    """
    chosen = f"method={settings['choices']['method']}"
    for key in OFF:
        value = at(settings, key)
        if value == OFF[key] or value is None:
            continue
        said = named(value) if key == "scheduler" else f"{key}={typed(value)}"
        off = "none" if key == "scheduler" else typed(OFF[key])
        if key in OF_TASKS and settings["scenario"].get("passes") == "online":
            raise InputError(
                f"{said}: needs whole tasks, and a stream (scenario.passes=online) has no known tasks; set {key}={off}"
            )
        if key in refused:
            raise InputError(f"{said}: {chosen} {refused[key]}; set {key}={off}")
    if at(settings, "scheduler.monitor") == "val_accuracy" and "trainer.patience" in refused:
        reason = refused["trainer.patience"]
        raise InputError(f"scheduler.monitor=val_accuracy: {chosen} {reason}; set scheduler.monitor=train_loss")


def check_validation(settings: Mapping[str, Any]) -> None:
    """Raises InputError for a key that goes by validation images where a task has none."""
    patience = at(settings, "trainer.patience")
    if patience or at(settings, "scheduler.monitor") == "val_accuracy":
        key = f"trainer.patience={patience}" if patience else "scheduler.monitor=val_accuracy"
        has_some = "val_fraction" in settings["scenario"]
        try_this = "set e.g. scenario.val_fraction=0.1" if has_some else "this scenario has none"
        raise InputError(f"{key}: needs validation images of each task; {try_this}")


def named(scheduler: Mapping[str, Any]) -> str:
    """A scheduler as a person chose it.

    >>> named({"_target_": "cl_bench.networks.schedules.MultiStep"}), named({"_target_": "mine.Steps"})
    ('scheduler=multistep', 'scheduler._target_=mine.Steps')
    """
    module, _, name = str(scheduler.get("_target_")).rpartition(".")
    return f"scheduler={name.lower()}" if f"{module}.{name}" in OURS else f"scheduler._target_={module}.{name}"


def at(settings: Any, key: str) -> Any:
    """What is at a dotted key; None where there is nothing."""
    for part in key.split("."):
        settings = settings.get(part) if isinstance(settings, Mapping) else None
    return settings
