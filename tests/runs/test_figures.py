"""The figures exist, are PNG files of a size that fits a page, and survive the numbers of odd runs."""

from __future__ import annotations

import math
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from example_records import capacity, generated, plastic_record, results, task_record
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from cl_bench.network_record import Evaluation
from cl_bench.record import ByClass, Capacity, Diagnostics, Phase
from cl_bench.runs.drawing import colorbar, task_labels
from cl_bench.runs.evaluation_figures import accuracy_while_learning
from cl_bench.runs.figures import (
    accuracy_matrix,
    accuracy_over_tasks,
    capacity_over_tasks,
    class_histogram,
    draw_results,
    fid_over_tasks,
    mergan_score_over_tasks,
    plasticity_in_tasks,
)
from cl_bench.runs.samples import sample_grid
from cl_bench.runs.stream_figure import accuracy_on_stream
from cl_bench.sweep.search_figures import search_history, search_importance


@pytest.fixture(autouse=True)
def _no_warning():
    """A warning of matplotlib or numpy would be printed into every run."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def size(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(data) > 2000
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def triangular(T: int) -> list[list[float | None]]:
    return [[0.9 - 0.03 * (i - j) if j <= i else 0.1 for j in range(T)] for i in range(T)]


@pytest.mark.parametrize("T", [1, 5, 20])
def test_accuracies_fit_a_page(tmp_path: Path, T: int) -> None:
    for draw in (accuracy_matrix, accuracy_over_tasks):
        draw(triangular(T), task_labels([[str(2 * t), str(2 * t + 1)] for t in range(T)]), tmp_path / "a.png")
        width, height = size(tmp_path / "a.png")
        assert 300 <= width <= 2000
        assert 250 <= height <= 2000


def test_pictures_of_many_tasks_are_bounded(tmp_path: Path) -> None:
    """A text per pair of tasks would be 3,600 of them, and gigabytes for a few hundred tasks."""
    T = 60
    phases = [Phase("train", 10, [10], 1.0, {}, [(5, 0.5), (10, 0.9)])]
    tasks = [
        task_record(
            t,
            diagnostics=Diagnostics(growth(T)[t], replay_histogram=[3] * 150, plasticity=plasticity(5)),
            generated=generated([50.0] * 10, [0.5] * 10),
            phases=phases,
        )
        for t in range(T)
    ]
    found = results(triangular(T), classes=[[f"permutation {t}"] for t in range(T)], tasks=tasks, class_names=[])
    with count_texts() as texts:
        draw_results(found, tmp_path)
    assert len(texts) < 1500
    assert len(list(tmp_path.iterdir())) == 8
    for path in tmp_path.iterdir():
        width, height = size(path)
        assert max(width, height) <= 4000
        assert path.stat().st_size < 600_000


@contextmanager
def count_texts() -> Iterator[list[str]]:
    """The texts that are put into axes one by one."""
    texts: list[str] = []
    put = Axes.text
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Axes, "text", lambda axes, x, y, s, **how: texts.append(s) or put(axes, x, y, s, **how))
        yield texts


def evaluated(T: int, tasks: list[int] | None) -> Phase:
    points = [(step, [0.9 - step / 100] * (len(tasks) if tasks else 1)) for step in range(1, 11)]
    return Phase("train", 10, [10], 1.0, {}, [], evaluation=Evaluation("validation images", tasks, points))


def test_an_axis_of_steps_images_or_tasks_has_the_numbers_that_its_ticks_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    for place in ("evaluation_figures", "stream_figure"):
        monkeypatch.setattr(f"cl_bench.runs.{place}.save", lambda figure, path: drawn.append(figure))
    phases = [Phase("gan", 10, [10], 1.0, {}, []), evaluated(1, [0])]
    accuracy_while_learning(results([[0.5]], tasks=[task_record(0, phases=phases)]), ["1"], tmp_path)
    accuracy_on_stream([(10, 0.5), (20, 0.4)], [], tmp_path)
    for axes in (figure.axes[0] for figure in drawn):
        assert all(place == int(place) for place in axes.get_xticks())
    figure = Figure()
    colorbar(figure, figure.add_subplot(), 100, "task")
    assert figure.axes[1].get_ylim() == (1, 100)


@pytest.mark.parametrize(("T", "shared"), [(1, False), (5, False), (5, True), (300, False)])
def test_what_was_measured_while_learning_fits_a_page(tmp_path: Path, T: int, shared: bool) -> None:
    """With the phases that were not measured between the others, and a joint run that was measured seldom."""
    tasks = [
        task_record(
            t, phases=[Phase("gan", 20, [20], 1.0, {}, []), evaluated(T, None if shared else [*range(min(t + 1, 41))])]
        )
        for t in range(T)
    ]
    joint = [None, *[0.9] * (T - 1)]
    found = results(triangular(T), tasks=tasks, chance=[1 / (t + 1) for t in range(T)], joint=joint)
    with drawn_lines() as lines:
        draw_results(found, tmp_path)
    width, height = size(tmp_path / "accuracy_while_learning.png")
    assert 900 <= width <= 4000
    assert 400 <= height <= 700
    assert (tmp_path / "accuracy_while_learning.png").stat().st_size < 600_000
    assert len(lines["joint training"]) == len(lines["chance"]) == 2  # there, and in the accuracy over tasks
    mean = lines["test set of all tasks" if shared else "mean of tasks seen"][-1]
    assert (mean[0], mean[-1]) == (21.0, 30.0 * T)  # after the 20 steps of the other phase


@contextmanager
def drawn_lines() -> Iterator[dict[str, list[list[float]]]]:
    """By their labels: where each of that name has its points along the x axis."""
    lines: dict[str, list[list[float]]] = {}
    put = Axes.plot

    def plot(axes: Axes, *where: Any, **how: Any) -> Any:
        lines.setdefault(how.get("label", ""), []).append(list(where[0]))
        return put(axes, *where, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Axes, "plot", plot)
        yield lines


@pytest.mark.parametrize(("T", "K", "per_row"), [(1, 2, 1), (5, 10, 1), (100, 100, 1), (2, 1001, 3)])
def test_single_classes_fit_a_page(tmp_path: Path, T: int, K: int, per_row: int) -> None:
    side = -(-K // per_row)
    counts = [[9 if i == j else 0 for j in range(side)] for i in range(side)]
    counts[-1] = [0] * side  # no image of this class yet
    by_class = ByClass([*[0.5] * (K - 1), None], counts, per_row)
    found = results(
        triangular(T),
        class_names=[f"class {output}" for output in range(K)],
        tasks=[task_record(t, by_class=by_class if t % 2 == 0 else ByClass(by_class.accuracy)) for t in range(T)],
    )
    with count_texts() as texts:
        draw_results(found, tmp_path)
    assert len(texts) < 500
    for name in ("accuracy_per_class.png", "confusion.png"):
        width, height = size(tmp_path / name)
        assert 500 <= width <= 2000
        assert 400 <= height <= 2000
        assert (tmp_path / name).stat().st_size < 600_000


def test_a_grid_of_a_thousand_classes_is_bounded(tmp_path: Path) -> None:
    sample_grid(torch.zeros(1000, 2, 1, 48, 48), tmp_path / "samples.png")
    assert size(tmp_path / "samples.png")[1] == 100 * 50 + 2


def test_what_was_not_measured_is_left_out(tmp_path: Path) -> None:
    """Joint training is measured after its last task only."""
    for draw in (accuracy_matrix, accuracy_over_tasks):
        draw([[None, None], [0.9, 0.8]], ["1", "2"], tmp_path / "none.png")
        draw([[math.nan, math.nan], [0.9, 0.8]], ["1", "2"], tmp_path / "nan.png")
        assert size(tmp_path / "none.png")[0] > 300
        assert (tmp_path / "none.png").read_bytes() == (tmp_path / "nan.png").read_bytes()


@pytest.mark.parametrize("T", [1, 5, 200])
@pytest.mark.parametrize("online", [0.5, None])
def test_plasticity_fits_a_page(tmp_path: Path, T: int, online: float | None) -> None:
    draw_results(results(triangular(T), tasks=[plastic_record(t, online=online) for t in range(T)]), tmp_path)
    width, height = size(tmp_path / "plasticity_over_tasks.png")
    assert 900 <= width <= 4000
    assert 300 <= height <= 700


def test_of_many_tasks_the_rows_that_were_measured_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 100 rows every tenth one; a line through them, with a marker at each."""
    drawn: list[Any] = []
    show, plot = Axes.imshow, Axes.plot
    monkeypatch.setattr(Axes, "imshow", lambda axes, R, **how: drawn.append(R.shape) or show(axes, R, **how))
    monkeypatch.setattr(Axes, "plot", lambda axes, *xy, **how: drawn.append(xy[0]) or plot(axes, *xy, **how))
    R = [row if i % 10 == 9 else [None] * 100 for i, row in enumerate(triangular(100))]
    labels = [str(t) for t in range(100)]
    accuracy_matrix(R, labels, tmp_path / "a.png")
    assert drawn[0] == (10, 100)
    drawn.clear()
    accuracy_over_tasks(R, labels, tmp_path / "b.png")
    assert [int(after) for after in drawn[0]] == list(range(10, 101, 10))


