"""Many runs: what a sweep consists of, started by a Hydra launcher, watched while it goes, summed up at the end.

A launcher other than Hydra's own decides where and when; each run is then a process of its own, so a crash, a full
memory or a setting of one run reaches no other. Nothing here imports torch.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from hydra import version
from hydra._internal.callbacks import Callbacks
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_automatic_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cl_bench.config import (
    CONF,
    InputError,
    KnownError,
    NotApplicable,
    Stopped,
    check_settings,
    explain,
    folder_of,
    plain,
)
from cl_bench.record import Damaged, load_json
from cl_bench.results import at_work, read_results
from cl_bench.workers import Attempt, alone, cores, gpus, noted

COLUMNS = ("ACC", "BWT", "forgetting")
LINES = 8  # running ones that the live view names


@dataclass
class Job:
    """One run of a sweep.

    overrides: its command line. label: what tells it from the sweep's other runs. configuration: the same but for the
    seed. state: there (finished before), left, running, finished, continued (finished, and begun before), failed, lost
    (the launcher ended before it did), or not applicable (`method` has no meaning in its scenario). done, before: the
    share of its tasks that is learned, and that was when the launcher began. seconds: what the launcher took for it.
    """

    overrides: list[str]
    label: str
    configuration: str
    folder: Path
    state: str = "left"
    reason: str = ""
    method: str = ""
    done: float = 0.0
    before: float = 0.0
    seconds: float = 0.0

    @property
    def pace(self) -> float | None:
        """Seconds for a whole run like this one, None as long as there is nothing to tell it by."""
        known = self.state in ("running", "finished", "continued") and self.seconds > 0 and self.done > self.before
        return self.seconds / (self.done - self.before) if known else None


def sweep(overrides: Sequence[str], attempt: Attempt, flags: Namespace | None = None) -> bool:
    """Runs what is missing of a sweep, says at the end what became of each run, and whether all are finished.

    attempt: a run in this process, for Hydra's own launcher. flags: those of the command line that say where
    configuration is looked for.
    Raises InputError, or an error of Hydra's, for what is wrong with the whole of it; nothing has begun then.
    """
    version.setbase("1.3")
    hydra = loader(flags or Namespace())
    try:
        config = base(hydra, overrides, getattr(flags, "config_name", None) or "config")
        jobs = expand(hydra, config)
        began = time.time()
        try:
            launch(hydra, config, jobs, attempt, repeated(flags))
            dropped = any(job.state == "lost" for job in jobs) and "submitit_folder" not in config.hydra.launcher
            if dropped:  # joblib and Ray leave everything when they lose a worker; a cluster's queue goes on
                launch(hydra, config, jobs, attempt, repeated(flags))
        finally:
            summary(jobs, time.time() - began)
    finally:
        GlobalHydra.instance().clear()
    return all(job.state in ("there", "finished", "continued", "not applicable") for job in jobs)


def loader(flags: Namespace) -> Hydra:
    """Hydra with the folders of configuration that `hydra.main` would look in, given the same flags."""
    path = create_automatic_config_search_path(
        None, "cl_bench.__main__", getattr(flags, "config_path", None) or str(CONF)
    )
    own = getattr(flags, "config_dir", None)
    if own:
        if not Path(own).is_dir():
            raise InputError(f"--config-dir={own}: not found")
        path.prepend("command-line", f"file://{Path(own).absolute()}", SearchPathQuery(provider="schema"))
    return Hydra.create_main_hydra2("cl_bench", path)


def repeated(flags: Namespace | None) -> list[str]:
    """The flags that a run's own command line needs, too."""
    names = ("config_path", "config_name", "config_dir")
    values = {name: getattr(flags, name, None) for name in names}
    return [f"--{name.replace('_', '-')}={value}" for name, value in values.items() if value]


def base(hydra: Hydra, overrides: Sequence[str], name: str) -> Any:
    """The configuration of a sweep as a whole: that of its first combination that there is. A fixed value is then
    seen beside a choice that it may belong to."""
    given = OverridesParser.create(hydra.config_loader).parse_overrides([*overrides])
    ours = [one for one in given if not one.is_hydra_override()]
    about = [str(one.input_line) for one in given if one.is_hydra_override()] + ["hydra.mode=MULTIRUN"]
    first = None
    for line in BasicSweeper.split_arguments(ours, None)[0]:
        try:
            config = hydra.compose_config(name, [*about, *line], RunMode.MULTIRUN)
        except Exception as error:
            first = first or error
            continue
        config.hydra.overrides.task = [str(one.input_line) for one in ours]
        return config
    raise first or InputError("-m: a sweep over nothing")


