"""The page: what stands in it, and that it needs nothing else. What it does in a browser is in test_browser.py."""

from __future__ import annotations

import base64
import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from example_records import plastic_record, task_record
from runs_on_disk import write

from cl_bench.report.__main__ import main
from cl_bench.report.tables import MINUS

PIXEL = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of four methods on two benchmarks, with a sweep of n_gen, samples, and runs that aren't finished."""
    folder = tmp_path_factory.mktemp("outputs")
    for scenario in ("class_incremental", "task_incremental"):
        for place, method in enumerate(("finetune", "er", "ewc")):
            for seed in range(3):
                acc = (0.2, 0.9, 0.4)[place] + 0.01 * seed * place
                file = write(folder, method, seed, acc=acc, scenario=scenario) / "results.json"
                if method == "ewc":  # the least is kept here
                    file.write_text(file.read_text().replace('"bytes_kept": 4000', '"bytes_kept": 2000'))
    for n_gen in (1200, 12000):
        for seed in range(3):
            path = write(folder, "dgr", seed, acc=0.7 + n_gen / 1e5 - 0.02 * seed, method__n_gen=n_gen)
            (path / "samples").mkdir()
            (path / "samples" / "task3.png").write_bytes(PIXEL)
    write(folder, "er", 3, status="failed")
    evil = write(folder, "<script>alert(1)</script>", 0, acc=0.5, folder="evil #1% </script>/seed0-0")
    (evil / "figures").mkdir()
    (evil / "figures" / "a_matrix.png").write_bytes(PIXEL)
    assert main([str(folder)]) == 0
    return folder / "report" / "index.html"


