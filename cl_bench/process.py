"""A command of this package as a process: Ctrl-C at any moment, or an output that takes nothing more, is one line.

Nothing here takes time to import: what does is imported when all this is in place.
"""

from __future__ import annotations

import gc
import io
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any, NoReturn, TextIO

STOPPED = "stopped; the work so far is saved, and the same command continues it"
OWNER = "CL_BENCH_OWNER"  # names in a run's environment the process that started it and without which it must not go on
GRACE = 30  # s that such a run has to save what it did


class Output(io.TextIOWrapper):
    """Standard output or standard error. When it can't be written (a full disk, a reader that left) the work goes on
    without it: hours of training outweigh what is said of them.

    error: why it was given up, None as long as it works.
    """

    def __init__(self, number: int, before: TextIO | None) -> None:
        super().__init__(
            open(number, "wb", closefd=False),  # noqa: SIM115
            encoding=before.encoding if before else "utf-8",
            errors="backslashreplace",  # a terminal that knows no '±' is no reason to end
            line_buffering=bool(before and before.line_buffering),
            write_through=bool(before and before.write_through),  # type: ignore[attr-defined]
        )
        self.error: OSError | None = None

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._give_up(error)
            with suppress(OSError):
                super().flush()  # what waited for it, now into nothing

    def _give_up(self, error: OSError) -> None:
        self.error = self.error or error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)


COMMANDS = {
    "report": "cl_bench.report.__main__",
    "dashboard": "cl_bench.report.dashboard",
    "explain": "cl_bench.manual",
    "evaluate": "cl_bench.use.evaluate",
    "predict": "cl_bench.use.predict",
    "export": "cl_bench.use.export",
    "verify": "cl_bench.verify",
}
"""What `cl-bench` and `python -m cl_bench` do beside runs, by the first word behind them; each has a `main()`."""


def command() -> NoReturn:
    """The script `cl-bench`."""
    module = COMMANDS.get(sys.argv[1]) if len(sys.argv) > 1 else None
    if module:
        del sys.argv[1]
    as_process(module or "cl_bench.__main__")


def as_process(module: str) -> NoReturn:
    """Does what `main()` of a module does, and ends this process with its exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed: the next file to be opened would be this process's output; and no writing to this one
            os.open(os.devnull, os.O_RDONLY)
    sys.stdout, sys.stderr = Output(1, sys.stdout), Output(2, sys.stderr)
    logging.raiseExceptions = False  # else each line of a log on a full disk, such as W&B's own, is a traceback
    owner = os.environ.pop(OWNER, None)
    if owner:
        end_with(int(owner), saved=True)
    try:
        code = import_module(module).main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    sys.stdout.flush()
    if sys.stdout.error:
        print(
            f"error: standard output: {sys.stdout.error.strerror or sys.stdout.error}; everything else was done",
            file=sys.stderr,
        )
        code = code or 1
    sys.exit(code)


def stop(number: int, _: Any) -> None:
    """A signal while there is nothing to save: before the work begins, and after it."""
    with suppress(OSError):
        os.write(2, f"{STOPPED}\n".encode())
    os._exit(128 + number)


@contextmanager
def without_collector() -> Iterator[None]:
    """Inside, Python looks for no circles of references."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def importing() -> Iterator[None]:
    """Around imports that take seconds. Modules stay, so Python needs to look for no garbage among their million
    objects, which it would do again and again: a sixth of the CPU time of a short run."""
    with without_collector():
        try:
            yield
        finally:
            if not gc.get_freeze_count():  # what somebody froze stays so
                gc.freeze()
                gc.unfreeze()  # the two together: all objects belong to the oldest generation, unseen


@contextmanager
def on_signals(stop: Callable[[int], None]) -> Iterator[None]:
    """SIGTERM and Ctrl-C call `stop` with their number inside of this, and do afterwards what they did before. In
    another thread than the main one they can't be caught."""
    numbers = (signal.SIGTERM, signal.SIGINT) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, lambda number, _: stop(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_with(process: int, saved: bool = False) -> None:
    """Ends this process as soon as another one is gone, however that ended; an orphan would keep others out of the
    folder of its run.

    saved: as SIGTERM does, which lets a run save what it did; else at once.
    """

    def watch() -> None:
        import psutil

        with suppress(psutil.NoSuchProcess):
            psutil.Process(process).wait()
        if saved:
            signal.raise_signal(signal.SIGTERM)
            time.sleep(GRACE)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="end_with").start()
