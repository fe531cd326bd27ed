"""`python -m cl_bench.report [folders] [--where KEY=VALUE ...] [--out DIR]`: many runs on one page."""

from __future__ import annotations

from cl_bench.process import as_process

if __name__ == "__main__":  # at once: what follows takes its time
    as_process("cl_bench.report.__main__")

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cl_bench.config import InputError
from cl_bench.config.arguments import Parser
from cl_bench.report.benchmarks import benchmarks
from cl_bench.report.page import render
from cl_bench.report.runs import read, select
from cl_bench.report.tables import csv_of, latex, markdown


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
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: FOLDER/report of the first folder")
    try:
        options = parser.parse_args(arguments)
        report(options.folders, options.where, options.out or options.folders[0] / "report")
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def report(folders: Sequence[Path], where: Sequence[str], out: Path) -> None:
    """Writes index.html, results.csv, table.md and table.tex, all of them or none: an older page stays until then.

    Raises InputError where there is nothing to report of, or conditions that can't be met.
    """
    runs, unread, copies = read(folders)
    for run in unread:
        if run.damaged:
            print(f"not read: {printable(run.folder)}: {run.reason}", file=sys.stderr)
    if where:
        runs, unread = select(runs, where), []
    found = benchmarks(runs)
    texts = {
        "index.html": render(found, runs, unread, copies, out),
        "table.md": markdown(found),
        "table.tex": latex(found),
        "results.csv": csv_of(runs, found, out),
    }
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new", dir=out) as beside:
        for name, text in texts.items():
            (Path(beside) / name).write_bytes(text.encode(errors="replace"))  # a folder may have any bytes in its name
        for name in texts:
            (Path(beside) / name).replace(out / name)
    finished = sum(run.finished for run in runs)
    rest = len(runs) - finished + len(unread)
    configurations = sum(len(benchmark.configurations) for benchmark in found)
    aside = f", {rest} not finished" if rest else ""
    print(f"{finished} finished runs of {configurations} configurations{aside}: {printable(out / 'index.html')}")


def printable(path: Path) -> str:
    """A path as any terminal can show it."""
    return str(path).encode(errors="replace").decode()