class Outline(HTMLParser):
    """The tags of a page that are still open, and what it refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "input", "img", "path", "circle", "rect"):
            self.open.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        self.ids += [value or "" for name, value in attrs if name == "id"]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing_else(page: Path) -> None:
    text = page.read_text()
    outline = Outline()
    outline.feed(text)
    assert outline.open == []
    assert len(set(outline.ids)) == len(outline.ids)
    anchors = {link[1:] for link in outline.links if link.startswith("#") and "=" not in link}
    assert anchors
    assert anchors <= set(outline.ids)
    beside = [link for link in outline.links if not link.startswith(("#", "data:"))]
    # the table of all runs, and the folders of what is not finished
    assert [link for link in beside if not (page.parent / unquote(link)).is_dir()] == ["results.csv"]
    assert len(beside) > 1
    assert "http" not in re.sub(r"http-equiv", "", text)


def test_what_the_page_says(page: Path) -> None:
    text = page.read_text()
    assert "25 finished runs of 9 configurations on 2 benchmarks" in text
    assert "loss is inf" in text
    for title in ("Accuracy against task", "ACC against n_gen", "BWT against n_gen", "Stability against plasticity"):
        assert f"<strong>{title}.</strong>" in text
    for title in ("what is kept", "time"):
        assert f"<strong>Accuracy against {title}.</strong>" in text
    assert "Holm-corrected for the" in text
    assert text.count("data:image/png;base64,") == 2
    assert "<script>alert" not in text


def test_a_row_opens_on_data_that_stand_in_the_page_once(page: Path) -> None:
    text = page.read_text()
    kept = re.findall(r'<script type="application/json" id="details">(.*?)</script>', text, re.S)
    found = json.loads(kept[0])
    number = {name: id for id, name in re.findall(r'<tr data-id="(\d+)" data-method="(.*?)"', text)}
    commands, runs = found["rows"][number["ewc"]]
    assert commands == ["python -m cl_bench -m method=ewc seed=0,1,2"]
    assert [run[0] for run in runs] == [0, 1, 2]
    ACC, BWT = (found["columns"]["b1"].index(head) for head in ("ACC (%)", "BWT (points)"))
    assert [run[-1][ACC] for run in runs] == ["40.00", "42.00", "44.00"]
    assert runs[0][-1][BWT] == f"{MINUS}58.00"
    assert runs[0][2] == "2026-01-02 03:04"
    assert found["origins"][runs[0][3]] == ["cl_bench 0.1.0, torch 2", "c0ffee" * 6, "a processor"]
    assert len(found["origins"]) == 2  # with figures, and without
    _, [[_, link, _, origin, _]] = found["rows"][number["&lt;script&gt;alert(1)&lt;/script&gt;"]]
    assert (page.parent / unquote(link) / "figures" / found["origins"][origin][3]).is_file()


def test_of_many_configurations_the_figures_show_the_best_of_each_method(tmp_path: Path) -> None:
    for strength in range(20):
        write(tmp_path, "ewc", acc=0.5 + strength / 100, method__strength=strength)
    write(tmp_path, "er")
    assert main([str(tmp_path)]) == 0
    text = (tmp_path / "report" / "index.html").read_text()
    assert "Figures and comparisons show 2 of 21 configurations" in text
    legend = text.partition('<ul class="legend"')[2].partition("</ul>")[0]
    assert re.findall(r"</svg>(.*?)</li>", legend) == ["er", "ewc strength=19"]


@pytest.mark.parametrize("n_tasks", [1, 2, 12])
def test_any_number_of_tasks(tmp_path: Path, n_tasks: int) -> None:
    write(tmp_path, "er", tasks=n_tasks)
    assert main([str(tmp_path)]) == 0


def test_plasticity_is_shown_task_by_task_where_it_was_measured(tmp_path: Path) -> None:
    for seed in range(2):
        write(tmp_path, "er", seed, record=plastic_record)
        write(tmp_path, "ewc", seed)
    assert main([str(tmp_path)]) == 0
    text = (tmp_path / "report" / "index.html").read_text()
    for title in ("Online", "Dead units", "Effective rank", "Weights"):
        assert f"<strong>{title} against task.</strong>" in text
    figure = text.partition("<strong>Dead units against task.</strong>")[2].partition("</figure>")[0]
    assert re.findall(r"<td>(.*?)</td>", figure) == ["18.75 ± 0.00"] * 3 + [""] * 3  # 3 of 16; ewc has none
    heads = re.findall(r'<button type="button">(.*?)</button>', text)
    assert [head for head in heads if head.startswith(("Online", "Dead"))]


def test_sizes_are_drawn_where_a_method_grows(tmp_path: Path) -> None:
    """What answers need and what is kept are two numbers: a growing network beside one that keeps its size."""
    write(tmp_path, "pnn", record=lambda task: task_record(task, answer_bytes=2_000_000 * (task + 1)))
    write(tmp_path, "ewc", record=lambda task: task_record(task, answer_bytes=2_000_000))
    assert main([str(tmp_path)]) == 0
    text = (tmp_path / "report" / "index.html").read_text()
    assert "<strong>Kept: size against task.</strong>" not in text  # neither keeps more than after the first task
    figure = text.partition("<strong>Answers: size against task.</strong>")[2].partition("</figure>")[0]
    assert re.findall(r"<td>(.*?)</td>", figure) == ["2.00", "2.00", "2.00", "2.00", "4.00", "6.00"]
    with (tmp_path / "report" / "results.csv").open() as file:
        assert {row["method"]: row["answer_bytes"] for row in csv.DictReader(file)} == {
            "ewc": "2000000",
            "pnn": "6000000",
        }


def test_many_tasks_and_skipped_rows_make_a_page_of_some_of_each(tmp_path: Path) -> None:
    path = write(tmp_path, "er", tasks=300, record=plastic_record)
    kept = json.loads((path / "results.json").read_text())
    kept["R"] = [row if i % 100 == 99 else [None] * 300 for i, row in enumerate(kept["R"])]
    (path / "results.json").write_text(json.dumps(kept))
    assert main([str(tmp_path)]) == 0
    page = tmp_path / "report" / "index.html"
    assert page.stat().st_size < 500_000
    matrix = page.read_text().partition('<table class="matrix')[2].partition("</table>")[0]
    assert re.findall(r'<th scope="row">(.*?)</th>', matrix) == ["100", "200", "300"]


def test_values_along_a_parameter_stand_by_their_size_beside_what_is_no_number(tmp_path: Path) -> None:
    for images in (100, 200, 1000, None):
        write(tmp_path, "er", memory__images=images)
    assert main([str(tmp_path)]) == 0
    chart = (tmp_path / "report" / "index.html").read_text().partition("ACC against memory.")[2].partition("</svg>")[0]
    assert re.findall(r">(100|200|1000|null)</text>", chart) == ["100", "200", "1000", "null"]


def test_values_of_a_wide_range_stand_apart_where_one_of_them_is_0(tmp_path: Path) -> None:
    for strength in (0.0, 1.0, 10.0, 1000.0):
        write(tmp_path, "ewc", method__strength=strength)
    assert main([str(tmp_path)]) == 0
    page = (tmp_path / "report" / "index.html").read_text()
    chart = page.partition("ACC against strength.")[2].partition("</svg>")[0]
    assert "strength, logarithmic" in chart
    places = {text: float(x) for x, text in re.findall(r'<text x="([\d.]+)"[^>]*>(0|1|10|1000)</text>', chart)}
    assert places["0"] < places["1"] < places["10"] < places["1000"]
    assert places["10"] - places["1"] > 20


def test_nothing_finished_is_a_page_too(tmp_path: Path) -> None:
    write(tmp_path, "er", status="running")
    assert main([str(tmp_path), "--out", str(tmp_path / "new" / "place")]) == 0
    assert "1 of 3 tasks" in (tmp_path / "new" / "place" / "index.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["."], "no results.json below ."),
        (["--where"], "--where"),
        (["--bad"], "--bad"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert message in said.err
    assert said.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
