"""When a method that consolidates does so without being told where a task ends."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from cl_bench.config import InputError
from cl_bench.data.batches import Batch
from cl_bench.data.problem import Problem


class Countdown(nn.Module):
    """Counts mini-batches, over phases and kills, and says which of them ends an interval.

    Args:
        interval: mini-batches. One that a stream has several updates for counts once, after the last of them.
    """

    def __init__(self, interval: int) -> None:
        super().__init__()
        self.interval, self.seen = interval, 0

    @property
    def passed(self) -> bool:
        """Whether an interval has ended."""
        return self.seen >= self.interval

    def ends(self, batch: Batch) -> bool:
        """Counts a mini-batch that was learned; whether an interval ends with it."""
        if batch.updates_left:
            return False
        self.seen += 1
        return self.seen % self.interval == 0

    def get_extra_state(self) -> dict[str, int]:
        return {"seen": self.seen}

    def set_extra_state(self, state: Mapping[str, int]) -> None:
        self.seen = state["seen"]


def countdown(interval: int | None, problem: Problem) -> Countdown | None:
    """The countdown of a method with `method.consolidate_every`; None where it consolidates when a task ends.

    Raises InputError for that in a stream.
    """
    if interval is None and problem.online:
        raise InputError(
            "method.consolidate_every=null: consolidates when a task ends, and with scenario.passes=online the end is "
            "not known; set a number of mini-batches, such as method.consolidate_every=100"
        )
    return Countdown(interval) if interval else None


def anchored(countdown: Countdown | None, index: int) -> bool:
    """Whether there is an anchor yet to be pulled to: that of an interval, or without a countdown of a task before.

    Args:
        index: of the task being learned.
    """
    return countdown.passed if countdown else index > 0
