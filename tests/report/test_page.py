"""The page: what stands in it, that it needs nothing else, and in a real browser that it renders, sorts and filters."""

from __future__ import annotations

import base64
import csv
import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from example_records import plastic_record, task_record
from runs_on_disk import write

from cl_bench.report.__main__ import main

PIXEL = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==")
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of four methods on two benchmarks, with a sweep of n_gen, samples, and runs that aren't finished."""
    folder = tmp_path_factory.mktemp("outputs")
    for scenario in ("class_incremental", "task_incremental"):
        for place, method in enumerate(("finetune", "er", "ewc")):
            for seed in range(3):
                acc = (0.2, 0.9, 0.4)[place] + 0.01 * seed * place
                write(folder, method, seed, acc=acc, scenario=scenario)
    for n_gen in (1200, 12000):
        for seed in range(3):
            path = write(folder, "dgr", seed, acc=0.7 + n_gen / 1e5 - 0.02 * seed, method__n_gen=n_gen)
            (path / "samples").mkdir()
            (path / "samples" / "task3.png").write_bytes(PIXEL)
    write(folder, "er", 3, status="failed")
    write(folder, "<script>alert(1)</script>", 0, acc=0.5, folder="evil/seed0-0")
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
    anchors = {link[1:] for link in outline.links if link.startswith("#")}
    assert anchors
    assert anchors <= set(outline.ids)
    beside = [link for link in outline.links if not link.startswith(("#", "data:"))]
    assert beside
    assert all((page.parent / link).is_dir() for link in beside)  # the folders of what is not finished
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


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium: one on this machine, else the one of playwright."""
    api = pytest.importorskip("playwright.sync_api", reason="no playwright (pip install 'cl_bench[dev]')")
    own = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    with api.sync_playwright() as playwright:
        if not own and not Path(playwright.chromium.executable_path).exists():
            pytest.skip(f"no browser: none of {', '.join(BROWSERS)}, and `playwright install chromium` was not run")
        found = playwright.chromium.launch(executable_path=own, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def tab(browser: Any, page: Path) -> Iterator[Any]:
    """The page in a browser without a network; nothing may go wrong in its console."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True)
    tab, wrong = context.new_page(), []
    tab.on("console", lambda message: wrong.append(message.text))
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("requestfailed", lambda request: wrong.append(request.url))
    tab.goto(page.as_uri())
    yield tab
    context.close()
    assert wrong == []


def rows(tab: Any) -> list[str]:
    """The methods of the rows of the first table, as they are shown."""
    shown = tab.locator("#b0 .results tbody tr:visible")
    return [shown.nth(i).get_attribute("data-method") for i in range(shown.count())]


def test_it_renders(tab: Any) -> None:
    assert tab.title() == "cl_bench report"
    assert tab.locator("section.benchmark").count() == 2
    charts = tab.locator("#b0 .chart > svg")
    assert charts.count() >= 6
    for i in range(charts.count()):
        box = charts.nth(i).bounding_box()
        assert box["width"] > 300
        assert box["height"] > 200
    # no label of a chart is cut off at the edge of its picture
    over = """() => [...document.querySelectorAll('.chart svg text')].filter((text) => {
        const own = text.getBoundingClientRect(), all = text.closest('svg').getBoundingClientRect();
        return own.left < all.left - 1 || own.right > all.right + 1 || own.bottom > all.bottom + 1;
    }).map((text) => text.textContent)"""
    assert tab.evaluate(over) == []
    loaded = "() => [...document.images].every((image) => image.complete && image.naturalWidth > 0)"
    assert tab.evaluate(loaded)


def test_it_sorts(tab: Any) -> None:
    head = tab.locator("#b0 .results thead th").filter(has_text="ACC")
    before = rows(tab)
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    descending = rows(tab)
    assert descending[:3] == ["er", "dgr", "dgr"]
    assert descending[-1] == "finetune"
    head.locator("button").press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert rows(tab) == descending[::-1]
    tab.locator("#b0 .results thead th button").first.click()
    assert head.get_attribute("aria-sort") == "none"
    assert sorted(before) == rows(tab)


def test_it_filters(tab: Any) -> None:
    assert tab.locator("#count").text_content() == "9 of 9 configurations"
    tab.fill("#words", "DGR n_gen=12000")
    assert tab.locator("#count").text_content() == "1 of 9 configurations"
    assert rows(tab) == ["dgr"]
    assert tab.locator("section.benchmark:visible").count() == 1
    assert tab.locator("#b0 .matrix:visible").count() == 1
    assert tab.locator("#b0 .samples figure:visible").count() == 1
    assert tab.locator("#b0 .chart").first.locator(".series:visible").first.is_visible()
    tab.fill("#words", "")
    tab.select_option("#method", "er")
    assert rows(tab) == ["er"]
    assert tab.locator("section.benchmark:visible").count() == 2
    tab.select_option("#benchmark", "b1")
    assert tab.locator("section.benchmark:visible").count() == 1
    tab.select_option("#benchmark", "")
    tab.select_option("#method", "")
    assert tab.locator("#count").text_content() == "9 of 9 configurations"


def test_pointing_at_a_row_singles_it_out(tab: Any) -> None:
    tab.locator("#b0 .results tbody tr").first.hover()
    hot = tab.locator("#b0 .chart").first.locator(".series.hot")
    assert hot.count() >= 1
    assert hot.count() < tab.locator("#b0 .chart").first.locator(".series").count()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_either_mode_and_on_a_phone(browser: Any, page: Path, scheme: str) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    tab = context.new_page()
    tab.goto(page.as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    contrast = """() => {
      const light = (c) => { const [r, g, b] = c.match(/[\\d.]+/g).map((v) => (v /= 255) <= .04045 ? v / 12.92
        : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b; };
      const paper = light(getComputedStyle(document.body).backgroundColor);
      return [...document.querySelectorAll('p, th, td:not(.matrix td), .series, figcaption, a')].map((one) => {
        const ink = light(getComputedStyle(one).color);
        return (Math.max(ink, paper) + .05) / (Math.min(ink, paper) + .05);
      });
    }"""
    assert min(tab.evaluate(contrast)) >= 4.5
    context.close()


def test_it_says_what_it_is_to_a_screen_reader(tab: Any) -> None:
    assert tab.get_by_role("main").count() == 1
    assert tab.get_by_role("heading", level=1).count() == 1
    assert tab.get_by_role("img", name="Accuracy against task: accuracy on tasks so far, %").count() == 2
    assert tab.get_by_role("columnheader", name="ACC more is better").count() == 2
    assert tab.get_by_label("Method").count() == 1
    unnamed = "() => [...document.querySelectorAll('figure > svg')].filter((s) => !s.getAttribute('aria-label')).length"
    assert tab.evaluate(unnamed) == 0
