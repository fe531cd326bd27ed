"""What can be said of a few seeds: a mean with its interval, and whether two methods differ on the same seeds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr, stdtrit  # Student's t; scipy.stats has it too, and takes a second to import

CHANCE = 0.05  # what is below it is called more than chance
Ints, Floats = npt.NDArray[np.int64], npt.NDArray[np.float64]


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
    """The standard deviation of a sample of two or more. (numpy takes ten times as long for five numbers.)"""
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
        return self.holm is not None and self.holm < CHANCE


@dataclass(frozen=True)
class Comparisons:
    """Every pair of configurations that share a seed, an entry of each array for each; iterated, a `Comparison` each.

    first, second: places in what was compared. n: of shared seeds. mean, half: of the difference of the first minus
    the second. p, holm: as of a Comparison. NaN stands for its None.
    """

    first: Ints
    second: Ints
    n: Ints
    mean: Floats
    half: Floats
    p: Floats
    holm: Floats

    def __iter__(self) -> Iterator[Comparison]:
        return self._those(slice(None))

    def of(self, place: int) -> Iterator[Comparison]:
        """Those of one configuration with the others."""
        return self._those((self.first == place) | (self.second == place))

    def _those(self, chosen: Any) -> Iterator[Comparison]:
        columns = (self.first, self.second, self.n, self.mean, self.half, self.p, self.holm)
        for first, second, n, mean, *rest in zip(*(column[chosen].tolist() for column in columns), strict=True):
            half, p, corrected = (None if math.isnan(value) else value for value in rest)
            yield Comparison(first, second, Estimate(mean, half, n), p, corrected)

    def clearly_below(self, place: int, better: int) -> set[int]:
        """What this one is better than by more than chance. better: 1 where more is better, -1 where less is."""
        clear, sign = self.holm < CHANCE, better * self.mean
        worse = self.second[clear & (self.first == place) & (sign > 0)].tolist()
        return {*worse, *self.first[clear & (self.second == place) & (sign < 0)].tolist()}


def compare(scores: Sequence[Mapping[int, float]]) -> Comparisons:
    """Every pair of configurations that share a seed.

    The correction covers all pairs of `scores`: hand in every configuration that was tried, as to test those alone
    that came out first finds differences where there are none.

    scores: for each configuration a score per seed.
    """
    seeds = sorted({seed for of in scores for seed in of})
    table = np.array([[of.get(seed, math.nan) for seed in seeds] for of in scores]).reshape(len(scores), len(seeds))
    first, second = np.triu_indices(len(scores), 1)
    differences = table[first] - table[second]
    shared = ~np.isnan(differences)
    n = shared.sum(1)
    kept = n > 0
    first, second, n, shared, differences = first[kept], second[kept], n[kept], shared[kept], differences[kept]
    mean = np.where(shared, differences, 0).sum(1) / n
    several = np.where(n > 1, n, 2)
    spread = np.sqrt((np.where(shared, differences - mean[:, None], 0) ** 2).sum(1) / (several - 1))
    error = np.where(n > 1, spread / np.sqrt(n), math.nan)
    tested = (n > 1) & (spread > 1e-12)
    p, corrected = np.full((2, len(n)), math.nan)
    p[tested] = 2 * stdtr(n[tested] - 1, -np.abs(mean[tested] / error[tested]))
    corrected[tested] = holm(p[tested])
    return Comparisons(first, second, n, mean, stdtrit(several - 1, 0.975) * error, p, corrected)


def holm(ps: Sequence[float] | Floats) -> Floats:
    """The same p values, corrected by Holm (1979): the chance of a single false alarm among them all stays below each.

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    ps = np.asarray(ps, dtype=float)
    order = np.argsort(ps, kind="stable")
    corrected = np.empty_like(ps)
    corrected[order] = np.maximum.accumulate(np.minimum(1, np.arange(len(ps), 0, -1) * ps[order]))
    return corrected
