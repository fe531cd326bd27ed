"""Training times of ours beside those of loops written by hand: kept as data, and the table of a page."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from cl_bench.config import InputError
from cl_bench.files import to_table, write
from cl_bench.report import published

Part = Literal["training", "whole"]
"""The training steps, or all that learning a task takes."""

Where = Literal["cpu", "gpu"]
FILES: dict[Where, str] = {"cpu": "timings.csv", "gpu": "timings_gpu.csv"}


@dataclass(frozen=True)
class Ratio:
    """One loop written by hand, and ours.

    what: the method, and which loop where there are several. by_hand, ours: milliseconds per step, medians. ratio:
    ours over by hand, the median; lowest, highest: over the repeats. date: of the measurement. machine: its processor.
    """

    what: str
    part: Part
    by_hand: float
    ours: float
    ratio: float
    lowest: float
    highest: float
    repeats: int
    date: str
    machine: str


def ratios(where: Where = "cpu") -> list[Ratio]:
    """Those that were kept. Raises InputError for a damaged file."""
    file = published.RESULTS / FILES[where]
    if not file.exists():
        return []
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            return TypeAdapter(list[Ratio]).validate_python(list(csv.DictReader(lines)))
    except (ValidationError, UnicodeError, csv.Error) as error:
        raise InputError(f"{file}: is damaged ({' '.join(str(error).split())})") from None


def keep_ratios(new: Iterable[Ratio], where: Where = "cpu") -> None:
    """Writes them into the file, each in the place of the one of its name and part."""
    known = {(one.what, one.part): one for one in (*ratios(where), *new)}
    names = [field.name for field in fields(Ratio)]
    write(published.RESULTS / FILES[where], to_table([names, *(astuple(one) for one in known.values())]))


def timings_table(names: str) -> str:
    """The table of a page: ratios of the methods with these names, between spaces, in this order; `all` for all, `gpu`
    for all on a GPU.

    Raises InputError for a method that was not timed.
    """
    found = ratios("gpu" if names == "gpu" else "cpu")
    every = dict.fromkeys(one.what.partition(",")[0] for one in found)
    wanted = list(every) if names in ("all", "gpu") else names.split()
    lines = ["| | training steps | everything that learning a task takes | by hand, ms per step | repeats, date |"]
    lines.append("|---|---|---|---|---|")
    for name in wanted:
        loops = [one for one in found if one.what.partition(",")[0] == name]
        if not loops:
            raise InputError(f"timings of {name}: it was not timed")
        whole = {one.what: one for one in loops if one.part == "whole"}
        for one in (one for one in loops if one.part == "training"):
            ratios_of = (spread(one), spread(whole.get(one.what)))
            called, when = f"`{name}`" + one.what.removeprefix(name), f"{one.repeats}, {one.date}"
            cells = (called, *ratios_of, f"{one.by_hand:.2f}", when)
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(one: Ratio | None) -> str:
    """The median, with the lowest and the highest repeat in brackets."""
    return "not kept" if one is None else f"{one.ratio:.2f} ({one.lowest:.2f}-{one.highest:.2f})"
