"""Proximal maps, against the best point of a grid."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cl_bench.methods.parts.proximal import pull, shrink_rows, soft_threshold

AMOUNTS = [0.0, 0.3, 1.7]


def best(points: Tensor, penalty: Tensor, v: float) -> float:
    """argmin_w penalty(w) + 1/2 (w - v)^2 over the points."""
    return float(points[(penalty + (points - v) ** 2 / 2).argmin()])


@pytest.mark.parametrize("amount", AMOUNTS)
@pytest.mark.parametrize("v", [-2.0, -0.25, 0.0, 0.3, 1.5])
def test_of_the_absolute_value_and_of_the_square(v: float, amount: float) -> None:
    points = torch.linspace(-3, 3, 60_001, dtype=torch.float64)
    w = torch.tensor([v], dtype=torch.float64)
    soft_threshold(w, amount)
    assert float(w) == pytest.approx(best(points, amount * points.abs(), v), abs=1e-4)
    old, w = torch.tensor([0.7], dtype=torch.float64), torch.tensor([v], dtype=torch.float64)
    pull(w, old, amount)
    assert float(w) == pytest.approx(best(points, amount * (points - 0.7) ** 2, v), abs=1e-4)


@pytest.mark.parametrize("amount", AMOUNTS)
def test_of_the_length_of_a_row(amount: float) -> None:
    """The best row lies along the old one, so a grid of lengths is enough; that it does is tried beside it."""
    points = torch.linspace(0, 5, 50_001, dtype=torch.float64)
    rows = torch.tensor([[0.3, -0.4], [1.2, 1.6], [0.0, 0.0], [0.1, 0.0]], dtype=torch.float64)
    found = rows.clone()
    shrink_rows(found, amount)
    for row, shrunk in zip(rows, found, strict=True):
        length = float(row.norm())
        expected = best(points, amount * points, length)
        assert float(shrunk.norm()) == pytest.approx(expected, abs=1e-4)
        assert torch.allclose(shrunk * length, row * shrunk.norm())
        worth = amount * shrunk.norm() + (shrunk - row).pow(2).sum() / 2
        for angle in range(8):
            aside = shrunk + 0.05 * torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
            assert amount * aside.norm() + (aside - row).pow(2).sum() / 2 >= worth


def test_what_is_smaller_than_the_amount_is_exactly_0() -> None:
    w, rows = 0.01 * torch.randn(50), 0.01 * torch.randn(5, 4)
    soft_threshold(w, 0.1)
    shrink_rows(rows, 0.1)
    assert not w.any()
    assert not rows.any()


def test_amounts_beyond_float32_leave_nothing() -> None:
    """Large strengths times large step sizes."""
    rows = torch.ones(2, 3), torch.ones(2, 3)
    soft_threshold(rows[0], 1e50)
    shrink_rows(rows[1], 1e50)
    assert not any(row.any() for row in rows)
