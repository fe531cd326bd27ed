"""What the page says of all benchmarks: the ACC of each method, and their mean ranks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from markupsafe import Markup

from cl_bench.report.answers import mean_ranks
from cl_bench.report.benchmarks import BOUNDS, Benchmark, Configuration, by_acc
from cl_bench.report.layout import Brief
from cl_bench.report.rank_chart import rank_chart
from cl_bench.report.tables import ACC


def overview(found: Sequence[Benchmark], methods: Sequence[str]) -> list[tuple[str, list[Brief]]]:
    """For each method its ACC on each benchmark: of the configuration with the highest (see `by_acc`), under the
    protocol that most runs of that benchmark follow, or else under the next."""
    columns = []
    for place, benchmark in enumerate(found):
        counts = Counter((row.method, row.protocol) for row in benchmark.configurations)
        first: dict[str, Configuration] = {}
        for configuration in best_of_methods(benchmark.configurations):  # in the order of the protocols
            first.setdefault(configuration.method, configuration)
        cells = []
        for method in methods:
            count = counts[method, first[method].protocol] if method in first else 0
            notes = [f"best of {count}"] if count > 1 else []
            notes += [first[method].protocol] if method in first and len(benchmark.protocols) > 1 else []
            text = ACC.cell(first[method].estimate("ACC")) if method in first else ""
            cells.append(Brief(f"b{place}", text, ", ".join(notes) if text else ""))
        columns.append(cells)
    return list(zip(methods, map(list, zip(*columns, strict=True)), strict=True))


def ranks(found: Sequence[Benchmark]) -> Markup | None:
    """The mean ranks of the methods that all benchmarks have, by their highest ACC under the main protocol of each."""
    scores = []
    for benchmark in found:
        main = [row for row in benchmark.configurations if row.protocol == "P1" and row.method not in BOUNDS]
        best = best_of_methods(main)
        scores.append({row.method: value.mean for row in best if (value := row.estimate("ACC"))})
    of_methods = mean_ranks(scores)
    return rank_chart(of_methods) if of_methods else None


def bounds_first(method: str) -> tuple[bool, str]:
    return method not in BOUNDS, method


def best_of_methods(configurations: Sequence[Configuration]) -> list[Configuration]:
    """Of each method and protocol the configuration with the highest ACC (see `by_acc`), in the same order."""
    best: dict[tuple[str, str], Configuration] = {}
    for configuration in configurations:
        kind = (configuration.method, configuration.protocol)
        best[kind] = max(best.get(kind, configuration), configuration, key=by_acc)
    return [row for row in configurations if best[row.method, row.protocol] is row]
