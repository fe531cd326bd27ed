"""`cl-bench evaluate FOLDER dataset=...`: the accuracy of a trained model, on other images too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from cl_bench.api import load
from cl_bench.config import InputError
from cl_bench.config.arguments import answered
from cl_bench.runs.asked import node_of
from cl_bench.use.words import options, sorted_out

USAGE = "cl-bench evaluate FOLDER [dataset=NAME|FILE.npz|TABLE.csv|PICTURES]"
HELP = f"""\
{USAGE}

Measures the model of a run on the test images of each task. FOLDER is the folder of the run, such as
outputs/digits-class_incremental-er/seed0-1a2b3c4d.

  dataset=...       another data set with the same classes: a name, an .npz file, a table of pictures, or a folder
                    with one folder of pictures per class;
                    without it, the test images of the run
  dataset.KEY=...   keys of this data set, such as dataset.path=... dataset.size=...
  data_dir=...      folder of the data sets, if they were moved
  after=N           the model after this task, counted from 0; without it, after the last task
  plugins=[...]     packages whose code the run may need"""


@dataclass(frozen=True)
class Options:
    """after: the task; None for the last one. data_dir: None for that of the run."""

    after: Annotated[int, Ge(0)] | None = None
    data_dir: str | None = None
    plugins: tuple[str, ...] = ()


def main(words: Sequence[str] | None = None) -> int:
    """Prints the accuracies and returns the exit code."""
    return answered(evaluate, words, HELP)


def evaluate(words: Sequence[str]) -> None:
    folder, more, settings = sorted_out(words, USAGE)
    if more:
        raise InputError(f"{more[0]}: one folder at a time; {USAGE}")
    dataset = [word.partition("=")[2] for word in settings if word.startswith("dataset=")]
    keys = [word for word in settings if word.startswith("dataset.")]
    given = options(Options, [word for word in settings if not word.startswith(("dataset=", "dataset."))])
    if len(dataset) > 1 or (keys and not dataset):
        raise InputError(f"{keys[0] if keys else 'dataset'}: which data set? one dataset=NAME; {USAGE}")
    run = load(folder, given.plugins)
    if given.data_dir is not None:
        run.config["data_dir"] = given.data_dir
    node = node_of(dataset[0], run.config, keys) if dataset else None
    accuracies = run._trained(given.after).accuracies(node, run.classes)
    names = [f"task {task}: {' '.join(names)}" for task, names in enumerate(run.classes)]
    if len(accuracies) < len(names):
        names = ["all tasks"]
    for name, accuracy in zip(names, accuracies, strict=True):
        print(f"{accuracy:.4f}  {name}")
    mean = math.fsum(accuracies) / len(accuracies)
    print(f"{mean:.4f}  mean of {run.name}{f' on {dataset[0]}' if dataset else ''}")
