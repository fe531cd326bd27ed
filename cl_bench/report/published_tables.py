"""Published numbers beside ours, as tables of a terminal and of a page; a page has a table made again from the data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from cl_bench.config import InputError
from cl_bench.config.errors import nearest
from cl_bench.evaluation.statistics import Estimate
from cl_bench.report.published import Cell, Row, cells, kept, ours

HEADS = ("experiment", "metric", "published", "expected", "ours", "seeds", "")


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
    """A table of cells with the rows of their family, and below it their sources, differences and causes."""
    lines = [f"| {' | '.join(HEADS)} |", f"|{'---|' * len(HEADS)}"]
    notes: dict[str, list[str]] = {}
    for cell, rows in found:
        texts = line_of(cell, ours(cell, rows))
        texts[:2] = [" ".join(f"`{word}`" for word in text.split()) for text in texts[:2]]
        lines.append(f"| {' | '.join(texts)} |")
        for note in (cell.source and f"Published: {cell.source}.", cell.differs, cell.why):
            if note:
                notes.setdefault(note, []).append(f"`{cell.method}`")
    for note, methods in notes.items():
        lines += ["", f"{', '.join(dict.fromkeys(methods))}: {note}"]
    return "\n".join(lines)


BEGIN, END = "<!-- results of ", "<!-- end of results -->"
"""What stands around a table in a page that is made from the data: BEGIN NAME -->, a family or method=NAME, and END."""


def rewritten(text: str) -> str:
    """A page with each of its tables made again. Raises InputError for a table of what there isn't."""
    parts = text.split(BEGIN)
    done = [parts[0]]
    for part in parts[1:]:
        name, _, rest = part.partition(" -->")
        _, end, after = rest.partition(END)
        if not end:
            raise InputError(f"{BEGIN}{name} -->: has no end")
        done.append(f"{name} -->\n\n{markdown(selected(name))}\n\n{END}{after}")
    return BEGIN.join(done)


def selected(name: str) -> Iterator[tuple[Cell, Sequence[Row]]]:
    """The cells of a family, or of method=NAME in all families, with the rows of their families."""
    method = name.partition("method=")[2]
    if not method and name not in cells():
        raise InputError(f"{BEGIN}{name} -->: there is no such family{nearest(name, cells())}")
    for family, content in cells().items():
        if method or family == name:
            rows = kept(family)
            yield from ((cell, rows) for cell in content if not method or cell.method == method)
