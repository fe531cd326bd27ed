"""The curves of a run: the rows of its log.csv."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from contextlib import suppress
from io import StringIO
from pathlib import Path
from typing import NamedTuple

from cl_bench import files


class Row(NamedTuple):
    """One row of log.csv."""

    step: int
    task: int
    phase: str
    name: str
    value: float


def read(path: Path) -> list[Row]:
    """The rows of a log.csv, none if there is no such file; what is no row is left out: a line cut short by a crash,
    letters of another encoding, what somebody else wrote there."""
    text = path.read_bytes().decode(errors="replace") if path.is_file() else ""
    lines = text[: text.rfind("\n") + 1].replace("\0", "").split("\n")[1:]
    rows = []
    for line in lines:
        with suppress(ValueError, csv.Error):  # a number that is none, too few of them, a field without end
            i, task, phase, name, value = next(csv.reader([line]), [])
            rows.append(Row(int(i), int(task), phase, name, float(value)))
    return rows


def rewrite(path: Path, rows: Iterable[Row]) -> None:
    """Replace a log.csv as a whole: a crash leaves the old one or the new one."""
    text = StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Row._fields)
    writer.writerows(rows)
    files.write(path, lambda file: file.write_bytes(text.getvalue().encode()))
