"""`cl-bench export FOLDER`: a trained model as a file that torch alone can run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from cl_bench.api import load
from cl_bench.config import InputError
from cl_bench.config.arguments import answered
from cl_bench.use.words import options, sorted_out

USAGE = "cl-bench export FOLDER [file=MODEL.pt2]"
HELP = f"""\
{USAGE}

Writes the model of a run as a graph that needs only torch (torch.export), compared with the model. FOLDER is the
folder of the run. The graph takes float images in [0, 1], (N, C, H, W), and gives logits (N, n_outputs). Outputs that
may not answer have the lowest value. The file contains labels.json:

  inside = {{"labels.json": ""}}
  graph = torch.export.load("model.pt2", extra_files=inside).module()
  names = json.loads(inside["labels.json"])["labels"]

  file=...          the file to write; without it, FOLDER/models/taskN/model.pt2
  task=N            the task of the images, counted from 0; needed in task-incremental learning
  after=N           the model after this task, counted from 0; without it, after the last task
  plugins=[...]     packages whose code the run may need"""


@dataclass(frozen=True)
class Options:
    """file: None for a place in the run's folder. task: of the images. after: the task; None for the last one."""

    file: str | None = None
    task: Annotated[int, Ge(0)] | None = None
    after: Annotated[int, Ge(0)] | None = None
    plugins: tuple[str, ...] = ()


def main(words: Sequence[str] | None = None) -> int:
    """Writes the file, prints where, and returns the exit code."""
    return answered(export, words, HELP)


def export(words: Sequence[str]) -> None:
    folder, more, settings = sorted_out(words, USAGE)
    given = options(Options, settings)
    if more:
        raise InputError(f"{more[0]}: one folder at a time; {USAGE}")
    print(load(folder, given.plugins).export(given.file, given.task, given.after))
