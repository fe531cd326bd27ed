"""Which method is best at a budget: those that may keep or replay equally much, in one protocol."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from cl_bench.report.answers import leader
from cl_bench.report.benchmarks import BOUNDS, BUDGETS, Benchmark, Configuration, by_protocol
from cl_bench.report.tables import ACC, SIZES_PER_TASK, Column

KEPT: Column = SIZES_PER_TASK[1]
NONE = "none"
"""The budget of a method that has no key for it."""


@dataclass(frozen=True)
class Equal:
    """Configurations of one budget and protocol.

    count: how many compete. kept: what they keep between tasks, all in all. best: which leads. address: of the page
    with these rows alone.
    """

    budget: str
    length: str
    protocol: str
    count: int
    kept: str
    best: str
    address: str


def at_equal_budgets(benchmark: Benchmark) -> list[Equal]:
    """A line for each budget within each protocol; none where no protocol has two of them. Bounds don't compete."""
    found = []
    several = False
    for protocol, rows in by_protocol(benchmark.configurations).items():
        budgets: dict[str, list[Configuration]] = {}
        for row in sorted(rows, key=size):
            if row.method not in BOUNDS and row.estimate(ACC.name):
                budgets.setdefault(row.budget, []).append(row)
        several |= len(budgets) > 1
        for budget, members in budgets.items():
            best = leader(rows, members) or f"{members[0].method} alone (ACC {ACC.cell(members[0].estimate('ACC'))})."
            fixed = {"benchmark": benchmark.title, "budget": budget or NONE}
            fixed |= {"protocol": protocol} if len(benchmark.protocols) > 1 else {}
            address = "&".join(f"{key}={quote(value, safe='=')}" for key, value in fixed.items())
            found.append(
                Equal(budget or NONE, members[0].length, protocol, len(members), kept(members), best, f"#{address}")
            )
    return found if several else []


def size(configuration: Configuration) -> list[float]:
    """The budget of a configuration as numbers, to sort by."""
    values = [configuration.config.get(key) for key in BUDGETS]
    return [float(value) if isinstance(value, int | float) else -1.0 for value in values]


def kept(members: list[Configuration]) -> str:
    """The least and the most that is kept between tasks."""
    sizes = [value.mean for member in members if (value := member.estimate(KEPT.name))]
    ends = dict.fromkeys(KEPT.write(end) for end in (min(sizes), max(sizes))) if sizes else []
    return " to ".join(ends)
