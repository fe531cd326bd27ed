"""The pictures of a run, as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

# The object-oriented API throughout: pyplot costs a second and keeps global state.

Matrix = Sequence[Sequence[float | None]]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito: safe to tell apart
MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # 6 and 7 have no common divisor: 42 lines before one comes again


def accuracy_matrix(R: Matrix, labels: Sequence[str], path: Path) -> None:
    """A heat map of the accuracy after learning each task (row) on each task (column), with the numbers.

    Tasks not learned yet (above the diagonal) are pale; what was not measured stays blank.

    R: accuracies in [0, 1], shape (T, T); None or NaN for what was not measured.
    labels: one per task.
    """
    accuracy = np.array(R, dtype=float)
    T = len(accuracy)
    future = np.triu(np.ones((T, T), dtype=bool), k=1)
    cell = max(0.46, 0.62 - 0.01 * T)  # inches: room for two digits
    figure = Figure(figsize=(cell * T + 2.4, cell * T + 1.5), layout="constrained")
    axes = figure.add_subplot()
    colours = colormaps["Blues"].copy()
    heat = axes.imshow(accuracy, cmap=colours, vmin=0, vmax=1, alpha=np.where(future, 0.35, 1.0))
    for i in range(T):
        for j in range(T):
            if not np.isnan(accuracy[i, j]):
                dark = accuracy[i, j] > 0.6 and not future[i, j]
                axes.text(
                    j, i, f"{100 * accuracy[i, j]:.0f}", ha="center", va="center",
                    color="white" if dark else "#777777" if future[i, j] else "black",
                )  # fmt: skip
    axes.set_xticks(range(T), labels, rotation=45 if crowded(labels) else 0)
    axes.set_yticks(range(T), labels)
    axes.set(xlabel="accuracy on task", ylabel="after learning task", title="Accuracy (%)")
    figure.colorbar(heat, ax=axes, format=PercentFormatter(1), shrink=0.8)
    save(figure, path)


def crowded(labels: Sequence[str]) -> bool:
    return max(map(len, labels)) > 4


def save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, metadata={"Software": None})  # no version: equal pictures are equal files
