"""Ticks and bold: where there is more than chance, and nowhere else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs_on_disk import write

from cl_bench.evaluation.statistics import compare
from cl_bench.report.__main__ import main
from cl_bench.report.benchmarks import Benchmark, benchmarks
from cl_bench.report.comparisons import comparisons
from cl_bench.report.runs import read
from cl_bench.report.tables import ACC, best_of


def of(folder: Path) -> Benchmark:
    (benchmark,) = benchmarks(read([folder])[0])
    return benchmark


def noisy(folder: Path, method: str, mean: float, seeds: int = 5, draw: int = 0, **changes: Any) -> None:
    noise = np.random.default_rng([draw, *method.encode()]).normal(0, 0.01, seeds)
    for seed in range(seeds):
        write(folder, method, seed, acc=float(np.clip(mean + noise[seed], 0, 1)), **changes)


def page(folder: Path) -> str:
    assert main([str(folder)]) == 0
    return (folder / "report" / "index.html").read_text()


def test_equal_methods_have_no_tick_and_none_is_bold(tmp_path: Path) -> None:
    for method in ("er", "ewc", "si", "lwf"):
        noisy(tmp_path, method, 0.5)
    text = page(tmp_path)
    assert "✓</td>" not in text
    assert 'class="clear"' not in text.replace('<span class="clear">', "")
    assert "<b>" not in text.partition('<table class="results')[2].partition("</table>")[0]
    assert "**" not in (tmp_path / "report" / "table.md").read_text()


def test_the_right_pairs_of_different_methods_are_ticked(tmp_path: Path) -> None:
    for method, mean in (("er", 0.9), ("ewc", 0.5), ("si", 0.5)):
        noisy(tmp_path, method, mean)
    benchmark = of(tmp_path)
    (tests,) = comparisons(benchmark, benchmark.configurations)
    clear = {
        (tests.shown[i].label, tests.shown[j].label)
        for i, row in enumerate(tests.grid)
        for j, cell in enumerate(row)
        if cell and cell.clear
    }
    assert clear == {("er", "ewc"), ("er", "si"), ("ewc", "er"), ("si", "er")}
    assert page(tmp_path).count("✓</td>") == 4
    assert {one.method for one in best_of(benchmark.configurations, ACC)} == {"er"}


def test_all_configurations_are_tested_whatever_is_shown(tmp_path: Path) -> None:
    """Of 20 the best one is drawn; tested alone it would differ from an equal method far too often."""
    for strength in range(20):
        noisy(tmp_path, "ewc", 0.5, draw=strength, method__strength=strength)
    noisy(tmp_path, "si", 0.5)
    assert "including 19 more configurations" in page(tmp_path)
    benchmark = of(tmp_path)
    drawn = [one for one in benchmark.configurations if one.method == "si"] + benchmark.configurations[:1]
    (tests,) = comparisons(benchmark, drawn)
    assert (tests.count, tests.left_out, len(tests.pairs)) == (210, 19, 1)


def test_false_alarms_among_winners_stay_below_their_level() -> None:
    draw, alarms = np.random.default_rng(0), 0
    for _ in range(200):
        table = draw.normal(0.8, 0.02, (21, 5))
        winner = int(table[:20].mean(axis=1).argmax())
        pairs = compare([dict(enumerate(map(float, row))) for row in table])
        alarms += any(pair.clear for pair in pairs if {pair.first, pair.second} == {winner, 20})
    assert alarms <= 10


def test_one_seed_is_never_bold_over_five(tmp_path: Path) -> None:
    noisy(tmp_path, "er", 0.6)
    noisy(tmp_path, "ewc", 0.2)
    assert {one.method for one in best_of(of(tmp_path).configurations, ACC)} == {"er"}
    write(tmp_path, "icarl", 0, acc=0.99)
    assert best_of(of(tmp_path).configurations, ACC) == set()


@pytest.mark.parametrize(("first", "second"), [(0.9, 0.3), (0.3, 0.9)])
def test_less_is_better_where_it_is(tmp_path: Path, first: float, second: float) -> None:
    noisy(tmp_path, "er", first)
    noisy(tmp_path, "ewc", second)
    (best,) = best_of(of(tmp_path).configurations, ACC)
    assert best.method == ("er" if first > second else "ewc")


def test_what_differs_is_said_where_it_is_seen(tmp_path: Path) -> None:
    memory = {"images": 200, "per": "total", "bytes": None}
    write(tmp_path, "er", trainer__epochs=10, memory=memory)
    write(tmp_path, "ewc", trainer__epochs=100, train_mask="all")
    text = page(tmp_path)
    table = text.partition('<table class="results')[2].partition("</table>")[0]
    assert re.findall(r'<td class="context condition[^>]*>(.*?)</td>', table) == [
        "seen", "memory=200", "10 epochs", "all", "", "100 epochs",
    ]  # fmt: skip
    assert table.count('class="differs"') == 2  # the mask and the length; one memory alone differs from none
    assert "Lengths of training differ: 10 epochs (er); 100 epochs (ewc)." in text
    assert "Training masks differ: seen (er); all (ewc)." in text


def test_a_memory_that_a_method_does_not_read_is_no_difference(tmp_path: Path) -> None:
    for seed, images in enumerate((100, 200)):
        path = write(tmp_path, "ewc", seed, memory={"images": images, "per": "total", "bytes": None})
        file = path / "results.json"
        file.write_text(file.read_text().replace("methods.ewc.X", "methods.ewc.EWC"))
    (one,) = of(tmp_path).configurations
    assert (one.seeds, one.budget) == ([0, 1], "")
