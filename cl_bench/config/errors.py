"""What goes wrong, in one line that names the key, the value and the way out."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from typing import Any


class KnownError(Exception):
    """Something went wrong and one line, the message, says all about it."""


class InputError(KnownError, ValueError):
    """What a person asked for can't be done; the message is one line that names the key and the way out."""


class NotApplicable(InputError):
    """A method has no meaning in a scenario: an error of one run, and in a sweep over both a combination to leave out.

    method, scenario: their names, as chosen. why: the rest of the line.
    """

    def __init__(self, method: str, scenario: str, why: str) -> None:
        super().__init__(f"method={method}: {why}")
        self.method, self.scenario = method, scenario


class Stopped(BaseException):
    """A signal asked the run to stop; everything is saved. No Exception: a whole sweep stops, not one run of it."""

    def __init__(self, signal: int) -> None:
        super().__init__(f"stopped by signal {signal}")
        self.signal = signal


def out_of_memory(error: BaseException) -> bool:
    """Whether that is what went wrong; torch says so in words alone."""
    return isinstance(error, MemoryError) or "allocate memory" in str(error) or "out of memory" in str(error)


def nearest(name: str, choices: Iterable[str], prefix: str = "") -> str:
    """'; did you mean X?' with the choice most like `name`, or the list of choices when none is near.

    prefix: what stands before each choice when it is typed, such as 'method.'.
    """
    choices = sorted(map(str, choices))
    near = difflib.get_close_matches(str(name), choices, n=1, cutoff=0.5)
    if near:
        return f"; did you mean '{prefix}{near[0]}'?"
    return f"; choose from {', '.join(prefix + choice for choice in choices)}" if choices else ""


def typed(value: Any) -> str:
    """A value as a person types it on the command line."""
    return str(value) if isinstance(value, str | float) else json.dumps(value, separators=(",", ":"))
