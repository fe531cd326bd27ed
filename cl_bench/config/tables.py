"""A person's own table of pictures, a CSV file: its rows, read strictly, or refused by their lines."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from cl_bench.config.errors import InputError, nearest

COLUMNS = ("path", "label", "split")
SPLITS = ("train", "test", "val")


class Row(NamedTuple):
    """line: where it ends in the file, from 1. path: of the picture, as written. split: None without that column."""

    line: int
    path: str
    label: str
    split: str | None


def rows_of(table: Path, where: str) -> Iterator[Row]:
    """The rows of a CSV file with the columns path, label and, if there is one, split; others may stand beside them.

    Fields may be quoted, spaces around them don't count, and empty lines are left out.
    Raises InputError for a file that is none, and for a row that is wrong, with its line.
    """
    if not table.is_file():
        found = "is a folder" if table.is_dir() else "is missing"
        raise InputError(f"{where} {found}; it must be a CSV file with the columns {', '.join(COLUMNS)}")
    if not is_table(table):  # by its name alone a run knows that there are pictures to tell it by
        raise InputError(f"{where}: must be a CSV file, with a name that ends in .csv")
    line = 0
    try:
        with table.open(encoding="utf-8-sig", newline="") as opened:
            reader = csv.reader(opened, strict=True, skipinitialspace=True)
            head = [name.strip() for name in next(reader, [])]
            places, line = columns(head, where), reader.line_num
            for fields in reader:
                line = reader.line_num
                if not any(field.strip() for field in fields):
                    continue
                if len(fields) != len(head):
                    way = "put a field with a comma in quotes"
                    raise InputError(f"{where}: line {line} has {len(fields)} fields, the first has {len(head)}; {way}")
                found = {name: fields[place].strip() for name, place in places.items()}
                if empty := [name for name, field in found.items() if not field]:
                    raise InputError(f"{where}: line {line} has no {empty[0]}")
                if strange := [name for name, field in found.items() if not field.isprintable()]:
                    raise InputError(f"{where}: line {line}: its {strange[0]} has characters that cannot be printed")
                if "split" in found and found["split"] not in SPLITS:
                    near = nearest(found["split"], SPLITS)
                    raise InputError(f"{where}: line {line}: there is no split '{found['split']}'{near}")
                yield Row(line, found["path"], found["label"], found.get("split"))
    except csv.Error as error:
        raise InputError(f"{where}: line {line + 1} can't be read as CSV ({error})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{where} is not UTF-8 text ({error.reason}); save it as CSV in UTF-8") from error
    except OSError as error:
        raise InputError(f"{where} can't be read ({error.strerror})") from error


def is_table(file: Path) -> bool:
    return file.suffix.lower() == ".csv"


def columns(head: list[str], where: str) -> dict[str, int]:
    """Where each of the columns stands. Raises InputError for one that is missing or there twice."""
    if len(head) == 1 and any(mark in head[0] for mark in ";\t"):
        raise InputError(f"{where}: the first line is '{head[0]}'; columns must be separated by commas")
    for name in COLUMNS:
        if head.count(name) > 1:
            raise InputError(f"{where}: the column {name} appears twice")
    for name in COLUMNS[:2]:
        if name not in head:
            has = ", ".join(head) or "nothing"
            raise InputError(f"{where}: has no column {name}; its first line must name path,label,split, and has {has}")
    if "split" not in head and (near := get_close_matches("split", head, n=1, cutoff=0.5)):
        raise InputError(f"{where}: there is no column '{near[0]}'; did you mean 'split'?")
    return {name: head.index(name) for name in COLUMNS if name in head}
