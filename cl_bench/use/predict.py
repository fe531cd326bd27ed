"""`cl-bench predict FOLDER PICTURES...`: which classes a trained model sees in pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge

from cl_bench.api import load
from cl_bench.config import InputError, Positive
from cl_bench.config.arguments import answered
from cl_bench.use.words import options, sorted_out

USAGE = "cl-bench predict FOLDER PICTURES..."
HELP = f"""\
{USAGE}

Prints a line for each picture: its file, the class that the model of a run predicts, and the confidence, with tabs
between them. FOLDER is the folder of the run. PICTURES are picture files and folders of pictures. The center square of
each picture is resized to the size of the run's images.

  top=K             the K best classes of each picture, each with its confidence
  task=N            the task of the pictures, counted from 0; needed in task-incremental learning
  after=N           the model after this task, counted from 0; without it, after the last task
  plugins=[...]     packages whose code the run may need"""


@dataclass(frozen=True)
class Options:
    """top: classes for each picture. task: of the pictures. after: the task; None for the last one."""

    top: Positive = 1
    task: Annotated[int, Ge(0)] | None = None
    after: Annotated[int, Ge(0)] | None = None
    plugins: tuple[str, ...] = ()


def main(words: Sequence[str] | None = None) -> int:
    """Prints the classes and returns the exit code."""
    return answered(predict, words, HELP)


def predict(words: Sequence[str]) -> None:
    from cl_bench.data.pictures import pictures_in

    folder, places, settings = sorted_out(words, USAGE)
    given = options(Options, settings)
    run = load(folder, given.plugins)
    if not places:
        raise InputError(f"which pictures? {USAGE}")
    pictures = pictures_in([Path(place) for place in places])
    run._check_task(given.task)
    trained = run._trained(given.after)
    from cl_bench.runs.trained import sureness  # and torch, now that there is work for it

    columns, left = {name: column for column, name in enumerate(run.class_names)}, iter(pictures)
    for images in trained.pictures(pictures):
        logits = trained.logits(images, given.task)
        for best, score in zip(trained.named(logits, given.task, given.top), sureness(logits), strict=True):
            print(next(left), *(f"{name}\t{score[columns[name]]:.4f}" for name in best), sep="\t")
