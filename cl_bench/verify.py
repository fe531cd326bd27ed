"""`cl-bench verify [experiment ...]`: runs what publications report, as far as it is missing, and compares."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

from cl_bench.config import InputError
from cl_bench.config.arguments import Parser
from cl_bench.config.errors import nearest
from cl_bench.config.names import key_of, place
from cl_bench.manual import keys_table
from cl_bench.process import OWNER, without_collector
from cl_bench.record import Results
from cl_bench.report.published import Cell, Row, cells, configuration_of, keep, kept, ours, row_of
from cl_bench.report.published_tables import HEADS, line_of, remade, results_table
from cl_bench.report.runs import MACHINE, Run, Unread, every_run, outdated, say_damaged
from cl_bench.report.timings import timings_table
from cl_bench.runs.asked import by_itself, composed_of

DESCRIPTION = "Compares our numbers with published numbers. Runs what is missing, as a sweep that can be interrupted."


def parser() -> Parser:
    found = Parser(prog="cl-bench verify", description=DESCRIPTION)
    found.add_argument(
        "words",
        nargs="*",
        metavar="WHAT",
        help="experiments (three_scenarios/er, dark_experience, '*/ewc'; default: all), and KEY=VALUE for every run, "
        "e.g. data_dir=data hydra/launcher=joblib",
    )
    found.add_argument(
        "--budget", choices=("cpu", "gpu"), default="cpu", help="gpu: also experiments that take hours on a CPU"
    )
    found.add_argument("--seeds", help="seeds of each run, e.g. 0,1,2; default: the seeds of each published number")
    found.add_argument("--no-run", action="store_true", help="compare existing runs, start no run")
    found.add_argument("--keep", action="store_true", help="write the runs into results/*.csv of this checkout")
    found.add_argument(
        "--tables",
        action="store_true",
        help="make the tables of README.md and docs/ again; without --keep do nothing else",
    )
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs, compares and returns the exit code: 1 where a number lies outside of what is expected or is missing."""
    try:
        options = parser().parse_intermixed_args(sys.argv[1:] if arguments is None else arguments)
        if options.tables and not options.keep:
            if vars(options) != vars(parser().parse_args(["--tables"])):
                raise InputError("--tables: use it alone or with --keep")
            return tables()
        overrides = [word for word in options.words if "=" in word]
        if seed := next((word for word in overrides if word.startswith("seed=")), None):
            raise InputError(f"{seed}: set the seeds with --seeds {seed.removeprefix('seed=')}")
        chosen = select([word for word in options.words if "=" not in word], options.budget)
        if options.seeds is not None:
            seeds = seeds_of(options.seeds)
            chosen = {
                family: [cell.model_copy(update={"seeds": seeds}) for cell in content]
                for family, content in chosen.items()
            }
        if options.keep:
            check_same(chosen, overrides)
        runs = finished(overrides)
        if not options.no_run and run_missing(chosen, runs, overrides):
            runs = finished(overrides)
        found = {family: rows(content, runs, overrides) for family, content in chosen.items()}
        if options.keep:
            for family, kept_rows in found.items():
                keep(family, kept_rows, stale(family, chosen[family]))
        if options.tables:
            tables()
        return show(chosen, found)
    except (InputError, OSError, UnicodeError) as error:  # a page that is no UTF-8
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1


def select(names: Sequence[str], budget: str) -> dict[str, list[Cell]]:
    """The cells of the experiments named, by family: by their name, by that of their folder, or by a pattern.

    Raises InputError for a name that fits none.
    """
    known = [cell for content in cells().values() for cell in content]
    for name in names:
        if not any(fits(cell, name) for cell in known):
            near = {part for cell in known for part in (cell.experiment, cell.experiment.split("/")[0])}
            raise InputError(f"{name}: there is no published number of this experiment{nearest(name, near)}")
    wanted = {
        family: [
            cell
            for cell in content
            if budget == "gpu" or cell.device == "cpu"
            if not names or any(fits(cell, name) for name in names)
        ]
        for family, content in cells().items()
    }
    if not any(wanted.values()):
        raise InputError(f"--budget={budget}: {' '.join(names)} needs a GPU; choose gpu")
    return {family: content for family, content in wanted.items() if content}


def fits(cell: Cell, name: str) -> bool:
    return cell.experiment.startswith(f"{name}/") or fnmatch(cell.experiment, name)


def check_same(chosen: Mapping[str, Sequence[Cell]], overrides: Sequence[str]) -> None:
    """Raises InputError for overrides that make other runs of the cells than those that are kept under their names."""
    places = [override for override in overrides if override.startswith(("data_dir=", "output_root="))]
    others = [override for override in overrides if override not in places]
    for cell in (cell for content in chosen.values() for cell in content):
        if others and key([*cell.configuration, *overrides], 0) != key([*cell.configuration, *places], 0):
            why = (
                f"makes a run that differs from {cell.experiment}, but would be kept under this name; leave out --keep"
            )
            raise InputError(f"{' '.join(others)}: {why}")


def seeds_of(text: str) -> tuple[int, ...]:
    seeds = text.split(",")
    if not all(seed.isascii() and seed.isdigit() and int(seed) <= 10**12 for seed in seeds):
        raise InputError(f"--seeds={text}: must be whole numbers from 0 on, e.g. 0,1,2")
    return tuple(sorted({int(seed) for seed in seeds}))