def expand(hydra: Hydra, config: Any) -> list[Job]:
    """The runs of a sweep, each once, with what is known of them already.

    Raises InputError when a combination can't be put together: nothing of a sweep with a wrong name in it begins. What
    else is wrong is said before.
    """
    fixed = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    given = OverridesParser.create(hydra.config_loader).parse_overrides([*fixed, *config.hydra.overrides.task])
    lines: list[list[str]] = BasicSweeper.split_arguments(given, None)[0]
    common = set.intersection(*map(set, lines))
    composed, wrong = [], {}
    for line in lines:
        try:
            composed.append(hydra.config_loader.load_sweep_config(config, line))
        except Exception as error:
            reason = str(error) if isinstance(error, KnownError) else explain(error, line)
            if reason is None:
                raise
            wrong.setdefault(reason, []).append(" ".join(one for one in line if one not in common))
    if wrong:
        *more, last = [said(reason, where, len(lines)) for reason, where in wrong.items()]
        for line in more:
            print(f"error: {line}", file=sys.stderr)
        raise InputError(last)
    if any(one.get("hparams_search") for one in composed):
        raise InputError("hparams_search with -m: search first, one command per method, then sweep with what was found")
    jobs: dict[Path | str, Job] = {}
    for line, one in zip(lines, composed, strict=True):
        own = [override for override in line if override not in common]
        seedless = " ".join(override for override in own if not override.startswith("seed="))
        job = Job(line, " ".join(own) or " ".join(line), seedless, Path())
        try:
            settings = plain(one, one.hydra.runtime.choices)
            check_settings(settings)
        except NotApplicable as error:
            job.state, job.reason, job.method = "not applicable", str(error), error.method
            jobs[job.label] = job
            continue
        except InputError as error:
            job.state, job.reason = "failed", str(error)
            complain(job)
            jobs[job.label] = job
            continue
        job.folder = folder_of(settings)
        if finished(settings):
            job.state = "there"
        jobs[job.folder] = job
    return list(jobs.values())


def said(reason: str, where: Sequence[str], n_lines: int) -> str:
    """What is wrong, and in which combinations unless it is in all."""
    if len(where) == n_lines:
        return reason
    return f"{reason} (in {where[0]}{f' and {len(where) - 1} more' * (len(where) > 1)})"


