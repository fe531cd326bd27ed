"""Training time of ours over that of loops written by hand, on one thread. No test: a clock proves nothing.

    python tests/benchmarks/speed.py --data-dir data

Split-MNIST, five tasks of two classes, class-incremental; MLP 256-256, SGD, mini-batches of 128, one epoch
per task; WGAN-GP and AC-GAN with MLPs on the same images. The loops by hand are what a careful person writes for this
one experiment: images as floats in memory, no logging, no checkpoints, nothing configurable. They take turns
with ours, from the same weights, on the same mini-batches and noise, and are checked to learn the same.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from cl_bench.config import build, compose
from cl_bench.data.scenarios import Task
from cl_bench.fit import Fit
from cl_bench.loggers import CSVLog
from cl_bench.methods.acgan import ACGAN
from cl_bench.methods.base import Method
from cl_bench.methods.dgr import DGR
from cl_bench.results import RunFolder
from cl_bench.run import prepare
from cl_bench.seeding import derive

SETTINGS = (
    "dataset=mnist",
    "scenario=class_incremental",
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
STRENGTH = 100.0  # of EWC
N_CRITIC, LAMBDA_GP, Z_DIM = 5, 10.0, 64
LOWEST = torch.finfo(torch.float32).min

Images = list[tuple[Tensor, Tensor]]  # of each task: floats (N, 1, 28, 28), labels (N,)
Quadratic = tuple[list[Tensor], list[Tensor]]  # of a penalty: Fisher information, old weights


@dataclass
class Timing:
    """Seconds of the training steps, and of all that learning takes; what the weights became."""

    steps: int
    training: float
    whole: float
    weights: list[Tensor]


# ------------------------------------------------------------------------------------------------- by hand


def mlp(weights: Iterable[Tensor]) -> nn.Sequential:
    """The classifier."""
    layers = (nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    return with_weights(nn.Sequential(nn.Flatten(), *layers), weights)


def with_weights(network: nn.Sequential, weights: Iterable[Tensor]) -> nn.Sequential:
    """The network, with these weights."""
    with torch.no_grad():
        for p, weight in zip(network.parameters(), weights, strict=True):
            p.copy_(weight)
    return network


def rows_of(n: int, task: int) -> Iterator[Tensor]:
    """The rows of each mini-batch: the permutation that ours draws."""
    generator = torch.Generator().manual_seed(derive(0, "batches", task, 0))
    yield from torch.randperm(n, generator=generator).split(128)


def finetune_by_hand(tasks: Images, weights: Iterable[Tensor]) -> Timing:
    """Cross-entropy over the classes seen so far."""
    network = mlp(weights)
    steps, training = 0, 0.0
    for task, (images, labels) in enumerate(tasks):
        began = time.perf_counter()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
        unseen = torch.arange(10) >= 2 * (task + 1)
        for rows in rows_of(len(labels), task):
            loss = F.cross_entropy(network(images[rows]).masked_fill(unseen, LOWEST), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steps += 1
        training += time.perf_counter() - began
    return Timing(steps, training, training, list(network.parameters()))


def ewc_by_hand(tasks: Images, weights: Iterable[Tensor], *, merge: bool) -> Timing:
    """merge: one quadratic that all old tasks share, instead of a term for each of them."""
    network = mlp(weights)
    steps, training, whole = 0, 0.0, 0.0
    past: list[Quadratic] = []
    for task, (images, labels) in enumerate(tasks):
        began = time.perf_counter()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
        unseen = torch.arange(10) >= 2 * (task + 1)
        for rows in rows_of(len(labels), task):
            loss = F.cross_entropy(network(images[rows]).masked_fill(unseen, LOWEST), labels[rows])
            for fisher, old in past:
                for f, p, p_old in zip(fisher, network.parameters(), old, strict=True):
                    loss = loss + STRENGTH / 2 * (f * (p - p_old) ** 2).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steps += 1
        training += time.perf_counter() - began
        fisher = fisher_by_hand(network, images, unseen)
        past.append((fisher, [p.detach().clone() for p in network.parameters()]))
        if merge:
            past = [merged(past)]
        whole += time.perf_counter() - began
    return Timing(steps, training, whole, list(network.parameters()))


def fisher_by_hand(network: nn.Sequential, images: Tensor, unseen: Tensor) -> list[Tensor]:
    """The exact diagonal for this one network: a linear layer's is made of inputs and output gradients."""
    fisher = [torch.zeros_like(p) for p in network.parameters()]
    for x in images.split(512):
        inputs, outputs = [], []
        for layer in network:
            if isinstance(layer, nn.Linear):
                inputs.append(x.detach())
            x = layer(x)
            if isinstance(layer, nn.Linear):
                outputs.append(x)
        log_p = x.masked_fill(unseen, LOWEST).log_softmax(1)
        squares = [torch.zeros_like(z) for z in outputs]
        for c in range(int((~unseen).sum())):
            score = (log_p[:, c].detach().exp().sqrt() * log_p[:, c]).sum()
            gradients = torch.autograd.grad(score, outputs, retain_graph=True)
            for square, g in zip(squares, gradients, strict=True):
                square += g.square()
        for i, (a, square) in enumerate(zip(inputs, squares, strict=True)):
            fisher[2 * i] += square.T @ a.square()
            fisher[2 * i + 1] += square.sum(0)
    return [f / len(images) for f in fisher]


