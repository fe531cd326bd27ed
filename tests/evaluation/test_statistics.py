"""Intervals, paired tests and their correction, against scipy.stats and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from cl_bench.evaluation.statistics import compare, estimate, holm


@pytest.mark.parametrize("n", [2, 3, 10])
def test_interval_is_that_of_scipy(n: int) -> None:
    values = np.random.default_rng(n).normal(0.8, 0.1, n)
    found = estimate(values.tolist())
    assert found
    assert found.half is not None
    low, high = stats.t.interval(0.95, n - 1, values.mean(), stats.sem(values))
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high), rel=1e-9)


def test_one_seed_has_no_interval_and_none_no_mean() -> None:
    one = estimate([0.5])
    assert one
    assert (one.mean, one.half, one.n) == (0.5, None, 1)
    assert estimate([]) is None


def test_paired_t_is_that_of_scipy() -> None:
    first, second = np.random.default_rng(0).normal(0.8, 0.1, (2, 6))
    (pair,) = compare([dict(enumerate(first)), dict(enumerate(second))])
    assert pair.p == pytest.approx(stats.ttest_rel(first, second).pvalue, rel=1e-9)
    low, high = stats.t.interval(0.95, 5, (first - second).mean(), stats.sem(first - second))
    assert pair.difference.half == pytest.approx((high - low) / 2, rel=1e-9)


@pytest.mark.parametrize("differences", [[0.1], [0.1, 0.1, 0.1], [0.0, 0.0]])
def test_no_test_where_differences_do_not_vary(differences: list[float]) -> None:
    (pair,) = compare([dict(enumerate(differences)), dict.fromkeys(range(len(differences)), 0.0)])
    assert (pair.p, pair.holm, pair.clear, pair.difference.n) == (None, None, False, len(differences))
    assert (pair.difference.half is None) == (len(differences) == 1)


def test_holm_by_hand() -> None:
    """0.005 * 4; 0.01 * 3; then 0.03 * 2 and 0.04 * 1, which can't be below the one before it."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]).tolist() == [1.0, 1.0]
    assert holm([]).tolist() == []


def test_pairs_are_compared_on_shared_seeds_alone() -> None:
    scores = [{0: 0.9, 1: 0.8, 2: 0.7}, {1: 0.5, 2: 0.6, 3: 0.0}, {7: 1.0}]
    (pair,) = compare(scores)
    assert (pair.first, pair.second, pair.difference.n) == (0, 1, 2)
    assert pair.difference.mean == pytest.approx(0.2)
    assert pair.p == pair.holm == pytest.approx(stats.ttest_rel([0.8, 0.7], [0.5, 0.6]).pvalue)


def test_what_is_clearly_below_one() -> None:
    scores = [{seed: level + 0.001 * (seed * place % 3) for seed in range(5)} for place, level in enumerate((5, 9, 1))]
    pairs = compare(scores)
    assert [pairs.clearly_below(place, better=1) for place in range(3)] == [{2}, {0, 2}, set()]
    assert [pairs.clearly_below(place, better=-1) for place in range(3)] == [{1}, set(), {0, 1}]
    assert list(compare([])) == list(compare([{0: 1.0}])) == list(compare([{0: 1.0}, {1: 1.0}])) == []
