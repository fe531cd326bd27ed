"""Runs in processes of their own that tell what they are at, to be killed there.

Python and torch take seconds to start, so multiprocessing's fork server imports them once and each run is a fork of it:
the command line's `main`, in a real process that gets real signals.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from conftest import METHODS, SMALL, SMALL_OF

from cl_bench.config.compose import compose
from cl_bench.config.schema import target

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["cl_bench.runs.loop", "cl_bench.sweep.launch", *(f"cl_bench.methods.{name}" for name in METHODS)]
)
PATIENCE = 300  # seconds without a word from a process: others may be at work here


class Event(NamedTuple):
    """What a run began or finished, in its `task` and `phase` (or file), after `step` mini-batches of the phase."""

    what: str
    task: int
    phase: str
    step: int
    time: float  # seconds, monotonic

    @property
    def place(self) -> tuple[str, int, str, int]:
        """The same in each telling of the same story."""
        return self[:4]


@dataclass
class Attempt:
    """One process: its exit code (-9: killed), what it told, and what it printed."""

    exit_code: int
    events: list[Event]
    said: str


def arguments_of(method: str, *more: str) -> list[str]:
    """The command line of a run of less than a second."""
    kind = target(compose(f"method={method}")["method"], "method").kinds[0]
    return [f"method={method}", f"scenario={kind}_incremental", *SMALL, *SMALL_OF.get(method, []), *more]


def attempt(
    arguments: Sequence[str],
    folder: Path,
    *,
    when: Callable[[Event], float | None] = lambda event: None,
    number: signal.Signals = signal.SIGKILL,
    halfway: float | None = None,
) -> Attempt:
    """Runs the command line in `folder`, to its end or until it is killed.

    when: says at an event after how many seconds to send the signal, None: not yet. halfway: wait for the next file
    of a checkpoint instead, and send the signal when this share of it is written.
    """
    ours, theirs = SERVER.Pipe()
    process = SERVER.Process(target=_run, args=(list(arguments), folder, theirs))
    process.start()
    theirs.close()
    assert process.pid
    events: list[Event] = []
    sent = False
    try:
        while True:
            if not ours.poll(PATIENCE):
                raise TimeoutError(f"nothing for {PATIENCE} s after {events[-1:]}")
            events.append(ours.recv())
            if sent:
                continue
            if events[-1].what == "half written":
                os.kill(process.pid, number)
                sent = True
            elif (delay := when(events[-1])) is not None:
                if halfway is not None:
                    ours.send(halfway)
                    when, halfway = (lambda event: None), None
                else:
                    time.sleep(delay)
                    with suppress(ProcessLookupError):  # it may have ended meanwhile
                        os.kill(process.pid, number)
                    sent = True
    except (EOFError, ConnectionResetError):  # it has ended, and this was all it told
        pass
    finally:
        process.join(PATIENCE)
        process.kill()
    assert process.exitcode is not None
    return Attempt(process.exitcode, events, (folder / "said").read_text())


def _run(arguments: list[str], folder: Path, pipe: Connection) -> None:
    """The child: main, with wrappers that tell what it does."""
    os.chdir(folder)
    said = os.open("said", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    _tell_all(pipe)
    from cl_bench.__main__ import main

    code = main(arguments)
    sys.stdout.flush()
    sys.exit(code)


def _tell_all(pipe: Connection) -> None:
    import cl_bench.runs.recorder
    from cl_bench.evaluation.scores import Score
    from cl_bench.runs.fit import Fit
    from cl_bench.runs.folder import RunFolder
    from cl_bench.runs.progress import RunProgress
    from cl_bench.runs.watch import Watch

    now: dict[str, Any] = {"task": -1, "phase": "", "step": 0}

    def tell(what: str, **change: Any) -> None:
        now.update(change)
        pipe.send(Event(what, now["task"], now["phase"], now["step"], time.monotonic()))

    def around(owner: type, name: str, before: Callable[..., None], after: Callable[..., None]) -> None:
        original = getattr(owner, name)

        def wrapped(*args: Any, **more: Any) -> Any:
            before(*args)
            result = original(*args, **more)
            after(*args)
            return result

        setattr(owner, name, wrapped)

    def nothing(*_: Any) -> None:
        pass

    def training(_: Watch, trainer: Any, *__: Any) -> None:
        tell("training", step=trainer.train_dataloader.start)

    replace = RunFolder.replace

    def write(folder: RunFolder, name: str, content: Callable[[Path], Any]) -> None:
        def cut(fresh: Path) -> None:
            content(fresh)
            os.truncate(fresh, int(fresh.stat().st_size * share))
            tell("half written", phase=name)
            time.sleep(PATIENCE)

        before = now["phase"]
        tell("writing", phase=name)
        halt = name.startswith("checkpoints/") and pipe.poll(0)
        if halt:
            share = pipe.recv()
        replace(folder, name, cut if halt else content)
        tell("written")
        now["phase"] = before

    RunFolder.replace = write  # pyright: ignore
    around(RunProgress, "begin_task", lambda _, task: now.update(task=task), nothing)
    around(RunProgress, "begin_phase", lambda _, phase, *__: now.update(phase=phase), nothing)
    around(Watch, "on_train_start", training, nothing)
    around(Watch, "on_train_batch_end", lambda _, __, module, *___: tell("chunk", step=module.step_index + 1), nothing)
    around(Fit, "__call__", nothing, lambda *_: tell("trained"))
    around(Score, "measure", lambda *_: tell("evaluation"), lambda *_: tell("evaluated"))
    around(RunFolder, "save_task", nothing, lambda _, index, __: tell("kept", task=index, phase="", step=0))
    cl_bench.runs.recorder.draw_results = lambda results, folder: tell("finishing")  # pictures take longer than the run
    tell("begun")
