"""The figures of single classes: the accuracy on each class, and confusion matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter

from cl_bench.record import ByClass, thinned
from cl_bench.runs.drawing import save, ticked

PANELS = 3  # confusion matrices in a picture
NUMBERS = 20  # largest number of classes with numbers in the cells


def accuracy_per_class(found: Mapping[str, ByClass], names: Sequence[str], path: Path) -> None:
    """A heat map: accuracy on each class (column) after learning each task (row); blank where it had no image yet.

    found: for the label of each task after which it was kept. names: of the classes.
    """
    labels = list(found)
    shown = thinned(len(labels))
    rows, classes = len(shown), max(len(of.accuracy) for of in found.values())
    table = np.full((rows, classes), np.nan)
    for row, accuracy in zip(table, (found[labels[place]].accuracy for place in shown), strict=True):
        row[: len(accuracy)] = accuracy  # of a run that is continued: it had fewer classes
    few = classes <= NUMBERS and rows <= NUMBERS
    width, height = (min(max(3.0, 0.42 * n), 8.4) for n in (classes, rows))
    figure = Figure(figsize=(width + 2.4, height + 1.6), layout="constrained")
    axes = figure.add_subplot()
    heat = axes.imshow(table, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for i, j in np.argwhere(~np.isnan(table)) if few else ():
        ink = "white" if table[i, j] > 0.55 else "black"
        axes.text(j, i, f"{100 * table[i, j]:.0f}", ha="center", va="center", color=ink, fontsize=9)
    columns, lines = ticked(classes), ticked(rows)
    called = [names[c] for c in columns]
    axes.set_xticks(columns, called, rotation=90 if max(map(len, called)) > 3 or classes > 20 else 0)
    axes.set_yticks(lines, [labels[shown[row]] for row in lines])
    axes.set(xlabel="accuracy on class", ylabel="after learning task", title="Accuracy on each class in %")
    figure.colorbar(heat, ax=axes, format=PercentFormatter(1), aspect=30)
    save(figure, path)


def confusion_matrices(found: Mapping[str, ByClass], names: Sequence[str], path: Path) -> None:
    """Confusion matrices after some tasks, with the last one: the share of images of each class (row) for which each
    class (column) is predicted. A row without images is blank.

    found: for the label of each task after which it was kept; at least one has a matrix. names: of the classes.
    """
    per_row = [of.per_row for of in found.values() if of.confusion][-1]
    kept = {label: of.confusion for label, of in found.items() if of.confusion and of.per_row == per_row}
    labels = [list(kept)[place] for place in thinned(len(kept), PANELS)]
    n = max(map(len, kept.values()))
    pitch = n * 1.16  # from one matrix to the next
    figure = Figure(figsize=(2.4 + 2.9 * max(len(labels), 1.3), 4.4), layout="constrained")
    axes = figure.add_subplot()  # one for all of them takes half as long as one for each
    places = thinned(n, 10) if n > NUMBERS else list(range(n))
    texts = [names[place * per_row] for place in places]
    heat = None
    for number, label in enumerate(labels):
        counts = np.zeros((n, n))
        fewer = len(kept[label])  # of a run that is continued
        counts[:fewer, :fewer] = kept[label]
        total = counts.sum(axis=1, keepdims=True)
        share = np.where(total > 0, counts / np.maximum(total, 1), np.nan)
        left = number * pitch
        heat = axes.imshow(share, cmap="Blues", vmin=0, vmax=1, extent=(left, left + n, n, 0))
        axes.add_patch(Rectangle((left, 0), n, n, fill=False, linewidth=0.8))
        axes.text(left + n / 2, -0.02 * n, f"after task {label}", ha="center", va="bottom", fontsize=10)
    columns = [number * pitch + place + 0.5 for number in range(len(labels)) for place in places]
    upright = 90 if max(map(len, texts)) * n > 15 else 0
    axes.set_xticks(columns, texts * len(labels), rotation=upright, fontsize=7)
    axes.set_yticks([place + 0.5 for place in places], texts, fontsize=7)
    axes.tick_params(length=2)
    axes.spines[:].set_visible(False)
    axes.set(xlim=(-0.02 * n, len(labels) * pitch - 0.14 * n), ylim=(1.02 * n, -0.1 * n))
    neighbors = f" ({per_row} neighbors share a cell)" if per_row > 1 else ""
    axes.set(xlabel=f"answered{neighbors}", ylabel="class of the image")
    axes.set_title("For which class the images of each class are taken")
    if heat is not None:
        figure.colorbar(heat, ax=axes, format=PercentFormatter(1), aspect=30)
    save(figure, path)
