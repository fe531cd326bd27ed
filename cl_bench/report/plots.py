"""The charts of a benchmark, each with its numbers as a table."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from cl_bench.evaluation.statistics import Estimate
from cl_bench.record import MOST_TASKS, thinned
from cl_bench.report.benchmarks import Configuration
from cl_bench.report.charts import Axis, Series, line_chart, middle
from cl_bench.report.dot_plot import dot_plot
from cl_bench.report.labels import as_typed, by_size, short, shown
from cl_bench.report.looks import Look, Style
from cl_bench.report.scatter import scatter
from cl_bench.report.sweeps import Curve
from cl_bench.report.tables import ACC, COLUMNS, MINUS, ONLINE, PER_TASK, SIZES_PER_TASK, Column

WHILE = "Before each training image was learned for the first time, mean over those of the task."
BEFORE = "Before the task is learned: {}."
MOST_REFERENCES = 4
MOST_LINES = 8  # that a reader can follow in one chart
BY_NAME = {column.name: column for column in COLUMNS}


@dataclass(frozen=True)
class Figure:
    title: str
    chart: Markup
    caption: str
    numbers: list[list[str]]  # the same as a table, its head first

    @property
    def slug(self) -> str:
        """The title as the name of a file."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


@dataclass(frozen=True)
class Plots:
    """What draws the charts of a benchmark.

    drawn: the configurations that a chart shows. numbers, styles: of each of them, and of those on a curve along a
    parameter. looks: of the methods of the whole page.
    """

    drawn: Sequence[Configuration]
    numbers: Mapping[Configuration, str]
    styles: Mapping[Configuration, Style]
    looks: Mapping[str, Look]
    n_tasks: int
    shared_test: bool = False

    def name(self, configuration: Configuration) -> str:
        """What tells a configuration from the others that are drawn."""
        alone = sum(other.brief == configuration.brief for other in self.drawn) == 1
        return configuration.brief if alone else configuration.label

    def series(self, configuration: Configuration, points: Sequence[tuple[float | Estimate, Estimate]]) -> Series:
        return Series(self.name(configuration), self.numbers[configuration], self.styles[configuration], points)

    def over_tasks(self) -> Figure | None:
        """Mean accuracy on the tasks seen so far, or on the test set that all share, after each task."""
        caption = "On the test set that all tasks share." if self.shared_test else "Mean over the tasks seen so far."
        if len(lines := self.references()) > MOST_REFERENCES:
            caption, lines = f"{caption} Chance and joint aren't drawn: they are {len(lines)} lines.", {}
        return self.along_tasks(
            "Accuracy against task",
            "after learning task",
            "accuracy, %" if self.shared_test else "accuracy on tasks so far, %",
            caption,
            ACC,
            {configuration: configuration.accuracies() for configuration in self.drawn},
            lines,
        )

    def references(self) -> dict[str, list[float | None]]:
        """What accuracies are held against: chance, and a joint run where none is drawn as such."""
        drawn_as_such = {"joint", "cumulative"} & {configuration.method for configuration in self.drawn}
        names: list[Literal["chance", "joint"]] = ["chance"] if drawn_as_such else ["chance", "joint"]
        found: dict[str, list[float | None]] = {}
        for name in names:
            lines: dict[Hashable, tuple[str, list[float | None]]] = {}  # one for each protocol and reference
            for drawn in self.drawn:
                line, of = drawn.reference(name), (drawn.protocol, drawn.compared_with if name == "joint" else None)
                if line and of not in lines and not any(alike(line, other) for _, other in lines.values()):
                    lines[of] = self.name(drawn), line
            several = len(lines) > 1
            found |= {f"{name} of {drawn}" if several else name: line for drawn, line in lines.values()}
        return found

    def while_learning(self) -> list[Figure]:
        """Mean accuracy on the tasks so far against the steps of the run, a figure for test and validation images."""
        figures = []
        found = {on for configuration in self.drawn for run in configuration.runs for on in run.while_learning}
        for on in sorted(found):
            series, numbers = [], [["configuration", "steps", f"accuracy, {ACC.unit}"]]
            for configuration in self.drawn:
                points = configuration.while_learning(on)
                points = [points[place] for place in thinned(len(points), MOST_TASKS)]
                if points:
                    line = [(step, scaled(value, ACC.scale)) for step, value in points]
                    series.append(self.series(configuration, line))
                    numbers += [[configuration.label, f"{step:,.0f}", ACC.cell(value)] for step, value in points]
            steps = [middle(at) for curve in series for at, _ in curve.points]
            along = Axis("steps of the run", steps, write=lambda value: f"{value:,.0f}")
            title = f"Accuracy while learning, on {on}"
            ticks = [(value, along.write(value)) for value in along.ticks()]
            up = share_axis("accuracy, %" if self.shared_test else "accuracy on tasks so far, %", series)
            caption = "Mean over the tasks so far, while each is learned (evaluate_every)."
            figures.append(Figure(title, lines_or_dots(title, along, up, series, ticks), caption, numbers))
        return figures

    def over_stream(self) -> Figure | None:
        """Accuracy on what came against the images of a stream that came."""
        column = BY_NAME["A_AUC"]
        found = {configuration: configuration.on_stream() for configuration in self.drawn}
        found = {
            configuration: [points[place] for place in thinned(len(points), MOST_TASKS)]
            for configuration, points in found.items()
            if points
        }
        if not found:
            return None
        series, numbers = [], [["configuration", "images", f"accuracy, {column.unit}"]]
        for configuration, points in found.items():
            series.append(self.series(configuration, [(n, scaled(value, column.scale)) for n, value in points]))
            numbers += [[configuration.label, f"{n:,.0f}", column.cell(value)] for n, value in points]
        along = Axis(
            "images that came", [n for points in found.values() for n, _ in points], write=lambda value: f"{value:,.0f}"
        )
        title = "Accuracy against images seen"
        ticks = [(value, along.write(value)) for value in along.ticks()]
        chart = lines_or_dots(title, along, share_axis("accuracy on what came, %", series), series, ticks)
        return Figure(title, chart, "On the test images of what came, while the stream comes.", numbers)

    def plasticity(self) -> list[Figure]:
        """How well the networks still learn, task after task: a figure for each number that was measured."""
        figures = [
            self.along_tasks(
                f"{column.title} against task",
                "task",
                f"{column.title.lower()}{', ' * bool(column.unit)}{column.unit}",
                WHILE if column is ONLINE else BEFORE.format(column.meaning.partition(",")[0]),
                column,
                {configuration: configuration.per_task(column.name) for configuration in self.drawn},
            )
            for column in PER_TASK
        ]
        return [figure for figure in figures if figure]

    def sizes(self) -> list[Figure]:
        """What answers need, and what is kept, after each task; where it grows for any configuration."""
        figures = []
        for column in SIZES_PER_TASK:
            values = {configuration: configuration.per_task(column.name) for configuration in self.drawn}
            if any(len({value.mean for value in of_task if value}) > 1 for of_task in values.values()):
                title, up = f"{column.title}: size against task", f"{column.title.lower()}, {column.unit}"
                caption = f"{column.meaning.capitalize()}."
                figures.append(self.along_tasks(title, "after learning task", up, caption, column, values))
        return [figure for figure in figures if figure]

    def along_tasks(
        self,
        title: str,
        along: str,
        up: str,
        caption: str,
        column: Column,
        values: Mapping[Configuration, Sequence[Estimate | None]],
        references: Mapping[str, Sequence[float | None]] | None = None,
    ) -> Figure | None:
        """A line for each configuration over the tasks that have a value; of many such tasks over some.

        references: shares that these are held against, by their names, each with a value after each task.
        """
        known = [task for task in range(self.n_tasks) if any(of_task[task] for of_task in values.values())]
        tasks = [known[place] for place in thinned(len(known))]
        series, numbers = [], [["configuration", *(f"task {task + 1}" for task in tasks)]]
        for configuration, of_task in values.items():
            points = [(float(task + 1), scaled(value, column.scale)) for task in tasks if (value := of_task[task])]
            numbers.append([configuration.label, *(column.cell(of_task[task]) for task in tasks)])
            if points:
                series.append(self.series(configuration, points))
        if not series:
            return None
        every = -(-len(tasks) // 10)
        lines: dict[str, list[tuple[float, float]]] = {}
        for name, line in (references or {}).items():
            points = [(float(task + 1), 100 * value) for task in tasks if (value := line[task]) is not None]
            numbers.append([name, *("" if line[task] is None else ACC.write(line[task] or 0) for task in tasks)])
            if points and near(points, series):
                lines[name] = points
            elif points:
                caption += f" {name.capitalize()}: {points[-1][1]:.1f}% in the end, beyond the axis."
        around = [value for line in lines.values() for _, value in line]
        chart = lines_or_dots(
            title,
            Axis(along, [1.0, float(max(2, self.n_tasks))], write=lambda value: f"{value:g}"),
            share_axis(up, series, around) if column.unit == "%" else axis_of(up, series),
            series,
            [(float(task + 1), str(task + 1)) for task in tasks[::every]],
            lines=lines,
            better=column.better,
        )
        if len(tasks) < self.n_tasks and self.n_tasks > MOST_TASKS:
            caption += f" {len(tasks)} of {self.n_tasks} tasks are shown."
        return Figure(title, chart, caption, numbers)

    def against(self, x: str, y: str, title: str, caption: str) -> Figure | None:
        """One metric against another, a point per configuration."""
        across, up = BY_NAME[x], BY_NAME[y]
        log = not across.better
        series, missing = [], []
        numbers = [["configuration", f"{across.title}, {across.unit}", f"{up.title}, {up.unit}"]]
        for configuration in self.drawn:
            at, value = configuration.estimate(x), configuration.estimate(y)
            if at and value and (at.mean > 0 or not log):
                numbers.append([configuration.label, across.cell(at), up.cell(value)])
                series.append(self.series(configuration, [(scaled(at, across.scale), scaled(value, up.scale))]))
            else:
                missing.append(configuration.label)
        if not series:
            return None
        if missing:
            caption += f" Not measured for {', '.join(missing)}."
        values = [point.mean for curve in series for point, _ in curve.points if isinstance(point, Estimate)]
        chart = scatter(
            title,
            Axis(axis_title(across), values, log=log, write=lambda value: f"{value:,.4g}"),
            share_axis(axis_title(up), series),
            series,
            [] if across.better else pareto([(middle(at), value.mean) for of in series for at, value in of.points]),
        )
        return Figure(title, chart, caption, numbers)

    def along(self, key: str, curves: Sequence[Curve], column: Column) -> Figure | None:
        """A metric along a key of the configuration that was varied by itself, a line per method."""
        values = {as_typed(value): value for _, points in curves for value, _ in points}
        numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values.values())
        if numeric:
            placed = {text: float(value) for text, value in values.items()}
            above = [value for value in placed.values() if value > 0]
            log = min(placed.values()) >= 0 and max(above, default=0.0) >= 8 * min(above, default=1.0)
            if log:  # 0, which has no logarithm, stands to the left of all others
                placed = {text: value or min(above) / 8 for text, value in placed.items()}
        else:
            in_order = sorted(values, key=lambda text: by_size(values[text]))
            placed, log = {text: float(place) for place, text in enumerate(in_order)}, False
        texts = {place: shown(key, values[text]) for text, place in placed.items()}
        series, numbers = [], [["curve", *(texts[place] for place in sorted(texts))]]
        ranks: dict[str, int] = {}
        for label, points in curves:
            found = {placed[as_typed(value)]: configuration.estimate(column.name) for value, configuration in points}
            method = points[0][1].method
            rank = ranks[method] = ranks.get(method, -1) + 1
            line = [(place, scaled(value, column.scale)) for place, value in sorted(found.items()) if value]
            numbers.append([label, *(column.cell(found.get(place)) for place in sorted(texts))])
            if line:
                ids = " ".join(self.numbers[configuration] for _, configuration in points)
                series.append(Series(label, ids, self.looks[method].style(rank), line))
        if not series:
            return None
        title, along = f"{column.title} against {short(key)}", short(key) + (", logarithmic" if log else "")
        chart = lines_or_dots(
            title,
            Axis(along, list(placed.values()), log=log, write=lambda v: texts[v]),
            share_axis(f"{column.title}, {column.unit}", series),
            series,
            sorted(texts.items()),
            joined=numeric,
            better=column.better,
        )
        return Figure(title, chart, column.meaning.capitalize() + ".", numbers)


