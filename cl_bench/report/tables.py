"""The numbers of a report as tables: one row per configuration for people and papers, one per run for pandas."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

from cl_bench.evaluation.statistics import Estimate
from cl_bench.record import COSTS, PLASTICITY, SIZES
from cl_bench.report.benchmarks import BOUNDS, Benchmark, Configuration, by_protocol, compared, mixtures
from cl_bench.report.labels import as_typed
from cl_bench.report.runs import MEMORY, REFERENCED, Run

MINUS = "\N{MINUS SIGN}"
NULL = "null"  # of a key in a table


@dataclass(frozen=True)
class Column:
    """A number of a run. better: 1 where more is better, -1 where less is, 0 where it isn't judged.

    scale: what the stored number is multiplied with to be in `unit`.
    """

    name: str
    title: str
    unit: str
    meaning: str
    better: int
    scale: float = 100
    digits: int = 2

    @property
    def arrow(self) -> str:
        return {1: "↑", -1: "↓", 0: ""}[self.better]

    def write(self, value: float) -> str:
        text = f"{self.scale * value:,.{self.digits}f}"
        return text.replace("-", MINUS) if float(text.replace(",", "")) else text.lstrip("-")  # no minus zero

    def cell(self, value: Estimate | None) -> str:
        if value is None:
            return ""
        return self.write(value.mean) if value.half is None else f"{self.write(value.mean)} ± {self.write(value.half)}"


ONLINE = Column("online_accuracy", "Online", "%", "accuracy on each training image just before it is first learned", 1)
DEAD = Column("dead_units", "Dead units", "%", "hidden units that are 0 on all images, before the last task", -1)
PER_TASK = (
    ONLINE,
    DEAD,
    Column("effective_rank", "Effective rank", "", "of the outputs of a layer, mean over the hidden layers", 0, 1),
    Column("weight_magnitude", "Weights", "1/1000", "mean absolute value", 0, 1000),
)
"""Numbers of each task that say how well a network still learns: `record.PLASTICITY`."""
SIZES_PER_TASK = (
    Column("answer_bytes", "Answers", "MB", "needed for predictions: networks, heads, masks, class means", 0, 1e-6),
    Column("bytes_kept", "Kept", "MB", "kept between tasks: networks, memories, generators", 0, 1e-6),
)
"""Bytes after each task: `record.SIZES`."""
COLUMNS = (
    Column("ACC", "ACC", "%", "mean accuracy on all tasks after the last one", 1),
    Column("A5", "A5", "%", "mean accuracy after five classes", 1),
    Column("A10", "A10", "%", "mean accuracy after ten classes", 1),
    Column("AAA", "AAA", "%", "mean accuracy on the tasks seen so far, averaged over the ends of tasks", 1),
    Column("later_AAA", "Later AAA", "%", "the same on merged test sets and from the second task on", 1),
    Column(
        "top5_ACC", "Top 5", "%", "share of images whose class is among the five highest outputs, mean over tasks", 1
    ),
    Column("A_AUC", "A_AUC", "%", "accuracy on the classes or tasks so far, mean over a stream", 1),
    Column("LA", "LA", "%", "accuracy on each task just after it was learned: plasticity", 1),
    ONLINE,
    DEAD,
    Column("BWT", "BWT", "points", "how later tasks changed the accuracy on earlier tasks: stability", 1),
    Column("FWT", "FWT", "points", "accuracy on the next task minus that of the untrained network", 1),
    Column("forgetting", "Forgetting", "points", "best accuracy minus last accuracy", -1),
    Column(
        "intransigence", "Intransigence", "points", "accuracy of joint training minus accuracy right after learning", -1
    ),
    Column("retention", "Retention", "%", "last accuracy divided by the accuracy of a separate network", 1),
    Column(
        "plasticity_gap",
        "Plasticity gap",
        "points",
        "accuracy of a separate network minus accuracy right after learning",
        -1,
    ),
    Column("MeRGAN_score", "MeRGAN score", "%", "accuracy of a classifier of real images on generated ones", 1),
    Column("FID", "FID", "", "distance of generated from real images, in the features of the judge", -1, 1, 1),
    *SIZES_PER_TASK,
    Column("growth_rate", "Growth", "", "of the bytes for predictions; 1: one more network per task", 0, 1, 2),
    Column(
        "memory_images",
        "Memory",
        "images",
        "real images kept; for a generator, the images that fit into its bytes",
        0,
        1,
        0,
    ),
    Column("seconds", "Time", "s", "seconds of training", 0, 1, 0),
)
ACC = COLUMNS[0]
BOLD = (
    "Bold: significantly better than all others (paired t-test on shared seeds, Holm over all pairs, p < 0.05); "
    f"{', '.join(BOUNDS[:-1])} and {BOUNDS[-1]} are bounds and do not compete."
)


def measured(configurations: Sequence[Configuration]) -> list[Column]:
    """The columns with a number in any of the rows."""
    return [column for column in COLUMNS if any(configuration.by_seed(column.name) for configuration in configurations)]


def columns_of(configurations: Sequence[Configuration]) -> list[Column]:
    """Those to show where none is asked for: A5 and A10 only where they aren't ACC by another name."""
    found = measured(configurations)
    same = {
        column
        for column in found
        if column.name in ("A5", "A10")
        and all(configuration.by_seed(column.name) == configuration.by_seed("ACC") for configuration in configurations)
    }
    return [column for column in found if column not in same]


