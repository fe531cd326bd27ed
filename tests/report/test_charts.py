"""Charts: well-formed, every point where its number says, no two labels on each other."""

from __future__ import annotations

import re
import zlib
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest

from cl_bench.config.names import CONF, file_of
from cl_bench.evaluation.statistics import Estimate
from cl_bench.report.charts import BOTTOM, HEIGHT, LEFT, TOP, WIDTH, Axis, Series, line_chart, spread
from cl_bench.report.dot_plot import dot_plot
from cl_bench.report.looks import FAMILIES, MARKERS, Look, family_of, looks_of
from cl_bench.report.pdf import pdf_of
from cl_bench.report.plots import lines_or_dots, share_axis
from cl_bench.report.scatter import scatter


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
    assert 4 <= len(ticks) <= 10
    assert all(0 <= axis.place(tick) <= 1 for tick in ticks)
    assert all(0 < axis.place(value) < 1 for value in values)
    assert all(float(f"{tick:.4g}") == pytest.approx(tick) for tick in ticks)


def test_methods_differ_by_the_color_of_their_family_and_by_their_marker_in_it() -> None:
    ours = {file.stem: file_of("method", file.stem)["_target_"] for file in (CONF / "method").glob("*.yaml")}
    assert {family_of(path) for path in ours.values()} == {*FAMILIES} - {"other"}  # each says its own
    looks = looks_of([*ours.items(), ("theirs", "theirs.methods.Theirs"), ("gone", "cl_bench.methods.gone.Gone")])
    assert [looks["theirs"].family, looks["gone"].family] == ["other", "other"]
    styles = {name: look.style() for name, look in looks.items()}
    assert len({(style.color, style.marker) for style in styles.values()}) == len(styles) > 40
    assert len({(style.marker, style.dash) for style in map(looks["er"].style, range(12))}) == 12
    later = Look("rehearsal", MARKERS + 1).style()
    assert (later.marker, later.dash) == (1, 1)


def series(label: str, values: list[float], half: float | None = None) -> Series:
    points = [(float(x), Estimate(y, half, 3)) for x, y in enumerate(values, 1)]
    return Series(label, "0", Look("rehearsal", 0).style(), points)


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
    style = Look("other", 0).style()
    far = [Series(f"m{i}", str(i), style, [(10.0**i, Estimate(20.0 * i, None, 1))]) for i in range(5)]
    near = [Series(f"m{i}", str(i), style, [(10.0, Estimate(50.0, None, 1))]) for i in range(30)]
    for found, named in ((far, range(5, 6)), (near, range(4, 31))):
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


BLOB = [
    Series(f"method_{i}", str(i), Look("other", i).style(), [(Estimate(x, 5, 3), Estimate(y, 4, 3))])
    for i, (x, y) in enumerate(np.random.default_rng(0).normal(50, 12, (30, 2)).tolist())
]
"""Thirty points on a heap, each with an interval both ways."""


def test_names_of_thirty_points_cover_no_line_no_marker_and_no_other_name() -> None:
    root = ElementTree.fromstring(scatter("", Axis("x", [0, 100]), Axis("y", [0, 100]), BLOB))
    boxes, lines = [], []
    for group in (group for group in root if group.tag == "g"):
        for text in group.findall("text"):
            width = 6.2 * len(text.text or "")
            left = float(text.attrib["x"]) - {"start": 0, "middle": width / 2, "end": width}[text.attrib["text-anchor"]]
            boxes.append((left + 1, float(text.attrib["y"]) - 8, left + width - 1, float(text.attrib["y"]) - 1))
        (mark,) = [part for part in group if part.get("class") == "mark"]
        px, py = map(float, re.findall(r"[\d.]+", mark.attrib["transform"]))
        lines += [(px - 4, py - 4, px + 4, py + 4)]
        for path in group.findall("path"):
            numbers = [float(number) for number in re.findall(r"[\d.]+", path.attrib["d"])]
            if "H" in path.attrib["d"] and "V" not in path.attrib["d"]:
                lines.append((numbers[0], numbers[1] - 0.5, numbers[2], numbers[1] + 0.5))
    assert len(boxes) >= 10
    for place, box in enumerate(boxes):
        for other in [*boxes[:place], *lines]:
            assert box[2] <= other[0] or other[2] <= box[0] or box[3] <= other[1] or other[3] <= box[1]


