"""What the figures of a run share: colors, markers, labels of tasks, and how a figure is saved.

The object-oriented API of matplotlib throughout: pyplot costs a second and keeps figures in global state.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from cl_bench.record import MOST_TASKS, thinned

logging.getLogger("matplotlib").setLevel(logging.WARNING)  # names on an axis that could be numbers are a line each

Matrix = Sequence[Sequence[float | None]]
ORDERED = colormaps["viridis"]  # early tasks dark, late ones light; told apart by the color-blind too
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":")
LEGEND_ROWS = 12
MOST_TICKS = 20  # named along an axis of more than MOST_TASKS tasks


def task_labels(classes: Sequence[Sequence[str]]) -> list[str]:
    """A short name per task: its number, from 1, and its classes where they differ and there is room.

    >>> task_labels([["0", "1"], ["2", "3"]]), task_labels([["0", "1"], ["0", "1"]])
    (['1: 0 1', '2: 2 3'], ['1', '2'])
    """
    names = [as_text(" ".join(task)) for task in classes]
    if len(set(names)) < len(names) or max(map(len, names)) > 12:
        return [str(i) for i in range(1, len(names) + 1)]
    return [f"{i}: {name}" for i, name in enumerate(names, 1)]


def as_text(name: str) -> str:
    """A name as plain text for matplotlib: a dollar sign does not begin a formula."""
    return name.replace("$", r"\$")


def ticked(T: int) -> list[int]:
    """The tasks that an axis names, from 0: all, or some of many."""
    return thinned(T, MOST_TICKS) if T > MOST_TASKS else list(range(T))


def wide(T: int) -> float:
    """The inches by which T tasks along an axis make a figure wider."""
    return 0.12 * min(T, MOST_TASKS)


def curves(
    axes: Axes, table: np.ndarray, mean: np.ndarray, labels: Sequence[str], names: Sequence[str], mean_name: str
) -> None:
    """A curve for each column of a table (of many for some), by what was learned before, and their mean.

    table: shape (T, K), NaN where there is nothing; a row of nothing is left out of the lines. mean: shape (T,).
    labels: of the tasks. names: of the columns.
    """
    rows, K = np.isfinite(table).any(axis=1), table.shape[1]
    after, table, mean = np.flatnonzero(rows) + 1, table[rows], mean[rows]
    # On top of all, but a curve that develops like the mean has to show through.
    axes.plot(after, mean, color="black", linewidth=5, alpha=0.5, zorder=3, label=mean_name)
    marked = len(table) <= MOST_TASKS  # more of them lie on each other
    for j in thinned(K):
        axes.plot(
            after,
            table[:, j],
            color=ORDERED(0.88 * j / max(K - 1, 1)),
            marker=MARKERS[j % len(MARKERS)] if marked else None,
            linestyle=DASHES[j // len(MARKERS) % len(DASHES)],
            markersize=5,
            linewidth=1.2,
            label=names[j],
        )
    ticks(axes, labels)
    axes.grid(alpha=0.3)


def ticks(axes: Axes, labels: Sequence[str]) -> None:
    """The tasks along the x axis, from 1."""
    named = ticked(len(labels))
    upright = max(map(len, labels)) > 3 and len(labels) > 8
    axes.set_xticks([task + 1 for task in named], [labels[task] for task in named], rotation=90 if upright else 0)
    axes.set_xlabel("after learning task")


def references(axes: Axes, x: np.ndarray, joint: Any, chance: Any) -> None:
    """Lines to hold the curves against, at these places along the x axis, where they are known."""
    for values, name, dash in ((joint, "joint training", (0, (6, 2))), (chance, "chance", (0, (1, 1.5)))):
        if values is not None and len(x):
            y = np.array(values, dtype=float)
            axes.plot(x, y, color="0.35", linewidth=1.4, linestyle=dash, zorder=1, label=name)


def legend_of_tasks(figure: Figure, axes: Axes, T: int) -> None:
    """Names the curves of the tasks beside the axes; many are told by color alone, and the mean, and what the curves
    are held against, by name."""
    if T <= MOST_TASKS:
        figure.legend(loc="outside right upper", ncols=1 + T // LEGEND_ROWS, fontsize=8, frameon=False)
        return
    colorbar(figure, axes, T, "task")
    lines = [line for line in axes.lines if not str(line.get_label()).startswith(("task ", "_"))]
    axes.legend(handles=lines, fontsize=8, framealpha=0.7)


def as_shares(axes: Axes) -> None:
    """A y axis from 0 to 100 %."""
    axes.set_ylim(-0.02, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1))


def legend(figure: Figure, axes: Axes, n_classes: int) -> None:
    """Names the curves of the classes beside the axes, by color alone where they are many."""
    if n_classes <= 2 * LEGEND_ROWS:
        figure.legend(loc="outside right upper", ncols=1 + n_classes // LEGEND_ROWS, fontsize=8, frameon=False)
    else:
        colorbar(figure, axes, n_classes, "class")


def colorbar(figure: Figure, axes: Axes, n: int, what: str) -> None:
    """The colors of `curves`, whose last is not the lightest."""
    colors = ListedColormap(ORDERED(np.linspace(0, 0.88, n)))
    first = int(what == "task")  # tasks are numbered from 1, classes as their outputs
    figure.colorbar(ScalarMappable(Normalize(first, first + n - 1), colors), ax=axes, label=what, aspect=30)


def save(figure: Figure, path: Path) -> None:
    figure.set_dpi(150)
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a class name in letters that the font lacks
        # no version: equal pictures are equal files
        FigureCanvasAgg(figure).print_png(path, metadata={"Software": None})  # savefig would draw everything twice
