"""Values that a person typed and that nothing would read: better refused than believed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cl_bench.config.errors import InputError
from cl_bench.config.tuned import at

OF_STREAMS = {f"scenario.{key}" for key in ("batch_size", "updates_per_batch", "measure_every", "repeat")}
IN_STREAMS = {"trainer.epochs": "updates_per_batch", "trainer.batch_size": "batch_size"}


def check_idle(settings: Mapping[str, Any], overrides: Iterable[str]) -> None:
    """Raises InputError for an override that has no effect beside the others."""
    passes = at(settings, "scenario.passes")
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        if passes == "epochs" and key in OF_STREAMS:
            other = f", or trainer.batch_size={value}" if key == "scenario.batch_size" else ""
            raise InputError(f"{override}: says nothing but of a stream; set scenario.passes=online{other}")
        if passes == "online" and key in IN_STREAMS:
            way = f"scenario.{IN_STREAMS[key]}"
            raise InputError(f"{override}: says nothing of a stream (scenario.passes=online); set {way}")
        steps = "trainer.iterations" if key == "trainer.epochs" else key.replace("_epochs", "_steps")
        if steps != key and value != "null" and (n := at(settings, steps)) is not None:
            raise InputError(f"{override}: says nothing beside {steps}={n}; leave it out, or set {steps}=null")