def finished(settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The results of this run when it needn't run again; what can't be read is said, and made again."""
    results = read_results(folder_of(settings), unread) if settings["resume"] else None
    # the reference is no part of the folder's name: with another one the metrics are worked out again
    same = results and results["config"].get("reference") == settings["reference"]
    return results if results and same and results["status"] == "finished" else None


def unread(line: str) -> None:
    print(f"not read: {line}; the run goes on from its checkpoints", file=sys.stderr)


def launch(hydra: Hydra, config: Any, jobs: Sequence[Job], attempt: Attempt, flags: Sequence[str]) -> None:
    """Starts the runs that are left or lost and returns when they have ended, with `state` and `reason` set.

    flags: for the command lines of runs in processes of their own.
    """
    left = [job for job in jobs if job.state in ("left", "lost")]
    if not left:
        return
    settings = config.hydra.launcher
    basic = settings._target_.endswith(".BasicLauncher")
    if settings.get("n_jobs") == 0:
        settings.n_jobs = min(len(left), len(gpus()) or cores())
    os.environ.setdefault("SUBMITIT_LOG_LEVEL", "ERROR")  # else what a job prints begins with its machine's name
    Path(config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
    board = Path(tempfile.mkdtemp(prefix="board", dir=config.hydra.sweep.dir)).absolute()
    view = View(jobs, left, board, quiet=basic)
    if not basic:
        busy = [job.folder for job in left if at_work(job.folder)]
        for folder in busy:
            print(f"another process is at work in {folder}; waiting for it", file=sys.stderr, flush=True)
        attempt = partial(alone, here=Path.cwd(), flags=flags, told=busy)
    here = settings._target_.endswith(("JoblibLauncher", "submitit_launcher.LocalLauncher"))  # Ray ends its own workers
    work = partial(noted, board=board, attempt=attempt, owner=os.getpid() if here else None)
    context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(config))
    try:
        launcher = Plugins.instance().instantiate_launcher(context, work, config)
    except RuntimeError as error:
        choice = config.hydra.runtime.choices["hydra/launcher"]
        extra = choice.partition("_")[0]
        raise InputError(f"hydra/launcher={choice}: needs pip install -e '.[{extra}]'") from error
    console = Console()
    live = nullcontext()
    if console.is_terminal:
        live = Live(get_renderable=view, console=console, refresh_per_second=2, transient=True)
    try:
        with stopped_by_signals():
            try:
                with live:
                    launcher.launch([job.overrides for job in left], initial_job_idx=0)
            except Exception as error:  # a worker was lost; those that are at work go on
                print(f"error: {' '.join(str(error).split())[:300]}", file=sys.stderr)
                while any(at_work(job.folder) for job in left):
                    time.sleep(1)
    finally:
        view.look()
        for job in left:
            if job.state == "running":
                job.state, job.reason = "lost", "the same command goes on with it"
        shutil.rmtree(board)


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """SIGTERM and Ctrl-C end the sweep, which says what became of it."""

    def stop(number: int, _: Any) -> None:
        raise Stopped(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class View:
    """Jobs done, running and left, and the time to go, as far as the board and the runs' folders tell.

    jobs: the whole sweep. left: those that a launcher has, numbered as on the board. quiet: don't report failures,
    somebody else does.
    """

    def __init__(self, jobs: Sequence[Job], left: Sequence[Job], board: Path, quiet: bool) -> None:
        self.jobs, self.left, self.board, self.quiet = jobs, left, board, quiet
        for job in left:
            job.state, job.done = "left", share(job.folder)
            job.before = job.done
        self.begun = {id(job) for job in left if any((job.folder / "checkpoints").glob("*.pt"))}

    def look(self) -> None:
        """Brings the state of every run up to date."""
        for number, job in enumerate(self.left):
            if job.state not in ("left", "running"):
                continue
            try:
                note = json.loads((self.board / str(number)).read_text())
            except FileNotFoundError:
                continue
            job.seconds = note.get("ended", time.time()) - note["began"]
            if "ended" not in note:
                job.state, job.done = "running", share(job.folder)
            elif note["reason"]:
                job.state, job.reason = "failed", note["reason"]
                if not self.quiet:
                    complain(job)
            else:
                job.state, job.done = "continued" if id(job) in self.begun else "finished", 1.0

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
            return "time to go not known yet"
        seconds = [(1 - job.done) * (job.pace or fmean(paces[job.configuration])) for job in known]
        least = "more than " * (len(known) < len(ahead))
        return f"{least}{clock(max(max(seconds), sum(seconds) / running))} to go"


def share(folder: Path) -> float:
    """How much of a run is done, by its results.json: the tasks learned of all. Asked twice a second, so this is no
    check of the whole file."""
    try:
        results = load_json(folder / "results.json")
        done = len(results["tasks"]) / len(results["classes"]) if results["status"] == "running" else 0.0
    except (FileNotFoundError, Damaged, LookupError, TypeError, ZeroDivisionError):
        return 0.0
    return min(done, 1.0)


def complain(job: Job) -> None:
    print(f"error: {job.reason} (in {' '.join(job.overrides)})", file=sys.stderr)


def summary(jobs: Sequence[Job], seconds: float) -> None:
    """Prints what became of each run and where it is, and each configuration's mean over its seeds."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    states = ("finished", "continued", "there", "not applicable", "failed", "lost", "running", "left")
    numbers = {state: sum(job.state == state for job in jobs) for state in states}
    said = ", ".join(f"{number} {state}" for state, number in numbers.items() if number)
    console.print(f"\n{len(jobs)} runs in {clock(seconds)}: {said}", style="bold")
    found: dict[str, list[dict[str, Any]]] = {}
    meaningless: dict[str, list[Job]] = {}
    for job in jobs:
        if job.state == "not applicable":
            meaningless.setdefault(job.method, []).append(job)
    for job in sorted(jobs, key=lambda job: states.index(job.state)):
        if job.state == "not applicable":
            alike = meaningless.pop(job.method, [])
            if alike:  # one line a method
                several = f" ({len(alike)} runs)" * (len(alike) > 1)
                console.print(f"  {job.state:9} {'; '.join(dict.fromkeys(one.reason for one in alike))}{several}")
            continue
        damage: list[str] = []
        ended = job.state in ("there", "finished", "continued")
        results = read_results(job.folder, damage.append) if ended else None
        job.reason = job.reason or "".join(damage)
        if results:
            found.setdefault(job.configuration, []).append(results)
            console.print(f"  {job.state:9} {job.label}: kept in {job.folder}")
        else:
            where = f", in {job.folder}" if job.folder.is_dir() and job.folder.name else ""
            console.print(f"  {job.state:9} {job.label}{': ' * bool(job.reason)}{job.reason}{where}")
    table = Table(box=SIMPLE_HEAD, title="mean and 95% interval over seeds", title_justify="left")
    table.add_column("configuration", overflow="fold")
    table.add_column("seeds", justify="right")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for configuration in dict.fromkeys(job.configuration for job in jobs):  # in the order of the command line
        runs = found.get(configuration, [])
        if runs:
            cells = [interval([run["metrics"].get(column) for run in runs]) for column in COLUMNS]
            table.add_row(configuration or runs[0]["name"].rpartition("-seed")[0], str(len(runs)), *cells)
    if table.row_count:
        console.width = max(console.width, max(map(len, found)) + 70)  # a number is never cut, in a narrow log neither
        console.print(table)


def interval(values: Sequence[float | None]) -> str:
    """'mean ± half of the 95% interval' by Student's t; the value itself when there is one, '·' when there is none."""
    from cl_bench.statistics import estimate  # scipy: not before there is something to say

    found = estimate([value for value in values if value is not None and not math.isnan(value)])
    if not found:
        return "·"
    return f"{found.mean:.3f}" if found.half is None else f"{found.mean:.3f} ± {found.half:.3f}"


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
