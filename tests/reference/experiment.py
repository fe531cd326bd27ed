"""Which loop by hand stands beside which configuration of ours, and what is compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cl_bench.data.batches import Data
from cl_bench.data.problem import Task
from cl_bench.methods.base import Fit, Method
from cl_bench.methods.dgr import DGR
from cl_bench.methods.parts.frozen_features import FrozenFeatures
from cl_bench.methods.ranpac import RanPAC
from cl_bench.methods.supsup import SupSup
from reference import (
    columns,
    common,
    exemplars,
    features,
    gans,
    growing,
    isolation,
    meta,
    meta_training,
    online,
    plastic,
    projection,
    regularization,
    replay,
    supermasks,
)
from reference.common import Images, Timing

EXPERIMENT = (
    "optimizer=sgd",
    "optimizer.lr=0.01",
    "optimizer.momentum=0.9",
    "trainer.batch_size=128",
    "trainer.epochs=1",
    "trainer.iterations=null",
)
BY_HAND: dict[str, dict[str, Callable[..., Timing]]] = {
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
    "er_ace": {"": online.er_ace},
    "mir": {"": online.mir},
    "gss": {"": online.gss},
    "gem": {"": replay.gem},
    "agem": {"": replay.agem},
    "icarl": {"": replay.icarl},
    "wa": {"": exemplars.wa},
    "bic": {"": exemplars.bic},
    "ss_il": {"": exemplars.ss_il},
    "lucir": {"": exemplars.lucir},
    "mer": {"": meta.mer},
    "la_maml": {"": meta.la_maml},
    "packnet": {"": isolation.packnet},
    "hat": {"": isolation.hat},
    "pnn": {"": columns.pnn},
    "progress_compress": {"": columns.progress_compress},
    "continual_backprop": {"": plastic.continual_backprop},
    "shrink_perturb": {"": plastic.shrink_perturb},
    "supsup": {"": supermasks.supsup},
    "clnp": {"": supermasks.clnp},
    "den": {"": growing.den},
    "ogd": {"": projection.ogd},
    "gpm": {"": projection.gpm},
    "meta_regularized": {"": projection.meta_regularized},
    "oml": {"": meta_training.oml},
    "ncm": {"": features.ncm},
    "simple_cil": {"": features.simple_cil},
    "slda": {"": features.slda},
    "fecam": {"": features.fecam},
    "ranpac": {"": features.ranpac},
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
REGULARIZED = f"method.strength={common.STRENGTH}"
ONLINE = (f"memory={common.ONLINE_BUDGET}", f"trainer.batch_size={online.BATCH_SIZE}")
OURS: dict[str, Sequence[str]] = {
    "finetune": ["method=finetune"],
    "ewc": ["method=ewc", f"method.strength={common.EWC_STRENGTH}", "method.fisher_labels=exact"],
    "si": ["method=si", REGULARIZED, f"method.damping={common.DAMPING}"],
    "mas": ["method=mas", REGULARIZED],
    "rwalk": [
        "method=rwalk",
        REGULARIZED,
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
    "er_ace": ["method=er_ace", *ONLINE],
    "mir": ["method=mir", *ONLINE],
    "gss": ["method=gss", *ONLINE, "method.selection=greedy", f"method.n_compared={online.COMPARED}"],
    "gem": ["method=gem", "memory.per=task", f"memory={common.GEM_BUDGET}", f"method.margin={common.MARGIN}"],
    "agem": [
        "method=agem",
        "memory.per=class",
        f"memory={common.AGEM_BUDGET}",
        f"method.n_replay={common.AGEM_REPLAY}",
    ],
    "icarl": ["method=icarl", "memory.per=total", f"memory={common.EXEMPLARS}"],
    "wa": [
        "method=wa",
        f"memory={common.FEW_EXEMPLARS}",
        f"method.temperature={common.TEMPERATURE}",
        "method.clip=true",
    ],
    "bic": [
        "method=bic",
        f"memory={common.FEW_EXEMPLARS}",
        f"method.temperature={common.TEMPERATURE}",
        f"method.held_out={common.HELD_OUT}",
        f"method.ridge={common.RIDGE}",
    ],
    "ss_il": [
        "method=ss_il",
        f"memory={common.FEW_EXEMPLARS}",
        f"method.temperature={common.TEMPERATURE}",
        f"method.n_replay={common.SEPARATED_REPLAY}",
    ],
    "lucir": [
        "method=lucir",
        f"memory={common.FEW_EXEMPLARS}",
        f"method.strength={common.LUCIR_STRENGTH}",
        f"method.margin={common.LUCIR_MARGIN}",
        f"method.top={common.TOP}",
    ],
    "mer": [
        "method=mer",
        f"memory={meta.PLACES}",
        f"optimizer.lr={meta.RATE}",
        "optimizer.momentum=0",
        f"method.beta={meta.BETA}",
        f"method.gamma={meta.GAMMA}",
        f"method.n_replay={meta.WALK}",
        f"method.repeats={meta.WALKS}",
    ],
    "la_maml": [
        "method=la_maml",
        f"memory={meta.PLACES}",
        f"method.inner_lr={meta.ALPHA}",
        f"method.rate_lr={meta.ETA}",
        f"method.glances={meta.GLANCES}",
        "method.n_replay=null",
        f"method.clip={meta.CLIP}",
    ],
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
    "continual_backprop": [
        "method=continual_backprop",
        f"method.replacement_rate={plastic.REPLACEMENT_RATE}",
        f"method.maturity={plastic.MATURITY}",
        f"method.decay={plastic.DECAY}",
    ],
    "shrink_perturb": ["method=shrink_perturb", f"method.shrink={plastic.SHRINK}", f"method.noise={plastic.NOISE}"],
    "supsup": ["method=supsup", "method.superfluous=0"],
    "clnp": [
        "method=clnp",
        f"method.l1={common.L1}",
        f"method.margin={common.VAL_MARGIN}",
        f"scenario.val_fraction={common.VAL_FRACTION}",
    ],
    "den": [
        "method=den",
        f"method.l1={growing.DEN_L1}",
        f"method.l2={growing.DEN_L2}",
        f"method.group_lasso={growing.DEN_GROUP}",
        f"method.pull={growing.DEN_PULL}",
        "method.tau=0",
        f"method.sigma={growing.DEN_SIGMA}",
        f"method.new_units={growing.DEN_UNITS}",
    ],
    "ogd": ["method=ogd", "method.space=gradients", f"method.samples={common.OGD_SAMPLES}"],
    "gpm": [
        "method=ogd",
        "method.space=inputs",
        f"method.samples={common.OGD_SAMPLES}",
        f"method.energy=[{common.ENERGY[0]},{common.ENERGY[1]}]",
    ],
    "meta_regularized": [
        "method=meta_regularized",
        "method.strength=1",
        f"method.temperature={common.TEMPERATURE}",
        f"method.pull={common.META_PULL}",
        f"method.rate={common.META_RATE}",
    ],
    "oml": [
        "method=oml",
        f"scenario.meta_classes={meta_training.META_CLASSES}",
        "scenario.n_tasks=3",
        f"method.meta_steps={meta_training.META_STEPS}",
        f"method.meta_lr={meta_training.META_LR}",
        f"method.inner_lr={meta_training.INNER_LR}",
        f"method.inner_steps={meta_training.INNER_STEPS}",
        f"method.trajectory_classes={meta_training.TRAJECTORY_CLASSES}",
        f"method.remembered={meta_training.REMEMBERED}",
        "method.pretraining=meta",
    ],
    "ncm": ["method=ncm"],
    "simple_cil": ["method=simple_cil"],
    "slda": ["method=slda", f"method.shrinkage={features.SHRINKAGE}"],
    "fecam": ["method=fecam"],
    "ranpac": ["method=ranpac", f"method.projections={features.PROJECTIONS}", f"method.ridge={features.RIDGE}"],
    "wgan_gp": [*GAN, "method.gan.critic.hidden=[256,256]"],
    "acgan": [*GAN, "gan@method.gan=acgan_mlp", "method.gan.discriminator.network.hidden=[256,256]"],
}
TASK_INCREMENTAL = ("packnet", "hat", "pnn", "progress_compress", "supsup", "clnp", "den")
VALIDATED = ("clnp",)  # the loop is given validation images too
META_TRAINED = ("oml",)  # and these those of the classes set apart
GANS = ("wgan_gp", "acgan")
EACH_IMAGE = ("mer", "la_maml")  # steps, or looks ahead, for every image: fewer of them do


def scenario_of(name: str) -> str:
    """Task-incremental where the task must be given."""
    return f"scenario={'task' if name in TASK_INCREMENTAL else 'class'}_incremental"


def batch_size_of(name: str) -> int:
    """Images in a mini-batch."""
    return online.BATCH_SIZE if name in ("er_ace", "mir", "gss") else 128


def images_of(tasks: Sequence[Data]) -> Images:
    """As the loops take them."""
    return [(data.images / 255, data.labels) for data in tasks]


def weights_of(method: Method) -> list[Tensor]:
    """What is trained here: of DGR only the generative memory; of SupSup the weights under the mean of its masks; on
    frozen features what answers, beside the network, and RanPAC's projection."""
    if isinstance(method, FrozenFeatures):
        projection = [method.projection] if isinstance(method, RanPAC) else []
        return [*method.network.parameters(), *method.answer, *projection]
    if isinstance(method, DGR):
        return [*method.gan.generator.parameters(), *method.gan.discriminator.parameters()]
    if isinstance(method, SupSup):
        weights = zip(method.weights.values(), method.supermasks, strict=True)
        n = method.n_masks
        return [weight * sum(masks[task] for task in range(n)) / n if n else weight for weight, masks in weights]
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
    images = images_of([task.train for task in tasks])
    given = [images_of([task.val for task in tasks])] if name in VALIDATED else []
    given += [images_of([task.meta for task in tasks if task.meta])] if name in META_TRAINED else []
    with torch.device(images[0][0].device):
        return {what: loop(images, weights, *given) for what, loop in BY_HAND[name].items()}


def gap(mine: Sequence[Tensor], theirs: Sequence[Tensor], weights: Sequence[Tensor]) -> float:
    """Between two sets of weights, over the way of the first from those at the beginning (0 for later ones)."""
    weights = [*map(padded, weights, mine), *common.zeros(mine[len(weights) :])]
    return distance(mine, theirs) / distance(mine, weights)


def padded(weight: Tensor, like: Tensor) -> Tensor:
    """With 0 at the end of each dimension for what was added later."""
    room = torch.zeros_like(like)
    room[tuple(map(slice, weight.shape))] = weight
    return room


def distance(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """Euclidean, over all weights at once."""
    return float(torch.stack([(p - q).detach().norm() for p, q in zip(a, b, strict=True)]).norm())
