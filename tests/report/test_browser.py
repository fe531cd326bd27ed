"""The page in a real browser: it renders, sorts, filters, opens rows, and says what it is."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from runs_on_disk import write
from test_page import page as page

from cl_bench.report.__main__ import main

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")


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
    shown = tab.locator("#b0 .results > tbody > tr[data-id]:visible")
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
    time = tab.locator("#b0 .results thead th").filter(has_text="Time")  # the best first: few seconds
    time.locator("button").click()
    assert time.get_attribute("aria-sort") == "ascending"


def test_a_row_opens_and_stays_above_what_it_shows(tab: Any) -> None:
    name = "<script>alert(1)</script>"
    button = tab.locator("#b0").get_by_role("button", name=name, exact=True).first
    assert button.get_attribute("aria-expanded") == "false"
    button.press("Enter")
    assert button.get_attribute("aria-expanded") == "true"
    below = tab.locator(f"#{button.get_attribute('aria-controls')}")
    tab.locator("#b0 .results > thead button").first.click()
    assert below.evaluate("(below, name) => below.previousElementSibling.dataset.method === name", name)
    assert f"python -m cl_bench 'method={name}' seed=0" in below.text_content()
    link = below.get_by_role("link", name="a matrix")
    assert Path(unquote(link.evaluate("(link) => link.href").removeprefix("file://"))).is_file()
    tab.fill("#words", "ewc")
    assert not below.is_visible()
    tab.fill("#words", "")
    below.get_by_role("button", name="Copy").click()
    button.press("Enter")
    assert not below.is_visible()


def test_filters_combine_and_stand_in_the_address(tab: Any) -> None:
    count = tab.locator("#count")
    assert count.text_content() == "9 of 9 configurations"
    tab.fill("#words", "DGR n_gen=12000")
    assert count.text_content() == "1 of 9 configurations"
    assert rows(tab) == ["dgr"]
    assert tab.locator("section.benchmark:visible").count() == 1
    assert tab.locator("#b0 .matrix:visible").count() == 1
    assert tab.locator("#b0 .samples figure:visible").count() == 1
    assert tab.locator("#b0 .chart").first.locator(".series:visible").first.is_visible()
    assert tab.url.endswith("#words=DGR%20n_gen=12000")
    tab.click("#clear")
    tab.locator("summary", has_text="Method").click()
    tab.get_by_label("er", exact=True).check()
    tab.get_by_label("ewc", exact=True).check()
    assert tab.url.endswith("#method=er,ewc")
    assert rows(tab) == ["er", "ewc"]
    assert tab.locator(".overview tbody tr:visible").count() == 2
    assert tab.locator("#b0 table.grid > tbody > tr:visible").count() == 2
    assert tab.locator("#b0 table.grid > thead th[data-id]:visible").count() == 2
    tab.locator("#b0 summary", has_text="All 9 tests").click()
    assert tab.locator("#b0 [data-pair]:visible").count() == 1
    assert tab.locator(".whole:visible").count() >= 3  # what stays as it is says so
    tab.go_back()
    assert rows(tab) == ["er"]
    assert not tab.locator("#b0 table.grid").is_visible()  # of one
    tab.go_back()
    assert count.text_content() == "9 of 9 configurations"
    assert tab.locator("#b0 table.grid").is_visible()
    assert tab.locator(".whole:visible").count() == 0


def test_filters_are_read_from_the_address_and_what_is_unknown_is_said(tab: Any) -> None:
    tab.evaluate("location.hash = 'method=er,ewk,EWC&scenario=class&metod=er'")
    tab.wait_for_function("!document.getElementById('wrong').hidden")
    assert rows(tab) == ["er", "ewc"]
    assert tab.locator("section.benchmark:visible").count() == 1
    said = tab.locator("#wrong").text_content()
    assert "no row has method=ewk (there are" in said
    assert "there is no filter metod" in said
    tab.locator(".contents a", has_text="figures").first.click()  # a place of the page: what is chosen stays
    assert rows(tab) == ["er", "ewc"]
    tab.locator("#clear").click()
    assert not tab.locator("#wrong").is_visible()
    assert tab.locator("section.benchmark:visible").count() == 2
    tab.locator("#b0-budgets ~ .wide a").first.click()
    tab.wait_for_function("location.hash.includes('budget=')")
    assert tab.locator("#count").text_content() == "4 of 9 configurations"  # all but dgr


def test_a_legend_switches_what_it_names(tab: Any) -> None:
    entries = tab.locator("#b0 .legend [aria-pressed]")
    lines = tab.locator("#b0 .chart").first.locator(".series:has(.line):visible")
    n = entries.count()
    assert lines.count() == n
    assert tab.locator("#b0 .front:visible").count() > 0
    entries.first.press("Enter")
    assert lines.count() == n - 1
    assert tab.locator("#b0 .front:visible").count() == 0  # it would join points that are not there
    assert len(rows(tab)) == n  # the table keeps its rows
    tab.locator("#b0 .legend .all button").click()
    assert lines.count() == n
    entries.nth(1).dblclick()
    assert lines.count() == 1
    entries.nth(1).dblclick()
    assert lines.count() == n


def test_pointing_at_a_row_singles_it_out(tab: Any) -> None:
    tab.locator("#b0 .results > tbody > tr").first.hover()
    hot = tab.locator("#b0 .chart").first.locator(".series.hot")
    assert hot.count() >= 1
    assert hot.count() < tab.locator("#b0 .chart").first.locator(".series").count()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_either_mode_and_on_a_phone(browser: Any, page: Path, scheme: str) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    tab = context.new_page()
    tab.goto(page.as_uri())
    tab.locator("#b0 .expand").first.click()
    for facet in tab.locator(".facet summary").all():
        facet.click()
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


@pytest.mark.parametrize("name", ["a_name_of_some_length", "a_name_" * 9])
@pytest.mark.parametrize("width", [360, 1280])
def test_a_name_longer_than_its_place_is_not_cut_and_covers_nothing(
    browser: Any, tmp_path: Path, width: int, name: str
) -> None:
    for n in range(2):
        for seed in range(2):
            write(tmp_path, f"{name}{n}", seed, acc=0.5 + n / 10 + seed * n / 50, memory__images=100 * n + 100)
    assert main([str(tmp_path)]) == 0
    context = browser.new_context(viewport={"width": width, "height": 900})
    tab = context.new_page()
    tab.goto((tmp_path / "report" / "index.html").as_uri())
    over = """() => [...document.querySelectorAll('p, .results tbody th, table.grid thead th')].filter((one) => {
        const range = document.createRange(); range.selectNodeContents(one);
        const ink = range.getBoundingClientRect(), own = one.getBoundingClientRect();
        return ink.width && (ink.right > own.right + 1 || ink.top < own.top - 1);
    }).map((one) => one.textContent)"""
    assert tab.evaluate(over) == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    context.close()


@pytest.fixture(scope="module")
def ranked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of as many methods on two benchmarks as a chart has dots, not lines, and mean ranks."""
    folder = tmp_path_factory.mktemp("ranked")
    for scenario in ("class_incremental", "task_incremental"):
        for place in range(10):
            for seed in range(2):
                write(folder, f"rival_{place}", seed, acc=0.5 + 0.04 * place + 0.01 * seed, scenario=scenario)
    assert main([str(folder)]) == 0
    return folder / "report" / "index.html"


