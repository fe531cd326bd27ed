"""The page: what it shows of each benchmark, worked out here and laid out in page.html."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from cl_bench.record import MOST_TASKS, measured_rows, thinned
from cl_bench.report.answers import leaders, published_beside
from cl_bench.report.benchmarks import Benchmark, Configuration
from cl_bench.report.budgets import NONE, at_equal_budgets
from cl_bench.report.charts import swatch
from cl_bench.report.comparisons import comparisons
from cl_bench.report.details import details, link
from cl_bench.report.labels import as_typed, short, shown
from cl_bench.report.layout import (
    Condition,
    Content,
    Matrix,
    MatrixCell,
    Named,
    NotFinished,
    Number,
    Row,
    Sample,
)
from cl_bench.report.looks import FAMILIES, Look, Style, looks_of
from cl_bench.report.overview import best_of_methods, bounds_first, overview, ranks
from cl_bench.report.plots import BY_NAME, Plots
from cl_bench.report.published_tables import HEADS
from cl_bench.report.runs import MACHINE, Run, Unread
from cl_bench.report.sweeps import sweeps
from cl_bench.report.tables import Column, best_of, columns_of, notes, relative

FEW = 12  # so many configurations a figure can show; of more the best of each method
PICTURES = 24  # sample grids in a page: they are most of its bytes
FRONT = "The line connects the points that no other point {}beats in both numbers."
LONGEST = 60  # letters of a task's classes
MATRIX = 20  # rows and columns of an accuracy matrix of more than MOST_TASKS
CONDITIONS = (
    ("Trained with", "train_mask", "the outputs that take part in the training softmax"),
    ("Budget", "budget", "images that may be kept, or generated for replay"),
    ("Length", "length", "of training, for each task"),
)
"""Columns of the table of results: title, attribute of a configuration, meaning."""
MORE = ("A5", "later_AAA", "top5_ACC", "dead_units", "effective_rank", "weight_magnitude", "intransigence", "retention")
MORE += ("plasticity_gap", "answer_bytes", "growth_rate")
"""Numbers whose columns are left out first where a table is wider than the window."""


def render(
    found: Sequence[Benchmark],
    runs: Sequence[Run],
    unread: Sequence[Unread],
    copies: int,
    out: Path,
    pdf: bool = False,
) -> str:
    """The page as HTML that needs nothing else, to lie in `out`. pdf: it links to the charts as files, see `pdf`."""
    here = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(here), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    # those that bound the others come first; a method looks the same in every benchmark
    methods = sorted(
        {configuration.method for benchmark in found for configuration in benchmark.configurations}, key=bounds_first
    )
    looks = looks_of(
        (configuration.method, configuration.target)
        for benchmark in found
        for configuration in benchmark.configurations
    )
    numbers = {
        configuration: str(i)
        for i, configuration in enumerate(
            configuration for benchmark in found for configuration in benchmark.configurations
        )
    }
    left = PICTURES
    sections = []
    for place, benchmark in enumerate(found):
        section = Section(benchmark, looks, numbers, left)
        left -= len(section.samples)
        sections.append(section.content(f"b{place}"))
    unfinished = [
        NotFinished(
            status="failed" if run.results.status == "failed" else "not finished",
            folder=relative(run.folder, out),
            link=link(run.folder, out),
            name=f"{run.dataset}-{run.scenario}-{run.method}",
            seed=str(run.seed),
            progress=f"{run.tasks_done} of {run.n_tasks} tasks",
            reason=run.results.reason or "stopped or still running; the same command continues it",
        )
        for run in runs
        if not run.finished
    ]
    unfinished += [
        NotFinished(
            status="not read" if run.damaged else "not finished",
            folder=relative(run.folder, out),
            link=link(run.folder, out),
            name=run.folder.parent.name,
            seed=run.folder.name.partition("-")[0].removeprefix("seed"),
            progress="none",
            reason=run.reason,
        )
        for run in unread
    ]
    finished = sum(run.finished for run in runs)
    return environment.get_template("page.html").render(
        style=Markup((here / "page.css").read_text()),
        script=Markup((here / "page.js").read_text() + (here / "charts.js").read_text()),
        details=details(found, numbers, out),
        sections=sections,
        families=[
            (place, family) for place, family in enumerate(FAMILIES) if family in {of.family for of in looks.values()}
        ],
        overview=overview(found, methods) if len(found) > 1 else [],
        ranks=ranks(found),
        published_heads=HEADS,
        numbers=numbers,
        more=MORE,
        pdf=pdf,
        finished=finished,
        configurations=len(numbers),
        unfinished=sorted(unfinished, key=lambda run: (run.status, run.folder)),
        copies=copies,
    )


class Section:
    """A benchmark as the page tells it.

    looks: of the methods of the page. numbers: of all its configurations. pictures: how many it may show.
    """

    def __init__(
        self, benchmark: Benchmark, looks: Mapping[str, Look], numbers: dict[Configuration, str], pictures: int
    ) -> None:
        self.benchmark, self.numbers = benchmark, numbers
        self.all = benchmark.configurations
        ranks: dict[str, int] = {}
        self.styles: dict[Configuration, Style] = {}
        for configuration in self.all:
            rank = ranks[configuration.method] = ranks.get(configuration.method, -1) + 1
            self.styles[configuration] = looks[configuration.method].style(rank)
        self.drawn = self.all if len(self.all) <= FEW else best_of_methods(self.all)
        self.plots = Plots(self.drawn, numbers, self.styles, looks, benchmark.n_tasks, benchmark.shared_test)
        self.samples = [sample for configuration in self.drawn if (sample := self.sample(configuration))]
        self.left_out = max(0, len(self.samples) - pictures)
        self.samples = self.samples[:pictures]

    def content(self, id: str) -> Content:
        columns, plots, T = columns_of(self.all), self.plots, self.benchmark.n_tasks
        front = FRONT.format("that is shown " * (len(self.drawn) < len(self.all)))
        figures = [
            plots.over_tasks(),
            plots.over_stream(),
            *plots.while_learning(),
            plots.against(
                "LA", "BWT", "Stability against plasticity", "Right: learns new tasks better. Up: forgets less."
            ),
            plots.against("bytes_kept", "ACC", "Accuracy against what is kept", f"Between tasks; logarithmic. {front}"),
            plots.against("seconds", "ACC", "Accuracy against time", f"Of training; logarithmic. {front}"),
            *plots.sizes(),
            *plots.plasticity(),
        ]
        swept = [
            figure
            for key, curves in sweeps(self.all).items()
            for name in ("ACC", "BWT")
            if (figure := plots.along(key, curves, BY_NAME[name]))
        ]
        note = ""
        if len(self.drawn) < len(self.all):
            note = (
                f"Figures and comparisons show {len(self.drawn)} of {len(self.all)} configurations: of each method "
                "(and protocol) the one with the highest ACC, of one seed only where none has several. It was chosen "
                "on test data, so it flatters methods with many configurations. The tests are of all configurations, "
                "shown or not."
            )
        tasks = thinned(T, MATRIX) if T > MOST_TASKS else list(range(T))
        return Content(
            id=id,
            title=self.benchmark.title,
            facets={
                "dataset": self.benchmark.dataset,
                "scenario": self.benchmark.scenario,
                "benchmark": self.benchmark.title,
            },
            mask=self.benchmark.mask,
            shared_test=self.benchmark.shared_test,
            seeds=sorted({run.seed for run in self.benchmark.runs}),
            runs=len(self.benchmark.runs),
            protocols=self.benchmark.protocols,
            runs_of=Counter(configuration.protocol for configuration in self.all for _ in configuration.runs),
            protocol=common(self.all),
            answers=leaders(self.benchmark),
            budgets=at_equal_budgets(self.benchmark),
            published=[(self.numbers[row], line) for row, line in published_beside(self.benchmark)],
            notes=notes(self.benchmark, columns),
            conditions=[
                Condition(title, meaning, len({getattr(configuration, name) for configuration in self.all} - {""}) > 1)
                for title, name, meaning in CONDITIONS
            ],
            columns=columns,
            rows=self.rows(columns),
            legend=[
                Named(self.numbers[configuration], configuration.label, swatch(self.styles[configuration]))
                for configuration in self.drawn
            ],
            figures=[figure for figure in figures if figure],
            swept=swept,
            note=note,
            matrices=[self.matrix(configuration, tasks) for configuration in self.drawn],
            matrix_note=f"{len(tasks)} of {T} tasks are shown. " if len(tasks) < T else "",
            classes=self.classes(tasks),
            samples=self.samples,
            left_out=self.left_out,
            tests=comparisons(self.benchmark, self.drawn),
        )

    def classes(self, tasks: Sequence[int]) -> list[tuple[int, str]]:
        """The number of each task and its classes, as far as all runs have the same."""
        found = [run.results.classes for run in self.benchmark.runs]
        same = [all(classes[task] == found[0][task] for classes in found) for task in tasks]
        texts = (
            " ".join(found[0][task]) if alike else "differs by run" for task, alike in zip(tasks, same, strict=True)
        )
        return [
            (task + 1, text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…")
            for task, text in zip(tasks, texts, strict=True)
        ]

    def matrix(self, configuration: Configuration, tasks: Sequence[int]) -> Matrix:
        """The mean accuracies on these tasks after them, of many after some of those that were measured."""
        after = measured_rows(configuration.matrix(), MATRIX) if len(tasks) < configuration.n_tasks else tasks
        R = configuration.matrix(tasks, after)
        columns = [0] if self.benchmark.shared_test else tasks
        cells = [
            [
                MatrixCell("", None, j > i)
                if value is None
                else MatrixCell(f"{100 * value:.0f}", f"{value:.3f}", j > i)
                for j, value in zip(columns, row, strict=True)
            ]
            for i, row in zip(after, R, strict=True)
        ]
        heads = ["all"] if self.benchmark.shared_test else [str(task + 1) for task in tasks]
        return Matrix(self.numbers[configuration], configuration.label, [task + 1 for task in after], heads, cells)

    def rows(self, columns: Sequence[Column]) -> list[Row]:
        best = {column: best_of(self.all, column) for column in columns}

        def number(configuration: Configuration, column: Column) -> Number:
            value = configuration.estimate(column.name)
            if value is None:
                return Number("", "", "", 0, False)
            half = "" if value.half is None else column.write(value.half)
            return Number(column.write(value.mean), half, value.mean, value.n, configuration in best[column])

        return [
            Row(
                id=self.numbers[configuration],
                label=configuration.label,
                full=configuration.full_label,
                facets={
                    "method": configuration.method,
                    "network": shown("_target_", configuration.config.get("network._target_", NONE)),
                    "budget": configuration.budget or NONE,
                    "length": configuration.length or NONE,
                    "protocol": configuration.protocol,
                },
                swatch=swatch(self.styles[configuration]),
                seeds=configuration.seeds,
                conditions=[getattr(configuration, name) for _, name, _ in CONDITIONS],
                cells=[number(configuration, column) for column in columns],
            )
            for configuration in self.all
        ]

    def sample(self, configuration: Configuration) -> Sample | None:
        """What the generator made in the end, with the first seed that kept a picture."""
        for run in configuration.runs:
            picture = run.folder / "samples" / f"task{run.n_tasks}.png"
            if picture.is_file():
                numbers = [
                    f"{BY_NAME[name].title} {BY_NAME[name].write(value)}{'%' * (name != 'FID')}"
                    for name in ("FID", "MeRGAN_score")
                    if (value := run.number(name)) is not None
                ]
                data = base64.b64encode(picture.read_bytes()).decode()
                caption = ", ".join([f"seed {run.seed}", *numbers])
                return Sample(self.numbers[configuration], configuration.label, caption, data)
        return None


def common(configurations: Sequence[Configuration]) -> str:
    """The main conditions that all share, in words."""
    parts = []
    for key, value in configurations[0].conditions.items():
        group, _, name = key.partition(".")
        wanted = group in ("network", "optimizer", "mask") or name in ("epochs", "iterations", "batch_size")
        same = all(
            as_typed(configuration.conditions.get(key, None)) == as_typed(value) for configuration in configurations
        )
        if wanted and same and value is not None and key not in MACHINE:
            parts.append(f"{short(key)} {shown(key, value)}")
    return ", ".join(parts)
