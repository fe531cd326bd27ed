"""Which method is best at one budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runs_on_disk import write

from cl_bench.report.benchmarks import benchmarks
from cl_bench.report.budgets import Equal, at_equal_budgets
from cl_bench.report.runs import read


def lines(folder: Path) -> list[Equal]:
    (benchmark,) = benchmarks(read([folder])[0])
    return at_equal_budgets(benchmark)


def seeds(folder: Path, method: str, accuracies: list[float], images: int | None = None, **changes: Any) -> None:
    for seed, accuracy in enumerate(accuracies):
        budget = {"memory__images": images, "memory__per": "total"} if images else {}
        write(folder, method, seed, acc=accuracy, **budget, **changes)


def test_each_budget_has_its_best_and_bounds_do_not_compete(tmp_path: Path) -> None:
    seeds(tmp_path, "joint", [0.99, 0.98, 0.99])
    seeds(tmp_path, "ewc", [0.2, 0.21, 0.22])
    seeds(tmp_path, "er", [0.70, 0.72, 0.715], images=200)
    seeds(tmp_path, "er", [0.90, 0.95, 0.91], images=1000)
    seeds(tmp_path, "der", [0.80, 0.82, 0.81], images=200)
    seeds(tmp_path, "der", [0.91, 0.90, 0.94], images=1000)
    none, small, large = lines(tmp_path)
    assert [line.budget for line in (none, small, large)] == ["none", "memory=200", "memory=1000"]  # by their size
    assert (none.count, none.best) == (1, "ewc alone (ACC 21.00 ± 2.48).")
    assert small.best == "der memory=200 leads (ACC 81.00 ± 2.48): it is significantly better than every other."
    assert large.best.startswith("er memory=1000 and der memory=1000 lead (ACC 92.00")
    assert small.address == "#benchmark=digits%2C%20class-incremental%2C%203%20tasks&budget=memory=200"
    assert (small.length, small.kept) == ("10 epochs", "0.00")


def test_protocols_are_told_apart_and_one_budget_has_no_table(tmp_path: Path) -> None:
    seeds(tmp_path, "joint", [0.9])
    seeds(tmp_path, "er", [0.70], images=200)
    seeds(tmp_path, "er", [0.75], images=200, trainer__epochs=30)
    assert lines(tmp_path) == []  # one budget in each protocol
    seeds(tmp_path, "er", [0.8], images=1000)
    assert [(line.protocol, line.length, line.budget) for line in lines(tmp_path)] == [
        ("P1", "10 epochs", "memory=200"),
        ("P1", "10 epochs", "memory=1000"),
        ("P2", "30 epochs", "memory=200"),
    ]
    assert lines(tmp_path)[2].address.endswith("&budget=memory=200&protocol=P2")
