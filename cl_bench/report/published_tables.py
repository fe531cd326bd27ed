"""Published numbers beside ours, as tables of a terminal and of a page; a page has a table made again from the data."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from cl_bench.config import InputError
from cl_bench.config.errors import nearest
from cl_bench.evaluation.statistics import Estimate
from cl_bench.report.published import Cell, Row, cells, kept, ours

HEADS = ("experiment", "metric", "published", "expected", "ours", "seeds", "verdict")


def line_of(cell: Cell, found: Estimate | None) -> list[str]:
    """The cells of a table below HEADS, as plain text."""
    published = "" if cell.value is None else number(cell.value)
    if cell.spread:
        published += f" ± {number(cell.spread)}"
    expected = "" if cell.range is None else " to ".join(map(number, cell.range))
    return [
        " ".join([cell.experiment, *cell.overrides]),
        cell.metric,
        published,
        expected,
        number(found.mean) + (f" ± {number(found.half)}" if found.half is not None else "") if found else "",
        f"{found.n if found else 0} of {len(cell.seeds)}",
        cell.verdict(found),
    ]


def number(value: float) -> str:
    """As papers print a share.

    >>> number(0.9344), number(-0.05), number(1.0)
    ('.934', '-.050', '1.000')
    """
    text = f"{value:.3f}"
    return text.replace("0.", ".", 1) if abs(round(value, 3)) < 1 else text


def markdown(found: Iterable[tuple[Cell, Sequence[Row]]]) -> str:
    """A table of cells with the rows of their family, and below it their sources, differences and causes by number."""
    heads = [*HEADS, "notes"]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    numbers: dict[str, int] = {}
    for cell, rows in found:
        texts = line_of(cell, ours(cell, rows))
        texts[:2] = [" ".join(f"`{word}`" for word in text.split()) for text in texts[:2]]
        notes = filter(None, (cell.source and f"Published: {cell.source}.", cell.differs, cell.why))
        texts.append(", ".join(map(str, sorted(numbers.setdefault(note, len(numbers) + 1) for note in notes))))
        lines.append(f"| {' | '.join(texts)} |")
    if numbers:
        lines += ["", *(f"{number}. {note}" for note, number in numbers.items())]
    return "\n".join(lines)


def remade(text: str, kind: str, table: Callable[[str], str]) -> str:
    """A page with each of its tables of a kind made again: what stands between the lines `<!-- KIND of NAME -->` and
    `<!-- end of KIND -->` is what `table` makes of the name. Raises InputError for one that has no end.

    >>> print(remade("<!-- sums of 1 2 -->\\nold\\n<!-- end of sums -->", "sums", lambda name: name.replace(" ", "+")))
    <!-- sums of 1 2 -->
    <BLANKLINE>
    1+2
    <BLANKLINE>
    <!-- end of sums -->
    """
    end = f"<!-- end of {kind} -->"
    done, *parts = re.split(rf"^<!-- {kind} of (.*) -->$", text, flags=re.MULTILINE)
    for name, rest in zip(parts[::2], parts[1::2], strict=True):
        _, found, after = rest.partition(f"\n{end}")
        if not found:
            raise InputError(f"<!-- {kind} of {name} -->: has no end, {end}")
        done += f"<!-- {kind} of {name} -->\n\n{table(name)}\n\n{end}{after}"
    return done


def results_table(name: str) -> str:
    """The table of a family, or of method=NAME what is measured or published of it in all families.

    Raises InputError for a family that there isn't.
    """
    method = name.partition("method=")[2]
    if not method and name not in cells():
        raise InputError(f"results of {name}: there is no such family{nearest(name, cells())}")
    found = []
    for family, content in cells().items():
        rows = kept(family)
        if not method and family == name:
            found += [(cell, rows) for cell in content]
        own = [cell for cell in content if method and cell.method == method]
        found += [(cell, rows) for cell in own if cell.value is not None or cell.before or ours(cell, rows)]
    return markdown(found) if found else "No number is published or measured yet."
