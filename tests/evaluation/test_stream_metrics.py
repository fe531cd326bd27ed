"""Metrics of streams against loops."""

from __future__ import annotations

import math

import pytest

from cl_bench.evaluation.streams import area_under_curve, weighted_mean


def test_the_area_counts_each_value_for_the_images_since_the_one_before() -> None:
    points = [(10, 0.2), (30, 0.6), (35, 1.0)]
    each = [0.2] * 10 + [0.6] * 20 + [1.0] * 5
    assert area_under_curve(points) == pytest.approx(sum(each) / 35)


def test_nothing_measured_is_nan() -> None:
    assert math.isnan(area_under_curve([]))
    assert math.isnan(weighted_mean([]))
