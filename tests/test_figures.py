"""The figures exist, are PNG files of a size that fits a page, and survive the numbers of odd runs."""

from __future__ import annotations

import math
import struct
import warnings
from pathlib import Path

import pytest
import torch

from cl_bench.figures import (
    accuracy_matrix,
    accuracy_over_tasks,
    class_histogram,
    draw_results,
    sample_grid,
    task_labels,
)


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


@pytest.mark.parametrize("T", [1, 2, 5, 20])
def test_accuracies_fit_a_page(tmp_path: Path, T: int) -> None:
    for draw in (accuracy_matrix, accuracy_over_tasks):
        draw(triangular(T), task_labels([[str(2 * t), str(2 * t + 1)] for t in range(T)]), tmp_path / "a.png")
        width, height = size(tmp_path / "a.png")
        assert 300 <= width <= 2000
        assert 250 <= height <= 2000


def test_what_was_not_measured_is_left_out(tmp_path: Path) -> None:
    """Joint training is measured after its last task only."""
    for draw in (accuracy_matrix, accuracy_over_tasks):
        draw([[None, None], [0.9, 0.8]], ["1", "2"], tmp_path / "none.png")
        draw([[math.nan, math.nan], [0.9, 0.8]], ["1", "2"], tmp_path / "nan.png")
        assert size(tmp_path / "none.png")[0] > 300
        assert (tmp_path / "none.png").read_bytes() == (tmp_path / "nan.png").read_bytes()


@pytest.mark.parametrize(("tasks", "classes"), [(1, 2), (4, 10), (19, 40)])
def test_histograms_fit_a_page(tmp_path: Path, tasks: int, classes: int) -> None:
    counts = {str(t): [t * c for c in range(classes)] for t in range(tasks)}  # the first replays nothing at all
    class_histogram(counts, tmp_path / "histogram.png")
    width, height = size(tmp_path / "histogram.png")
    assert 300 <= width <= 2200
    assert height <= 1000


def test_results_are_drawn(tmp_path: Path) -> None:
    tasks = [{"task": i, "facts": {"replay_histogram": [3, 5, 0, 0]} if i else {}} for i in range(2)]
    results = {"R": triangular(2), "classes": [["cat", "dog"], ["cow", "hen"]], "tasks": tasks}
    draw_results(results, tmp_path / "figures")
    names = ["accuracy_matrix.png", "accuracy_over_tasks.png", "replay_histogram.png"]
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == names


def test_small_samples_are_enlarged(tmp_path: Path) -> None:
    sample_grid(torch.rand(2, 8, 1, 8, 8), tmp_path / "samples" / "task1.png")
    width, height = size(tmp_path / "samples" / "task1.png")
    assert (width, height) == (8 * (48 + 2) + 2, 2 * (48 + 2) + 2)
