"""The pictures of single classes, where a run has more classes than the one that it continues."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from cl_bench.record import ByClass
from cl_bench.runs import class_figures

FOUND = {
    "1": ByClass([1.0, None], [[2, 0], [0, 0]], 1),
    "2": ByClass([0.5, 0.0, 1.0], [[1, 1, 0], [0, 0, 2], [0, 0, 2]], 1),
}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    figures: list[Figure] = []
    monkeypatch.setattr(class_figures, "save", lambda figure, path: figures.append(figure))
    return figures


def test_a_class_that_was_not_there_is_blank(drawn: list[Figure]) -> None:
    class_figures.accuracy_per_class(FOUND, ["a", "b", "c"], Path("unused"))
    nan = np.nan
    table = np.ma.filled(drawn[0].axes[0].images[0].get_array(), nan)  # type: ignore[arg-type]
    np.testing.assert_array_equal(table, [[1.0, nan, nan], [0.5, 0.0, 1.0]])


def test_a_matrix_of_fewer_classes_is_as_large_as_the_others(drawn: list[Figure]) -> None:
    class_figures.confusion_matrices(FOUND, ["a", "b", "c"], Path("unused"))
    first, second = (np.ma.filled(heat.get_array(), np.nan) for heat in drawn[0].axes[0].images)  # type: ignore[arg-type]
    np.testing.assert_array_equal(first, [[1, 0, 0], [np.nan] * 3, [np.nan] * 3])
    np.testing.assert_array_equal(second, [[0.5, 0.5, 0], [0, 0, 1], [0, 0, 1]])
