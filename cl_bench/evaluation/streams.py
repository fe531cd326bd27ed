"""Metrics of a stream: what a learner knew of each image before it learned it, and of what came at any time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torchmetrics import MeanMetric

from cl_bench.record import TaskRecord


def stream_metrics(records: Sequence[TaskRecord], sizes: Sequence[int]) -> dict[str, float]:
    """online_accuracy: over all images of the stream, each before the step that learned it for the first time.

    A_AUC: the mean over all images that came of the accuracy on what came, sum_i acc_i (n_i - n_{i-1}) / n with n_i
    images at point i (Koh et al., 2022, equation 1).

    Args:
        records: of the tasks so far. sizes: images of each task.
    """
    online = [(record.online_accuracy, n) for record, n in zip(records, sizes, strict=False)]
    points = [point for record in records for phase in record.phases for point in phase.stream or ()]
    return {
        "online_accuracy": weighted_mean([(value, n) for value, n in online if value is not None]),
        "A_AUC": area_under_curve([(n, value) for n, value in points if value is not None]),
    }


def area_under_curve(points: Sequence[tuple[int, float]]) -> float:
    """The mean of a curve over the images that came: each value counts for the images since the one before.

    Args:
        points: (images that came, value), ascending.

    >>> f"{area_under_curve([(100, 0.9), (200, 0.5), (400, 0.7)]):.2f}"
    '0.70'
    """
    counts = [n for n, _ in points]
    return weighted_mean(
        [(value, n - before) for (n, value), before in zip(points, [0, *counts[:-1]], strict=True)] if points else []
    )


def weighted_mean(values: Sequence[tuple[float, float]]) -> float:
    """The mean of (value, weight), NaN of none.

    >>> weighted_mean([(0.5, 3), (1.0, 1)])
    0.625
    """
    mean = MeanMetric(nan_strategy="ignore").set_dtype(torch.float64)
    if not values:
        return float("nan")
    numbers, weights = torch.tensor(values, dtype=torch.float64).T
    mean.update(numbers, weights)
    return float(mean.compute())
