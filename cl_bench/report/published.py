"""Published numbers as data, and the runs that made them again."""

from __future__ import annotations

import csv
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from io import StringIO
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from cl_bench.config import InputError
from cl_bench.config.names import CONF, file_of
from cl_bench.evaluation.statistics import Estimate, estimate
from cl_bench.files import to_table, write
from cl_bench.record import Results

RESULTS = CONF.parent / "results"
"""The published numbers, in `published/FAMILY.yaml`, and the runs that made them again, in `FAMILY.csv`."""

RUN = ("experiment", "overrides", "seed", "key", "version", "commit", "date", "device", "seconds")
"""What stands of each run in a CSV file, before its metrics."""


class Cell(BaseModel):
    """One number of a publication, and the runs that make it again.

    experiment: of conf/experiment. overrides: typed beside it, without the seed. metric: of `results.json`, or of
    `Results.late_plasticity`. value: published; None where there is none, and the number is ours alone. spread:
    published beside it. range: between which two numbers, both included, ours is expected; None: it is reported only.
    seeds: of our runs. source: the paper, with its table. differs: what our protocol does in another way. why: why ours
    lies outside, where an experiment showed it. before: ours by an older version of cl_bench, shown until there is a
    run of today's. device: gpu, where a CPU takes many hours. minutes: that one run takes on one core of a CPU, or on a
    GPU, where that is known.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    experiment: str
    overrides: tuple[str, ...] = ()
    metric: str = "ACC"
    value: Annotated[float, Field(ge=-1, le=1)] | None = None
    spread: Annotated[float, Field(gt=0)] | None = None
    range: tuple[float, float] | None = None
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0, 1, 2)
    source: str = ""
    differs: str = ""
    why: str = ""
    before: str = ""
    device: Literal["cpu", "gpu"] = "cpu"
    minutes: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _sound(self) -> Cell:
        if self.range and self.range[0] > self.range[1]:
            raise ValueError("range: the first number is above the second")
        if self.value is not None and not self.source:
            raise ValueError("source: is needed for a published value")
        return self

    @property
    def configuration(self) -> tuple[str, ...]:
        """What is typed, but for the seed."""
        return (f"experiment={self.experiment}", *self.overrides)

    @property
    def method(self) -> str:
        return chosen("method", self.configuration)

    def placed(self, ours: Estimate) -> Literal["inside", "above", "below", ""]:
        """Where our mean lies, '' where nothing is expected. Compared as printed, with three decimals.

        >>> Cell(experiment="n_gen", range=(0.7, 0.8)).placed(Estimate(0.8004, half=None, n=1))
        'inside'
        """
        if not self.range:
            return ""
        low, high = self.range
        return "below" if round(ours.mean, 3) < low else "above" if round(ours.mean, 3) > high else "inside"

    def verdict(self, ours: Estimate | None) -> str:
        """Where our mean lies, and whether chance may have put it there, as far as the seeds tell."""
        if not ours:
            missing = "not run here" + ": needs a GPU" * (self.device == "gpu")
            return f"measured before: {self.before}" if self.before else missing
        placed = self.placed(ours)
        if placed in ("above", "below") and self.range and ours.half is not None:
            low, high = self.range
            return placed + ", not clearly" * (ours.mean - ours.half <= high and ours.mean + ours.half >= low)
        return placed


def chosen(group: str, overrides: Sequence[str]) -> str:
    """What is chosen for a group by overrides, and else by the experiment among them and those that it builds on.

    >>> chosen("method", ["experiment=dark_experience/der_pp"]), chosen("method", ["experiment=n_gen", "method=er"])
    ('der', 'er')
    """
    choices = dict(override.split("=", 1) for override in overrides)
    if group in choices:
        return choices[group]
    entries = file_of("experiment", choices["experiment"])["defaults"] if "experiment" in choices else []
    for entry in reversed(entries):
        if isinstance(entry, str) and entry != "_self_":
            return chosen(group, [f"experiment={entry}"])
        if isinstance(entry, dict) and (name := entry.get(f"override /{group}")):
            return name
    return next(entry[group] for entry in file_of("", "config")["defaults"] if group in entry)


@cache
def cells() -> dict[str, list[Cell]]:
    """The cells of each family, by the name of its file. Raises InputError, in one line, for a file that is wrong."""
    found = {}
    for file in sorted((RESULTS / "published").glob("*.yaml")):
        try:
            found[file.stem] = TypeAdapter(list[Cell]).validate_python(yaml.safe_load(file.read_text("utf-8")))
        except (ValidationError, yaml.YAMLError) as error:
            reason = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
            where = ".".join(map(str, reason["loc"]))
            raise InputError(f"{file}: {where}: {' '.join(reason['msg'].split())}") from None
    return found


@dataclass(frozen=True)
class Row:
    """One run that was kept, as a line of a CSV file.

    key: of its configuration on any machine, which says whether today's would be the same. version: of cl_bench.
    commit: of its code. date: of its beginning. device: its CPU or GPU. seconds: of training.
    """

    experiment: str
    overrides: tuple[str, ...]
    seed: int
    key: str
    version: str
    commit: str
    date: str
    device: str
    seconds: float
    metrics: Mapping[str, float]

    def of(self, cell: Cell) -> bool:
        return (self.experiment, self.overrides, self.seed in cell.seeds) == (cell.experiment, cell.overrides, True)


def row_of(cell: Cell, results: Results, key: str) -> Row:
    """What is kept of a finished run of a cell."""
    made_by, machine = results.provenance, results.provenance.get("machine")
    machine = machine if isinstance(machine, Mapping) else {}
    return Row(
        cell.experiment,
        cell.overrides,
        results.seed,
        key,
        results.versions.get("cl_bench", ""),
        str(made_by.get("commit") or ""),
        str(made_by.get("date") or "")[:10],
        str(machine.get("gpu") or machine.get("cpu") or results.device),
        round(results.seconds, 1),
        {name: value for name, value in (results.metrics | results.late_plasticity).items() if value is not None},
    )


def kept(family: str) -> list[Row]:
    """The runs of a family that were kept, none where there is no file of them. Raises InputError for a damaged one."""
    file = RESULTS / f"{family}.csv"
    if not file.exists():
        return []
    rows, number = [], 1  # the last line that could be read
    try:
        for line in csv.DictReader(StringIO(file.read_text("utf-8"), newline="")):
            number += 1
            run = {name: line.pop(name) for name in RUN}
            texts = {name: run[name] for name in ("experiment", "key", "version", "commit", "date", "device")}
            metrics = {name: float(value) for name, value in line.items() if value}
            rows.append(
                Row(
                    **texts,
                    overrides=tuple(run["overrides"].split()),
                    seed=int(run["seed"]),
                    seconds=float(run["seconds"]),
                    metrics=metrics,
                )
            )
    except (AttributeError, KeyError, ValueError, TypeError, csv.Error) as error:  # ValueError: no UTF-8, too
        raise InputError(f"{file}: line {number} is damaged ({error!r})") from None
    return rows


def keep(family: str, rows: Iterable[Row], stale: Container[Row] = ()) -> None:
    """Writes a family's CSV file: the runs given, and of those that were there the ones that are not run again."""
    old = (row for row in kept(family) if row not in stale)
    known = {(row.experiment, row.overrides, row.seed): row for row in (*old, *rows)}
    wanted = {"ACC", "BWT", "FWT", "forgetting", *(cell.metric for cell in cells()[family])}
    if not known:
        return
    order = {cell.configuration: place for place, cell in enumerate(cells()[family])}
    listed = sorted(known.values(), key=lambda row: (order.get(configuration_of(row), len(order)), row.seed))
    names = sorted({name for row in listed for name in row.metrics} & wanted)
    lines = [[*RUN, *names]]
    for row in listed:
        run = [getattr(row, name) for name in RUN]
        run[RUN.index("overrides")] = " ".join(row.overrides)
        numbers = [f"{row.metrics[name]:.5f}" if name in row.metrics else "" for name in names]
        lines.append([*run, *numbers])
    write(RESULTS / f"{family}.csv", to_table(lines))


def configuration_of(row: Row) -> tuple[str, ...]:
    return (f"experiment={row.experiment}", *row.overrides)


def ours(cell: Cell, rows: Iterable[Row]) -> Estimate | None:
    """The mean over the runs of a cell, None where there is none."""
    return estimate([row.metrics[cell.metric] for row in rows if row.of(cell) and cell.metric in row.metrics])
