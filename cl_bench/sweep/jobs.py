"""What a sweep consists of: one job for each run, and what is known of it before anything begins."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_automatic_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode

from cl_bench.config import InputError, KnownError, NotApplicable
from cl_bench.config.checks import check_settings
from cl_bench.config.compose import plain
from cl_bench.config.declared import unread_in
from cl_bench.config.explain import explained
from cl_bench.config.idle import without_effect
from cl_bench.config.names import CONF, folder_of
from cl_bench.config.search_path import with_plugins
from cl_bench.files import load_json
from cl_bench.process import importing
from cl_bench.record import Damaged, Outdated, Results, load_results
from cl_bench.runs.continued import earlier
from cl_bench.runs.folder import Busy, at_work, wait_for
from cl_bench.runs.models import complete
from cl_bench.runs.progress import first_line


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
    begun: bool = False

    def begin(self) -> None:
        """A launcher has it."""
        self.state, self.done = "left", share(self.folder)
        self.before, self.begun = self.done, any((self.folder / "checkpoints").glob("*.pt"))

    def follow(self, note: Mapping[str, Any]) -> None:
        """Brings it up to date by what its worker has noted: when it began, and when and why it ended."""
        self.seconds = note.get("ended", time.time()) - note["began"]
        if "ended" not in note:
            self.state, self.done = "running", share(self.folder)
        elif note["reason"]:
            self.end("failed", note["reason"])
        else:
            self.state, self.done = "continued" if self.begun else "finished", 1.0

    def end(self, state: str, reason: str) -> None:
        """It is over, without a result."""
        self.state, self.reason = state, reason

    @property
    def pace(self) -> float | None:
        """Seconds for a whole run like this one, None as long as there is nothing to tell it by."""
        known = self.state in ("running", "finished", "continued") and self.seconds > 0 and self.done > self.before
        return self.seconds / (self.done - self.before) if known else None


def share(folder: Path) -> float:
    """How much of a run is done, by its results.json: the tasks learned of all. Asked twice a second, so this is no
    check of the whole file."""
    try:
        results = load_json(folder / "results.json")
        done = len(results["tasks"]) / len(results["classes"]) if results["status"] == "running" else 0.0
    except (FileNotFoundError, Damaged, LookupError, TypeError, ZeroDivisionError):
        return 0.0
    return min(done, 1.0)


def loader(flags: Namespace) -> Hydra:
    """Hydra with the folders of configuration that `hydra.main` would look in, given the same flags."""
    with_plugins()
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
    ours = [override for override in given if not override.is_hydra_override()]
    about = [str(override.input_line) for override in given if override.is_hydra_override()] + ["hydra.mode=MULTIRUN"]
    first = None
    for line in BasicSweeper.split_arguments(ours, None)[0]:
        try:
            config = hydra.compose_config(name, [*about, *line], RunMode.MULTIRUN)
        except Exception as error:
            first = first or error
            continue
        config.hydra.overrides.task = [str(override.input_line) for override in ours]
        return config
    raise first or InputError("-m: no runs to sweep over")


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
            told = explained(error, line)
            if not isinstance(told, KnownError):
                raise
            wrong.setdefault(str(told), []).append(" ".join(override for override in line if override not in common))
    if wrong:
        *more, last = [with_combinations(reason, where, len(lines)) for reason, where in wrong.items()]
        for line in more:
            print(f"error: {line}", file=sys.stderr)
        raise InputError(last)
    if any(combination.get("hparams_search") for combination in composed):
        raise InputError(
            "hparams_search with -m: search first, with one command per method; then sweep with the values found"
        )
    jobs: dict[Path | str, Job] = {}
    for line, combination in zip(lines, composed, strict=True):
        own = [override for override in line if override not in common]
        seedless = " ".join(override for override in own if not override.startswith("seed="))
        job = Job(line, " ".join(own) or " ".join(line), seedless, Path())
        try:
            settings = plain(combination, combination.hydra.runtime.choices)
            check_settings(settings)
            if settings.get("continue_from"):
                earlier(settings)
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
        if same := jobs.get(job.folder):
            print(f"{job.label}: is the same run as {same.label}")
            continue
        if finished(settings):
            job.state = "there"
        jobs[job.folder] = job
    return list(jobs.values())


def with_combinations(reason: str, where: Sequence[str], n_lines: int) -> str:
    """What is wrong, and in which combinations unless it is in all."""
    if len(where) == n_lines:
        return reason
    return f"{reason} (in {where[0]}{f' and {len(where) - 1} more' * (len(where) > 1)})"


def finished(settings: Mapping[str, Any]) -> Results | None:
    """The results of this run when it needn't run again; what can't be read is said, and made again."""
    if not settings["resume"]:
        return None
    folder = folder_of(settings)
    try:
        results = load_results(folder)
    except FileNotFoundError:
        return None
    except Damaged as error:
        then = "" if isinstance(error, Outdated) else "; the run continues from its checkpoints"
        print(f"not read: {folder}: {error}{then}", file=sys.stderr)
        return None
    # the reference is no part of the folder's name: with another one the metrics are worked out again
    same = results.config.get("reference") == settings["reference"]
    whole = results.status == "finished" and complete(results, folder, settings)
    return results if same and whole else None


def carried_out(
    settings: Mapping[str, Any],
    overrides: Sequence[str],
    say: Callable[[str], None] = lambda line: None,
    flags: Sequence[str] = (),
) -> tuple[Results, Path]:
    """The results of a run and its folder, at once when they are already there; waits for another process at work on
    it. A search comes first when the settings ask for one.

    overrides: what the settings were composed of. say: told in one line what begins. flags: of the command line that
    is the same run.
    """
    while settings.get("hparams_search"):
        if settings.get("continue_from"):
            earlier(settings)  # refuses a search
        with importing():
            from cl_bench.sweep.search import search

        try:
            settings = search(overrides, flags)
        except Busy as busy:
            wait_for(busy.folder)
    check_settings(settings)
    if settings.get("continue_from"):
        earlier(settings)
    folder = folder_of(settings)
    for line in without_effect(unread_in(settings), overrides):
        print(f"warning: {line}", file=sys.stderr, flush=True)
    results = finished(settings)
    if not results and settings["trainer"]["progress"]:
        say(first_line(settings))  # at once: torch takes seconds to come
    while not results:
        if at_work(folder):
            wait_for(folder)
            results = finished(settings)
            continue
        with importing():
            from cl_bench.runs.loop import run

        with suppress(Busy):  # another process came in between
            results = run(settings)
    return results, folder


def complain(job: Job) -> None:
    print(f"error: {job.reason} (in {' '.join(job.overrides)})", file=sys.stderr)
