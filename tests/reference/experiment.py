"""Which loop by hand stands beside which configuration of ours, and what is compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cl_bench.data.problem import Task
from cl_bench.methods.base import Fit, Method
from cl_bench.methods.dgr import DGR
from reference import columns, common, gans, isolation, regularization, replay
from reference.common import Images, Timing

EXPERIMENT = (
    "optimizer=sgd",
    "optimizer.lr=0.01",
    "optimizer.momentum=0.9",
    "trainer.batch_size=128",
    "trainer.epochs=1",
    "trainer.iterations=null",
)
BY_HAND: dict[str, dict[str, Callable[[Images, Sequence[Tensor]], Timing]]] = {
    "finetune": {"": regularization.finetune},
    "ewc": {
        "one penalty": partial(regularization.ewc, merge=True),
        "one per old task": partial(regularization.ewc, merge=False),
    },
    "si": {"": regularization.si},
    "mas": {
        "gradient added": partial(regularization.mas, autograd=False),
        "penalty in the loss": partial(regularization.mas, autograd=True),
    },
    "rwalk": {"": regularization.rwalk},
    "lwf": {"": regularization.lwf},
    "er": {"": replay.er},
    "der": {"": replay.der},
    "gem": {"": replay.gem},
    "agem": {"": replay.agem},
    "icarl": {"": replay.icarl},
    "packnet": {"": isolation.packnet},
    "hat": {"": isolation.hat},
    "pnn": {"": columns.pnn},
    "progress_compress": {"": columns.progress_compress},
    "wgan_gp": {"": gans.wgan_gp},
    "acgan": {"": gans.acgan},
}
GAN = (
    "method=dgr",
    f"method.gan.n_critic={common.N_CRITIC}",
    f"method.gan.lambda_gp={common.LAMBDA_GP}",
    f"method.gan.generator.z_dim={common.Z_DIM}",
    "method.gan.generator.hidden=[256,256]",
    "method.gan.optimizer.lr=0.001",
    "method.gan.optimizer.betas=[0.5,0.9]",
)
REGULARISED = f"method.strength={common.STRENGTH}"
OURS: dict[str, Sequence[str]] = {
    "finetune": ["method=finetune"],
    "ewc": ["method=ewc", f"method.strength={common.EWC_STRENGTH}", "method.fisher_labels=exact"],
    "si": ["method=si", REGULARISED, f"method.damping={common.DAMPING}"],
    "mas": ["method=mas", REGULARISED],
    "rwalk": [
        "method=rwalk",
        REGULARISED,
        f"method.damping={common.DAMPING}",
        f"method.fisher_rate={common.FISHER_RATE}",
        f"method.interval={common.INTERVAL}",
    ],
    "lwf": ["method=lwf", "method.strength=1", f"method.temperature={common.TEMPERATURE}", "method.weighting=sum"],
    "er": [
        "method=er",
        "method.selection=random",
        "memory.per=class",
        f"memory={common.ER_BUDGET}",
        "method.weighting=joint",
    ],
    "der": ["method=der", f"memory={common.DER_BUDGET}", f"method.alpha={common.ALPHA}", "method.beta=0"],
    "gem": ["method=gem", "memory.per=task", f"memory={common.GEM_BUDGET}", f"method.margin={common.MARGIN}"],
    "agem": [
        "method=agem",
        "memory.per=class",
        f"memory={common.AGEM_BUDGET}",
        f"method.n_replay={common.AGEM_REPLAY}",
    ],
    "icarl": ["method=icarl", "memory.per=total", f"memory={common.EXEMPLARS}"],
    "packnet": ["method=packnet", f"method.prune={common.PRUNE}"],
    "hat": [
        "method=hat",
        f"method.s_max={common.S_MAX}",
        f"method.sparsity={common.SPARSITY}",
        f"method.embedding_lr={common.EMBEDDING_LR}",
    ],
    "pnn": ["method=pnn", "method.init=random", "method.earlier=learned"],
    "progress_compress": [
        "method=progress_compress",
        f"method.strength={common.KNOWN_STRENGTH}",
        f"method.decay={common.KNOWN_DECAY}",
        f"method.temperature={common.TEMPERATURE}",
        "method.reinitialize=true",
        "method.fisher_samples=null",
    ],
    "wgan_gp": [*GAN, "method.gan.critic.hidden=[256,256]"],
    "acgan": [*GAN, "gan@method.gan=acgan_mlp", "method.gan.discriminator.network.hidden=[256,256]"],
}
TASK_INCREMENTAL = ("packnet", "hat", "pnn", "progress_compress")
GANS = ("wgan_gp", "acgan")


def scenario_of(name: str) -> str:
    """Task-incremental where the task must be given."""
    return f"scenario={'task' if name in TASK_INCREMENTAL else 'class'}_incremental"


def images_of(tasks: Sequence[Task]) -> Images:
    """As the loops take them."""
    return [(task.train.images.float() / 255, task.train.labels) for task in tasks]


def weights_of(method: Method) -> list[Tensor]:
    """What is trained here: of DGR only the generative memory."""
    if isinstance(method, DGR):
        return [*method.gan.generator.parameters(), *method.gan.discriminator.parameters()]
    return [p for p in method.parameters() if p.requires_grad]


def learn_task(method: Method, task: Task, fit: Fit) -> None:
    """All that the method does with a task."""
    method.learn_task(task, fit)


def learn_images(method: Any, task: Task, fit: Fit) -> None:
    """DGR's generator alone, on the task's own images."""
    method.index = task.index
    fit(method.gan, task.train, phase="generator", step=partial(method.gan.train_step, allowed=method.seen), epochs=1)


def learning(name: str) -> Callable[[Method, Task, Fit], None]:
    """What of ours stands beside the loop."""
    return learn_images if name in GANS else learn_task


def by_hand(name: str, tasks: Sequence[Task], weights: Sequence[Tensor]) -> dict[str, Timing]:
    """Each loop of this method, on the device of the images."""
    images = images_of(tasks)
    with torch.device(images[0][0].device):
        return {what: loop(images, weights) for what, loop in BY_HAND[name].items()}


def gap(mine: Sequence[Tensor], theirs: Sequence[Tensor], weights: Sequence[Tensor]) -> float:
    """Between two sets of weights, over the way of the first from those at the beginning (0 for later ones)."""
    weights = [*weights, *common.zeros(mine[len(weights) :])]
    return distance(mine, theirs) / distance(mine, weights)


def distance(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """Euclidean, over all weights at once."""
    return float(torch.stack([(p - q).detach().norm() for p, q in zip(a, b, strict=True)]).norm())