@pytest.mark.parametrize("width", [390, 1400])
def test_mean_ranks_and_short_names_can_be_read_at_any_width(browser: Any, ranked: Path, width: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900})
    tab = context.new_page()
    tab.goto(ranked.as_uri())
    figure = tab.locator("figure[data-file=mean-rank]")
    assert 560 < figure.locator("svg").bounding_box()["width"] < 600  # its letters are as large as those of the page
    assert figure.get_by_role("button", name="SVG").count() == 1
    scrolls = figure.locator(".ranks").evaluate("(part) => part.scrollWidth > part.clientWidth")
    assert scrolls == (width < 576)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    broken = """() => [...document.querySelectorAll('.wide tbody th')].filter((head) => head.offsetHeight > 60)
        .map((head) => head.textContent)"""
    assert tab.evaluate(broken) == []
    context.close()


def test_paper_cuts_no_table(browser: Any, ranked: Path) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 740})
    tab = context.new_page()
    tab.goto(ranked.as_uri())
    tab.emulate_media(media="print")
    widest = "() => Math.max(...[...document.querySelectorAll('.wide > *')].map((one) => one.offsetWidth || 0))"
    assert tab.evaluate(widest) <= tab.evaluate("document.documentElement.scrollWidth")  # else a part is not printed
    context.close()


def test_it_says_what_it_is_to_a_screen_reader(tab: Any) -> None:
    assert tab.get_by_role("main").count() == 1
    assert tab.get_by_role("heading", level=1).count() == 1
    assert tab.get_by_role("img", name="Accuracy against task: accuracy on tasks so far, %").count() == 2
    assert tab.get_by_role("columnheader", name="ACC more is better").count() == 2
    assert tab.get_by_role("group", name="Method", include_hidden=True).count() == 1
    unnamed = "() => [...document.querySelectorAll('figure > svg')].filter((s) => !s.getAttribute('aria-label')).length"
    assert tab.evaluate(unnamed) == 0


def test_rows_of_a_dot_plot_close_up_under_a_filter(browser: Any, ranked: Path) -> None:
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    tab = context.new_page()
    tab.goto(ranked.as_uri())
    plot = tab.locator("svg", has=tab.locator(".foot")).first
    measure = """(plot) => {
        const y = (part) => part.getBoundingClientRect();
        const shown = [...plot.querySelectorAll('.series:not(.off) text')].map((name) => y(name).y);
        const axis = y(plot.querySelector('.foot .axis')).y;
        const ends = [...plot.querySelectorAll('.down')].map((line) => y(line).bottom);
        return { shown, axis, off: Math.max(...ends.map((end) => Math.abs(end - axis))), height: y(plot).height };
    }"""
    whole = plot.evaluate(measure)
    tab.goto(f"{ranked.as_uri()}#method=rival_2,rival_7")
    few = plot.evaluate(measure)
    assert (len(whole["shown"]), len(few["shown"])) == (10, 2)
    row = whole["shown"][1] - whole["shown"][0]
    assert few["shown"][1] - few["shown"][0] == pytest.approx(row, abs=1)
    assert few["height"] == pytest.approx(whole["height"] - 8 * row, abs=1)
    assert few["axis"] - few["shown"][1] == pytest.approx(whole["axis"] - whole["shown"][9], abs=1)
    assert max(few["off"], whole["off"]) < 1
    tab.goto(f"{ranked.as_uri()}#")
    assert plot.evaluate(measure)["height"] == pytest.approx(whole["height"], abs=1)
    context.close()