@pytest.mark.parametrize(("tasks", "classes"), [(1, 2), (4, 10), (19, 40)])
def test_histograms_fit_a_page(tmp_path: Path, tasks: int, classes: int) -> None:
    counts = {str(t): [t * c for c in range(classes)] for t in range(tasks)}  # the first replays nothing at all
    class_histogram(counts, tmp_path / "histogram.png")
    width, height = size(tmp_path / "histogram.png")
    assert 300 <= width <= 2200
    assert height <= 1000


def test_results_are_drawn(tmp_path: Path) -> None:
    tasks = [task_record(0), task_record(1, diagnostics=Diagnostics(replay_histogram=[3, 5, 0, 0]))]
    draw_results(results(triangular(2), tasks=tasks), tmp_path / "figures")
    names = ["accuracy_matrix.png", "accuracy_over_tasks.png", "replay_histogram.png"]
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == names


def seen(T: int, classes: int, value: float) -> list[list[float | None]]:
    """A value for each class of the tasks learned so far, but for one of which nothing was generated."""
    return [[value + c if c < classes * (t + 1) // T and c != 1 else None for c in range(classes)] for t in range(T)]


@pytest.mark.parametrize(("T", "classes"), [(1, 2), (5, 10), (10, 100), (20, 40)])
def test_what_is_generated_fits_a_page(tmp_path: Path, T: int, classes: int) -> None:
    labels = task_labels([[str(t)] for t in range(T)])
    fid_over_tasks(seen(T, classes, 50), [60.0] * T, labels, tmp_path / "fid.png")
    mergan_score_over_tasks(triangular(T), seen(T, classes, 0), [0.5] * T, labels, tmp_path / "score.png")
    for name in ("fid", "score"):
        width, height = size(tmp_path / f"{name}.png")
        assert 300 <= width <= 2700
        assert 250 <= height <= 1000


def growth(T: int) -> list[Capacity]:
    return [
        capacity(
            total=[20 + 4 * t, 10 + 2 * t],
            new=[4, 2],
            reused=[2 * t, t],
            free=[20, 10],
            reserved=[4 * t + 4, 2 * t + 2],
            size=1000 + 100 * t,
            size_worst=1000 * (t + 2),
        )
        for t in range(T)
    ]


def plasticity(moments: int) -> list[tuple[float, float]]:
    return [(0.5 - 0.3 * m / moments, 0.4 * m / moments) for m in range(moments)]


@pytest.mark.parametrize("T", [1, 5, 20])
def test_the_growth_of_a_generator_fits_a_page(tmp_path: Path, T: int) -> None:
    labels = task_labels([[str(2 * t), str(2 * t + 1)] for t in range(T)])
    capacity_over_tasks(dict(zip(labels, growth(T), strict=True)), tmp_path / "capacity.png")
    plasticity_in_tasks(dict.fromkeys(labels, plasticity(50)), tmp_path / "plasticity.png")
    for name in ("capacity", "plasticity"):
        width, height = size(tmp_path / f"{name}.png")
        assert 300 <= width <= 2300
        assert 250 <= height <= 1000


def test_what_a_generating_run_knows_is_drawn(tmp_path: Path) -> None:
    """Also where only the last task generates (joint training)."""
    first, last = (Diagnostics(capacity=one, plasticity=plasticity(5)) for one in growth(2))
    made = generated([50.0, None], [0.5, None], MeRGAN_score_mean=0.25)
    tasks = [task_record(0, diagnostics=first), task_record(1, diagnostics=last, generated=made)]
    draw_results(results(triangular(2), classes=[["cat"], ["dog"]], class_names=[], tasks=tasks), tmp_path / "figures")
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == {
        "accuracy_matrix", "accuracy_over_tasks", "capacity", "fid_over_tasks", "mergan_score_over_tasks", "plasticity",
    }  # fmt: skip


def test_small_samples_are_enlarged(tmp_path: Path) -> None:
    sample_grid(torch.rand(2, 8, 1, 8, 8), tmp_path / "samples" / "task1.png")
    width, height = size(tmp_path / "samples" / "task1.png")
    assert (width, height) == (8 * (48 + 2) + 2, 2 * (48 + 2) + 2)


@pytest.mark.parametrize("shape", [(12, 24), (24, 12)])
def test_samples_have_the_names_of_their_classes(tmp_path: Path, shape: tuple[int, int]) -> None:
    images = torch.rand(3, 8, 1, *shape)
    plain, named = tmp_path / "plain.png", tmp_path / "named.png"
    sample_grid(images, plain)
    sample_grid(images, named, ["cat", "a name that is much longer than there is room for", "dog"])
    width, height = size(plain)
    assert (width, height) == (8 * (2 * shape[1] + 2) + 2, 3 * (2 * shape[0] + 2) + 2)
    assert size(named)[1] == height
    assert 60 < size(named)[0] - width < 250
    with Image.open(plain) as alone, Image.open(named) as beside:
        left = beside.width - width
        assert beside.convert("RGB").crop((left, 0, beside.width, height)).tobytes() == alone.convert("RGB").tobytes()
        assert min(beside.convert("L").crop((0, 0, left, height)).tobytes()) < 100  # there is ink


def test_a_class_may_have_any_name(tmp_path: Path) -> None:
    """Nothing in it is a formula, and a letter that the font lacks is no warning."""
    names = ["$x_", r"\frac", "_a", "\N{CJK UNIFIED IDEOGRAPH-732B}"]
    replayed, made = Diagnostics(replay_histogram=[3, 5, 1, 1]), generated([1.0] * 4, [0.5] * 4)
    tasks = [task_record(task, diagnostics=replayed, generated=made) for task in range(2)]
    found = results(triangular(2), classes=[names[:2], names[2:]], class_names=names, tasks=tasks)
    draw_results(found, tmp_path)
    assert len(list(tmp_path.iterdir())) == 5
    before = (tmp_path / "fid_over_tasks.png").read_bytes()
    draw_results(replace(found, class_names=list("abcd")), tmp_path)
    assert (tmp_path / "fid_over_tasks.png").read_bytes() != before


@pytest.mark.parametrize("n", [1, 2, 4])
def test_a_search_fits_a_page(tmp_path: Path, n: int) -> None:
    values = {
        "method.strength": [1e-2, 1.0, 1e8],
        "optimizer.lr": [0.1, 0.2, 0.3],
        "network.hidden": ["[8]", "[9]", "[8]"],
    }
    names = [*values, "method.online"][:n]
    tried = {name: [(value, 0.5) for value in values.get(name, ["true", "false", "true"])] for name in names}
    search_importance(dict.fromkeys(names, 1 / n), tried, "all tasks", tmp_path / "importance.png")
    width, height = size(tmp_path / "importance.png")
    assert 300 <= width <= 2700
    assert 250 <= height <= 1000
    search_history([None, 0.3, 0.5, None, 0.4][:n], "the first 2 tasks", tmp_path / "history.png")
    assert size(tmp_path / "history.png") == (960, 540)
