"""The output of a finished run: the accuracy matrix and the metrics."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cl_bench.record import MOST_TASKS, Results, measured_rows, thinned

if TYPE_CHECKING:
    from rich.console import Console

MOST_SHOWN = 12  # tasks in the table on the console, of more than MOST_TASKS
LONGEST_NAME = 40  # letters of the class names of a task below the table


def show(results: Results, folder: Path, console: Console | None = None) -> None:
    """Prints the accuracy matrix and the metrics; of many tasks some. console: where; None for standard output."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    def cell(value: float | None) -> str:
        return "·" if value is None else f"{value:.3f}"

    T, shared = len(results.classes), results.shared_test
    tasks = thinned(T, MOST_SHOWN) if T > MOST_TASKS else list(range(T))
    names = {task: " ".join(results.classes[task]) for task in tasks}
    heads, legend = list(names.values()), ""
    if len(tasks) < T or max(map(len, heads)) > len("0.123"):
        brief = {
            task: name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…" for task, name in names.items()
        }
        legend = "tasks: " + ", ".join(f"{task + 1} {name}" for task, name in brief.items())
        heads = [str(task + 1) for task in tasks]
    console = console or Console()
    heads, columns = (["all tasks"], [0]) if shared else (heads, tasks)
    console.width = max(
        console.width, 7 * len(heads) + 8 + len(str(T))
    )  # a number is never cut, in a narrow log neither
    on = "the test set of all tasks" if shared else "each task"
    console.print(f"{results.name}: accuracy on {on}", style="bold", highlight=False, markup=False)
    matrix = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    matrix.add_column("after", justify="right", no_wrap=True)
    for head in heads:
        matrix.add_column(Text(head), justify="right")
    matrix.add_row("start", *(cell(results.b[j]) for j in columns), style="dim")
    for i in measured_rows(results.R, MOST_SHOWN) if T > MOST_TASKS else tasks:
        values = {j: cell(results.R[i][j]) for j in columns}
        matrix.add_row(f"task {i + 1}", *(text if j <= i else f"[dim]{text}[/dim]" for j, text in values.items()))
    console.print(matrix)
    if len(tasks) < T:
        console.print(f"{len(tasks)} of {T} tasks; all of them are in accuracy.csv", highlight=False)
    if legend:
        console.print(legend, highlight=False, markup=False)
    metrics = Table(show_header=False, box=None)
    for name, value in results.metrics.items():
        metrics.add_row(name, cell(value))
    console.print(metrics)
    line = f"{results.seconds:.0f} s, {results.parameters:,} parameters; kept in {folder}"
    console.print(line, highlight=False, markup=False, soft_wrap=True)
