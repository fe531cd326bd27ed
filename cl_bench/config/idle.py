"""Values that a person typed and that nothing would read: better refused than believed."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any

from cl_bench.config.errors import InputError
from cl_bench.config.tuned import at

IN_STREAMS = {"trainer.epochs": "updates_per_batch", "trainer.batch_size": "batch_size"}


def check_idle(settings: Mapping[str, Any], overrides: Iterable[str], of_streams: Container[str]) -> None:
    """Raises InputError for an override that has no effect beside the others.

    of_streams: keys of a scenario that only a stream has.
    """
    passes = at(settings, "scenario.passes")
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        if passes == "epochs" and key.startswith("scenario.") and key.removeprefix("scenario.") in of_streams:
            other = f", or trainer.batch_size={value}" if key == "scenario.batch_size" else ""
            raise InputError(f"{override}: says nothing but of a stream; set scenario.passes=online{other}")
        if passes == "online" and key in IN_STREAMS:
            way = f"scenario.{IN_STREAMS[key]}"
            raise InputError(f"{override}: says nothing of a stream (scenario.passes=online); set {way}")
        steps = "trainer.iterations" if key == "trainer.epochs" else f"{key.removesuffix('_epochs')}_steps"
        if key.endswith("epochs") and value != "null" and (n := at(settings, steps)) is not None:
            raise InputError(f"{override}: says nothing beside {steps}={n}; leave it out, or set {steps}=null")
