"""The page: what it shows of each benchmark, worked out here and laid out in page.html."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from cl_bench.report.charts import Axis, Series, Style, line_chart, scatter, swatch
from cl_bench.report.runs import (
    BOUNDS,
    MACHINE,
    Benchmark,
    Configuration,
    Curve,
    Run,
    Unread,
    as_typed,
    mixtures,
    short,
    shown,
    sweeps,
)
from cl_bench.report.tables import ACC, COLUMNS, MINUS, Column, best_of, columns_of, relative
from cl_bench.statistics import Comparison, Estimate, compare

FEW = 12  # so many configurations a figure can show; of more the best of each method
PICTURES = 24  # sample grids in a page: they are most of its bytes
BY_NAME = {column.name: column for column in COLUMNS}


@dataclass(frozen=True)
class Figure:
    title: str
    chart: Markup
    caption: str
    numbers: list[list[str]]  # the same as a table, its head first


def render(found: Sequence[Benchmark], runs: Sequence[Run], unread: Sequence[Unread], copies: int, out: Path) -> str:
    """The page as HTML that needs nothing else, to lie in `out`."""
    here = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(here), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    # those that bound the others come first, and colours and markers go by method, the same in every benchmark
    methods = sorted({one.method for benchmark in found for one in benchmark.configurations}, key=bounds_first)
    numbers = {one: str(i) for i, one in enumerate(one for benchmark in found for one in benchmark.configurations)}
    left = PICTURES
    sections = []
    for place, benchmark in enumerate(found):
        section = Section(benchmark, methods, numbers, left)
        left -= len(section.samples)
        sections.append(section.told(f"b{place}"))
    unfinished = [
        {
            "name": f"{run.dataset}-{run.scenario}-{run.method}",
            "seed": run.seed,
            "status": "failed" if run.results["status"] == "failed" else "not finished",
            "progress": f"{run.tasks_done} of {run.n_tasks} tasks",
            "reason": run.results.get("reason") or "stopped or still running; the same command goes on with it",
            "folder": relative(run.folder, out),
        }
        for run in runs
        if not run.finished
    ]
    unfinished += [
        {
            "name": one.folder.parent.name,
            "seed": one.folder.name.partition("-")[0].removeprefix("seed"),
            "status": "not finished",
            "progress": "none",
            "reason": one.reason,
            "folder": relative(one.folder, out),
        }
        for one in unread
    ]
    finished = sum(run.finished for run in runs)
    return environment.get_template("page.html").render(
        style=Markup((here / "page.css").read_text()),
        script=Markup((here / "page.js").read_text()),
        sections=sections,
        methods=methods,
        overview=overview(found, methods) if len(found) > 1 else [],
        finished=finished,
        configurations=len(numbers),
        unfinished=sorted(unfinished, key=lambda one: (one["status"], one["folder"])),
        copies=copies,
    )


def overview(found: Sequence[Benchmark], methods: Sequence[str]) -> list[tuple[str, list[dict[str, str]]]]:
    """For each method its ACC on each benchmark: of the configuration with the highest, under the protocol that most
    runs of that benchmark follow, or else under the next."""
    rows = []
    for method in methods:
        cells = []
        for benchmark in found:
            own = [one for one in best_of_methods(benchmark.configurations) if one.method == method]
            first = min(own, key=lambda one: int(one.protocol[1:]), default=None)
            several = sum(one.method == method for one in benchmark.configurations)
            notes = [f"best of {several}"] if several > 1 else []
            notes += [first.protocol] if first and len(benchmark.protocols) > 1 else []
            text = ACC.cell(first.estimate("ACC")) if first else ""
            cells.append({"text": text, "note": ", ".join(notes) if text else ""})
        rows.append((method, cells))
    return rows


def bounds_first(method: str) -> tuple[bool, str]:
    return method not in BOUNDS, method


class Section:
    """A benchmark as the page tells it.

    methods: of the whole page, in order. numbers: of all its configurations. pictures: how many it may show.
    """

    def __init__(
        self, benchmark: Benchmark, methods: Sequence[str], numbers: dict[Configuration, str], pictures: int
    ) -> None:
        self.benchmark, self.numbers = benchmark, numbers
        self.all = benchmark.configurations
        ranks: dict[str, int] = {}
        self.styles: dict[Configuration, Style] = {}
        for one in self.all:
            rank = ranks[one.method] = ranks.get(one.method, -1) + 1
            self.styles[one] = Style.of(methods.index(one.method), rank)
        self.methods = methods
        self.drawn = self.all if len(self.all) <= FEW else best_of_methods(self.all)
        self.samples = [sample for one in self.drawn if (sample := self.sample(one))]
        self.left_out = max(0, len(self.samples) - pictures)
        self.samples = self.samples[:pictures]

    def told(self, id: str) -> dict[str, Any]:
        columns = columns_of(self.all)
        figures = [self.over_tasks()]
        figures += [
            self.against(
                "LA", "BWT", "Stability against plasticity", "To the right: learns new tasks; up: keeps old ones."
            ),
            self.against("bytes_kept", "ACC", "Accuracy against what is kept", "Between tasks; logarithmic."),
            self.against("seconds", "ACC", "Accuracy against time", "Of training; logarithmic."),
        ]
        swept = [
            figure
            for key, curves in sweeps(self.all).items()
            for name in ("ACC", "BWT")
            if (figure := self.along(key, curves, BY_NAME[name]))
        ]
        note = ""
        if len(self.drawn) < len(self.all):
            note = (
                f"Figures and comparisons show {len(self.drawn)} of {len(self.all)} configurations: of each method "
                "(and protocol) the one with the highest ACC. It was chosen on test data, so it flatters methods "
                "with many configurations."
            )
        return {
            "id": id,
            "title": self.benchmark.title,
            "mask": self.benchmark.mask,
            "seeds": sorted({run.seed for run in self.benchmark.runs}),
            "runs": len(self.benchmark.runs),
            "protocols": self.benchmark.protocols,
            "runs_of": Counter(one.protocol for one in self.all for _ in one.runs),
            "protocol": common(self.all),
            "notes": mixtures(self.benchmark),
            "columns": columns,
            "rows": self.rows(columns),
            "legend": [
                {"id": self.numbers[one], "label": one.label, "swatch": swatch(self.styles[one])} for one in self.drawn
            ],
            "figures": [figure for figure in figures if figure],
            "swept": swept,
            "note": note,
            "matrices": [
                {"id": self.numbers[one], "label": one.label, "n": len(one.runs), "cells": matrix_cells(one)}
                for one in self.drawn
            ],
            "classes": [" ".join(names) for names in self.benchmark.runs[0].results["classes"]],
            "samples": self.samples,
            "left_out": self.left_out,
            "tests": self.tests(),
        }

    def rows(self, columns: Sequence[Column]) -> list[dict[str, Any]]:
        best = {column: best_of(self.all, column) for column in columns}
        rows = []
        for one in self.all:
            estimates = [one.estimate(column.name) for column in columns]
            rows.append(
                {
                    "id": self.numbers[one],
                    "label": one.label,
                    "full": one.full_label,
                    "method": one.method,
                    "swatch": swatch(self.styles[one]),
                    "seeds": one.seeds,
                    "cells": [
                        {
                            "mean": "" if value is None else column.write(value.mean),
                            "half": "" if value is None or value.half is None else column.write(value.half),
                            "value": "" if value is None else value.mean,
                            "n": 0 if value is None else value.n,
                            "best": one in best[column],
                        }
                        for column, value in zip(columns, estimates, strict=True)
                    ],
                }
            )
        return rows

    def series(self, one: Configuration, points: Sequence[tuple[float | Estimate, Estimate]]) -> Series:
        alone = sum(other.brief == one.brief for other in self.drawn) == 1
        return Series(one.brief if alone else one.label, self.numbers[one], self.styles[one], points)

    def over_tasks(self) -> Figure | None:
        """Mean accuracy on the tasks seen so far, after each task."""
        series, numbers = [], [["configuration", *(f"task {t + 1}" for t in range(self.benchmark.n_tasks))]]
        for one in self.drawn:
            accuracies = one.accuracies()
            points = [(float(t), percent(value)) for t, value in enumerate(accuracies, 1) if value]
            numbers.append([one.label, *(ACC.cell(value) for value in accuracies)])
            if points:
                series.append(self.series(one, points))
        if not series:
            return None
        tasks = range(1, self.benchmark.n_tasks + 1)
        every = -(-len(tasks) // 10)
        chart = line_chart(
            "Accuracy against task",
            Axis("after learning task", [1.0, float(max(2, len(tasks)))], write=lambda value: f"{value:g}"),
            share_axis("accuracy on tasks so far, %", series),
            series,
            [(float(task), str(task)) for task in tasks if (task - 1) % every == 0],
        )
        return Figure("Accuracy against task", chart, "Mean over the tasks seen so far.", numbers)

    def against(self, x: str, y: str, title: str, caption: str) -> Figure | None:
        """One metric against another, a point per configuration."""
        across, up = BY_NAME[x], BY_NAME[y]
        log = not across.better
        series, missing = [], []
        numbers = [["configuration", f"{across.title}, {across.unit}", f"{up.title}, {up.unit}"]]
        for one in self.drawn:
            at, value = one.estimate(x), one.estimate(y)
            if at and value and (at.mean > 0 or not log):
                numbers.append([one.label, across.cell(at), up.cell(value)])
                series.append(self.series(one, [(scaled(at, across.scale), scaled(value, up.scale))]))
            else:
                missing.append(one.label)
        if not series:
            return None
        if missing:
            caption += f" Not measured for {', '.join(missing)}."
        values = [point.mean for one in series for point, _ in one.points if isinstance(point, Estimate)]
        chart = scatter(
            title,
            Axis(axis_title(across), values, log=log, write=lambda value: f"{value:,.4g}"),
            share_axis(axis_title(up), series),
            series,
        )
        return Figure(title, chart, caption, numbers)

    def along(self, key: str, curves: Sequence[Curve], column: Column) -> Figure | None:
        """A metric along a key of the configuration that was varied by itself, a line per method."""
        values = {as_typed(value): value for _, points in curves for value, _ in points}
        numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values.values())
        if numeric:
            placed = {text: float(value) for text, value in values.items()}
            log = min(placed.values()) > 0 and max(placed.values()) >= 8 * min(placed.values())
        else:
            placed, log = {text: float(place) for place, text in enumerate(sorted(values))}, False
        texts = {place: shown(key, values[text]) for text, place in placed.items()}
        series, numbers = [], [["curve", *(texts[place] for place in sorted(texts))]]
        ranks: dict[str, int] = {}
        for label, points in curves:
            found = {placed[as_typed(value)]: one.estimate(column.name) for value, one in points}
            method = points[0][1].method
            rank = ranks[method] = ranks.get(method, -1) + 1
            line = [(place, scaled(value, column.scale)) for place, value in sorted(found.items()) if value]
            numbers.append([label, *(column.cell(found.get(place)) for place in sorted(texts))])
            if line:
                ids = " ".join(self.numbers[one] for _, one in points)
                series.append(Series(label, ids, Style.of(self.methods.index(method), rank), line))
        if not series:
            return None
        title = f"{column.title} against {short(key)}"
        chart = line_chart(
            title,
            Axis(
                short(key) + (", logarithmic" if log else ""), list(placed.values()), log=log, write=lambda v: texts[v]
            ),
            share_axis(f"{column.title}, {column.unit}", series),
            series,
            sorted(texts.items()),
            joined=numeric,
        )
        return Figure(title, chart, column.meaning.capitalize() + ".", numbers)

    def sample(self, one: Configuration) -> dict[str, str] | None:
        """What the generator made in the end, with the first seed that kept a picture."""
        for run in one.runs:
            picture = run.folder / "samples" / f"task{run.n_tasks}.png"
            if picture.is_file():
                told = [
                    f"{BY_NAME[name].title} {BY_NAME[name].write(value)}{'%' * (name != 'FID')}"
                    for name in ("FID", "MeRGAN_score")
                    if (value := run.number(name)) is not None
                ]
                data = base64.b64encode(picture.read_bytes()).decode()
                caption = ", ".join([f"seed {run.seed}", *told])
                return {"id": self.numbers[one], "label": one.label, "caption": caption, "data": data}
        return None

    def tests(self) -> list[dict[str, Any]]:
        """Paired comparisons of ACC within each protocol."""
        tests = []
        for protocol in self.benchmark.protocols:
            rows = [one for one in self.drawn if one.protocol == protocol]
            pairs = compare([one.by_seed("ACC") for one in rows])
            tested = [pair for pair in pairs if pair.p is not None]
            if tested:
                places = sorted({place for pair in tested for place in (pair.first, pair.second)})
                tests.append(
                    {
                        "protocol": protocol if len(self.benchmark.protocols) > 1 else "",
                        "count": len(tested),
                        "labels": [rows[place].label for place in places],
                        "grid": grid(places, tested),
                        "pairs": [
                            {
                                "first": rows[pair.first].label,
                                "second": rows[pair.second].label,
                                "difference": ACC.cell(pair.difference),
                                "n": pair.difference.n,
                                "p": p_text(pair.p),
                                "holm": p_text(pair.holm),
                            }
                            for pair in sorted(tested, key=lambda pair: pair.p or 0)
                        ],
                    }
                )
        return tests


def axis_title(column: Column) -> str:
    what = {"LA": "plasticity: LA", "BWT": "stability: BWT", "bytes_kept": "kept", "seconds": "time"}
    return f"{what.get(column.name, column.title)}, {column.unit}"


def best_of_methods(configurations: Sequence[Configuration]) -> list[Configuration]:
    """Of each method and protocol the configuration with the highest ACC, in the same order."""
    best: dict[tuple[str, str], tuple[float, Configuration]] = {}
    for one in configurations:
        value = one.estimate("ACC")
        reached = value.mean if value else -1.0
        kind = (one.method, one.protocol)
        if kind not in best or reached > best[kind][0]:
            best[kind] = (reached, one)
    return [one for one in configurations if best[one.method, one.protocol][1] is one]


def common(configurations: Sequence[Configuration]) -> str:
    """The main conditions that all share, in words."""
    told = []
    for key, value in configurations[0].conditions.items():
        group, _, name = key.partition(".")
        wanted = group in ("network", "optimizer", "mask") or name in ("epochs", "iterations", "batch_size")
        same = all(as_typed(one.conditions.get(key, None)) == as_typed(value) for one in configurations)
        if wanted and same and value is not None and key not in MACHINE:
            told.append(f"{short(key)} {shown(key, value)}")
    return ", ".join(told)


def matrix_cells(one: Configuration) -> list[list[dict[str, Any]]]:
    """The mean accuracy matrix: the text of each cell, its value, and whether its task was still to be learned."""
    return [
        [
            {
                "text": "" if value is None else f"{100 * value:.0f}",
                "value": None if value is None else f"{value:.3f}",
                "future": j > i,
            }
            for j, value in enumerate(row)
        ]
        for i, row in enumerate(one.matrix())
    ]


def grid(places: Sequence[int], pairs: Sequence[Comparison]) -> list[list[dict[str, Any] | None]]:
    """ACC of each row minus that of each column, for those at these places."""
    cells: list[list[dict[str, Any] | None]] = [[None] * len(places) for _ in places]
    for pair in pairs:
        clear = pair.holm is not None and pair.holm < 0.05
        for row, column, sign in ((pair.first, pair.second, 1), (pair.second, pair.first, -1)):
            mean = 100 * sign * pair.difference.mean
            text = f"{mean:+.1f}".replace("-", MINUS)
            cells[places.index(row)][places.index(column)] = {"text": text, "clear": clear, "holm": p_text(pair.holm)}
    return cells


def p_text(p: float | None) -> str:
    if p is None:
        return ""
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def percent(value: Estimate) -> Estimate:
    return scaled(value, 100)


def scaled(value: Estimate, scale: float) -> Estimate:
    return Estimate(value.mean * scale, None if value.half is None else value.half * scale, value.n)


def share_axis(title: str, series: Sequence[Series]) -> Axis:
    """An axis of percentages around what there is."""
    values = [value.mean for one in series for _, value in one.points]
    centre, span = (max(values) + min(values)) / 2, max(max(values) - min(values), 2)
    values += [centre - 0.5, centre + 0.5]  # less than a point isn't worth the whole height
    ends = [end for one in series for _, v in one.points if v.half for end in (v.mean - v.half, v.mean + v.half)]
    # a wide interval of two or three seeds must not push everything else together; it is cut at the axis
    values += [min(max(end, min(values) - span / 3), max(values) + span / 3) for end in ends]
    return Axis(title, values, write=lambda value: f"{value:.4g}".replace("-", MINUS))
