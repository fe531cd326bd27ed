"""The figures of a run, as PNG files: accuracies, quality of generated images, and the capacity of networks whose parts
tasks reserve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter, StrMethodFormatter

from cl_bench.record import MOST_TASKS, Capacity, Results, measured_rows, thinned
from cl_bench.runs.class_figures import accuracy_per_class, confusion_matrices
from cl_bench.runs.drawing import (
    LEGEND_ROWS,
    ORDERED,
    Matrix,
    as_shares,
    as_text,
    colorbar,
    curves,
    legend,
    legend_of_tasks,
    references,
    save,
    task_labels,
    ticked,
    ticks,
    wide,
)
from cl_bench.runs.evaluation_figures import accuracy_while_learning, validation_in_training
from cl_bench.runs.plasticity_figure import plasticity_over_tasks
from cl_bench.runs.samples import MOST_ROWS
from cl_bench.runs.stream_figure import accuracy_on_stream


def draw_results(results: Results, folder: Path) -> None:
    """All figures for which results.json has numbers."""
    labels = task_labels(results.classes)
    names = [as_text(name) for name in results.class_names]
    if not results.shared_test:
        accuracy_matrix(results.R, labels, folder / "accuracy_matrix.png")
    accuracy_over_tasks(results.R, labels, folder / "accuracy_over_tasks.png", results.joint, results.chance)
    noted = {labels[record.task]: record.diagnostics for record in results.tasks}
    if any(value is not None for record in results.tasks for value in record.of_plasticity.values()):
        plasticity_over_tasks(
            {labels[record.task]: record for record in results.tasks}, folder / "plasticity_over_tasks.png"
        )
    if replayed := {label: of.replay_histogram for label, of in noted.items() if of.replay_histogram}:
        class_histogram(replayed, folder / "replay_histogram.png", names)
    if capacity := {label: of.capacity for label, of in noted.items() if of.capacity}:
        capacity_over_tasks(capacity, folder / "capacity.png")
    if plasticity := {label: of.plasticity for label, of in noted.items() if of.plasticity}:
        plasticity_in_tasks(plasticity, folder / "plasticity.png")

    phases = [(labels[record.task], phase) for record in results.tasks for phase in record.phases]
    if curves := {label: phase.validation for label, phase in phases if phase.validation}:
        validation_in_training(curves, folder / "validation.png")
    if any(phase.evaluation for _, phase in phases):
        accuracy_while_learning(results, labels, folder / "accuracy_while_learning.png")
    if by_class := {labels[record.task]: record.by_class for record in results.tasks if record.by_class}:
        accuracy_per_class(by_class, names, folder / "accuracy_per_class.png")
        if any(of.confusion for of in by_class.values()):
            confusion_matrices(by_class, names, folder / "confusion.png")
    if points := results.stream:
        ends = [phase.stream[-1][0] for _, phase in phases if phase.stream]
        accuracy_on_stream(points, ends, folder / "accuracy_on_stream.png")

    generated = {record.task: record.generated for record in results.tasks if record.generated}
    if generated:
        lacking = [None] * len(next(iter(generated.values())).FID)
        table = [generated.get(task) for task in range(len(labels))]
        fid, fid_mean = [row.FID if row else lacking for row in table], [row and row.FID_mean for row in table]
        score = [row.MeRGAN_score if row else lacking for row in table]
        score_mean = [row and row.MeRGAN_score_mean for row in table]
        fid_over_tasks(fid, fid_mean, labels, folder / "fid_over_tasks.png", names)
        mergan_score_over_tasks(results.R, score, score_mean, labels, folder / "mergan_score_over_tasks.png", names)


def accuracy_matrix(R: Matrix, labels: Sequence[str], path: Path) -> None:
    """A heat map: accuracy after learning each task (row) on each task (column), with numbers where there is room.

    Tasks that are not learned yet, to the right of the black steps, are pale. Cells without a measurement are blank. If
    there are many tasks, rows without measurements are left out.

    R: accuracies in [0, 1], shape (T, T); None or NaN for what was not measured.
    labels: one per task.
    """
    T = len(R)
    many = T > MOST_TASKS
    rows = np.array(measured_rows(R) or [T - 1]) if many else np.arange(T)
    accuracy, future = np.array(R, dtype=float)[rows], np.triu(np.ones((T, T), dtype=bool), k=1)[rows]
    side = 8.4 if many else 0.42 * T
    figure = Figure(figsize=(side + 2.6, side + 1.6), layout="constrained")
    axes = figure.add_subplot()
    shade = {"cmap": "Blues", "vmin": 0, "vmax": 1, "alpha": np.where(future, 0.35, 1.0)}
    heat = axes.imshow(accuracy, aspect="auto" if len(rows) < T else "equal", **shade)
    for i, j in np.argwhere(~np.isnan(accuracy)) if not many else ():
        color = "0.45" if future[i, j] else "white" if accuracy[i, j] > 0.55 else "black"
        axes.text(j, i, f"{100 * accuracy[i, j]:.0f}", ha="center", va="center", color=color, fontsize=9)
    ends = np.arange(len(rows)) + 0.5
    axes.plot(np.repeat(rows + 0.5, 2), np.stack([ends - 1, ends], axis=1).ravel(), color="black", linewidth=1.2)
    named = ticked(T)
    names = [labels[task] for task in named]
    upright = max(map(len, names)) > 3 or many
    axes.set_xticks(named, names, rotation=90 if upright else 0)
    some = thinned(len(rows), len(named))
    axes.set_yticks(some, [labels[int(rows[row])] for row in some])
    axes.set(xlabel="accuracy on task", ylabel="after learning task", title="Accuracy in %")
    figure.colorbar(heat, ax=axes, format=PercentFormatter(1), aspect=30)
    save(figure, path)


def accuracy_over_tasks(
    R: Matrix,
    labels: Sequence[str],
    path: Path,
    joint: Sequence[float | None] | None = None,
    chance: Sequence[float | None] | None = None,
) -> None:
    """The accuracy on each task after it was learned, and the mean over the tasks so far; or the accuracy on the test
    set that all tasks share.

    R, labels: as for `accuracy_matrix`, or shape (T, 1). joint, chance: see `Results`, lines to hold it against.
    """
    T = len(R)
    figure = Figure(figsize=(6.4 + wide(T), 4.2), layout="constrained")
    axes = figure.add_subplot()
    accuracy_curves(axes, R, labels)
    references(axes, np.arange(1, T + 1), joint, chance)
    as_shares(axes)
    if len(R[0]) < T:
        axes.set(ylabel="accuracy", title="Accuracy on the test set of all tasks")
        return save(figure, path)
    some = f" ({MOST_TASKS} of {T} tasks, mean over all)" if T > MOST_TASKS else ""
    axes.set(ylabel="accuracy", title=f"Accuracy on each task{some}")
    legend_of_tasks(figure, axes, T)
    save(figure, path)


def accuracy_curves(axes: Axes, R: Matrix, labels: Sequence[str]) -> None:
    """The accuracy on each task since it was learned, and their mean; or that on the test set that all tasks share."""
    if len(R[0]) < len(R):
        return curves(axes, np.array(R, dtype=float), np.full(len(R), np.nan), labels, ["all tasks"], "")
    curves(axes, *once_learned(R), labels, [f"task {label}" for label in labels], "mean of tasks seen")


def once_learned(R: Matrix) -> tuple[np.ndarray, np.ndarray]:
    """The accuracies on each task since it was learned, NaN before, and their means, shapes (T, T) and (T,)."""
    accuracy = np.array(R, dtype=float)
    mean = np.array([row[: i + 1].mean() for i, row in enumerate(accuracy)])
    return np.where(np.tri(len(accuracy), dtype=bool), accuracy, np.nan), mean


def fid_over_tasks(
    fid: Matrix, mean: Sequence[float | None], labels: Sequence[str], path: Path, names: Sequence[str] = ()
) -> None:
    """FID of the generated images of each class, since its task was learned, and the mean.

    fid: shape (T, n_outputs), None for what was not measured. mean: shape (T,). labels: one per task. names: of the
    classes, by default their numbers.
    """
    table = np.array(fid, dtype=float)
    T, K = table.shape
    figure = Figure(figsize=(6.4 + wide(T), 4.2), layout="constrained")
    axes = figure.add_subplot()
    curves(axes, table, np.array(mean, dtype=float), labels, [f"class {c}" for c in names or range(K)], "mean")
    axes.set(ylabel="FID", title="FID of each class: less is nearer to the real images")
    axes.set_ylim(bottom=0)
    legend(figure, axes, K)
    save(figure, path)


def mergan_score_over_tasks(
    R: Matrix,
    score: Matrix,
    mean: Sequence[float | None],
    labels: Sequence[str],
    path: Path,
    names: Sequence[str] = (),
) -> None:
    """Two evaluations side by side that are not to be mixed up: the learner on real images of each task, and on the
    generated images of each class a classifier that learned the real ones of all classes at once.

    R: as for `accuracy_matrix`. score: shape (T, n_outputs), None for what was not measured. mean: shape (T,). names:
    of the classes, by default their numbers.
    """
    table = np.array(score, dtype=float)
    T, K = table.shape
    figure = Figure(figsize=(12.4 + 2 * wide(T), 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    accuracy_curves(left, R, labels)
    left.set(title="learner on real test images (ACC)", ylabel="accuracy")
    curves(
        right,
        table,
        np.array(mean, dtype=float),
        labels,
        [f"class {c}" for c in names or range(K)],
        "mean of classes seen",
    )
    right.set(title="classifier of real images on generated ones (MeRGAN score)", ylabel="accuracy")
    right.yaxis.set_tick_params(labelleft=True)
    as_shares(left)
    for axes, n in ((left, len(R[0])), (right, K)):
        if n <= 2 * LEGEND_ROWS:
            axes.legend(loc="upper left", bbox_to_anchor=(1, 1), ncols=1 + n // LEGEND_ROWS, fontsize=8, frameon=False)
        else:
            colorbar(figure, axes, n, "task" if axes is left else "class")
    save(figure, path)


def capacity_over_tasks(capacity: Mapping[str, Capacity], path: Path) -> None:
    """What a task newly reserves of a network and what it reuses, as shares of all there was before it grew (thin:
    of each layer), and how the network grows, if it does (figure 6 of Ostapenko et al., 2018).

    capacity: for the label of each task.
    """
    labels, facts = list(capacity), list(capacity.values())
    units = {
        name: np.array([getattr(fact, name) for fact in facts], dtype=float)
        for name in ("total", "new", "reused", "free", "reserved")
    }
    after, every = np.arange(1, len(facts) + 1), thinned(len(facts))
    figure = Figure(figsize=(9.5 + 2 * wide(len(facts)), 4.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, color, marker, what in (
        ("new", "tab:blue", "o", "newly blocked (NB)"),
        ("reused", "tab:orange", "s", "reused (R)"),
    ):
        left.plot(after, units[name] / units["total"], color=color, linewidth=0.8, alpha=0.45)
        share = units[name].sum(axis=1) / units["total"].sum(axis=1)
        left.plot(after, share, color=color, marker=marker, markevery=every, linewidth=2, label=what)
    left.set(title="Capacity (thin: of each layer)", ylabel=f"share of all {facts[0].of}")
    as_shares(left)

    size, worst = (np.array([getattr(fact, name) for fact in facts], dtype=float) for name in ("size", "size_worst"))
    free = units["free"].sum(axis=1) / (units["free"] + units["reserved"]).sum(axis=1)
    grown = {"linestyle": "--", "label": "worst case: as much again for every task"}
    right.plot(after, worst, color="0.4", marker="^", markevery=every, **grown)
    right.plot(after, size, color="tab:blue", marker="o", markevery=every, linewidth=2, label="network")
    right.fill_between(after, size * (1 - free), size, color="tab:blue", alpha=0.2, label="share still free")
    right.set(title="Size of the network", ylabel=facts[0].of)
    right.set_ylim(bottom=0)
    right.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    right.locator_params(axis="y", integer=True)
    for axes in (left, right):
        ticks(axes, labels)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, framealpha=0.7)
    save(figure, path)


def plasticity_in_tasks(plasticity: Mapping[str, Sequence[Sequence[float | None]]], path: Path) -> None:
    """Mask values while each task is learned, mean and standard deviation over the units: near 0 or 1 they are
    settled (figure 7 of Ostapenko et al., 2018). Of many tasks ten are shown.

    plasticity: for the label of each task, (mean, deviation) at equally spaced moments, shape (moments, 2).
    """
    labels = list(plasticity)
    shown = thinned(len(labels), 10)
    columns = min(len(shown), 5)
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(1.2 + 2.1 * max(columns, 2), 0.8 + 2.0 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel().tolist()
    for axes, task in zip(grid, shown, strict=False):
        mean, deviation = np.array(plasticity[labels[task]], dtype=float).T
        progress = np.linspace(0, 1, len(mean))
        color = ORDERED(0.88 * task / max(len(labels) - 1, 1))
        axes.fill_between(progress, mean - deviation, mean + deviation, color=color, alpha=0.25, linewidth=0)
        axes.plot(progress, mean, color=color, linewidth=1.8)
        axes.set_title(f"task {labels[task]}", fontsize=9)
        axes.grid(alpha=0.3)
        axes.set(xlim=(0, 1), ylim=(-0.02, 1.02))
        axes.set_xticks([0, 0.5, 1], ["0", "", "1"])
    for axes in grid[len(shown) :]:
        axes.set_visible(False)
    figure.suptitle("Mask values while a task is learned: mean ± deviation over the units", fontsize=11)
    figure.supxlabel("progress of the task", fontsize=9)
    figure.supylabel("mask value", fontsize=9)
    save(figure, path)


def class_histogram(counts: Mapping[str, Sequence[int]], path: Path, names: Sequence[str] = ()) -> None:
    """How the replayed images are spread over the classes: a bar per task, stacked by class, in per cent.

    Of many tasks some have a bar, and of many classes neighbors share a piece of it.

    counts: for the label of each task that replays, the number of images of each class, in the same order.
    names: of the classes, by default their numbers.
    """
    labels = list(counts)
    labels = [labels[i] for i in thinned(len(labels))]
    table = np.array([counts[label] for label in labels], dtype=float)
    total = table.sum(axis=1)
    share = table / np.maximum(total, 1)[:, None]
    present = [c for c in range(table.shape[1]) if table[:, c].any()]
    names = names or [str(c) for c in range(table.shape[1])]
    norm = Normalize(min(present, default=0), max(present, default=1))
    colors = {c: ORDERED(float(norm(c))) for c in present}
    bars = max(len(labels), 4)
    figure = Figure(figsize=(2.6 + 0.55 * bars, 4.4), layout="constrained")
    axes = figure.add_subplot()
    where, bottom = np.arange(len(labels)), np.zeros(len(labels))
    for group in np.array_split(np.array(present, dtype=int), max(1, min(len(present), MOST_ROWS))):
        if not len(group):
            continue
        c, height = int(group[0]), share[:, group].sum(axis=1)
        ink = "black" if sum(colors[c][:3]) > 1.4 else "white"
        edge = 0.6 if len(present) <= MOST_TASKS else 0.0
        axes.bar(where, height, bottom=bottom, color=colors[c], edgecolor="white", linewidth=edge, width=0.85)
        for i in np.flatnonzero(height > 0.055).tolist() if len(group) == 1 else ():  # there is room for a name
            axes.text(i, bottom[i] + height[i] / 2, names[c], ha="center", va="center", fontsize=8, color=ink)
        bottom += height
    for i, n in enumerate(total):
        axes.text(i, 1.01, f"{n:.0f}", ha="center", va="bottom", fontsize=8, rotation=90 if len(labels) > 6 else 0)
    axes.set_xticks(where, labels, rotation=90 if max(map(len, labels)) > 3 else 0)
    axes.set(xlabel="while learning task", ylabel="share of the replayed images")
    axes.set_title("Classes replayed, total on top", loc="left", pad=34 if len(labels) > 6 else 20)
    axes.set(xlim=(-0.6, bars - 0.4), ylim=(0, 1))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.spines[["top", "right"]].set_visible(False)
    if len(present) <= 2 * LEGEND_ROWS:
        handles = [Patch(color=colors[c], label=f"class {names[c]}") for c in reversed(present)]
        figure.legend(handles=handles, loc="outside right upper", fontsize=8, frameon=False)
    else:
        figure.colorbar(ScalarMappable(norm, ORDERED), ax=axes, label="class", aspect=30)
    save(figure, path)
