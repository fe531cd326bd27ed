"""The table for a paper: as wide as a column of it, for pdflatex with booktabs and tabularx."""

from __future__ import annotations

import re
from collections.abc import Sequence

from cl_bench.config import InputError
from cl_bench.config.errors import nearest
from cl_bench.evaluation.statistics import Estimate
from cl_bench.report.benchmarks import Benchmark
from cl_bench.report.plots import BY_NAME
from cl_bench.report.tables import MINUS, Column, best_of, explained, measured

PAPER = ("ACC", "BWT", "forgetting", "bytes_kept")
"""The columns of table.tex where none are named: four fit a column of 3.25 inches."""

ARROWS = {1: r"$\uparrow$", -1: r"$\downarrow$", 0: ""}
LATEX = {
    "\\": r"\textbackslash{}",
    "|": r"\textbar{}",
    MINUS: "$-$",
    "±": r"$\pm$",
    "·": r"$\cdot$",
    "…": r"\dots{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "[": "{[}",  # at the beginning of a row it would be an argument of the end of the row before
    "*": "{*}",
    **{char: f"\\{char}" for char in "&%$#_{}"},
}


def named(text: str, found: Sequence[Benchmark]) -> list[Column]:
    """The columns of --columns NAME,NAME,... Raises InputError for one that there isn't or that no run has."""
    known = [column.name for benchmark in found for column in measured(benchmark.configurations)]
    names = [name.strip() for name in text.split(",")]
    for place, name in enumerate(names):
        if name not in BY_NAME:
            raise InputError(f"--columns {text}: there is no column '{name}'{nearest(name, BY_NAME)}")
        if name not in known:
            raise InputError(f"--columns {text}: no finished run has {name}{nearest(name, known)}")
        if name in names[:place]:
            raise InputError(f"--columns {text}: {name} appears twice")
    return [BY_NAME[name] for name in names]


def latex(found: Sequence[Benchmark], columns: Sequence[Column]) -> str:
    """A table per benchmark, with those of the columns that it has."""
    lines = ["% \\usepackage{booktabs,tabularx}"]
    labels: list[str] = []
    for benchmark in found:
        there = measured(benchmark.configurations)
        here = [column for column in columns if column in there]
        best = {column: best_of(benchmark.configurations, column) for column in here}
        caption = " ".join([f"{benchmark.title}; n: seeds.", *explained(benchmark, here)])
        label = "tab:" + re.sub(r"[^a-z0-9]+", "-", benchmark.title.lower()).strip("-")
        labels.append(label)
        again = f"-{labels.count(label)}" if labels.count(label) > 1 else ""
        lines += ["", "\\begin{table}", "\\centering\\footnotesize\\sloppy\\setlength{\\tabcolsep}{2pt}"]
        lines += [f"\\caption{{{breakable(caption)}}}", f"\\label{{{label}{again}}}\\smallskip"]
        form = r"@{}>{\raggedright\arraybackslash\hspace{0pt}}Xr" + "r" * len(here) + "@{}"
        lines += [f"\\begin{{tabularx}}{{\\linewidth}}{{{form}}}", "\\toprule"]
        lines.append(" & ".join(["", "n", *(escaped(column.title) for column in here)]) + r" \\")
        units = [f"{escaped(column.unit)} {ARROWS[column.better]}".strip() for column in here]
        lines += [" & ".join(["", "", *units]) + r" \\", "\\midrule"]
        for configuration in benchmark.configurations:
            cells = []
            for column in here:
                text = cell(column, configuration.estimate(column.name))
                cells.append(f"\\textbf{{{text}}}" if configuration in best[column] else text)
            seeds = str(len(configuration.runs))
            lines.append(" & ".join([breakable(configuration.label), seeds, *cells]) + r" \\")
        lines += ["\\bottomrule", "\\end{tabularx}", "\\end{table}"]
    return "\n".join(lines) + "\n"


def cell(column: Column, value: Estimate | None) -> str:
    """A mean with its interval in small type."""
    if value is None:
        return ""
    half = "" if value.half is None else rf"{{\scriptsize$\pm${column.write(value.half)}}}"
    return escaped(column.write(value.mean)) + half


def breakable(text: str) -> str:
    """Text whose lines may end after a sign within a name, too."""
    return re.sub(r"(\\_|=|\{\]\}|/|(?<=\w)\.(?=\w)|,(?=\S))", r"\1\\hspace{0pt}", escaped(text))


def escaped(text: str) -> str:
    """Text as LaTeX prints it; a character that it has no sign for by its number.

    >>> escaped("n_gen=1200: 84.1 ± 1.2 %"), escaped("猫")
    ('n\\\\_gen=1200: 84.1 $\\\\pm$ 1.2 \\\\%', '{[}732B{]}')
    """
    found = "".join(
        LATEX.get(char, char) if char.isascii() or char in LATEX else f"{{[}}{ord(char):04X}{{]}}" for char in text
    )
    return found.replace("--", "-{}-")