def merged(past: list[Quadratic]) -> Quadratic:
    """The quadratic with the gradient of the sum of these."""
    fisher = [torch.stack(fs).sum(0) for fs in zip(*(fisher for fisher, _ in past), strict=True)]
    pulls = [[f * old for f, old in zip(*one, strict=True)] for one in past]
    pull = [torch.stack(one).sum(0) for one in zip(*pulls, strict=True)]
    return fisher, [torch.where(f > 0, p / f, 0.0) for f, p in zip(fisher, pull, strict=True)]


def wgan_gp_by_hand(tasks: Images, weights: Iterable[Tensor]) -> Timing:
    """A generator and a critic, carried on from task to task."""
    weights = list(weights)
    layers = (
        nn.Linear(Z_DIM, 256),
        nn.ReLU(),
        nn.Linear(256, 256),
        nn.ReLU(),
        nn.Linear(256, 784),
        nn.Sigmoid(),
    )
    G = with_weights(nn.Sequential(*layers), weights[:6])
    layers = (
        nn.Linear(784, 256),
        nn.LeakyReLU(0.2),
        nn.Linear(256, 256),
        nn.LeakyReLU(0.2),
        nn.Linear(256, 1),
    )
    D = with_weights(nn.Sequential(*layers), weights[6:])
    steps, training = 0, 0.0
    for task, (images, labels) in enumerate(tasks):
        torch.manual_seed(derive(0, "phase", task, 0))
        began = time.perf_counter()
        of_G = torch.optim.Adam(G.parameters(), lr=1e-3, betas=(0.5, 0.9))
        of_D = torch.optim.Adam(D.parameters(), lr=1e-3, betas=(0.5, 0.9))
        for i, rows in enumerate(rows_of(len(labels), task)):
            real = images[rows].flatten(1)
            with torch.no_grad():
                fake = G(torch.randn(len(real), Z_DIM))
            between = torch.lerp(fake, real, torch.rand(len(real), 1)).requires_grad_()
            (slope,) = torch.autograd.grad(D(between).sum(), between, create_graph=True)
            penalty = ((slope.norm(dim=1) - 1) ** 2).mean()
            of_fake, of_real = D(torch.cat([fake, real])).chunk(2)
            loss = of_fake.mean() - of_real.mean() + LAMBDA_GP * penalty
            of_D.zero_grad()
            loss.backward()
            of_D.step()
            if (i + 1) % N_CRITIC == 0:
                D.requires_grad_(False)
                loss = -D(G(torch.randn(len(real), Z_DIM))).mean()
                of_G.zero_grad()
                loss.backward()
                of_G.step()
                D.requires_grad_(True)
            steps += 1
        training += time.perf_counter() - began
    return Timing(steps, training, training, [*G.parameters(), *D.parameters()])


