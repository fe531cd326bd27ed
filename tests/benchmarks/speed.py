"""Training time of ours over that of loops written by hand, on one thread. No test: a clock proves nothing.

    python tests/benchmarks/speed.py --data-dir data [--methods er,gem] [--repeats 5] [--keep]

Split-MNIST, five tasks of two classes, class-incremental (PackNet, HAT, PNN, P&C, SupSup, CLNP, DEN: task-incremental);
MLP 256-256, SGD, mini-batches of 128, one epoch per task; WGAN-GP and AC-GAN with MLPs on the same images. The loops of
`tests/reference` take turns with ours, from the same weights, on the same mini-batches and random numbers, and are
checked to learn the same. MER and La-MAML, which walk through every mini-batch, learn 500 images of two tasks.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from functools import reduce
from operator import add
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from cl_bench.config.compose import compose
from cl_bench.config.schema import build, check
from cl_bench.data.problem import Task
from cl_bench.data.tasks import Scenario
from cl_bench.methods.base import Method
from cl_bench.methods.ewc import EWC
from cl_bench.methods.mas import MAS
from cl_bench.report.timings import Part, Ratio, keep_ratios
from cl_bench.runs.fit import Fit
from cl_bench.runs.folder import RunFolder
from cl_bench.runs.loggers import CSVLog
from cl_bench.runs.provenance import processor
from cl_bench.runs.setup import prepare

sys.path.append(str(Path(__file__).parents[1]))  # tests/, for a script of a folder in it
from reference.common import Timing, now
from reference.experiment import (
    BY_HAND,
    EACH_IMAGE,
    EXPERIMENT,
    GANS,
    OURS,
    by_hand,
    gap,
    learning,
    scenario_of,
    weights_of,
)

SETTINGS = (
    "dataset=mnist",
    "network.hidden=[256,256]",
    *EXPERIMENT,
    "trainer.threads=1",
    "trainer.progress=false",
    "checkpoint_every=1e6",
)
IMPORTANCE = "importance"  # among the methods: seconds of ours alone, for as many images as a task has
N_IMAGES, LIMIT = 12_000, 5.0
PARTS: tuple[Part, ...] = ("training", "whole")


def settings_without(*keys: str) -> list[str]:
    """The settings that all scripts share, without those whose text begins with one of the keys."""
    return [setting for setting in SETTINGS if not setting.startswith(keys)]


# ---------------------------------------------------------------------------------------------------- ours


def ours(
    settings: dict[str, Any], tasks: list[Task], method: Method, learn: Callable[[Method, Task, Fit], None]
) -> Timing:
    """`learn` on each task, as the runner does it; without measuring in between."""
    steps, training, whole = 0, 0.0, 0.0
    device = next(method.parameters()).device
    with TemporaryDirectory() as path:
        folder, logger = RunFolder(Path(path), "speed"), CSVLog()
        logger.start(folder.path, "speed", "speed", {}, "", [], 0)
        context = {"folder": folder, "logger": logger, "seed": 0}
        fit = build(check(settings["trainer"], "trainer"), checkpoint_every=settings["checkpoint_every"], **context)
        for task in tasks:
            with fit.task(task.index):
                began = now(device)
                learn(method, task, fit)
                whole += now(device) - began
            steps += sum(phase.steps for phase in fit.checkpoint.phases)
            training += sum(phase.seconds for phase in fit.checkpoint.phases)
    return Timing(weights_of(method), steps, training, whole)


# ------------------------------------------------------------------------------------------------- compared


def settings_of(name: str, data_dir: str, device: str = "cpu") -> dict[str, Any]:
    """The whole configuration of ours."""
    accelerator = f"trainer.accelerator={'gpu' if device == 'cuda' else 'cpu'}"
    return compose(*SETTINGS, accelerator, scenario_of(name), f"data_dir={data_dir}", *OURS[name])


def prepare_on(device: str, settings: dict[str, Any]) -> tuple[Scenario, Method]:
    """With the images and the weights there."""
    scenario, method = prepare(settings)
    return scenario.to(device), method.to(device)


def compare(
    name: str, data_dir: str, repeats: int, device: str = "cpu"
) -> tuple[list[Timing], dict[str, list[Timing]]]:
    """Ours, and each loop by hand; they take turns, after a short one that isn't counted and warms all up.

    Raises RuntimeError where they didn't learn the same in that one (later rounding makes GANs part ways).
    """
    settings = settings_of(name, data_dir, device)
    scenario, method = prepare_on(device, settings)
    weights = [p.detach().clone() for p in weights_of(method)]

    def turn(tasks: list[Task]) -> tuple[Timing, dict[str, Timing]]:
        mine = ours(settings, tasks, copy.deepcopy(method), learning(name))
        return mine, by_hand(name, tasks, weights)

    def first(n_tasks: int, n: int) -> list[Task]:
        rows = torch.arange(n, device=device)
        return [replace(task, train=task.train[rows]) for task in scenario.tasks[:n_tasks]]

    each_image = name in EACH_IMAGE
    n_tasks, n_batches = (2, 5) if name in GANS else (3, 12)  # three: two old tasks; twelve: RWalk's second interval
    mine, theirs = turn(first(n_tasks, 30 if each_image else n_batches * 128))
    for what, timing in theirs.items():
        apart = gap(mine.weights, timing.weights, weights)
        if mine.steps != timing.steps or not apart <= 0.03:
            raise RuntimeError(f"{name}, {what}: something else was learned by hand (by {apart:.0%})")
    tasks = first(2, 500) if each_image else scenario.tasks
    mine, theirs = zip(*(turn(tasks) for _ in range(repeats)), strict=True)
    return list(mine), {what: [one[what] for one in theirs] for what in BY_HAND[name]}


def importance(data_dir: str) -> dict[str, float]:
    """Seconds that it takes ours, by what it is."""
    seconds = {}
    for name, what in (("ewc", "Fisher information, exact, all ten labels,"), ("mas", "importance of MAS")):
        scenario, method = prepare(settings_of(name, data_dir))
        assert isinstance(method, EWC | MAS)
        method.index = len(scenario.tasks) - 1  # every output takes part
        images = reduce(add, [task.train for task in scenario.tasks])
        images = images[torch.arange(0, len(images), len(images) // N_IMAGES)[:N_IMAGES]]
        began = time.perf_counter()
        found = method.fisher(images) if isinstance(method, EWC) else method.importance(images)
        seconds[what] = time.perf_counter() - began
        assert len(images) == N_IMAGES
        assert all(float(value.sum()) > 0 for value in found.values())
    return seconds


def ratio(what: str, part: Part, mine: list[Timing], theirs: list[Timing]) -> Ratio:
    """What is known of the turns; a ratio is of two neighbors in time."""
    a, b = ([1000 * getattr(one, part) / one.steps for one in timings] for timings in (mine, theirs))
    ratios = [x / y for x, y in zip(a, b, strict=True)]
    by_hand, ours, median = (round(statistics.median(numbers), 3) for numbers in (b, a, ratios))
    low, high = round(min(ratios), 3), round(max(ratios), 3)
    return Ratio(what, part, by_hand, ours, median, low, high, len(ratios), date.today().isoformat(), processor())


def row(one: Ratio) -> list[str]:
    """Of the table."""
    spread = f"{one.lowest:.2f}-{one.highest:.2f}"
    return [one.what, one.part, f"{one.by_hand:.3f}", f"{one.ours:.3f}", f"{one.ratio:.2f}", spread]


def main() -> None:
    """Prints the table."""
    everything = ",".join([*BY_HAND, IMPORTANCE])
    parser = argparse.ArgumentParser(description="training time of ours over that of a loop written by hand")
    parser.add_argument("--data-dir", default="data", help="folder of MNIST/raw (default: %(default)s)")
    parser.add_argument("--methods", default=everything, help="comma-separated (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="turns counted (default: %(default)s)")
    parser.add_argument("--keep", action="store_true", help="write the ratios into results/timings.csv")
    args = parser.parse_args()
    names = args.methods.split(",")
    unknown = set(names) - {*BY_HAND, IMPORTANCE}
    if unknown or args.repeats < 1:
        parser.error(f"no such method: {', '.join(sorted(unknown))}" if unknown else "--repeats: at least 1")

    torch.set_num_threads(1)
    caption = "training: the steps; whole: with all that learning a task takes"
    columns = ("what", "part", "by hand\nms/step", "ours\nms/step", "ratio\nmedian", "\nmin-max")
    table = Table(*columns, caption=caption)
    for name in names:
        if name == IMPORTANCE:
            continue
        mine, loops = compare(name, args.data_dir, args.repeats)
        for what, theirs in loops.items():
            called = f"{name}, {what}" if what else name
            found = [ratio(called, part, mine, theirs) for part in PARTS]
            for one in found:
                table.add_row(*row(one))
            if args.keep:
                keep_ratios(found)
    if table.rows:
        Console().print(table)
    if IMPORTANCE in names:
        for what, seconds in importance(args.data_dir).items():
            print(f"{what} over {N_IMAGES:,} images: {seconds:.2f} s (limit {LIMIT:.0f} s)")


if __name__ == "__main__":
    main()
