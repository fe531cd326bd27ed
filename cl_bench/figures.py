"""The pictures of a run, as PNG files: its accuracies, the classes it replays, images it generates.

The object-oriented API of matplotlib throughout: pyplot costs a second and keeps figures in global state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

if TYPE_CHECKING:
    from torch import Tensor

Matrix = Sequence[Sequence[float | None]]

ORDERED = colormaps["viridis"]  # early tasks dark, late ones light; told apart by the colour-blind too
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":")
LEGEND_ROWS = 12


def draw_results(results: Mapping[str, Any], folder: Path) -> None:
    """Every figure that results.json has the numbers for."""
    labels = task_labels(results["classes"])
    accuracy_matrix(results["R"], labels, folder / "accuracy_matrix.png")
    accuracy_over_tasks(results["R"], labels, folder / "accuracy_over_tasks.png")
    replayed = {
        labels[task["task"]]: task["facts"]["replay_histogram"]
        for task in results["tasks"]
        if task["facts"].get("replay_histogram")
    }
    if replayed:
        class_histogram(replayed, folder / "replay_histogram.png")


def task_labels(classes: Sequence[Sequence[str]]) -> list[str]:
    """A short name per task: its number, from 1, and its classes where they differ and there is room.

    >>> task_labels([["0", "1"], ["2", "3"]]), task_labels([["0", "1"], ["0", "1"]])
    (['1: 0 1', '2: 2 3'], ['1', '2'])
    """
    names = [" ".join(task) for task in classes]
    if len(set(names)) < len(names) or max(map(len, names)) > 12:
        return [str(i) for i in range(1, len(names) + 1)]
    return [f"{i}: {name}" for i, name in enumerate(names, 1)]


def accuracy_matrix(R: Matrix, labels: Sequence[str], path: Path) -> None:
    """A heat map with numbers: accuracy after learning each task (row) on each task (column).

    Tasks not learned yet, right of the black steps, are pale; what was not measured is blank.

    R: accuracies in [0, 1], shape (T, T); None or NaN for what was not measured.
    labels: one per task.
    """
    accuracy = np.array(R, dtype=float)
    T = len(accuracy)
    future = np.triu(np.ones((T, T), dtype=bool), k=1)
    figure = Figure(figsize=(0.42 * T + 2.6, 0.42 * T + 1.6), layout="constrained")
    axes = figure.add_subplot()
    heat = axes.imshow(accuracy, cmap="Blues", vmin=0, vmax=1, alpha=np.where(future, 0.35, 1.0))
    for i, j in np.argwhere(~np.isnan(accuracy)):
        colour = "0.45" if future[i, j] else "white" if accuracy[i, j] > 0.55 else "black"
        axes.text(j, i, f"{100 * accuracy[i, j]:.0f}", ha="center", va="center", color=colour, fontsize=9)
    ends = np.arange(T) + 0.5
    axes.plot(np.repeat(ends, 2), np.stack([ends - 1, ends], axis=1).ravel(), color="black", linewidth=1.2)
    upright = max(map(len, labels)) > 3
    axes.set_xticks(range(T), labels, rotation=90 if upright else 0)
    axes.set_yticks(range(T), labels)
    axes.set(xlabel="accuracy on task", ylabel="after learning task", title="Accuracy in %")
    figure.colorbar(heat, ax=axes, format=PercentFormatter(1), aspect=30)
    save(figure, path)


def accuracy_over_tasks(R: Matrix, labels: Sequence[str], path: Path) -> None:
    """How the accuracy on each task develops once it is learned, and the mean over the tasks seen so far.

    R, labels: as for `accuracy_matrix`.
    """
    accuracy = np.array(R, dtype=float)
    T = len(accuracy)
    after = np.arange(1, T + 1)
    figure = Figure(figsize=(6.4 + 0.12 * T, 4.2), layout="constrained")
    axes = figure.add_subplot()
    mean = [accuracy[i, : i + 1].mean() for i in range(T)]
    # On top of all, but a task that develops like the mean has to show through.
    axes.plot(after, mean, color="black", linewidth=5, alpha=0.5, zorder=3, label="mean of tasks seen")
    for j in range(T):
        axes.plot(
            after[j:],
            accuracy[j:, j],
            color=ORDERED(0.88 * j / max(T - 1, 1)),
            marker=MARKERS[j % len(MARKERS)],
            linestyle=DASHES[j // len(MARKERS) % len(DASHES)],
            markersize=5,
            linewidth=1.2,
            label=f"task {labels[j]}",
        )
    axes.set_xticks(after, labels, rotation=90 if max(map(len, labels)) > 3 and T > 8 else 0)
    axes.set(xlabel="after learning task", ylabel="accuracy", title="Accuracy on each task", ylim=(-0.02, 1.02))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", ncols=1 + T // LEGEND_ROWS, fontsize=8, frameon=False)
    save(figure, path)


def class_histogram(counts: Mapping[str, Sequence[int]], path: Path, names: Sequence[str] = ()) -> None:
    """How the replayed images are spread over the classes: a bar per task, stacked by class, in per cent.

    counts: for the label of each task that replays, the number of images of each class, in the same order.
    names: of the classes, by default their numbers.
    """
    table = np.array(list(counts.values()), dtype=float)
    total = table.sum(axis=1)
    share = table / np.maximum(total, 1)[:, None]
    present = [c for c in range(table.shape[1]) if table[:, c].any()]
    names = names or [str(c) for c in range(table.shape[1])]
    norm = Normalize(min(present, default=0), max(present, default=1))
    colours = {c: ORDERED(float(norm(c))) for c in present}
    bars = max(len(counts), 4)
    figure = Figure(figsize=(2.6 + 0.55 * bars, 4.4), layout="constrained")
    axes = figure.add_subplot()
    where, bottom = np.arange(len(counts)), np.zeros(len(counts))
    for c in present:
        ink = "black" if sum(colours[c][:3]) > 1.4 else "white"
        axes.bar(where, share[:, c], bottom=bottom, color=colours[c], edgecolor="white", linewidth=0.6, width=0.85)
        for i in np.flatnonzero(share[:, c] > 0.055).tolist():  # there is room for a name
            axes.text(i, bottom[i] + share[i, c] / 2, names[c], ha="center", va="center", fontsize=8, color=ink)
        bottom += share[:, c]
    for i, n in enumerate(total):
        axes.text(i, 1.01, f"{n:.0f}", ha="center", va="bottom", fontsize=8, rotation=90 if len(counts) > 6 else 0)
    axes.set_xticks(where, list(counts), rotation=90 if max(map(len, counts)) > 3 else 0)
    axes.set(xlabel="while learning task", ylabel="share of the replayed images")
    axes.set_title("Classes replayed, total on top", loc="left", pad=34 if len(counts) > 6 else 20)
    axes.set(xlim=(-0.6, bars - 0.4), ylim=(0, 1))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.spines[["top", "right"]].set_visible(False)
    if len(present) <= 2 * LEGEND_ROWS:
        handles = [Patch(color=colours[c], label=f"class {names[c]}") for c in reversed(present)]
        figure.legend(handles=handles, loc="outside right upper", fontsize=8, frameon=False)
    else:
        figure.colorbar(ScalarMappable(norm, ORDERED), ax=axes, label="class", aspect=30)
    save(figure, path)


def sample_grid(images: Tensor, path: Path) -> None:
    """Images in [0, 1], shape (rows, columns, C, H, W), side by side and large enough to be looked at."""
    from torchvision.utils import save_image

    scale = max(1, round(48 / images.shape[-1]))
    large = images.repeat_interleave(scale, dim=-1).repeat_interleave(scale, dim=-2)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(large.flatten(0, 1), path, nrow=images.shape[1], pad_value=0.5)


def save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, metadata={"Software": None})  # no version: equal pictures are equal files
