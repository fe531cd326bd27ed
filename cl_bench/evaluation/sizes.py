"""How what a method needs grows with the tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence


def growth_rate(sizes: Sequence[float]) -> float:
    """Growth per task of what answers need, in shares of the first: (P_T - P_1) / ((T - 1) P_1); NaN before task 2.

    sizes: bytes after each task so far, P_1 to P_T. 0 for one network, 1 for a network per task, more where they are
    also connected.

    >>> growth_rate([100, 200, 300]), growth_rate([100, 100])
    (1.0, 0.0)
    """
    first, last = (sizes[0], sizes[-1]) if sizes else (0, 0)
    return (last - first) / ((len(sizes) - 1) * first) if len(sizes) > 1 and first else math.nan
