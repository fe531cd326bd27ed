"""Charts: well-formed, every point where its number says, no two labels on each other."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from cl_bench.evaluation.statistics import Estimate
from cl_bench.report.charts import BOTTOM, HEIGHT, LEFT, TOP, WIDTH, Axis, Series, Style, line_chart, scatter, spread


@pytest.mark.parametrize(
    ("values", "log"),
    [
        ([0.0, 1.0], False),
        ([97.3, 97.4], False),
        ([-99.0, 3.0], False),
        ([5.0, 5.0], False),
        ([1e3, 5e7], True),
        ([200.0, 300.0], True),
        ([7.0, 7.0], True),
        ([1200.0, 120000.0], True),
    ],
    ids=str,
)
def test_axes_have_a_few_round_ticks(values: list[float], log: bool) -> None:
    axis = Axis("", values, log=log)
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 8
    assert all(0 <= axis.place(tick) <= 1 for tick in ticks)
    assert all(0 < axis.place(value) < 1 for value in values)
    assert all(float(f"{tick:.4g}") == pytest.approx(tick) for tick in ticks)


def test_styles_of_methods_differ_in_more_than_colour() -> None:
    styles = [Style.of(method) for method in range(20)]
    assert len({(style.marker, style.dash) for style in styles}) == len(styles)
    one_method = [Style.of(3, rank) for rank in range(12)]
    assert len({(style.marker, style.dash) for style in one_method}) == 12


def series(label: str, values: list[float], half: float | None = None) -> Series:
    points = [(float(x), Estimate(y, half, 3)) for x, y in enumerate(values, 1)]
    return Series(label, "0", Style.of(0), points)


def test_lines_and_their_intervals() -> None:
    y = Axis("ACC, %", [0, 100])
    drawn = line_chart("ACC", Axis("task", [1, 2]), y, [series("a<b>", [100, 50], 10)], [(1, "1"), (2, "2")])
    root = ElementTree.fromstring(drawn)
    assert root.attrib["role"] == "img"
    assert "1 series" in root.attrib["aria-label"]
    titles = [one.text for one in root.iter("title")]
    assert titles[1] == "a<b>: ACC, % 50 ± 10, task 2.0, n = 3"
    (line,) = [one.attrib["d"] for one in root.iter("path") if one.attrib.get("class") == "line"]
    ys = [float(number) for number in re.findall(r" ([\d.]+)", line)]
    expected = [HEIGHT - BOTTOM - y.place(value) * (HEIGHT - BOTTOM - TOP) for value in (100, 50)]
    assert ys == pytest.approx(expected, abs=0.06)
    intervals = [one.attrib["d"] for one in root.iter("path") if one.attrib.get("class") == "interval"]
    assert len(intervals) == 2


def test_one_seed_draws_no_interval() -> None:
    drawn = line_chart("ACC", Axis("task", [1, 2]), Axis("ACC", [0, 1]), [series("a", [0, 1])], [])
    assert 'class="interval"' not in drawn


def test_points_are_named_where_there_is_room() -> None:
    far = [Series(f"m{i}", str(i), Style.of(i), [(10.0**i, Estimate(20.0 * i, None, 1))]) for i in range(5)]
    near = [Series(f"m{i}", str(i), Style.of(i), [(10.0, Estimate(50.0, None, 1))]) for i in range(30)]
    for found, named in ((far, range(5, 6)), (near, range(4, 12))):
        drawn = scatter("", Axis("x", [1, 1e4], log=True), Axis("y", [0, 100]), found)
        root = ElementTree.fromstring(drawn)
        texts = [one for one in root.iter("text") if (one.text or "").startswith("m")]
        assert len(texts) in named
        assert all(LEFT <= float(one.attrib["x"]) <= WIDTH for one in texts)


def test_labels_keep_their_distance_and_order() -> None:
    moved = spread([50, 50, 50, 10, 99], gap=12, low=0, high=100)
    assert sorted(range(5), key=lambda i: moved[i]) == [3, 0, 1, 2, 4]
    gaps = [b - a for a, b in zip(sorted(moved), sorted(moved)[1:], strict=False)]
    assert min(gaps) >= 12
    assert max(moved) <= 100
