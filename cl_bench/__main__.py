"""The command line: `python -m cl_bench method=dgr dataset=mnist seed=0,1,2 -m`. No torch before there is work."""

from __future__ import annotations

from cl_bench.process import COMMANDS, STOPPED, command

if __name__ == "__main__":  # at once: what follows takes its time
    command()

import gc
import os
import signal
import sys
import traceback
from argparse import Namespace
from collections.abc import Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from hydra import main as hydra_main
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig

from cl_bench import __version__
from cl_bench.config import InputError, KnownError, Stopped
from cl_bench.config.compose import plain, written_out
from cl_bench.config.errors import out_of_memory
from cl_bench.config.explain import explained
from cl_bench.config.names import CONF
from cl_bench.config.search_path import with_plugins
from cl_bench.record import Results
from cl_bench.sweep.jobs import carried_out, repeated
from cl_bench.sweep.launch import sweep


def main(arguments: Sequence[str] | None = None) -> int:
    """Does what a command line asks for and returns the exit code; what goes wrong is one line on stderr."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra's errors come here as they are
    failed, debug = False, False
    overrides: list[str] = []

    def job(config: Any) -> float:
        """The one run of a command line; an error that left it would be two lines by Hydra."""
        nonlocal failed
        try:
            return accuracy(config, overrides, repeated(flags))
        except Exception as error:
            failed = True
            complain(error, debug)
            return float("nan")

    def attempt(config: Any) -> str | None:
        """One run of a sweep, in this process; when it fails it says so, and the sweep goes on with the next one."""
        config.trainer.progress = False  # the sweep has a view of its own
        try:
            results_of(config, HydraConfig.get().overrides.task)
        except Exception as error:
            return complain(error, debug, f" (in {' '.join(HydraConfig.get().overrides.task)})")
        finally:
            gc.collect()  # circles of references would keep a run's images until Python looks for them
        return None

    try:
        given, overrides = parsed(sys.argv[1:] if arguments is None else arguments)
        flags = get_args_parser().parse_args(given)
        debug = "debug=true" in [override.lower() for override in overrides]
        if is_sweep(flags, overrides):
            return int(not sweep(overrides, attempt, flags))
        sys.argv[1:] = [*given, *overrides]
        with_plugins()
        hydra_main(config_path=str(CONF), config_name="config", version_base="1.3")(job)()
    except (Stopped, KeyboardInterrupt) as stop:
        print(STOPPED, file=sys.stderr)
        return 128 + (stop.signal if isinstance(stop, Stopped) else signal.SIGINT)
    except Exception as error:
        complain(explained(error, overrides), debug)
        failed = True
    return int(failed)


def accuracy(config: Any, overrides: Sequence[str], flags: Sequence[str]) -> float:
    """The average accuracy of one run, which is shown; of the best that a search finds.

    overrides, flags: as typed, those of Hydra among them: a search composes with them again.
    """
    from cl_bench.runs.console import show

    results, folder = results_of(config, overrides, flags)
    show(results, folder)
    accuracy = results.metrics["ACC"]
    return float("nan") if accuracy is None else accuracy


def results_of(config: Any, overrides: Sequence[str], flags: Sequence[str] = ()) -> tuple[Results, Path]:
    """The results of one run and where they are, at once when they are already there."""
    settings = plain(config, HydraConfig.get().runtime.choices)
    return carried_out(settings, overrides, partial(print, flush=True), flags)


def is_sweep(flags: Namespace, overrides: Sequence[str]) -> bool:
    """Whether this is a sweep to be run: with -m or as Hydra's own mode, whatever other flags there are."""
    shown = flags.help or flags.hydra_help or flags.cfg or flags.info or flags.shell_completion or flags.run
    return not shown and bool(flags.multirun or "hydra.mode=MULTIRUN" in overrides)


def parsed(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The flags of a command line and its overrides, as Hydra wants them. Raises InputError for an unknown flag."""

    def refuse(message: str) -> NoReturn:
        raise InputError(f"{message}; see --help")

    parser = get_args_parser()
    parser.error = refuse
    next(action for action in parser._actions if action.dest == "version").version = f"cl_bench {__version__}"  # type: ignore[attr-defined]
    overrides = parser.parse_intermixed_args(arguments).overrides
    flags = [argument for argument in arguments if argument not in overrides]
    for word in (word for word in overrides if "=" not in word):
        if near := get_close_matches(word, COMMANDS, n=1):
            raise InputError(f"{word}: is not KEY=VALUE; did you mean cl-bench {near[0]}?")
    return flags, [written_out(override) for override in overrides]


def complain(error: Exception, debug: bool, which: str = "") -> str:
    """Says on stderr what went wrong: in one line, after a traceback if that is asked for or nobody expected it.

    Returns the line.
    """
    line = " ".join(str(error).split())
    if out_of_memory(error):
        line = f"out of memory{relief(error)} ({line.rpartition(': ')[2]})"
    elif not isinstance(error, KnownError | OSError):
        line = f"{type(error).__name__}: {line}"
        debug = True
    if debug:
        traceback.print_exception(error)
    print(f"error: {line}{which}", file=sys.stderr)
    return line


def relief(error: Exception) -> str:
    """What took too much memory, by where it was asked for, and which keys make that smaller."""
    frames = traceback.extract_tb(error.__traceback__)
    places = {place for frame in frames for place in (frame.name, Path(frame.filename).stem)}
    if "generate_replay" in places:
        return " by replayed images; a smaller method.n_gen needs less"
    if places & {"dataset", "datasets", "listed", "reading", "torchvision_sets", "transforms", "scenarios"}:
        return " by the data set; a smaller dataset.size, or fewer images, need less"
    return "; a smaller network or trainer.batch_size needs less"
