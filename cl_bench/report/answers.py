"""What a reader asks first, answered from the tests: which method leads, on one benchmark and over all of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from cl_bench.config.compose import written_out
from cl_bench.evaluation.statistics import estimate
from cl_bench.report.benchmarks import BOUNDS, Benchmark, Configuration, by_acc, by_protocol, compared, mean_accuracy
from cl_bench.report.published import Cell, cells, chosen
from cl_bench.report.published_tables import line_of
from cl_bench.report.runs import IDLE, Run
from cl_bench.report.tables import ACC

NAMED = 4  # so many of those that lead stand in a sentence


def leaders(benchmark: Benchmark) -> list[str]:
    """For each protocol where two compete which has the highest ACC, and whether the tests tell it from the others."""
    found = []
    for protocol, rows in by_protocol(benchmark.configurations).items():
        if said := leader(rows, rows):
            found.append(f"{protocol}: {said}" if len(benchmark.protocols) > 1 else said)
    return found


def leader(rows: tuple[Configuration, ...], members: Iterable[Configuration]) -> str:
    """Which of the members of a protocol have the highest ACC (see `by_acc`), and whether the tests of all its rows
    tell them apart; '' where fewer than two compete. Bounds don't."""
    members = list(members)
    bounds = sorted({row.method for row in members} & {*BOUNDS})
    wanted = {row for row in members if row.method not in BOUNDS and row.estimate("ACC")}
    rivals = [place for place, row in enumerate(rows) if row in wanted]
    rivals.sort(key=lambda place: by_acc(rows[place]), reverse=True)
    if len(rivals) < 2:
        return ""
    first, above, tied, untested = rivals[0], [], [], []
    pairs = {pair.first + pair.second - first: pair for pair in compared(rows, "ACC").of(first)}  # by the other's place
    for place in rivals[1:]:
        pair = pairs.get(place)
        if pair is None or (pair.p is None and (pair.difference.n < 2 or pair.difference.mean)):
            untested.append(place)
        elif not pair.clear:
            tied.append(place)
        elif (pair.difference.mean > 0) != (pair.first == first):
            above.append(place)
    return sentence(rows, first, above, tied, untested, bounds)


def sentence(
    rows: Sequence[Configuration],
    first: int,
    above: Sequence[int],
    tied: Sequence[int],
    untested: Sequence[int],
    bounds: Sequence[str],
) -> str:
    """first: the place of the highest mean. above: of those that are better on the seeds that they share with it. tied:
    of those that the tests don't tell from it. untested: of those that no test can tell from it. bounds: methods beside
    them that don't compete."""
    labels = [row.label.removesuffix(f" · {row.protocol}") for row in rows]
    value, name = rows[first].estimate("ACC"), labels[first]
    reached = f"(ACC {ACC.cell(value)})"
    if value and value.n < 2:
        return f"{name} is highest {reached}, with one seed, so it may be by chance."
    beyond = any(mean_accuracy(rows[place]) > mean_accuracy(rows[first]) for place in untested)  # each by one seed
    among = "those with several seeds " * beyond
    if above:
        better = (
            f"{listed([labels[place] for place in above])} {'is' if len(above) == 1 else 'are'} significantly better"
        )
        said = f"{name} is highest {'of ' * beyond}{among}{reached}, but on shared seeds {better}."
        said += f" The tests find no difference to {listed([labels[place] for place in tied])}." if tied else ""
    elif tied:
        what = "" if len(tied) == 1 else f" between {name} and any of the others"
        together = listed([name, *(labels[place] for place in tied)])
        said = f"{together} lead {among}{reached}; the tests find no difference{what}."
    elif untested:
        said = f"{name} is highest {'of ' * beyond}{among}{reached}."
    else:
        others = f"every other but {listed(bounds)}" if bounds else "every other"
        said = f"{name} leads {reached}: it is significantly better than {others}."
    if untested:
        others = listed([labels[place] for place in untested])
        said += (
            f" Not tested against {others}: a test needs two shared seeds, and differences that are not all the same."
        )
    return said


