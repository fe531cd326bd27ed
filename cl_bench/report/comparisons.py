"""Which configurations differ by more than chance: paired tests on shared seeds, all pairs of a protocol under Holm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cl_bench.evaluation.statistics import Comparison
from cl_bench.report.benchmarks import Benchmark, Configuration, by_protocol, compared
from cl_bench.report.tables import ACC, MINUS


@dataclass(frozen=True)
class Cell:
    """One configuration against another: the difference, and whether it is more than chance."""

    text: str
    clear: bool
    holm: str


@dataclass(frozen=True)
class Pair:
    """A test in words."""

    first: Configuration
    second: Configuration
    difference: str
    n: int
    p: str
    holm: str


@dataclass(frozen=True)
class Tests:
    """The paired comparisons of a protocol.

    protocol: '' where there is no other. count: of all tests that the correction covers. shown, grid: the
    configurations that are shown, and the difference of each row and column. left_out: how many configurations were
    tested and are not shown.
    """

    protocol: str
    count: int
    shown: list[Configuration]
    grid: list[list[Cell | None]]
    pairs: list[Pair]
    left_out: int


def comparisons(benchmark: Benchmark, drawn: Sequence[Configuration]) -> list[Tests]:
    """Paired comparisons of ACC within each protocol: all configurations are tested, those that are drawn shown."""
    found = []
    for protocol, rows in by_protocol(benchmark.configurations).items():
        tested = [pair for pair in compared(rows, ACC.name) if pair.p is not None]
        seen = {place for place, configuration in enumerate(rows) if configuration in drawn}
        shown = [pair for pair in tested if {pair.first, pair.second} <= seen]
        if shown:
            places = sorted({place for pair in shown for place in (pair.first, pair.second)})
            count = len({place for pair in tested for place in (pair.first, pair.second)})
            found.append(
                Tests(
                    protocol=protocol if len(benchmark.protocols) > 1 else "",
                    count=len(tested),
                    shown=[rows[place] for place in places],
                    grid=grid(places, shown),
                    pairs=[in_words(pair, rows) for pair in sorted(shown, key=lambda pair: pair.p or 0)],
                    left_out=count - len(places),
                )
            )
    return found


def grid(places: Sequence[int], pairs: Sequence[Comparison]) -> list[list[Cell | None]]:
    """ACC of each row minus that of each column, for those at these places."""
    cells: list[list[Cell | None]] = [[None] * len(places) for _ in places]
    for pair in pairs:
        for row, column, sign in ((pair.first, pair.second, 1), (pair.second, pair.first, -1)):
            text = f"{100 * sign * pair.difference.mean:+.1f}".replace("-", MINUS)
            cells[places.index(row)][places.index(column)] = Cell(text, pair.clear, p_text(pair.holm))
    return cells


def in_words(pair: Comparison, rows: Sequence[Configuration]) -> Pair:
    return Pair(
        rows[pair.first],
        rows[pair.second],
        ACC.cell(pair.difference),
        pair.difference.n,
        p_text(pair.p),
        p_text(pair.holm),
    )


def p_text(p: float | None) -> str:
    if p is None:
        return ""
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"
