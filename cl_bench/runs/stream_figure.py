"""The figure of a stream: the accuracy before each update."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from cl_bench.record import MOST_TASKS
from cl_bench.runs.drawing import as_shares, save


def accuracy_on_stream(points: Sequence[tuple[int, float | None]], borders: Sequence[int], path: Path) -> None:
    """The online accuracy against the number of images so far.

    points: (images, accuracy). borders: numbers of images after which R has a row; if there are many, none is drawn.
    """
    images, accuracy = np.array(points, dtype=float).T
    figure = Figure(figsize=(7.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(images, accuracy, linewidth=1.4, marker="." if len(points) <= MOST_TASKS else None)
    for border in borders if len(borders) <= MOST_TASKS else ():
        axes.axvline(border, color="0.7", linewidth=0.8, zorder=0)
    axes.set(xlabel="images that came", ylabel="accuracy on what came", title="Accuracy while the stream comes")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.locator_params(axis="x", integer=True)
    as_shares(axes)
    axes.grid(axis="y", alpha=0.3)
    save(figure, path)
