"""Many runs: what a sweep consists of, started by a Hydra launcher, watched while it goes, summed up at the end.

A launcher other than Hydra's own decides where and when; each run is then a process of its own, so a crash, a full
memory or a setting of one run reaches no other. Nothing here imports torch.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext
from rich.console import Console
from rich.live import Live

from cl_bench.config import InputError, Stopped
from cl_bench.process import on_signals
from cl_bench.runs.folder import at_work
from cl_bench.sweep.jobs import Job, base, expand, loader, repeated
from cl_bench.sweep.view import View, summary
from cl_bench.sweep.workers import Attempt, alone, cores, gpus, noted


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
            print(f"another process works in {folder}; waiting for it", file=sys.stderr, flush=True)
        attempt = partial(alone, here=Path.cwd(), flags=flags, announced=busy)
    here = settings._target_.endswith(("JoblibLauncher", "submitit_launcher.LocalLauncher"))  # Ray ends its own workers
    work = partial(noted, board=board, attempt=attempt, owner=os.getpid() if here else None)
    context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(config))
    try:
        launcher = Plugins.instance().instantiate_launcher(context, work, config)
    except RuntimeError as error:
        choice = config.hydra.runtime.choices["hydra/launcher"]
        extra = choice.partition("_")[0]
        raise InputError(f"hydra/launcher={choice}: needs pip install -e '.[{extra}]'") from error
    launched: Sequence[JobReturn] = []
    console = Console()
    live = nullcontext()
    if console.is_terminal:
        live = Live(get_renderable=view, console=console, refresh_per_second=2, transient=True)
    try:
        with on_signals(stopped):
            try:
                with live:
                    launched = launcher.launch([job.overrides for job in left], initial_job_idx=0)
            except Exception as error:  # a worker was lost; those that are at work go on
                print(f"error: {' '.join(str(error).split())[:300]}", file=sys.stderr)
                while any(at_work(job.folder) for job in left) or (here and view.workers_left()):
                    time.sleep(1)
    finally:
        view.look()
        for job, ended in zip(left, launched, strict=False):
            if ended.status is JobStatus.FAILED:  # in what a worker does beside the run: it could note nothing, say
                job.end("failed", " ".join(str(ended._return_value).split()))
        for job in left:
            if job.state == "running":
                job.end("lost", "the same command continues it")
        shutil.rmtree(board)


def stopped(number: int) -> None:
    """SIGTERM and Ctrl-C end the sweep, which says what became of it."""
    raise Stopped(number)