def lines_or_dots(
    title: str,
    x: Axis,
    y: Axis,
    series: Sequence[Series],
    ticks: Sequence[tuple[float, str]],
    joined: bool = True,
    lines: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    better: int = 1,
) -> Markup:
    """A line for each series, or of more than a reader can follow a row of dots for each."""
    if len(series) <= MOST_LINES:
        return line_chart(title, x, y, series, ticks, joined, lines)
    return dot_plot(title, x, y, series, better or -1, {name: line[-1][1] for name, line in (lines or {}).items()})


def alike(line: Sequence[float | None], other: Sequence[float | None]) -> bool:
    """Whether two lines of accuracies are one in a chart.

    >>> alike([0.5, 0.25], [0.5, 0.251]), alike([0.5, 0.25], [0.5, 0.2])
    (True, False)
    """
    pairs = [(one, two) for one, two in zip(line, other, strict=True) if one is not None and two is not None]
    return all(abs(one - two) < 0.005 for one, two in pairs)


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points (cost, gain) that none beats: whoever costs less gains less. From the cheapest on.

    >>> pareto([(1, 5), (2, 4), (3, 7), (3, 6)])
    [(1, 5), (3, 7)]
    """
    front: list[tuple[float, float]] = []
    for cost, gain in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or gain > front[-1][1]:
            front.append((cost, gain))
    return front


def axis_title(column: Column) -> str:
    what = {"LA": "plasticity: LA", "BWT": "stability: BWT", "bytes_kept": "kept", "seconds": "time"}
    return f"{what.get(column.name, column.title)}, {column.unit}"


def scaled(value: Estimate, scale: float) -> Estimate:
    return Estimate(value.mean * scale, None if value.half is None else value.half * scale, value.n)


def axis_of(title: str, series: Sequence[Series]) -> Axis:
    """An axis around what there is, intervals left out."""
    values = [value.mean for curve in series for _, value in curve.points]
    return Axis(title, values, write=lambda value: f"{value:.4g}".replace("-", MINUS))


def near(line: Sequence[tuple[float, float]], series: Sequence[Series]) -> bool:
    """Whether an axis of percentages that reaches to this line, too, still shows how the series differ."""
    values = [value.mean for curve in series for _, value in curve.points]
    room = max(max(values) - min(values), 20)
    return all(min(values) - room <= value <= max(values) + room for _, value in line)


def share_axis(title: str, series: Sequence[Series], more: Sequence[float] = ()) -> Axis:
    """An axis of percentages around what there is. more: other values that it has to reach. A share is no less than 0
    and no more than 100, even if its interval is; a difference of shares (points) may be less than 0."""
    values = [*more, *(value.mean for curve in series for _, value in curve.points)]
    center, span = (max(values) + min(values)) / 2, max(max(values) - min(values), 2)
    values += [center - 0.5, center + 0.5]  # less than a point isn't worth the whole height
    ends = [end for curve in series for _, v in curve.points if v.half for end in (v.mean - v.half, v.mean + v.half)]
    # a wide interval of two or three seeds must not push everything else together; it is cut at the axis
    low, high = min(values) - span / 3, max(values) + span / 3
    if title.endswith("%"):
        low, high = max(low, 0), min(high, 100)
    values += [min(max(end, low), high) for end in ends]
    return Axis(title, values, write=lambda value: f"{value:.4g}".replace("-", MINUS))
