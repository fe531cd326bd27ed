"""A sweep while it goes, and summed up at its end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cl_bench.config.names import name_of
from cl_bench.record import Results
from cl_bench.runs.folder import read_results
from cl_bench.sweep.jobs import Job, complain

COLUMNS = ("ACC", "BWT", "forgetting")
LINES = 8  # running ones that the live view names


class View:
    """Jobs done, running and left, and the time to go, as far as the board and the runs' folders tell.

    jobs: the whole sweep. left: those that a launcher has, numbered as on the board. quiet: don't report failures,
    somebody else does.
    """

    def __init__(self, jobs: Sequence[Job], left: Sequence[Job], board: Path, quiet: bool) -> None:
        self.jobs, self.left, self.board, self.quiet = jobs, left, board, quiet
        for job in left:
            job.begin()

    def look(self) -> None:
        """Brings the state of every run up to date."""
        for number, job in enumerate(self.left):
            if job.state not in ("left", "running"):
                continue
            note = self.note(number)
            if note is None:
                continue
            job.follow(note)
            if job.state == "failed" and not self.quiet:
                complain(job)

    def note(self, number: int) -> dict[str, Any] | None:
        """What a worker has noted of a run; None where none has begun it."""
        try:
            return json.loads((self.board / str(number)).read_text())
        except FileNotFoundError:
            return None

    def workers_left(self) -> bool:
        """Whether a process of this machine is at a run: one that begins holds no lock yet, one that ends none any
        more."""
        notes = filter(None, map(self.note, range(len(self.left))))
        return any(alive(note["process"]) for note in notes if "ended" not in note)

    def __call__(self) -> RenderableType:
        self.look()
        numbers = {state: sum(job.state == state for job in self.jobs) for state in ("running", "left", "failed")}
        done = len(self.jobs) - sum(numbers.values())
        parts = [f"{done} of {len(self.jobs)} done", f"{numbers['running']} running", f"{numbers['left']} left"]
        parts += [f"{numbers['failed']} failed"] * bool(numbers["failed"])
        parts += filter(None, [self.to_go()])
        running = [job for job in self.jobs if job.state == "running"]
        rows = [Text(f"  {job.label}, {job.done:.0%}", style="dim") for job in running[:LINES]]
        if len(running) > LINES:
            rows.append(Text(f"  and {len(running) - LINES} more", style="dim"))
        bar = ProgressBar(total=len(self.jobs), completed=done + numbers["failed"], width=40)
        return Group(bar, Text(" · ".join(parts)), *rows)

    def to_go(self) -> str | None:
        """How long it will take, told by runs of the same configuration: others say nothing about it."""
        paces: dict[str, list[float]] = {}
        for job in self.left:
            if job.pace:
                paces.setdefault(job.configuration, []).append(job.pace)
        ahead = [job for job in self.left if job.state in ("left", "running")]
        known = [job for job in ahead if job.configuration in paces]
        running = sum(job.state == "running" for job in ahead)
        if not running or not ahead:
            return None
        if not known:
            return "remaining time not known yet"
        seconds = [(1 - job.done) * (job.pace or fmean(paces[job.configuration])) for job in known]
        least = "more than " * (len(known) < len(ahead))
        return f"{least}{clock(max(max(seconds), sum(seconds) / running))} to go"


def alive(process: int) -> bool:
    """Whether there is such a process, and it has not ended (nobody may have asked yet how it did)."""
    import psutil

    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def summary(jobs: Sequence[Job], seconds: float) -> None:
    """Prints what became of each run and where it is, and each configuration's mean over its seeds."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    states = ("finished", "continued", "there", "not applicable", "failed", "lost", "running", "left")
    numbers = {state: sum(job.state == state for job in jobs) for state in states}
    counts = ", ".join(f"{number} {state}" for state, number in numbers.items() if number)
    console.print(f"\n{len(jobs)} runs in {clock(seconds)}: {counts}", style="bold")
    found: dict[str, list[Results]] = {}
    meaningless: dict[str, list[Job]] = {}
    for job in jobs:
        if job.state == "not applicable":
            meaningless.setdefault(job.method, []).append(job)
    for job in sorted(jobs, key=lambda job: states.index(job.state)):
        if job.state == "not applicable":
            alike = meaningless.pop(job.method, [])
            if alike:  # one line a method
                several = f" ({len(alike)} runs)" * (len(alike) > 1)
                console.print(f"  {job.state:9} {'; '.join(dict.fromkeys(other.reason for other in alike))}{several}")
            continue
        damage: list[str] = []
        ended = job.state in ("there", "finished", "continued")
        results = read_results(job.folder, damage.append) if ended else None
        reason = job.reason or "".join(damage)
        if results:
            found.setdefault(job.configuration, []).append(results)
            console.print(f"  {job.state:9} {job.label}: kept in {job.folder}")
        else:
            where = f", in {job.folder}" if job.folder.is_dir() and job.folder.name else ""
            console.print(f"  {job.state:9} {job.label}{': ' * bool(reason)}{reason}{where}")
    table = Table(box=SIMPLE_HEAD, title="mean and 95% interval over seeds", title_justify="left")
    table.add_column("configuration", overflow="fold")
    table.add_column("seeds", justify="right")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for configuration in dict.fromkeys(job.configuration for job in jobs):  # in the order of the command line
        runs = found.get(configuration, [])
        if runs:
            cells = [interval([run.metrics.get(column) for run in runs]) for column in COLUMNS]
            table.add_row(configuration or name_of(runs[0].config), str(len(runs)), *cells)
    if table.row_count:
        console.width = max(console.width, max(map(len, found)) + 70)  # a number is never cut, in a narrow log neither
        console.print(table)


def interval(values: Sequence[float | None]) -> str:
    """'mean ± half of the 95% interval' by Student's t; the value itself when there is one, '·' when there is none.

    Where only some of the runs have a value it says how many.
    """
    from cl_bench.evaluation.statistics import estimate

    known = [value for value in values if value is not None]
    found = estimate(known)
    if not found:
        return "·"
    fewer = f" ({len(known)} of {len(values)})" * (len(known) < len(values))
    return (f"{found.mean:.3f}" if found.half is None else f"{found.mean:.3f} ± {found.half:.3f}") + fewer


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