def listed(names: Sequence[str]) -> str:
    """Of many the first few.

    >>> listed(["er", "gem", "icarl"]), listed(list("abcdef"))
    ('er, gem and icarl', 'a, b, c, d and 2 more')
    """
    shown, more = names[:NAMED], len(names) - NAMED
    if more > 0:
        return f"{', '.join(shown)} and {more} more"
    return f"{', '.join(shown[:-1])} and {shown[-1]}" if len(shown) > 1 else shown[0]


def published_beside(benchmark: Benchmark) -> list[tuple[Configuration, list[str]]]:
    """Each configuration that is a published protocol, with its numbers as `line_of` has them, over the seeds that
    reproduce it."""
    found = []
    for configuration in benchmark.configurations:
        for cell in cells_of(configuration.runs[0]):
            of_seeds = configuration.by_seed(cell.metric)
            if value := estimate([of_seeds[seed] for seed in cell.seeds if seed in of_seeds]):
                found.append((configuration, line_of(cell, value)))
    return found


def cells_of(run: Run) -> list[Cell]:
    """The published numbers that a run makes again: those of its command, but for the seed and what has no effect."""
    words = run.results.provenance.get("overrides")
    if not isinstance(words, list) or not any(str(word).startswith("experiment=") for word in words):
        return []
    keys = ((word.partition("=")[0], word) for word in map(str, words))
    typed = {written_out(word) for key, word in keys if key not in IDLE and not key.startswith("hydra")}
    choices = run.results.config["choices"]
    return [
        cell
        for content in cells().values()
        for cell in content
        if set(map(written_out, cell.configuration)) == typed
        and all(choices.get(group) == chosen(group, cell.configuration) for group in ("dataset", "scenario", "method"))
    ]


@dataclass(frozen=True)
class Ranks:
    """The mean rank of methods over benchmarks, 1 is best (Demsar, 2006).

    ranks: by method, the best first. n: of benchmarks. critical: difference of two mean ranks from which on they differ
    at the level of 5% (Nemenyi). groups: methods, best and worst, between which no difference is as large.
    """

    ranks: Mapping[str, float]
    n: int
    critical: float
    groups: Sequence[tuple[str, str]]


def mean_ranks(scores: Sequence[Mapping[str, float]]) -> Ranks | None:
    """The ranks of the methods that all benchmarks have. None with fewer than two benchmarks or three methods.

    scores: for each benchmark a score by method, more is better. Equal scores share their ranks.

    >>> found = mean_ranks([{"a": 0.9, "b": 0.8, "c": 0.7}, {"a": 0.9, "b": 0.9, "c": 0.1}])
    >>> dict(found.ranks), round(found.critical, 2)
    ({'a': 1.25, 'b': 1.75, 'c': 3.0}, 2.34)
    """
    methods = sorted(set.intersection(*map(set, scores))) if scores else []
    k, n = len(methods), len(scores)
    if n < 2 or k < 3:
        return None
    from scipy.stats import rankdata, studentized_range  # a second to import, needed by few reports

    places = [rankdata([-of[method] for method in methods]) for of in scores]
    ranks = {method: fmean(of[i] for of in places) for i, method in enumerate(methods)}
    ranks = dict(sorted(ranks.items(), key=lambda item: (item[1], item[0])))
    critical = float(studentized_range.ppf(0.95, k, math.inf)) / math.sqrt(2) * math.sqrt(k * (k + 1) / (6 * n))
    return Ranks(ranks, n, critical, groups(ranks, critical))


def groups(ranks: Mapping[str, float], critical: float) -> list[tuple[str, str]]:
    """The largest runs of methods, by rank, whose ends are less than a critical difference apart; two at least.

    >>> groups({"a": 1.0, "b": 1.5, "c": 2.2, "d": 4.0}, critical=1.0)
    [('a', 'b'), ('b', 'c')]
    """
    names = list(ranks)
    found: list[tuple[int, int]] = []
    for start, name in enumerate(names):
        end = max(i for i in range(start, len(names)) if ranks[names[i]] - ranks[name] < critical)
        if end > start and not (found and found[-1][1] >= end):
            found.append((start, end))
    return [(names[start], names[end]) for start, end in found]