def test_texts_of_ticks_touch_neither_each_other_nor_the_edge() -> None:
    words = ["[1000,1000,1000]", "[50]", "reservoir_balanced", "a_very_long_name_of_somebodys_policy"]
    numbers = [0, 1, 10, 100, 1000, 10000]
    for ticks in ([(float(n), f"{n}") for n in numbers], [(float(n), word) for n, word in enumerate(words)]):
        places = [value for value, _ in ticks]
        chart = line_chart("", Axis("", places), Axis("", [0, 1]), [series("er", [0.5, 0.6])], ticks)
        texts = [text for text in ElementTree.fromstring(chart).iter("text") if text.attrib.get("y") == "270"]
        sides = [(float(text.attrib["x"]), 3.4 * len(text.text or "")) for text in texts]
        ends = [(x - half, x + half) for x, half in sides]
        assert len(ends) >= 2
        assert all(low >= 0 and high <= WIDTH for low, high in ends)
        assert all(before[1] <= after[0] for before, after in pairwise(ends))


def test_many_series_are_rows_of_dots_the_best_first() -> None:
    curves = [series(f"m{i}", [90, 10 * i], 3) for i in range(1, 10)]
    y = Axis("ACC, %", [0, 100], write=lambda value: f"{value:g}")
    root = ElementTree.fromstring(dot_plot("", Axis("task", [1, 2]), y, curves, lines={"chance": 10, "joint": 11}))
    names = [text for text in root.iter("text") if re.fullmatch(r"m\d", text.text or "")]
    assert [text.text for text in names] == [f"m{i}" for i in range(9, 0, -1)]
    heights = [float(text.attrib["y"]) for text in names]
    assert min(b - a for a, b in pairwise(heights)) >= 13
    titles = [title.text for title in root.iter("title")]
    assert titles[:2] == ["m9: ACC, % 90 ± 3, task 1.0, n = 3", "m9: ACC, % 90 ± 3, task 2.0, n = 3"]
    chance, joint = (float(text.attrib["x"]) for text in root.iter("text") if text.text in ("chance", "joint"))
    assert joint - chance > 40
    worst_first = ElementTree.fromstring(dot_plot("", Axis("task", [1, 2]), y, curves, better=-1))
    assert next(text.text for text in worst_first.iter("text") if (text.text or "").startswith("m")) == "m1"


def test_of_what_is_not_judged_the_least_comes_first_as_in_the_table() -> None:
    curves = [series(f"m{i}", [10 * i]) for i in range(1, 10)]
    chart = lines_or_dots("", Axis("task", [1, 2]), Axis("kept, MB", [0, 100]), curves, [], better=0)
    names = [text.text for text in ElementTree.fromstring(chart).iter("text") if re.fullmatch(r"m\d", text.text or "")]
    assert names == [f"m{i}" for i in range(1, 10)]


def test_the_axis_of_a_share_ends_at_0_and_100_where_intervals_do_not() -> None:
    wide = [series("gss", [10, 90], half=60)]
    assert share_axis("ACC, %", wide).ticks() == [0, 20, 40, 60, 80, 100]
    assert share_axis("BWT, points", wide).ticks()[0] < 0


def test_a_chart_as_a_pdf_holds_its_letters_and_the_colors_of_the_page() -> None:
    style = Look("regularization", 5).style()
    curve = Series("ewc", "0", style, [(1.0, Estimate(1, 0.2, 3)), (2.0, Estimate(2, 0.2, 3))])
    found = pdf_of(line_chart("", Axis("task", [1, 2]), Axis("ACC", [0, 3]), [curve], [(1, "1"), (2, "2")]))
    assert found.startswith(b"%PDF")
    assert b"/TrueType" in found or b"/Type0" in found  # letters, no outlines
    assert f"/MediaBox [ 0 0 {WIDTH} {HEIGHT} ]".encode() in found
    streams = re.findall(rb"FlateDecode >>\nstream\n(.*?)\nendstream", found, re.DOTALL)
    assert any(b"0 0.4039215686 0.6470588235 RG" in zlib.decompress(stream) for stream in streams)  # --c0: #0067a5
