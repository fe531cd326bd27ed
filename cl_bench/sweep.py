"""Many runs: what a sweep consists of, started by a Hydra launcher, watched while it goes, summed up at the end.

A launcher other than Hydra's own decides where and when; each run is then a process of its own, so a crash, a full
memory or a setting of one run reaches no other. Nothing here imports torch.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.callbacks import Callbacks
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cl_bench.config import CONF, InputError, Stopped, check_settings, folder_of, plain
from cl_bench.record import Damaged, load_json
from cl_bench.results import read_results

# our YAML has the launchers' own names, so that they are chosen by them; the plugins' schemas checking it is welcome
warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema")

Attempt = Callable[[Any], str | None]
"""One run, given its configuration; returns why it failed, None when it didn't."""

COLUMNS = ("ACC", "BWT", "forgetting")
LINES = 8  # running ones that the live view names


@dataclass
class Job:
    """One run of a sweep.

    overrides: its command line. label: what tells it from the sweep's other runs. configuration: the same but for the
    seed. state: there (finished before), left, running, finished, continued (finished, and begun before), failed, or
    lost (the launcher ended before it did). done: the share of its tasks that is learned.
    """

    overrides: list[str]
    label: str
    configuration: str
    folder: Path
    state: str = "left"
    reason: str = ""
    done: float = 0.0


def sweep(overrides: Sequence[str], attempt: Attempt) -> bool:
    """Runs what is missing of a sweep, says at the end what became of each run, and whether all are finished.

    attempt: a run in this process, for Hydra's own launcher.
    Raises InputError, or an error of Hydra's, for what is wrong with the whole of it; nothing has begun then.
    """
    version.setbase("1.3")
    hydra = Hydra.create_main_hydra2("cl_bench", create_config_search_path(str(CONF)))
    try:
        config = hydra.compose_config("config", [*overrides, "hydra.mode=MULTIRUN"], RunMode.MULTIRUN)
        jobs = expand(hydra, config)
        began = time.time()
        try:
            launch(hydra, config, jobs, attempt)
            dropped = any(job.state == "lost" for job in jobs) and "submitit_folder" not in config.hydra.launcher
            if dropped:  # joblib and Ray leave everything when they lose a worker; a cluster's queue goes on
                launch(hydra, config, jobs, attempt)
        finally:
            summary(jobs, time.time() - began)
    finally:
        GlobalHydra.instance().clear()
    return all(job.state in ("there", "finished", "continued") for job in jobs)


def expand(hydra: Hydra, config: Any) -> list[Job]:
    """The runs of a sweep, each once, with what is known of them already."""
    fixed = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    given = OverridesParser.create(hydra.config_loader).parse_overrides([*fixed, *config.hydra.overrides.task])
    lines: list[list[str]] = BasicSweeper.split_arguments(given, None)[0]
    composed = [hydra.config_loader.load_sweep_config(config, line) for line in lines]  # a wrong name ends it here
    if any(one.get("hparams_search") for one in composed):
        raise InputError("hparams_search with -m: search first, one command per method, then sweep with what was found")
    common = set.intersection(*map(set, lines))
    jobs: dict[Path | str, Job] = {}
    for line, one in zip(lines, composed, strict=True):
        own = [override for override in line if override not in common]
        seedless = " ".join(override for override in own if not override.startswith("seed="))
        job = Job(line, " ".join(own) or " ".join(line), seedless, Path())
        try:
            settings = plain(one, one.hydra.runtime.choices)
            check_settings(settings)
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


