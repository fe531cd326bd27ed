"""The figure of plasticity: how well a network still learns, for each task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from cl_bench.record import PLASTICITY, TaskRecord, thinned
from cl_bench.runs.drawing import as_shares, save, ticks, wide

TITLES = {
    "online_accuracy": "Online accuracy\n(before each image is learned)",
    "dead_units": "Dead hidden units\n(0 on all images of the new task)",
    "effective_rank": "Effective rank\n(mean of the hidden layers)",
    "weight_magnitude": "Weights\n(mean absolute value)",
}


def plasticity_over_tasks(records: Mapping[str, TaskRecord], path: Path) -> None:
    """The numbers of PLASTICITY that were measured: online accuracy in each task, the others before it was learned.

    records: for the label of each task.
    """
    labels, found = list(records), [record.of_plasticity for record in records.values()]
    table = {name: np.array([values[name] for values in found], dtype=float) for name in PLASTICITY}
    table = {name: values for name, values in table.items() if np.isfinite(values).any()}
    figure = Figure(figsize=(1.0 + len(table) * (2.6 + 0.4 * wide(len(labels))), 3.4), layout="constrained")
    grid = figure.subplots(1, len(table), squeeze=False).ravel().tolist()
    for axes, (name, values) in zip(grid, table.items(), strict=True):
        axes.plot(np.arange(1, 1 + len(values)), values, marker="o", markersize=4, markevery=thinned(len(values)))
        axes.set_title(TITLES[name], fontsize=10)
        ticks(axes, labels)
        axes.set_xlabel("while learning task" if name == "online_accuracy" else "before learning task")
        axes.grid(alpha=0.3)
        if name in ("online_accuracy", "dead_units"):
            as_shares(axes)
        else:
            axes.set_ylim(bottom=0)
    save(figure, path)
