"""Consolidation after a number of mini-batches, for streams in which the end of a task is not known."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from cl_bench.config import InputError
from cl_bench.data.batches import Batch
from cl_bench.data.problem import Problem


class Countdown(nn.Module):
    """Counts mini-batches and says which of them ends an interval. The count continues over phases and after a kill.

    Args:
        interval: in mini-batches. A mini-batch with several updates (`updates_left`) counts once, after the last one.
    """

    def __init__(self, interval: int) -> None:
        super().__init__()
        self.interval, self.seen = interval, 0

    @property
    def passed(self) -> bool:
        """Whether the first interval has ended."""
        return self.seen >= self.interval

    def ends(self, batch: Batch) -> bool:
        """Counts a mini-batch that was learned. Returns whether an interval ends with it."""
        if batch.updates_left:
            return False
        self.seen += 1
        return self.seen % self.interval == 0

    def get_extra_state(self) -> dict[str, int]:
        return {"seen": self.seen}

    def set_extra_state(self, state: Mapping[str, int]) -> None:
        self.seen = state["seen"]


def countdown(interval: int | None, problem: Problem) -> Countdown | None:
    """The countdown for `method.consolidate_every=interval`. None for None: the method consolidates when a task ends.

    Raises InputError for None in a stream.
    """
    if interval is None and problem.online:
        raise InputError(
            "method.consolidate_every=null: consolidates when a task ends, and with scenario.passes=online the end is "
            "not known; set a number of mini-batches, such as method.consolidate_every=100"
        )
    return Countdown(interval) if interval else None


def anchored(countdown: Countdown | None, index: int) -> bool:
    """Whether the penalty has an anchor yet: after the first interval, or without a countdown after the first task.

    Args:
        index: the current task, from 0.

    >>> anchored(None, index=0), anchored(None, index=1)
    (False, True)
    """
    return countdown.passed if countdown else index > 0
