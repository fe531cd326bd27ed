"""What can't be measured is NaN, with a warning: it must not end a run."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import SupportsFloat, TypeVar

from cl_bench.config import KnownError

log = logging.getLogger(__name__)
T = TypeVar("T")


class OrNaN:
    """`or_nan(name, measure)`: the number that `measure()` gives, NaN where it can't be measured.

    What has been learned must not be lost for that: of each name the first failure is a warning, and the run goes on.
    """

    def __init__(self) -> None:
        self.warned: set[str] = set()

    def __call__(self, name: str, measure: Callable[[], SupportsFloat], of: str = "") -> float:
        """of: what it is measured of, for the warning."""
        found = self.attempt(name, lambda: float(measure()), of)
        return math.nan if found is None else found

    def attempt(self, name: str, measure: Callable[[], T], of: str = "") -> T | None:
        """What `measure()` gives, whatever that is; None where it can't be measured."""
        try:
            return measure()
        except KnownError:  # a signal to stop, say
            raise
        except Exception as error:
            if name not in self.warned:
                reason = " ".join(str(error).split()) or type(error).__name__
                log.warning("%s can't be measured: NaN (%s%s)", name, of and f"{of}: ", reason)
            self.warned.add(name)
            return None
