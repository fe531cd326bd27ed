"""`python -m cl_bench.report [folders] [--where KEY=VALUE ...] [--out DIR]`: many runs on one page."""

from __future__ import annotations

from cl_bench.process import as_process

if __name__ == "__main__":  # at once: what follows takes its time
    as_process("cl_bench.report.__main__")

import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from cl_bench.config import InputError
from cl_bench.config.arguments import Parser
from cl_bench.process import without_collector
from cl_bench.report.benchmarks import benchmarks
from cl_bench.report.latex import PAPER, latex, named
from cl_bench.report.page import render
from cl_bench.report.pdf import charts
from cl_bench.report.plots import BY_NAME
from cl_bench.report.runs import printable, read, say_damaged, select
from cl_bench.report.tables import csv_of, markdown, parquet_of, rows_of


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the report and returns the exit code; what goes wrong is one line on stderr."""
    parser = Parser(prog="python -m cl_bench.report", description="Compares finished runs on one offline page.")
    parser.add_argument("folders", nargs="*", type=Path, default=[Path("outputs")], help="default: outputs")
    parser.add_argument(
        "--where",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="only these runs, e.g. method=dgr,dgm dataset=mnist method.n_gen=1200",
    )
    parser.add_argument(
        "--columns",
        metavar="NAME,NAME",
        help="of table.md and table.tex, e.g. ACC,BWT,seconds: names as in results.csv",
    )
    parser.add_argument("--parquet", action="store_true", help="also writes results.parquet (needs pyarrow)")
    parser.add_argument("--pdf", action="store_true", help="also writes each chart as a PDF into charts/")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: FOLDER/report of the first folder")
    try:
        options = parser.parse_args(arguments)
        report(
            options.folders,
            options.where,
            options.out or options.folders[0] / "report",
            options.columns,
            options.parquet,
            options.pdf,
        )
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


@without_collector()
def report(
    folders: Sequence[Path],
    where: Sequence[str],
    out: Path,
    columns: str | None = None,
    parquet: bool = False,
    pdf: bool = False,
) -> None:
    """Writes index.html, results.csv, table.md and table.tex, all of them or none: an older page stays until then.

    columns: of the two tables, see `latex.named`. parquet: results.parquet, too. pdf: charts/NAME.pdf, too. Raises
    InputError where there is nothing to report of, for conditions and columns that can't be met, and without pyarrow.
    """
    if parquet and find_spec("pyarrow") is None:
        raise InputError("--parquet needs pyarrow: pip install 'cl_bench[parquet]'")
    runs, unread, copies = read(folders)
    say_damaged(unread)
    if where:
        runs, unread = select(runs, where), []
    found = benchmarks(runs)
    chosen = None if columns is None else named(columns, found)
    place = out.resolve()
    head, rows = rows_of(runs, found, place)
    page = render(found, runs, unread, copies, place, pdf)
    texts = {
        "index.html": page,
        "table.md": markdown(found, chosen),
        "table.tex": latex(found, chosen or [BY_NAME[name] for name in PAPER]),
        "results.csv": csv_of(head, rows),
    }
    files = {name: text.encode(errors="replace") for name, text in texts.items()}  # a folder may have any name
    if parquet:
        files["results.parquet"] = parquet_of(head, rows)
    if pdf:
        files |= {f"charts/{name}.pdf": content for name, content in charts(page)}
    try:
        put(files, out)
    except OSError as error:
        raise InputError(f"{printable(out)}: cannot be written ({error.strerror or error}); set --out") from error
    for pattern, flag in (("results.parquet", "--parquet"), ("charts/*.pdf", "--pdf")):
        left = sorted(file for file in out.glob(pattern) if file.relative_to(out).as_posix() not in files)
        if left:
            more = f" and {len(left) - 1} more" * (len(left) > 1)
            print(f"not made again: {printable(left[0])}{more}, of an earlier report; see {flag}", file=sys.stderr)
    finished = sum(run.finished for run in runs)
    rest = len(runs) - finished + len(unread)
    configurations = sum(len(benchmark.configurations) for benchmark in found)
    aside = f", {rest} not finished" if rest else ""
    print(f"{finished} finished runs of {configurations} configurations{aside}: {printable(out / 'index.html')}")


def put(files: Mapping[str, bytes], out: Path) -> None:
    """Writes files of a folder, all of them or none. Raises OSError."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new", dir=out) as beside:
        for name, content in files.items():
            (Path(beside) / name).parent.mkdir(exist_ok=True)
            (Path(beside) / name).write_bytes(content)
        for name in files:
            (out / name).parent.mkdir(exist_ok=True)
            (Path(beside) / name).replace(out / name)