def finished(settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The results of this run when it needn't run again; what can't be read is said, and made again."""
    results = read_results(folder_of(settings), unread) if settings["resume"] else None
    # the reference is no part of the folder's name: with another one the metrics are worked out again
    same = results and results["config"].get("reference") == settings["reference"]
    return results if results and same and results["status"] == "finished" else None


def unread(line: str) -> None:
    print(f"not read: {line}; the run goes on from its checkpoints", file=sys.stderr)


def launch(hydra: Hydra, config: Any, jobs: Sequence[Job], attempt: Attempt) -> None:
    """Starts the runs that are left or lost and returns when they have ended, with `state` and `reason` set."""
    left = [job for job in jobs if job.state in ("left", "lost")]
    if not left:
        return
    settings = config.hydra.launcher
    basic = settings._target_.endswith(".BasicLauncher")
    if settings.get("n_jobs") == 0:
        settings.n_jobs = min(len(left), len(gpus()) or len(os.sched_getaffinity(0)))
    os.environ.setdefault("SUBMITIT_LOG_LEVEL", "ERROR")  # else what a job prints begins with its machine's name
    Path(config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
    board = Path(tempfile.mkdtemp(prefix="board", dir=config.hydra.sweep.dir)).absolute()
    view = View(jobs, left, board, quiet=basic)
    work = partial(noted, board=board, attempt=attempt if basic else partial(alone, here=Path.cwd()))
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
        with stopped_by_sigterm():
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


def noted(config: Any, *, board: Path, attempt: Attempt) -> None:
    """What a launcher calls for each run, wherever that is: the run, and a note about it for those who watch."""
    note = board / str(HydraConfig.get().job.num)
    write(note, {"began": time.time()})
    try:
        reason = attempt(config)
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
    write(note, {"reason": reason})


def alone(config: Any, here: Path) -> str | None:
    """A run in a process of its own, with the working folder of the sweep, on the visible GPU with fewest runs."""
    command = [sys.executable, "-m", "cl_bench", *HydraConfig.get().overrides.task]
    with least_used_gpu() as environment:
        process = subprocess.Popen(
            command,
            cwd=here,
            env=os.environ | environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=child,
        )
        try:
            said = process.communicate()[1].strip()
        except BaseException:
            process.terminate()  # it saves and ends
            process.wait()
            raise
    if process.returncode < 0:
        return f"killed by {signal.Signals(-process.returncode).name}"
    if process.returncode > 0:
        *more, line = said.splitlines() or [f"exit code {process.returncode}"]
        if more:
            print(said, file=sys.stderr)
        return line.removeprefix("error: ")
    return None


def child() -> None:
    """What a run's process does before it begins: it will end with the launcher's worker and not before.

    An orphan would keep others out of its folder. USR1 and USR2 go to all processes of a Slurm job when its time is up,
    and are meant for the worker, which then stops the run in good order and queues it again.
    """
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def gpus() -> list[str]:
    """The GPUs that a process started here can use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [one for one in visible.split(",") if one not in ("", "-1")]
    if not shutil.which("nvidia-smi"):
        return []
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False).stdout
    return [str(number) for number, line in enumerate(listed.splitlines()) if line.startswith("GPU")]


@contextmanager
def least_used_gpu() -> Iterator[dict[str, str]]:
    """The environment in which only one of several visible GPUs is seen: the one with fewest runs of any sweep here.

    A run on a GPU is a locked file; the lock goes with its owner.
    """
    several = gpus()
    if len(several) < 2:
        yield {}
        return
    places = Path(tempfile.gettempdir()) / f"cl_bench-gpus-{os.getuid()}"
    places.mkdir(exist_ok=True)
    for level in count():
        for gpu in several:
            with (places / f"{gpu}.{level}").open("w") as place:
                try:
                    fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    continue
                yield {"CUDA_VISIBLE_DEVICES": gpu}
                return


def at_work(folder: Path) -> bool:
    """Whether some process holds the lock of this run's folder. Not to be asked while runs may still begin."""
    try:
        with (folder / ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the sweep as Ctrl-C does."""

    def stop(number: int, _: Any) -> None:
        raise Stopped(number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class View:
    """Jobs done, running and left, and the time to go, as far as the board and the runs' folders tell.

    jobs: the whole sweep. left: those that a launcher has, numbered as on the board. quiet: don't report failures,
    somebody else does.
    """

    def __init__(self, jobs: Sequence[Job], left: Sequence[Job], board: Path, quiet: bool) -> None:
        self.jobs, self.left, self.board, self.quiet = jobs, left, board, quiet
        self.began = time.time()
        for job in left:
            job.state, job.done = "left", share(job.folder)
        self.begun = {id(job) for job in left if any((job.folder / "checkpoints").glob("*.pt"))}
        self.before = sum(job.done for job in left)

    def look(self) -> None:
        """Brings the state of every run up to date."""
        for number, job in enumerate(self.left):
            if job.state not in ("left", "running"):
                continue
            try:
                note = json.loads((self.board / str(number)).read_text())
            except FileNotFoundError:
                continue
            if "began" in note:
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
        worked = sum(1.0 if job.state == "failed" else job.done for job in self.left) - self.before
        if worked > 0:
            seconds = (time.time() - self.began) / worked * (len(self.left) - self.before - worked)
            parts.append(f"{clock(seconds)} to go")
        running = [job for job in self.jobs if job.state == "running"]
        rows = [Text(f"  {job.label}, {job.done:.0%}", style="dim") for job in running[:LINES]]
        if len(running) > LINES:
            rows.append(Text(f"  and {len(running) - LINES} more", style="dim"))
        bar = ProgressBar(total=len(self.jobs), completed=done + numbers["failed"], width=40)
        return Group(bar, Text(" · ".join(parts)), *rows)


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
    states = ("finished", "continued", "there", "failed", "lost", "running", "left")
    numbers = {state: sum(job.state == state for job in jobs) for state in states}
    said = ", ".join(f"{number} {state}" for state, number in numbers.items() if number)
    console.print(f"\n{len(jobs)} runs in {clock(seconds)}: {said}", style="bold")
    found: dict[str, list[dict[str, Any]]] = {}
    for job in sorted(jobs, key=lambda job: states.index(job.state)):
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


def write(file: Path, content: Any) -> None:
    """Writes JSON so that a reader finds the old file or the new one, whole."""
    file.parent.mkdir(parents=True, exist_ok=True)  # who watched may have left while this was in a queue
    fresh = file.with_suffix(".new")
    fresh.write_text(json.dumps(content))
    fresh.replace(file)
