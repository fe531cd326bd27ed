"""The pictures of a search for good values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cl_bench.runs.drawing import save


def search_history(accuracies: Sequence[float | None], tasks: str, path: Path) -> None:
    """How a search for good values went: each trial, those that failed at the bottom, and the best so far.

    accuracies: of the trials in their order, None for those that failed. tasks: whose validation images these are.
    """
    accuracy = np.array(accuracies, dtype=float)
    trial, failed = np.arange(1, len(accuracy) + 1), np.isnan(accuracy)
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    axes.step(trial, np.fmax.accumulate(accuracy), where="post", color="black", label="best so far")
    axes.plot(trial[~failed], accuracy[~failed], "o", color="tab:blue", label="trial")
    if failed.any():
        bottom = axes.get_xaxis_transform()
        axes.plot(trial[failed], np.full(failed.sum(), 0.02), "x", color="tab:red", transform=bottom, label="failed")
    axes.set(xlabel="trial", ylabel="accuracy", title=f"Validation images of {tasks}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    save(figure, path)


def search_importance(
    importance: Mapping[str, float], tried: Mapping[str, Sequence[tuple[Any, float]]], tasks: str, path: Path
) -> None:
    """How much each searched key matters, and the accuracy over its values, most important first.

    importance: share of each key, in descending order. tried: for each key (value, accuracy) of the trials.
    tasks: whose validation images the accuracies are of.
    """
    names, n = list(importance), len(importance)
    figure = Figure(figsize=(3.2 * (n + 1), 3.4), layout="constrained")
    first, *rest = figure.subplots(1, n + 1, squeeze=False).ravel().tolist()
    bars = first.barh(names, [importance[name] for name in names], color="tab:blue")
    first.bar_label(bars, fmt="{:.2f}", padding=2, fontsize=8)
    first.invert_yaxis()
    first.set(xlabel="importance (PED-ANOVA)", xlim=(0, 1.2))
    for axes, name in zip(rest, names, strict=True):
        values, accuracies = zip(*tried[name], strict=True)
        axes.plot(values, accuracies, "o", color="tab:blue", alpha=0.7)
        if all(isinstance(value, int | float) and value > 0 for value in values) and max(values) > 30 * min(values):
            axes.set_xscale("log")
        axes.set(xlabel=name, ylabel="accuracy")
        axes.grid(alpha=0.3)
    trials = len(next(iter(tried.values())))
    figure.suptitle(f"{trials} trials on validation images of {tasks}", fontsize=11)
    save(figure, path)
