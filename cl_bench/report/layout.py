"""What page.html lays out: dataclasses, as of a dict `a.items` would be its method, and always true."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from markupsafe import Markup

from cl_bench.report.budgets import Equal
from cl_bench.report.comparisons import Tests
from cl_bench.report.plots import Figure
from cl_bench.report.tables import Column


@dataclass(frozen=True)
class Number:
    """A cell of the table of results. value: what it is sorted by. n: seeds behind it."""

    mean: str
    half: str
    value: float | str
    n: int
    best: bool


@dataclass(frozen=True)
class Row:
    """A configuration in the table of results. facets: what it is filtered by, besides what its section has.
    conditions: training mask, budget, length of training."""

    id: str
    label: str
    full: str
    facets: Mapping[str, str]
    swatch: Markup
    seeds: list[int]
    conditions: list[str]
    cells: list[Number]


@dataclass(frozen=True)
class Condition:
    """A column of what differs besides the numbers. differs: the rows can't be compared without a thought."""

    title: str
    meaning: str
    differs: bool


@dataclass(frozen=True)
class Named:
    """A configuration in a legend."""

    id: str
    label: str
    swatch: Markup


@dataclass(frozen=True)
class MatrixCell:
    """future: its task was still to be learned."""

    text: str
    value: str | None
    future: bool

    @property
    def shade(self) -> str:
        if self.future:
            return "future"
        value = float(self.value or 0)
        return "strong" if value > 0.78 else "middling" if value > 0.57 else ""


@dataclass(frozen=True)
class Matrix:
    """The accuracies of a configuration; after: the numbers of its rows, from 1. tasks: the heads of its columns."""

    id: str
    label: str
    after: list[int]
    tasks: list[str]
    cells: list[list[MatrixCell]]


@dataclass(frozen=True)
class Sample:
    """Generated images; data: a PNG file in base 64."""

    id: str
    label: str
    caption: str
    data: str


@dataclass(frozen=True)
class NotFinished:
    """A run that is in none of the numbers."""

    status: str
    folder: str
    link: str
    name: str
    seed: str
    progress: str
    reason: str


@dataclass(frozen=True)
class Brief:
    """A cell of the overview; section: the id of its benchmark."""

    section: str
    text: str
    note: str


@dataclass(frozen=True)
class Content:
    """A benchmark, ready to be laid out."""

    id: str
    title: str
    facets: Mapping[str, str]
    mask: str
    shared_test: bool
    seeds: list[int]
    runs: int
    protocols: Mapping[str, Mapping[str, str]]
    runs_of: Mapping[str, int]
    protocol: str
    answers: list[str]
    budgets: list[Equal]
    published: list[tuple[str, list[str]]]
    notes: list[str]
    conditions: list[Condition]
    columns: list[Column]
    rows: list[Row]
    legend: list[Named]
    figures: list[Figure]
    swept: list[Figure]
    note: str
    matrices: list[Matrix]
    matrix_note: str
    classes: list[tuple[int, str]]
    samples: list[Sample]
    left_out: int
    tests: list[Tests]
