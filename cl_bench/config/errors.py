"""What goes wrong, in one line that names the key, the value and the way out."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

MOST_CHOICES = 100
"""More of them are no help in one line."""


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
    """'; did you mean X?' with the choice most like `name`, whatever its capitals, or the list of choices when none is
    near.

    prefix: what stands before each choice when it is typed, such as 'method.'.
    """
    choices = sorted(map(str, choices))
    if near := most_like(str(name), choices):
        return f"; did you mean '{prefix}{near}'?"
    more = f", ... ({len(choices):,} in total)" if len(choices) > MOST_CHOICES else ""
    some = choices[: 10 if more else None]
    return f"; choose from {', '.join(prefix + choice for choice in some)}{more}" if choices else ""


def most_like(name: str, choices: Iterable[str], likeness: float = 0.5) -> str | None:
    """The choice that is most like a name, whatever its capitals; None when none is as near as `likeness`, up to 1.

    >>> most_like("Emnist", ["EMNIST", "Omniglot"]), most_like("xyz", ["EMNIST"])
    ('EMNIST', None)
    """
    small = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(name.lower(), small, n=1, cutoff=likeness)
    return small[near[0]] if near else None


def no_such_folder(folder: Path) -> str:
    """That a folder isn't there, and which one beside it may be meant."""
    beside = folder.parent.iterdir() if folder.parent.is_dir() else ()
    names = [other.name for other in beside if other.is_dir() and not other.name.startswith(".")]
    return f"no such folder{nearest(folder.name, names)}"


def typed(value: Any) -> str:
    """A value as a person types it on the command line."""
    return str(value) if isinstance(value, str | float) else json.dumps(value, separators=(",", ":"))