def best_of(configurations: Sequence[Configuration], column: Column) -> set[Configuration]:
    """The best in a column within each protocol, where it is better than every rival by more than chance: by the paired
    test, all pairs of the protocol under Holm. The bounds of the others are no rivals.

    A single seed is never the best, as nothing can be said of its chance.
    """
    best: set[Configuration] = set()
    for rows in by_protocol(configurations).values() if column.better else ():
        means = {
            place: value.mean
            for place, configuration in enumerate(rows)
            if (value := configuration.estimate(column.name))
        }
        rivals = {place for place in means if rows[place].method not in BOUNDS}
        references = {rows[place].compared_with for place in rivals} if column.name in REFERENCED else set()
        if len(rivals) > 1 and len(references) < 2:
            top = max(rivals, key=lambda place: column.better * means[place])
            if rivals <= compared(rows, column.name).clearly_below(top, column.better) | {top}:
                best.add(rows[top])
    return best


def rows_of(runs: Iterable[Run], found: Sequence[Benchmark], out: Path) -> tuple[list[str], list[list[Any]]]:
    """The heads, and one row per run: what it is, its metrics and costs, every value of its configuration.

    Runs that aren't finished have no metrics: theirs tell of fewer tasks and must not be averaged with others.
    Folders are relative to `out`, where the table will lie. None: not measured, or no key of the run; NULL: its value.
    """
    place = {
        run.folder: (benchmark, configuration)
        for benchmark in found
        for configuration in benchmark.configurations
        for run in configuration.runs
    }
    runs = sorted(runs, key=lambda run: (run.dataset, run.scenario, run.method, run.seed, str(run.folder)))
    metrics = list(dict.fromkeys(name for run in runs for name in run.results.metrics))
    numbers = list(dict.fromkeys([*metrics, *PLASTICITY, SIZES[0], *COSTS, *MEMORY]))
    keys = sorted({key for run in runs for key in run.config})
    head = ["folder", "status", "reason", "dataset", "scenario", "method", "seed", "configuration", "protocol"]
    head += ["n_tasks", "tasks_done", "train_mask", "evaluation_mask", "device", "version"]
    rows = []
    for run in runs:
        results, (_, configuration) = run.results, place.get(run.folder, (None, None))
        what = [relative(run.folder, out), results.status, results.reason, run.dataset, run.scenario, run.method]
        what += [run.seed, configuration and configuration.full_label, configuration and configuration.protocol]
        what += [run.n_tasks, run.tasks_done, results.masks.train, results.masks.evaluation, results.device]
        what += [results.versions.get("cl_bench")]
        values = [run.number(name) if run.finished else None for name in numbers]
        rows.append(
            [*what, *values, *(NULL if run.config.get(key, "") is None else run.config.get(key) for key in keys)]
        )
    return [*head, *numbers, *keys], rows


