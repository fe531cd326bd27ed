"""What can be said of a few seeds: a mean with its interval, and whether two methods differ on the same seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from scipy.special import stdtr, stdtrit  # Student's t; scipy.stats has it too, and takes a second to import


@dataclass(frozen=True)
class Estimate:
    """A mean over n seeds; `half` is half the width of its 95% interval, None when one seed says nothing of it."""

    mean: float
    half: float | None
    n: int


def estimate(values: Sequence[float]) -> Estimate | None:
    """The mean and its 95% interval by Student's t, None of no values.

    >>> found = estimate([0.8, 0.9, 1.0])  # t = 4.303
    >>> f"{found.mean:.3f} ± {found.half:.3f}"
    '0.900 ± 0.248'
    """
    n = len(values)
    if n == 0:
        return None
    half = quantile(n - 1) * deviation(values) / math.sqrt(n) if n > 1 else None
    return Estimate(math.fsum(values) / n, half, n)


def deviation(values: Sequence[float]) -> float:
    """The standard deviation of a sample of two or more. (Thousands of pairs are compared: numpy takes ten times as
    long for five numbers.)"""
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


@cache
def quantile(degrees: int) -> float:
    """How many standard errors a 95% interval reaches to either side, by Student's t."""
    return float(stdtrit(degrees, 0.975))


@dataclass(frozen=True)
class Comparison:
    """Two configurations, by their place in what was compared, on the seeds that both have.

    difference: of the first minus the second. p: of a two-sided paired t-test, None where fewer than two seeds are
    shared or the difference is the same on all of them. holm: p corrected for all that was tested together.
    """

    first: int
    second: int
    difference: Estimate
    p: float | None
    holm: float | None

    @property
    def clear(self) -> bool:
        """Whether the two differ by more than chance, at the level of 5% for all that was tested together."""
        return self.holm is not None and self.holm < 0.05


def compare(scores: Sequence[dict[int, float]]) -> list[Comparison]:
    """Every pair of configurations that share a seed.

    The correction covers all pairs of `scores`: hand in every configuration that was tried, as to test those alone
    that came out first finds differences where there are none.

    scores: for each configuration a score per seed.
    """
    pairs = []
    for i, first in enumerate(scores):
        for j in range(i + 1, len(scores)):
            differences = [first[seed] - scores[j][seed] for seed in sorted(first.keys() & scores[j].keys())]
            if difference := estimate(differences):
                pairs.append((i, j, difference, paired_t(differences)))
    corrected = iter(holm([p for *_, p in pairs if p is not None]))
    return [Comparison(i, j, by, p, None if p is None else next(corrected)) for i, j, by, p in pairs]


def paired_t(differences: Sequence[float]) -> float | None:
    """p of the two-sided paired t-test, None where it can't be made: one pair, or all differ by the same."""
    n, spread = len(differences), deviation(differences) if len(differences) > 1 else 0.0
    if spread <= 1e-12:
        return None
    t = math.fsum(differences) / n / (spread / math.sqrt(n))
    return 2 * float(stdtr(n - 1, -abs(t)))


def holm(ps: Sequence[float]) -> list[float]:
    """The same p values, corrected by Holm (1979): the chance of a single false alarm among them all stays below each.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    corrected, largest = [0.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[i]))
        corrected[i] = largest
    return corrected
