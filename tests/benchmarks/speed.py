"""Training time of ours over that of loops written by hand, on one thread. No test: a clock proves nothing.

    python tests/benchmarks/speed.py --data-dir data [--methods er,gem] [--repeats 5]

Split-MNIST, five tasks of two classes, class-incremental (PackNet and HAT: task-incremental); MLP 256-256, SGD,
mini-batches of 128, one epoch per task; WGAN-GP and AC-GAN with MLPs on the same images. The loops of `by_hand.py` take
turns with ours, from the same weights, on the same mini-batches and random numbers, and are checked to learn the same.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial, reduce
from operator import add
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import by_hand
import torch
from by_hand import Images, Timing
from rich.console import Console
from rich.table import Table
from torch import Tensor

from cl_bench.config.compose import compose
from cl_bench.config.schema import build, check
from cl_bench.data.problem import Task
from cl_bench.methods.base import Method
from cl_bench.methods.dgr import DGR
from cl_bench.methods.ewc import EWC
from cl_bench.methods.mas import MAS
from cl_bench.methods.parts.acgan import ACGAN
from cl_bench.runs.fit import Fit
from cl_bench.runs.folder import RunFolder
from cl_bench.runs.loggers import CSVLog
from cl_bench.runs.setup import prepare

SETTINGS = (
    "dataset=mnist",
    "network.hidden=[256,256]",
    "optimizer=sgd",
    "optimizer.lr=0.01",
    "optimizer.momentum=0.9",
    "trainer.epochs=1",
    "trainer.iterations=null",
    "trainer.threads=1",
    "trainer.accelerator=cpu",
    "trainer.progress=false",
    "checkpoint_every=1e6",
)
IMPORTANCE = "importance"  # among the methods: seconds of ours alone, for as many images as a task has
N_IMAGES, LIMIT = 12_000, 5.0


# ---------------------------------------------------------------------------------------------------- ours


def ours(
    settings: dict[str, Any], tasks: list[Task], method: Method, learn: Callable[[Method, Task, Fit], None]
) -> Timing:
    """`learn` on each task, as the runner does it; without measuring in between."""
    steps, training, whole = 0, 0.0, 0.0
    with TemporaryDirectory() as path:
        folder, logger = RunFolder(Path(path), "speed"), CSVLog()
        logger.start(folder.path, "speed", "speed", {}, "", [], 0)
        context = {"folder": folder, "logger": logger, "seed": 0}
        fit = build(check(settings["trainer"], "trainer"), checkpoint_every=settings["checkpoint_every"], **context)
        for task in tasks:
            method.task = task.index
            with fit.task(task.index):
                began = time.perf_counter()
                learn(method, task, fit)
                whole += time.perf_counter() - began
            steps += sum(phase.steps for phase in fit.phases)
            training += sum(phase.seconds for phase in fit.phases)
    return Timing(weights_of(method), steps, training, whole)


def weights_of(method: Method) -> list[Tensor]:
    """What is trained here: of DGR only the generative memory."""
    if isinstance(method, DGR):
        other = method.gan.discriminator if isinstance(method.gan, ACGAN) else method.gan.critic
        return [*method.gan.generator.parameters(), *other.parameters()]
    return [p for p in method.parameters() if p.requires_grad]


def learn_task(method: Method, task: Task, fit: Fit) -> None:
    """All that the method does with a task."""
    method.learn(task, fit)


def learn_images(method: Method, task: Task, fit: Fit) -> None:
    """DGR's generator alone, on the task's own images."""
    assert isinstance(method, DGR)
    method.generator_epochs, method.generator_steps = 1, None
    method.fit_gan(task, task.train, fit)


# ------------------------------------------------------------------------------------------------- compared

BY_HAND: dict[str, dict[str, Callable[[Images, Sequence[Tensor]], Timing]]] = {
    "finetune": {"": by_hand.finetune},
    "ewc": {
        "one penalty": partial(by_hand.ewc, merge=True),
        "one per old task": partial(by_hand.ewc, merge=False),
    },
    "si": {"": by_hand.si},
    "mas": {
        "gradient added": partial(by_hand.mas, autograd=False),
        "penalty in the loss": partial(by_hand.mas, autograd=True),
    },
    "rwalk": {"": by_hand.rwalk},
    "lwf": {"": by_hand.lwf},
    "er": {"": by_hand.er},
    "der": {"": by_hand.der},
    "gem": {"": by_hand.gem},
    "agem": {"": by_hand.agem},
    "icarl": {"": by_hand.icarl},
    "packnet": {"": by_hand.packnet},
    "hat": {"": by_hand.hat},
    "wgan_gp": {"": by_hand.wgan_gp},
    "acgan": {"": by_hand.acgan},
}
GAN = (
    "method=dgr",
    f"method.gan.n_critic={by_hand.N_CRITIC}",
    f"method.gan.lambda_gp={by_hand.LAMBDA_GP}",
    f"method.gan.generator.z_dim={by_hand.Z_DIM}",
    "method.gan.generator.hidden=[256,256]",
    "method.gan.optimizer.lr=0.001",
    "method.gan.optimizer.betas=[0.5,0.9]",
)
REGULARISED = f"method.strength={by_hand.STRENGTH}"
OURS: dict[str, Sequence[str]] = {
    "finetune": ["method=finetune"],
    "ewc": ["method=ewc", f"method.strength={by_hand.EWC_STRENGTH}", "method.fisher_labels=exact"],
    "si": ["method=si", REGULARISED, f"method.damping={by_hand.DAMPING}"],
    "mas": ["method=mas", REGULARISED],
    "rwalk": [
        "method=rwalk",
        REGULARISED,
        f"method.damping={by_hand.DAMPING}",
        f"method.fisher_rate={by_hand.FISHER_RATE}",
        f"method.interval={by_hand.INTERVAL}",
    ],
    "lwf": ["method=lwf", "method.strength=1", f"method.temperature={by_hand.TEMPERATURE}", "method.weighting=sum"],
    "er": [
        "method=er",
        "method.selection=random",
        "memory.per=class",
        f"memory={by_hand.ER_BUDGET}",
        "method.weighting=joint",
    ],
    "der": ["method=der", f"memory={by_hand.DER_BUDGET}", f"method.alpha={by_hand.ALPHA}", "method.beta=0"],
    "gem": ["method=gem", "memory.per=task", f"memory={by_hand.GEM_BUDGET}", f"method.margin={by_hand.MARGIN}"],
    "agem": [
        "method=agem",
        "memory.per=class",
        f"memory={by_hand.AGEM_BUDGET}",
        f"method.n_replay={by_hand.AGEM_REPLAY}",
    ],
    "icarl": ["method=icarl", "memory.per=total", f"memory={by_hand.EXEMPLARS}"],
    "packnet": ["method=packnet", f"method.prune={by_hand.PRUNE}"],
    "hat": [
        "method=hat",
        f"method.s_max={by_hand.S_MAX}",
        f"method.sparsity={by_hand.SPARSITY}",
        f"method.embedding_lr={by_hand.EMBEDDING_LR}",
    ],
    "wgan_gp": [*GAN, "method.gan.critic.hidden=[256,256]"],
    "acgan": [*GAN, "gan@method.gan=acgan_mlp", "method.gan.discriminator.network.hidden=[256,256]"],
}
TASK_INCREMENTAL = ("packnet", "hat")
GANS = ("wgan_gp", "acgan")


def settings_of(name: str, data_dir: str) -> dict[str, Any]:
    """The whole configuration of ours."""
    scenario = "task_incremental" if name in TASK_INCREMENTAL else "class_incremental"
    return compose(*SETTINGS, f"scenario={scenario}", f"data_dir={data_dir}", *OURS[name])


def compare(name: str, data_dir: str, repeats: int) -> tuple[list[Timing], dict[str, list[Timing]]]:
    """Ours, and each loop by hand; they take turns, after a short one that isn't counted and warms all up.

    Raises RuntimeError where they didn't learn the same in that one (later rounding makes GANs part ways).
    """
    learn = learn_images if name in GANS else learn_task
    settings = settings_of(name, data_dir)
    scenario, method = prepare(settings)
    weights = [p.detach().clone() for p in weights_of(method)]

    def turn(tasks: list[Task]) -> tuple[Timing, dict[str, Timing]]:
        images = [(task.train.images.float() / 255, task.train.labels) for task in tasks]
        mine = ours(settings, tasks, copy.deepcopy(method), learn)
        return mine, {what: loop(images, weights) for what, loop in BY_HAND[name].items()}

    n_tasks, n_batches = (2, 5) if name in GANS else (3, 12)  # three: two old tasks; twelve: RWalk's second interval
    some = torch.arange(n_batches * 128)
    mine, theirs = turn([replace(task, train=task.train[some]) for task in scenario.tasks[:n_tasks]])
    for what, timing in theirs.items():
        gap = distance(mine.weights, timing.weights) / distance(mine.weights, weights)
        if mine.steps != timing.steps or not gap <= 0.03:
            raise RuntimeError(f"{name}, {what}: something else was learned by hand (by {gap:.0%})")
    mine, theirs = zip(*(turn(scenario.tasks) for _ in range(repeats)), strict=True)
    return list(mine), {what: [one[what] for one in theirs] for what in BY_HAND[name]}


def importance(data_dir: str) -> dict[str, float]:
    """Seconds that it takes ours, by what it is."""
    seconds = {}
    for name, what in (("ewc", "Fisher information, exact, all ten labels,"), ("mas", "importance of MAS")):
        scenario, method = prepare(settings_of(name, data_dir))
        assert isinstance(method, EWC | MAS)
        method.task = len(scenario.tasks) - 1  # every output takes part
        images = reduce(add, [task.train for task in scenario.tasks])
        images = images[torch.arange(0, len(images), len(images) // N_IMAGES)[:N_IMAGES]]
        began = time.perf_counter()
        found = method.fisher(images) if isinstance(method, EWC) else method.importance(images)
        seconds[what] = time.perf_counter() - began
        assert len(images) == N_IMAGES
        assert all(float(value.sum()) > 0 for value in found.values())
    return seconds


def distance(a: list[Tensor], b: list[Tensor]) -> float:
    """Euclidean, over all weights at once."""
    return float(torch.stack([(p - q).detach().norm() for p, q in zip(a, b, strict=True)]).norm())


def row(what: str, part: str, mine: list[Timing], theirs: list[Timing]) -> list[str]:
    """One row of the table; a ratio is of two neighbours in time."""
    a, b = ([1000 * getattr(one, part) / one.steps for one in timings] for timings in (mine, theirs))
    ratios = [x / y for x, y in zip(a, b, strict=True)]
    spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
    median = statistics.median
    return [what, part, f"{median(b):.3f}", f"{median(a):.3f}", f"{median(ratios):.2f}", spread]


def main() -> None:
    """Prints the table."""
    everything = ",".join([*BY_HAND, IMPORTANCE])
    parser = argparse.ArgumentParser(description="training time of ours over that of a loop written by hand")
    parser.add_argument("--data-dir", default="data", help="folder of MNIST/raw (default: %(default)s)")
    parser.add_argument("--methods", default=everything, help="comma-separated (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="turns counted (default: %(default)s)")
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
            for part in ("training", "whole"):
                table.add_row(*row(f"{name}, {what}" if what else name, part, mine, theirs))
    if table.rows:
        Console().print(table)
    if IMPORTANCE in names:
        for what, seconds in importance(args.data_dir).items():
            print(f"{what} over {N_IMAGES:,} images: {seconds:.2f} s (limit {LIMIT:.0f} s)")


if __name__ == "__main__":
    main()