def csv_of(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """The rows as text, nothing for None."""
    text = StringIO(newline="")
    table = csv.writer(text)
    table.writerow(head)
    for row in rows:
        table.writerow([value if value is None else as_typed(value) for value in row])
    return text.getvalue()


def parquet_of(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> bytes:
    """The rows as columns of one type each: whole numbers, numbers, yes or no, or else the text of results.csv."""
    import pyarrow
    from pyarrow.parquet import write_table

    columns = [typed_column(values) for values in zip(*rows, strict=True)]
    into = BytesIO()
    write_table(pyarrow.table([pyarrow.array(values) for values in columns], names=list(head)), into)
    return into.getvalue()


def typed_column(values: Sequence[Any]) -> list[Any]:
    """Values that one type holds.

    >>> typed_column([1, None, 2.5]), typed_column([True, [1, 2]])
    ([1.0, None, 2.5], ['true', '[1,2]'])
    """
    known = [value for value in values if value not in (None, NULL)]
    kinds = set(map(type, known))
    if kinds == {bool} or (kinds == {int} and all(-(2**63) <= value < 2**63 for value in known)):
        return [None if value == NULL else value for value in values]
    if known and kinds <= {int, float}:
        return [None if value in (None, NULL) else float(value) for value in values]
    texts = [None if value is None else as_typed(value) for value in values]
    return [text and text.encode(errors="replace").decode() for text in texts]  # a folder may have any bytes


def relative(folder: Path, to: Path) -> str:
    """The path of a folder from another one; both without links."""
    return Path(os.path.relpath(folder, to)).as_posix()


def markdown(found: Sequence[Benchmark], chosen: Sequence[Column] | None = None) -> str:
    """A table per benchmark, as GitHub shows it, with all columns that it has or with these of them."""
    lines = []
    for benchmark in found:
        there = measured(benchmark.configurations) if chosen else columns_of(benchmark.configurations)
        columns = [column for column in chosen if column in there] if chosen else there
        best = {column: best_of(benchmark.configurations, column) for column in columns}
        heads = [f"{column.title} {column.arrow}".strip() + unit(column) for column in columns]
        lines += [f"## {benchmark.title}", "", *explained(benchmark, columns), ""]
        lines += [f"| {' | '.join(['configuration', 'seeds', *heads])} |", f"|---|{'---:|' * (len(heads) + 1)}"]
        for configuration in benchmark.configurations:
            cells = []
            for column in columns:
                text = column.cell(configuration.estimate(column.name))
                cells.append(f"**{text}**" if configuration in best[column] else text)
            label = configuration.label.replace("|", "\\|")
            lines.append(f"| {' | '.join([label, str(len(configuration.runs)), *cells])} |")
        lines.append("")
    return "\n".join(lines)


def explained(benchmark: Benchmark, columns: Sequence[Column]) -> Iterator[str]:
    """What must stand beside a table with these columns."""
    yield f"Mean ± 95% interval over seeds (Student t); evaluation mask: {benchmark.mask}. {BOLD}"
    yield from notes(benchmark, columns)
    if len(benchmark.protocols) > 1:
        protocols = "; ".join(
            f"{name}: " + ", ".join(f"{key}={value}" for key, value in differs.items())
            for name, differs in benchmark.protocols.items()
        )
        yield f"Protocols differ and are tested separately. {protocols}."


def notes(benchmark: Benchmark, columns: Sequence[Column]) -> list[str]:
    """What a reader must know before comparing rows, and which numbers are of fewer seeds than their row has."""
    fewer = [
        f"{column.title} of {row.label} ({n} of {len(row.runs)})"
        for column in columns
        for row in benchmark.configurations
        if 0 < (n := len(row.by_seed(column.name))) < len(row.runs)
    ]
    return mixtures(benchmark) + [f"Means over fewer seeds than their row has: {'; '.join(fewer)}."] * bool(fewer)


def unit(column: Column) -> str:
    return f" ({column.unit})" if column.unit else ""