def acgan_by_hand(tasks: Images, weights: Iterable[Tensor]) -> Timing:
    """A generator and a discriminator with two heads, carried on from task to task."""
    weights = list(weights)
    layers = (nn.Linear(Z_DIM + 10, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 784), nn.Sigmoid())
    G = with_weights(nn.Sequential(*layers), weights[:6])
    features = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU())
    features = with_weights(features, weights[6:10])
    classes = with_weights(nn.Sequential(nn.Linear(256, 10)), weights[10:12])
    critic = with_weights(nn.Sequential(nn.Linear(256, 1)), weights[12:14])
    D = nn.ModuleList([features, classes, critic])
    steps, training = 0, 0.0
    for task, (images, labels) in enumerate(tasks):
        torch.manual_seed(derive(0, "phase", task, 0))
        began = time.perf_counter()
        of_G = torch.optim.Adam(G.parameters(), lr=1e-3, betas=(0.5, 0.9))
        of_D = torch.optim.Adam(D.parameters(), lr=1e-3, betas=(0.5, 0.9))
        unseen = torch.arange(10) >= 2 * (task + 1)
        for i, rows in enumerate(rows_of(len(labels), task)):
            real, y = images[rows].flatten(1), labels[rows]
            condition = F.one_hot(y, 10).float()
            with torch.no_grad():
                fake = G(torch.cat([torch.randn(len(y), Z_DIM), condition], 1))
            between = torch.lerp(fake, real, torch.rand(len(y), 1)).requires_grad_()
            (slope,) = torch.autograd.grad(critic(features(between)).sum(), between, create_graph=True)
            penalty = ((slope.norm(dim=1) - 1) ** 2).mean()
            seen = features(torch.cat([fake, real]))
            of_fake, of_real = critic(seen).chunk(2)
            error = F.cross_entropy(classes(seen[len(y) :]).masked_fill(unseen, LOWEST), y)
            loss = of_fake.mean() - of_real.mean() + LAMBDA_GP * penalty + error
            of_D.zero_grad()
            loss.backward()
            of_D.step()
            if (i + 1) % N_CRITIC == 0:
                D.requires_grad_(False)
                seen = features(G(torch.cat([torch.randn(len(y), Z_DIM), condition], 1)))
                loss = F.cross_entropy(classes(seen).masked_fill(unseen, LOWEST), y) - critic(seen).mean()
                of_G.zero_grad()
                loss.backward()
                of_G.step()
                D.requires_grad_(True)
            steps += 1
        training += time.perf_counter() - began
    return Timing(steps, training, training, [*G.parameters(), *D.parameters()])


# ---------------------------------------------------------------------------------------------------- ours


def ours(
    settings: dict[str, Any], tasks: list[Task], method: Method, learn: Callable[[Method, Task, Fit], None]
) -> Timing:
    """`learn` on each task, as the runner does it; without measuring in between."""
    steps, training, whole = 0, 0.0, 0.0
    with TemporaryDirectory() as path:
        folder, logger = RunFolder(Path(path), "speed"), CSVLog()
        logger.start(folder.path, "speed", "speed", {}, "", [], 0)
        context = {"folder": folder, "logger": logger, "seed": 0, "n_tasks": len(tasks)}
        fit = build(settings["trainer"], "trainer", checkpoint_every=settings["checkpoint_every"], **context)
        for task in tasks:
            method.task = task.index
            with fit.task(task.index):
                began = time.perf_counter()
                learn(method, task, fit)
                whole += time.perf_counter() - began
            steps += sum(phase["steps"] for phase in fit.phases)
            training += sum(phase["seconds"] for phase in fit.phases)
    return Timing(steps, training, whole, weights_of(method))


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

