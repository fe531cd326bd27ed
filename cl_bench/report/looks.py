"""How methods look in every chart: a color for each family, a marker for each method within it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from cl_bench.config.signatures import constant

FAMILIES = (
    "regularization",
    "rehearsal",
    "generative replay",
    "architecture",
    "distillation",
    "optimization",
    "frozen features",
    "reference",
    "other",
)
"""The place of a family is the number of its color in page.css."""

DASHES = ("", "6 3", "2 3", "9 3 2 3")
SHAPES = (
    '<circle r="4"/>',
    '<rect x="-3.6" y="-3.6" width="7.2" height="7.2"/>',
    '<path d="M0-4.8L4.6 3.4H-4.6Z"/>',
    '<path d="M0-5.2L5.2 0L0 5.2L-5.2 0Z"/>',
    '<path d="M0 4.8L4.6-3.4H-4.6Z"/>',
    '<path class="open" d="M0-5V5M-5 0H5"/>',
    '<path class="open" d="M-4-4L4 4M-4 4L4-4"/>',
    '<circle class="open" r="3.6"/>',
    '<rect class="open" x="-3.3" y="-3.3" width="6.6" height="6.6"/>',
    '<path class="open" d="M0-4.6L4.2 3.2H-4.2Z"/>',
    '<path class="open" d="M0-4.8L4.8 0L0 4.8L-4.8 0Z"/>',
    '<path class="open" d="M0 4.6L4.2-3.2H-4.2Z"/>',
)
MARKERS = len(SHAPES)


@cache
def family_of(method: str) -> str:
    """What the class of a method says; `other` where it is another package's. method: its path.

    >>> family_of("cl_bench.methods.ewc.EWC"), family_of("theirs.Method")
    ('regularization', 'other')
    """
    try:
        found = constant(method, "family")
    except LookupError:
        return "other"
    return found if found in FAMILIES else "other"


@dataclass(frozen=True)
class Style:
    """How a series looks everywhere: numbers of its color, marker and dash."""

    color: int
    marker: int
    dash: int

    @property
    def shape(self) -> str:
        return SHAPES[self.marker]


@dataclass(frozen=True)
class Look:
    """How a method looks. family: of FAMILIES. place: among the methods of its family."""

    family: str
    place: int

    def style(self, rank: int = 0) -> Style:
        """The configurations of a method, by their rank, differ in marker and dash."""
        return Style(
            FAMILIES.index(self.family), (self.place + rank) % MARKERS, (self.place // MARKERS + rank) % len(DASHES)
        )


def looks_of(methods: Iterable[tuple[str, str]]) -> Mapping[str, Look]:
    """The looks of (name, path) of all methods of a page.

    >>> looks_of([("si", "cl_bench.methods.si.SI"), ("mas", "cl_bench.methods.mas.MAS")])["si"]
    Look(family='regularization', place=1)
    """
    places: dict[str, int] = {}
    looks = {}
    for name, path in sorted(dict(methods).items()):
        family = family_of(path)
        looks[name] = Look(family, places.setdefault(family, 0))
        places[family] += 1
    return looks
