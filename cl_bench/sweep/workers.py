"""What a launcher's worker does with a run: a process of its own for it, on a GPU with room, that ends with the worker.

Nothing here imports torch.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig

from cl_bench import files
from cl_bench.config import InputError
from cl_bench.config.compose import plain
from cl_bench.config.names import folder_of
from cl_bench.process import OWNER, end_with
from cl_bench.runs.folder import wait_for

# our YAML has the launchers' own names, so that they are chosen by them; the plugins' schemas checking it is welcome
warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema")

Attempt = Callable[[Any], str | None]
"""One run, given its configuration; returns why it failed, None when it didn't."""

ends_with = cache(end_with)  # a worker does many runs


def noted(config: Any, *, board: Path, attempt: Attempt, owner: int | None = None) -> None:
    """What a launcher calls for each run, wherever that is: the run, and a note about it for those who watch.

    owner: the sweep's process, on this machine, if a worker must not go on without it.
    """
    if owner:
        ends_with(owner)
    note = board / str(HydraConfig.get().job.num)
    began = time.time()
    write(note, {"began": began, "process": os.getpid()})
    try:
        reason = attempt(config)
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
    write(note, {"began": began, "ended": time.time(), "reason": reason})


def alone(config: Any, here: Path, flags: Sequence[str] = (), announced: Container[Path] = ()) -> str | None:
    """A run in a process of its own, with the working folder of the sweep, on the visible GPU with fewest runs.

    flags: where configuration is looked for, as on the sweep's command line. announced: folders that are known to be at
    work elsewhere; for others a line says so.
    """
    folder = folder_of(plain(config, HydraConfig.get().runtime.choices))
    wait_for(folder, announced=folder in announced)
    overrides = HydraConfig.get().overrides
    paths = [override for override in overrides.hydra if override.lstrip("+").startswith("hydra.searchpath=")]
    command = [sys.executable, "-m", "cl_bench", *flags, *paths, *overrides.task]
    with least_used_gpu() as environment:
        process = subprocess.Popen(
            command,
            cwd=here,
            env=os.environ | environment | {OWNER: str(os.getpid())},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=deaf if os.name == "posix" else None,
        )
        try:
            errors = process.communicate()[1].strip()
        except BaseException:
            process.terminate()  # it saves and ends
            process.wait()
            raise
    if process.returncode < 0:
        return f"killed by {signal.Signals(-process.returncode).name}"
    if process.returncode > 0:
        *more, line = errors.splitlines() or [f"exit code {process.returncode}"]
        if more:
            print(errors, file=sys.stderr)
        return line.removeprefix("error: ")
    return None


def deaf() -> None:
    """What a run's process does before it begins: USR1 and USR2 go to all processes of a Slurm job when its time is up,
    and are meant for the worker, which then stops the run in good order and queues it again."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


def cores() -> int:
    """The cores that a process started here can use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> list[str]:
    """The GPUs that a process started here can use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [gpu for gpu in visible.split(",") if gpu not in ("", "-1")]
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
    user = os.getuid() if hasattr(os, "getuid") else 0  # Windows has a temporary folder for each
    places = Path(tempfile.gettempdir()) / f"cl_bench-gpus-{user}"
    places.mkdir(exist_ok=True)
    for level in count():
        for gpu in several:
            try:
                place = FileLock(places / f"{gpu}.{level}").acquire(blocking=False)
            except Timeout:
                continue
            with place:
                yield {"CUDA_VISIBLE_DEVICES": gpu}
            return


def write(file: Path, content: Any) -> None:
    """Writes JSON. Raises InputError for a disk that takes no more."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)  # who watched may have left while this was in a queue
        files.write(file, lambda fresh: fresh.write_text(json.dumps(content)))
    except OSError as error:
        raise InputError(f"output_root: can't write to {file.parent} ({error.strerror or error})") from error
