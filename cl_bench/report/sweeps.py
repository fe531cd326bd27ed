"""Keys that were varied by themselves, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from typing import Any

from cl_bench.report.benchmarks import Configuration
from cl_bench.report.labels import ABSENT, as_typed, differing, short, shown

Curve = tuple[str, list[tuple[Any, Configuration]]]


def sweeps(configurations: Sequence[Configuration]) -> dict[str, list[Curve]]:
    """For each key that was varied by itself its curves: (label, [(value, configuration), ...]), n_gen first.

    A curve holds configurations of one method that are equal in all but this key, at least two of them.
    """
    found: dict[str, list[Curve]] = {}
    methods = {configuration.method for configuration in configurations}
    keys = {key for method in methods for key in differing([o.config for o in configurations if o.method == method])}
    for key in sorted(keys, key=lambda key: (key != "method.n_gen", not key.startswith("method."), key)):
        rows: dict[Hashable, list[Configuration]] = {}
        for configuration in configurations:
            if key in configuration.config:
                values = {other: as_typed(value) for other, value in configuration.config.items() if other != key}
                # the masks follow from the configuration, so where they are the key they differ with it
                rules = {} if key.endswith("_mask") else configuration.rules
                rest = json.dumps([configuration.method, values, rules], sort_keys=True)
                rows.setdefault(rest, []).append(configuration)
        if curves := [row for row in rows.values() if len(row) > 1]:
            found[key] = [
                (
                    label_along(key, row[0], curves),
                    [(configuration.config[key], configuration) for configuration in row],
                )
                for row in curves
            ]
    return found


def label_along(key: str, configuration: Configuration, curves: Sequence[Sequence[Configuration]]) -> str:
    """The label of a curve along a key: the method, and what tells it from the other curves of that method."""
    same = [curve[0].config for curve in curves if curve[0].method == configuration.method]
    keys = [other for other in differing(same) if other != key]
    return " ".join(
        [configuration.method, *(f"{short(k)}={shown(k, configuration.config.get(k, ABSENT))}" for k in keys)]
    )
