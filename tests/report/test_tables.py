"""results.csv, table.md, table.tex: the same numbers, the best of each protocol in bold."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from runs_on_disk import write

from cl_bench.report.__main__ import main
from cl_bench.report.benchmarks import benchmarks
from cl_bench.report.labels import as_typed
from cl_bench.report.runs import read
from cl_bench.report.tables import ACC, best_of, columns_of, rows_of


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


def test_each_column_has_a_name_of_its_own(tmp_path: Path) -> None:
    """Online accuracy is a metric of a stream, and a number of each task."""
    file = write(tmp_path, "er") / "results.json"
    found = json.loads(file.read_text())
    file.write_text(json.dumps(found | {"metrics": found["metrics"] | {"online_accuracy": 0.5}}))
    runs = read([tmp_path])[0]
    head, _ = rows_of(runs, benchmarks(runs), tmp_path)
    assert len(set(head)) == len(head)


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
    assert (
        "Protocols differ and are tested separately. P1: scenario.train_mask=seen; P2: scenario.train_mask=cur" in text
    )
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in rows}) == 1


def test_latex(out: Path) -> None:
    text = (out / "table.tex").read_text()
    assert r"er $\cdot$ P1 & 2 & 85.00{\scriptsize$\pm$63.53} &" in text
    assert r"scenario.\hspace{0pt}train\_\hspace{0pt}mask=\hspace{0pt}seen" in text
    assert text.isascii()
    body = text.partition("\\midrule")[2].partition("\\bottomrule")[0].strip().splitlines()
    (form,) = re.findall(r"hspace\{0pt\}\}(Xr+)@", text)
    assert all(row.count("&") == len(form) - 1 and row.endswith("\\\\") for row in body)


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


def test_a_mean_over_fewer_seeds_than_its_row_has_is_said(tmp_path: Path) -> None:
    for seed in range(3):
        file = write(tmp_path, "er", seed) / "results.json"
        kept = json.loads(file.read_text())
        kept["metrics"]["retention"] = 0.9 if seed else None
        file.write_text(json.dumps(kept))
    assert main([str(tmp_path)]) == 0
    said = "Means over fewer seeds than their row has: Retention of er (2 of 3)."
    assert [said in (tmp_path / "report" / name).read_text() for name in ("index.html", "table.md", "table.tex")] == [
        True,
        True,
        False,  # it has no such column
    ]


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Runs of methods with long names and of one whose name is full of LaTeX's own signs, three seeds each."""
    names = ["continual_backprop", "meta_regularized", "er", r"[*a]_--b|_c\d_{e}_^~$_&#%_<\"", "方法é"]
    for place, name in enumerate(names):
        for seed in range(3):
            acc = 0.9 - 0.1 * place + 0.07 * seed * (place % 2)
            changes = {"method__strength": 1e5, "train_mask": "current"} if name == "er" else {}
            path = write(tmp_path, "x", seed, acc=acc, folder=f"of{place}/seed{seed}", **changes)
            kept = json.loads((path / "results.json").read_text())
            kept["config"]["choices"]["method"] = name
            kept["metrics"]["forgetting"] = 1 - acc
            (path / "results.json").write_text(json.dumps(kept))
    return tmp_path


def test_the_columns_of_the_tables_are_chosen(many: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(many), "--columns", "BWT,ACC"]) == 0
    text = (many / "report" / "table.tex").read_text()
    assert r"& n & BWT & ACC \\" in text
    assert r"& points $\uparrow$ & \% $\uparrow$ \\" in text
    assert "| configuration | seeds | BWT ↑ (points) | ACC ↑ (%) |" in (many / "report" / "table.md").read_text()
    capsys.readouterr()
    for columns, message in (
        ("ACC,forgeting", "there is no column 'forgeting'; did you mean 'forgetting'?"),
        ("FID", "no finished run has FID"),
        ("ACC,ACC", "ACC appears twice"),
        ("", "there is no column ''"),
    ):
        assert main([str(many), "--columns", columns]) == 1
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1
    assert (many / "report" / "table.tex").read_text() == text  # the older one stays


def test_a_column_that_is_asked_for_is_there_even_where_it_is_acc_by_another_name(tmp_path: Path) -> None:
    file = write(tmp_path, "er") / "results.json"
    kept = json.loads(file.read_text())
    kept["metrics"]["A10"] = kept["metrics"]["ACC"]
    file.write_text(json.dumps(kept))
    assert main([str(tmp_path), "--columns", "A10"]) == 0
    assert "| er | 1 | 80.00 |" in (tmp_path / "report" / "table.md").read_text()
    assert r"& n & A10 \\" in (tmp_path / "report" / "table.tex").read_text()


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no pdflatex (apt-get install texlive-latex-recommended)")
def test_the_table_of_four_columns_fits_a_column_of_a_paper(many: Path) -> None:
    """Compiled at 3.25 inches: no error, and no line is wider."""
    assert main([str(many)]) == 0
    text = (many / "report" / "table.tex").read_text()
    assert r"& n & ACC & BWT & Forgetting & Kept \\" in text
    page = r"\usepackage[paperwidth=4in,paperheight=11in,textwidth=3.25in,textheight=10in]{geometry}"
    head = ["\\documentclass{article}", page, "\\usepackage{booktabs,tabularx}", "\\begin{document}"]
    end = "see Table~\\ref{tab:digits-class-incremental-3-tasks} \\end{document}"
    (many / "paper.tex").write_text("\n".join([*head, text, end]))
    for _ in range(2):  # the second knows the number of the table
        made = subprocess.run(
            ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"], cwd=many, capture_output=True
        )
    log = (many / "paper.log").read_text(errors="replace")
    assert made.returncode == 0, log[-2000:]
    assert "Overfull" not in log
    assert "undefined" not in log
    assert (many / "paper.pdf").exists()


def test_parquet_holds_what_the_csv_does_with_types(many: Path) -> None:
    """Cell by cell; a number is a number, and null where there is none."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="no pyarrow (pip install 'cl_bench[parquet]')")
    write(many, "er", 7, status="failed", method__strength=2, network__bias=None, network__hidden=64, memory__per=True)
    assert main([str(many), "--parquet"]) == 0
    table = parquet.read_table(many / "report" / "results.parquet")
    with (many / "report" / "results.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    assert table.column_names == head
    assert table.num_rows == len(rows) == 16
    for name, texts in zip(head, zip(*rows, strict=True), strict=True):
        values = table[name].to_pylist()
        for value, text in zip(values, texts, strict=True):
            assert text in ("", "null") if value is None else as_typed(value) == text, name
    types = {name: str(table.schema.field(name).type) for name in head}
    expected = {"seed": "int64", "n_tasks": "int64", "ACC": "double", "seconds": "double", "method.strength": "double"}
    expected |= {"method": "string", "network.hidden": "string", "folder": "string"}
    assert {name: types[name] for name in expected} == expected


def test_what_an_earlier_report_left_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "er")
    (tmp_path / "report" / "charts").mkdir(parents=True)
    for name in ("results.parquet", "charts/b7-acc.pdf"):
        (tmp_path / "report" / name).write_bytes(b"")
    assert main([str(tmp_path)]) == 0
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(", of an earlier report; see ")[2] for line in said] == ["--parquet", "--pdf"]


def test_parquet_without_pyarrow_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cl_bench.report.__main__.find_spec", lambda name: None)
    write(tmp_path, "er")
    assert main([str(tmp_path), "--parquet"]) == 1
    assert capsys.readouterr().err == "error: --parquet needs pyarrow: pip install 'cl_bench[parquet]'\n"
    assert not (tmp_path / "report").exists()
