"""The curves of a run: the rows of its log.csv."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from io import StringIO
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from cl_bench import files

Logged = tuple[int, str, float]  # step of the phase from 0, name, value


class Row(NamedTuple):
    """One row of log.csv."""

    step: int
    task: int
    phase: str
    name: str
    value: float


def read(path: Path) -> list[Row]:
    """The rows of a log.csv; none if the file is missing. Lines that are not rows are left out: a line cut by a crash,
    another encoding, text of other programs."""
    text = path.read_bytes().decode(errors="replace") if path.is_file() else ""
    lines = text[: text.rfind("\n") + 1].replace("\0", "").split("\n")[1:]
    rows = []
    for line in lines:
        with suppress(ValueError, csv.Error):  # a number that is none, too few of them, a field without end
            i, task, phase, name, value = next(csv.reader([line]), [])
            rows.append(Row(int(i), int(task), phase, name, float(value)))
    return rows


def rewrite(path: Path, rows: Iterable[Row]) -> None:
    """Replaces a log.csv atomically: after a crash it is the old one or the new one."""
    text = StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Row._fields)
    writer.writerows(rows)
    files.write(path, lambda file: file.write_bytes(text.getvalue().encode()))


def averaged(
    logged: Sequence[Logged], every: int, done: int, n_steps: int
) -> tuple[list[tuple[int, dict[str, float]]], list[Logged]]:
    """The points of the curves that are complete when `done` of a phase's `n_steps` are, and what is left for later.

    A point is the mean of each name over `every` steps, and stands at the last of them; the last of a phase may be
    over fewer. The same points come out however the steps are cut into chunks.

    >>> averaged([(0, "loss", 3.0), (1, "loss", 1.0), (2, "loss", 5.0)], every=2, done=3, n_steps=4)
    ([(2, {'loss': 2.0})], [(2, 'loss', 5.0)])
    """
    end = done if done == n_steps else done // every * every
    points = []
    for window, ours in groupby((entry for entry in logged if entry[0] < end), key=lambda entry: entry[0] // every):
        values = defaultdict(list)
        for _, name, value in ours:
            values[name].append(value)
        means = {name: math.fsum(of_name) / len(of_name) for name, of_name in values.items()}
        points.append((min((window + 1) * every, n_steps), means))
    return points, [entry for entry in logged if entry[0] >= end]
