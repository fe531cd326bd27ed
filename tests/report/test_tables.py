"""results.csv, table.md, table.tex: the same numbers, the best of each protocol in bold."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from runs_on_disk import write

from cl_bench.report.__main__ import main
from cl_bench.report.benchmarks import benchmarks
from cl_bench.report.runs import read
from cl_bench.report.tables import ACC, best_of, columns_of


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """The report of three methods, two seeds each, of a run that failed and of another protocol."""
    for seed in range(2):
        write(tmp_path, "joint", seed, acc=0.99)
        write(tmp_path, "er", seed, acc=0.8 + 0.1 * seed, method__n_replay=32)
        write(tmp_path, "ewc", seed, acc=0.3)
    write(tmp_path, "ewc", 2, acc=0.2, status="failed")
    write(tmp_path, "er", 0, acc=0.95, method__n_replay=32, train_mask="current")
    assert main([str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    return tmp_path / "out"


def test_csv_has_a_row_per_run(out: Path) -> None:
    with (out / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert len({row["folder"] for row in rows}) == 8
    assert all((out / row["folder"] / "results.json").exists() for row in rows)
    er = [row for row in rows if row["method"] == "er" and row["protocol"] == "P1"]
    assert [(row["seed"], float(row["ACC"]), row["method.n_replay"]) for row in er] == [
        ("0", 0.8, "32"),
        ("1", 0.9, "32"),
    ]


def test_csv_has_no_metrics_of_what_is_not_finished(out: Path) -> None:
    with (out / "results.csv").open() as file:
        (failed,) = [row for row in csv.DictReader(file) if row["status"] == "failed"]
    assert (failed["reason"], failed["tasks_done"], failed["ACC"], failed["seconds"]) == ("loss is inf", "1", "", "")


def test_markdown(out: Path) -> None:
    text = (out / "table.md").read_text()
    assert "| joint · P1 | 2 | 99.00 ± 0.00 |" in text
    assert "| er · P1 | 2 | 85.00 ± 63.53 |" in text  # t = 12.706 for two seeds: nothing is known of the best
    assert "| ewc · P1 | 2 | 30.00 ± 0.00 |" in text
    assert "| er · P2 | 1 | 95.00 |" in text  # alone in its protocol: nothing to be best of
    assert "Protocols differ and are judged apart. P1: scenario.train_mask=seen; P2: scenario.train_mask=cur" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in rows}) == 1


def test_latex(out: Path) -> None:
    text = (out / "table.tex").read_text()
    assert r"er $\cdot$ P1 & 2 & 85.00 $\pm$ 63.53 &" in text
    assert r"scenario.train\_mask=seen" in text
    assert text.isascii()
    body = text.partition("\\midrule")[2].partition("\\bottomrule")[0].strip().splitlines()
    columns = len(text.partition("\\begin{tabular}{")[2].partition("}")[0])
    assert all(row.count("&") == columns - 1 and row.endswith("\\\\") for row in body)


def test_the_best_is_bold_where_it_is_more_than_chance_and_bounds_do_not_compete(tmp_path: Path) -> None:
    for seed, (er, icarl, ewc) in enumerate([(0.90, 0.91, 0.1), (0.92, 0.9, 0.11), (0.91, 0.91, 0.15)]):
        for method, acc in (("joint", 0.95), ("er", er), ("ewc", ewc)):
            write(tmp_path, method, seed, acc=acc)
        write(tmp_path / "more", "icarl", seed, acc=icarl)
    assert main([str(tmp_path), "--where", "method=joint,er,ewc"]) == 0
    assert r"\textbf{91.00" in (tmp_path / "report" / "table.tex").read_text()
    assert "| er | 3 | **91.00" in (tmp_path / "report" / "table.md").read_text()
    (benchmark,) = benchmarks(read([tmp_path])[0])
    assert best_of(benchmark.configurations, ACC) == set()  # er and icarl are not told apart


def test_columns_are_those_that_were_measured(tmp_path: Path) -> None:
    write(tmp_path, "er")
    (benchmark,) = benchmarks(read([tmp_path])[0])
    names = [column.name for column in columns_of(benchmark.configurations)]
    assert names == ["ACC", "LA", "BWT", "FWT", "bytes_kept", "seconds"]