def run_missing(chosen: Mapping[str, Sequence[Cell]], runs: Mapping[str, Results], overrides: Sequence[str]) -> bool:
    """A sweep for each configuration of which a seed is missing; a run that fails is told by its sweep. Returns whether
    there was any."""
    missing = False
    seeds: dict[tuple[str, ...], set[int]] = {}
    for cell in (cell for content in chosen.values() for cell in content):
        seeds.setdefault(cell.configuration, set()).update(cell.seeds)
    for configuration, wanted in seeds.items():
        left = [seed for seed in sorted(wanted) if key([*configuration, *overrides], seed) not in runs]
        if left:
            missing = True
            words = [*configuration, f"seed={','.join(map(str, left))}", *overrides]
            print(f"\n{' '.join(words)}", flush=True)
            command = [sys.executable, "-m", "cl_bench", "-m", *words]
            subprocess.run(command, env=os.environ | {OWNER: str(os.getpid())}, check=False)
    return missing


@without_collector()  # as in `read`
def finished(overrides: Sequence[str]) -> dict[str, Results]:
    """The finished runs below the folder of runs, by their key, whatever machine they ran on."""
    own = tuple(override for override in overrides if override.startswith("output_root="))
    root = place(composed(own)["output_root"], "output_root")
    found = list(every_run([root])) if root.is_dir() else []
    unread = [run for run in found if isinstance(run, Unread)]
    runs: dict[str, Run] = {}
    for run in sorted((run for run in found if isinstance(run, Run) and run.finished), key=lambda run: run.changed):
        older = runs.get(own := key_on_any_machine(run.results.config))
        if older and older.R != run.R:  # otherwise a copy
            unread.append(outdated(older, run))
        runs[own] = run
    say_damaged(unread)
    return {own: run.results for own, run in runs.items()}


def rows(content: Sequence[Cell], runs: Mapping[str, Results], overrides: Sequence[str]) -> list[Row]:
    """What is kept of the runs of some cells."""
    found = {}
    for cell in content:
        for seed in cell.seeds:
            own = key([*cell.configuration, *overrides], seed)
            if own in runs:
                found[own] = row_of(cell, runs[own], own)
    return list(found.values())


def stale(family: str, content: Sequence[Cell]) -> list[Row]:
    """The kept runs of some cells whose configuration is another one today, and those of no cell of the family."""
    asked, known = ({cell.configuration for cell in some} for some in (content, cells()[family]))
    found = [(row, configuration_of(row)) for row in kept(family)]
    return [row for row, own in found if own not in known or (own in asked and key(own, row.seed) != row.key)]


def key(overrides: Sequence[str], seed: int) -> str:
    """Of today's configuration."""
    return key_on_any_machine(composed(ours_of(overrides)) | {"seed": seed})


def key_on_any_machine(settings: Mapping[str, Any]) -> str:
    """The key of a run without how many threads it had and on what device it was."""
    trainer = settings.get("trainer", {})  # of somebody's results.json it may not be there
    trainer = {name: value for name, value in trainer.items() if f"trainer.{name}" not in MACHINE}
    return key_of({**settings, "trainer": trainer})


def ours_of(overrides: Sequence[str]) -> tuple[str, ...]:
    """Without what is said to Hydra alone."""
    return tuple(override for override in overrides if not override.startswith("hydra"))


@cache
def composed(overrides: tuple[str, ...]) -> dict[str, Any]:
    with by_itself():
        return composed_of(overrides)


def show(chosen: dict[str, list[Cell]], found: dict[str, list[Row]]) -> int:
    """Prints a table for each family and what is to be known of its numbers."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    wide = max(Console().width, 180)  # a command is never cut
    console, good = Console(highlight=False, markup=False, soft_wrap=True, width=wide), True
    for family, content in chosen.items():
        table = Table(*HEADS, title=family, title_justify="left", box=SIMPLE_HEAD)
        notes = []
        for cell in content:
            estimate = ours(cell, found[family])
            table.add_row(*line_of(cell, estimate))
            placed = estimate and cell.placed(estimate)
            good &= placed in ("inside", "")
            notes += [note for note in (cell.source, cell.differs, placed != "inside" and cell.why) if note]
        console.print(table)
        for note in dict.fromkeys(notes):
            console.print(note)
    return int(not good)


def tables() -> int:
    """Makes the tables of the pages below this folder again, and returns the exit code."""
    pages = [page for page in (Path("README.md"), *sorted(Path("docs").rglob("*.md"))) if page.is_file()]
    changed = []
    for page in pages:
        text = page.read_text(encoding="utf-8")
        if (new := rewritten(text)) != text:
            page.write_text(new, encoding="utf-8")
            changed.append(page)
    print("\n".join(f"made again: {page}" for page in changed) or "all tables are up to date")
    return 0


def rewritten(text: str) -> str:
    """A page with its tables of results and of timings made again from the data, and its tables of keys from the
    comments of the configuration. Raises InputError for a table of what there isn't."""
    for kind, table in (("results", results_table), ("timings", timings_table), ("keys", keys_table)):
        text = remade(text, kind, table)
    return text
