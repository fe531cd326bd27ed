"""What a row of the table of results says when it is opened: its runs, where they lie, and what makes them again."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cl_bench.report.benchmarks import Benchmark, Configuration
from cl_bench.report.runs import Run
from cl_bench.report.tables import columns_of, relative, unit

CONFIG_FLAGS = ("--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp")
"""Flags of Hydra that a run needs besides its overrides: where its configuration lies."""


def details(found: Sequence[Benchmark], numbers: Mapping[Configuration, str], out: Path) -> dict[str, Any]:
    """The data that page.js lays out when a row is opened, short as a page may hold thousands of runs.

    columns: by section, the heads of its numbers. origins: what many runs share, once: version, commit, machine, and
    the names of the figures. rows: by the number of a configuration, its commands and its runs; a run is its seed,
    the link to its folder, its date, the place of its origin, and its numbers as text.
    """
    origins: dict[tuple[str, ...], int] = {}
    columns, rows = {}, {}
    for place, benchmark in enumerate(found):
        shown = columns_of(benchmark.configurations)
        columns[f"b{place}"] = [column.title + unit(column) for column in shown]
        for configuration in benchmark.configurations:
            runs = []
            for run in configuration.runs:
                origin = origins.setdefault(origin_of(run), len(origins))
                values = [run.number(column.name) for column in shown]
                texts = [
                    "" if value is None else column.write(value) for column, value in zip(shown, values, strict=True)
                ]
                runs.append([run.seed, link(run.folder, out), started(run), origin, texts])
            rows[numbers[configuration]] = [commands(configuration.runs), runs]
    return {"columns": columns, "origins": list(origins), "rows": rows}


def link(folder: Path, out: Path) -> str:
    """The address of a folder from the page: whatever bytes its name holds, `#` and `%` among them."""
    return quote(os.fsencode(relative(folder, out)))


def started(run: Run) -> str:
    """When a run began, to the minute in UTC; '' where its record doesn't say."""
    return str(run.results.provenance.get("date") or "")[:16].replace("T", " ")


def origin_of(run: Run) -> tuple[str, ...]:
    """Version, commit and machine of a run, and the names of its figures."""
    made_by, versions = run.results.provenance, run.results.versions
    machine = made_by.get("machine")
    machine = machine if isinstance(machine, Mapping) else {}
    version = ", ".join(f"{name} {versions[name]}" for name in ("cl_bench", "torch") if versions.get(name))
    device = machine.get("gpu") or machine.get("cpu") or run.results.device
    try:
        figures = sorted(name for name in os.listdir(run.folder / "figures") if name.endswith(".png"))
    except OSError:
        figures = []
    return version, str(made_by.get("commit") or ""), str(device), *figures


def commands(runs: Iterable[Run]) -> list[str]:
    """The command lines that make these runs, as their records keep them.

    Runs that differ in their seed alone are one sweep. A run that was started from Python has the command of its
    process.
    """
    seeds: dict[tuple[str, ...], list[int]] = {}
    others: dict[str, None] = {}
    for run in runs:
        words, command = run.results.provenance.get("overrides"), str(run.results.provenance.get("command") or "")
        if isinstance(words, list):
            kept = tuple(word for word in map(str, words) if not word.startswith("seed="))
            seeds.setdefault((*config_flags(command), *kept), []).append(run.seed)
        elif command:
            others[command] = None
    found = []
    for words, of_words in seeds.items():
        many = ["-m"] * (len(of_words) > 1)
        found.append(shlex.join(["python", "-m", "cl_bench", *many, *words, f"seed={','.join(map(str, of_words))}"]))
    return [*found, *others]


def config_flags(command: str) -> list[str]:
    """The flags of a command line that say where the configuration lies.

    >>> config_flags("python -m cl_bench --config-dir mine method=er --config-name=other -m")
    ['--config-dir', 'mine', '--config-name=other']
    """
    if not any(flag in command for flag in CONFIG_FLAGS):  # to split thousands of commands takes its time
        return []
    try:
        words = shlex.split(command)
    except ValueError:  # damaged by hand
        return []
    found = []
    for place, word in enumerate(words):
        if word in CONFIG_FLAGS:
            found += words[place : place + 2]
        elif word.startswith(tuple(f"{flag}=" for flag in CONFIG_FLAGS)):
            found.append(word)
    return found
