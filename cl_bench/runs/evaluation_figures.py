"""The figures of accuracies on all tasks so far, while each task is learned."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from cl_bench.record import MOST_TASKS, Results
from cl_bench.runs.drawing import (
    DASHES,
    MARKERS,
    ORDERED,
    as_shares,
    legend_of_tasks,
    references,
    save,
    ticked,
    wide,
)


def accuracy_while_learning(results: Results, labels: Sequence[str], path: Path) -> None:
    """Accuracy on each task from the step on at which its training begins, and the mean over the tasks so far, against
    the steps of the whole run; of many tasks those that were followed.

    labels: one per task.
    """
    T, start, borders = len(labels), 0, [0]
    curves: dict[int, list[tuple[float, float]]] = defaultdict(list)
    mean, on = [], ""
    for record in results.tasks:
        for phase in record.phases:
            if found := phase.evaluation:
                on = found.on
                for step, accuracies in found.points:
                    known = [np.nan if accuracy is None else accuracy for accuracy in accuracies]
                    mean.append((start + step, float(np.mean(known))))
                    for task, accuracy in zip(found.tasks or [T], known, strict=True):
                        curves[task].append((start + step, accuracy))
            start += phase.steps
        borders.append(start)

    figure = Figure(figsize=(8.4 + wide(T), 4.2), layout="constrained")
    axes = figure.add_subplot()
    shared = T in curves
    name = "test set of all tasks" if shared else "mean of tasks seen"
    axes.plot(*np.array(mean).T, color="black", linewidth=4, alpha=0.45, zorder=3, label=name)
    for task, points in sorted(curves.items()) if not shared else ():
        axes.plot(
            *np.array(points).T,
            color=ORDERED(0.88 * task / max(T - 1, 1)),
            linestyle=DASHES[task // len(MARKERS) % len(DASHES)],
            linewidth=1.1,
            label=f"task {labels[task]}",
        )
    steps = np.repeat(borders, 2)[1:-1]  # what is known after each task is so while it is learned
    lines = (
        None if values is None else np.repeat(np.array(values[: len(borders) - 1], dtype=float), 2)
        for values in (results.joint, results.chance)
    )
    references(axes, steps, *lines)
    middles = [(left + right) / 2 for left, right in pairwise(borders)]
    for border in borders[1:-1] if T <= MOST_TASKS else ():
        axes.axvline(border, color="0.75", linewidth=0.8, zorder=0)
    top = axes.secondary_xaxis("top")
    named = [task for task in ticked(T) if task < len(middles)]
    upright = max(map(len, labels)) > 3 and T > 8
    top.set_xticks([middles[task] for task in named], [labels[task] for task in named], rotation=90 * upright)
    top.tick_params(length=0)
    top.set_xlabel("while learning task")
    axes.set(xlabel="steps of the run", ylabel=f"accuracy on {on}", xlim=(0, start))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.locator_params(axis="x", integer=True)
    as_shares(axes)
    axes.grid(axis="y", alpha=0.3)
    legend_of_tasks(figure, axes, T)
    save(figure, path)


def validation_in_training(curves: Mapping[str, Sequence[tuple[int, float]]], path: Path) -> None:
    """Accuracy on the validation images of the tasks so far while each task is learned, one task after another.

    curves: for the label of each task (step, accuracy), steps counted from the beginning of its training.
    """
    figure = Figure(figsize=(6.4 + wide(len(curves)), 3.6), layout="constrained")
    axes = figure.add_subplot()
    start, middles = 0.0, []
    for number, curve in enumerate(curves.values()):
        steps, accuracy = np.array(curve, dtype=float).T
        marker = "." if len(curves) <= MOST_TASKS else None
        axes.plot(start + steps, accuracy, color=ORDERED(0.88 * number / max(len(curves) - 1, 1)), marker=marker)
        middles.append(start + steps[-1] / 2)
        start += steps[-1]
        if len(curves) <= MOST_TASKS:
            axes.axvline(start, color="0.7", linewidth=0.8)
    named, labels = ticked(len(curves)), list(curves)
    axes.set_xticks(
        [middles[task] for task in named], [labels[task] for task in named], rotation=90 if len(curves) > 8 else 0
    )
    axes.tick_params(axis="x", length=0)
    axes.set(
        xlabel="while learning task", ylabel="accuracy", title="Validation images of the tasks so far", xlim=(0, start)
    )
    as_shares(axes)
    axes.grid(axis="y", alpha=0.3)
    save(figure, path)