BY_HAND = {
    "finetune": {"": finetune_by_hand},
    "ewc": {
        "one penalty": partial(ewc_by_hand, merge=True),
        "one per old task": partial(ewc_by_hand, merge=False),
    },
    "wgan_gp": {"": wgan_gp_by_hand},
    "acgan": {"": acgan_by_hand},
}
OURS = {
    "finetune": (learn_task, ["method=finetune"]),
    "ewc": (learn_task, ["method=ewc", f"method.strength={STRENGTH}", "method.fisher_labels=exact"]),
    "wgan_gp": (
        learn_images,
        [
            "method=dgr",
            f"method.gan.n_critic={N_CRITIC}",
            f"method.gan.lambda_gp={LAMBDA_GP}",
            f"method.gan.generator.z_dim={Z_DIM}",
            "method.gan.generator.hidden=[256,256]",
            "method.gan.critic.hidden=[256,256]",
            "method.gan.optimizer.lr=0.001",
            "method.gan.optimizer.betas=[0.5,0.9]",
        ],
    ),
    "acgan": (
        learn_images,
        [
            "method=dgr",
            "gan@method.gan=acgan_mlp",
            f"method.gan.n_critic={N_CRITIC}",
            f"method.gan.lambda_gp={LAMBDA_GP}",
            f"method.gan.generator.z_dim={Z_DIM}",
            "method.gan.generator.hidden=[256,256]",
            "method.gan.discriminator.network.hidden=[256,256]",
            "method.gan.optimizer.lr=0.001",
            "method.gan.optimizer.betas=[0.5,0.9]",
        ],
    ),
}


def compare(name: str, data_dir: str, repeats: int) -> tuple[list[Timing], dict[str, list[Timing]]]:
    """Ours, and each loop by hand; they take turns, after a short one that isn't counted and warms all up.

    Raises RuntimeError where they didn't learn the same in that one (later rounding makes GANs part ways).
    """
    learn, choices = OURS[name]
    settings = compose(*SETTINGS, f"data_dir={data_dir}", *choices)
    scenario, method = prepare(settings)
    weights = [p.detach().clone() for p in weights_of(method)]

    def turn(tasks: list[Task]) -> tuple[Timing, dict[str, Timing]]:
        images = [(task.train.images.float() / 255, task.train.labels) for task in tasks]
        mine = ours(settings, tasks, copy.deepcopy(method), learn)
        return mine, {what: loop(images, weights) for what, loop in BY_HAND[name].items()}

    some = torch.arange(5 * 128)
    mine, by_hand = turn([replace(task, train=task.train[some]) for task in scenario.tasks[:2]])
    for what, timing in by_hand.items():
        gap = distance(mine.weights, timing.weights) / distance(mine.weights, weights)
        if mine.steps != timing.steps or gap > 0.03:
            raise RuntimeError(f"{name}, {what}: something else was learned by hand (by {gap:.0%})")
    mine, by_hand = zip(*(turn(scenario.tasks) for _ in range(repeats)), strict=True)
    return list(mine), {what: [one[what] for one in by_hand] for what in BY_HAND[name]}


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
    parser = argparse.ArgumentParser(description="training time of ours over that of a loop written by hand")
    parser.add_argument("--data-dir", default="data", help="folder of MNIST/raw (default: %(default)s)")
    parser.add_argument("--methods", default=",".join(BY_HAND), help="comma-separated (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="turns counted (default: %(default)s)")
    args = parser.parse_args()
    unknown = set(args.methods.split(",")) - set(BY_HAND)
    if unknown or args.repeats < 1:
        parser.error(f"no such method: {', '.join(sorted(unknown))}" if unknown else "--repeats: at least 1")

    torch.set_num_threads(1)
    caption = "training: the steps; whole: with all that learning a task takes"
    columns = ("what", "part", "by hand\nms/step", "ours\nms/step", "ratio\nmedian", "\nmin-max")
    table = Table(*columns, caption=caption)
    for name in args.methods.split(","):
        mine, by_hand = compare(name, args.data_dir, args.repeats)
        for what, theirs in by_hand.items():
            for part in ("training", "whole"):
                table.add_row(*row(f"{name}, {what}" if what else name, part, mine, theirs))
    Console().print(table)


if __name__ == "__main__":
    main()
