"""Orthogonal gradient descent (Farajtabar et al., 2020), and gradient projection memory (Saha et al., 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from cl_bench.config import InputError, Positive, Share
from cl_bench.data.batches import Batch
from cl_bench.data.problem import Problem, Task
from cl_bench.methods.base import Classifier, Fit
from cl_bench.methods.parts.importance import eval_mode
from cl_bench.methods.parts.subspaces import FactoredSpace, Gradients, GradientSpace, InputSpace, layers_are_factors
from cl_bench.networks.base import Network
from cl_bench.networks.masks import Frozen
from cl_bench.networks.optimizers import Optimizer


class OGD(Classifier):
    """Objective at task t: the cross-entropy on its own images, by steps that change, to first order, nothing of what
    the network says of kept images of old tasks.

    Each update u of the optimizer, momentum and weight decay included, is replaced by its part orthogonal to a space
    that grows when a task ends: u - sum_v <u, v> v, over an orthonormal basis.

    gradients (Farajtabar et al., 2020, algorithm 1): the space of the gradients of logits, d f_c(x) / d theta, for kept
    images x, at the weights that their task left. u is the update of all weights, as one vector. Of a network of linear
    layers their factors are kept where these are smaller, see `FactoredSpace`.

    inputs (gradient projection memory, Saha et al., 2021): for each layer the space of what it is given for kept
    images. Each task adds the fewest directions that leave at most a share 1 - energy of the squared length of its
    inputs outside (equations 5 and 9). u is each row of the update of the layer's weight. A bias is the weight of an
    input that is always 1; a convolution has an input at each position.

    In task-incremental learning the head is not projected: each task has its own rows of it, and only those of the
    current task move.

    Args:
        space: of `gradients` or of `inputs`.
        gradients: of each logit that may answer (all), of their mean (average), or of the true label's (true_label).
        samples: images of each task that span the space.
        energy: of inputs, in the first layer and in all others; higher forgets less and learns less.

    Raises InputError for gradients that this machine can't hold, and for layers whose inputs can't be projected.
    """

    family = "optimization"
    unread: ClassVar[dict[str, dict[str, Any]]] = {
        "gradients": {"space": "inputs"},
        "energy": {"space": "gradients"},
    }

    def __init__(
        self,
        problem: Problem,
        network: Network,
        optimizer: Optimizer,
        *,
        space: Literal["gradients", "inputs"],
        gradients: Gradients,
        samples: Positive,
        energy: tuple[Share, Share],
    ) -> None:
        super().__init__(problem, network, optimizer)
        self.samples, self.own_heads = samples, problem.kind == "task"
        self.projected = [name for name in self.weights if not (self.own_heads and name.startswith("head."))]
        if space == "inputs":
            self.space: GradientSpace | FactoredSpace | InputSpace = InputSpace(network, self.projected, energy)
        else:
            spaces: list[GradientSpace | FactoredSpace] = [GradientSpace(network, self.projected, gradients)]
            if layers_are_factors(network, self.projected, problem.image_shape):
                spaces.append(FactoredSpace(network, self.projected, gradients))
            n_gradients = samples * gradients_of_an_image(problem, gradients)
            self.space = min(spaces, key=lambda space: space.bytes_for(n_gradients))
            check_memory(self.space, n_gradients, samples)
        self._frozen = Frozen({})  # follows from the state, so no part of it

    def learn(self, task: Task, fit: Fit) -> dict[str, list[int]]:
        if self.own_heads:
            head, others = self.network.head, self.task_of_output != task.index
            self._frozen = Frozen({head.weight: others[:, None], head.bias: others})
        super().learn(task, fit)
        rows = torch.randperm(len(task.train))[: self.samples].to(task.train.labels.device)
        with eval_mode(self.network), torch.no_grad():
            self.space.extend(self.network, task.train[rows], answering(self.problem, task.index).to(self.device))
        return {"directions": self.space.dimensions}

    def train_step(self, batch: Batch, optimizers: torch.optim.Optimizer) -> dict[str, Tensor]:
        if not self.index:
            logs = super().train_step(batch, optimizers)
            self._frozen.restore()
            return logs
        weights = [self.weights[name] for name in self.projected]
        before = [weight.detach().clone() for weight in weights]
        logs = super().train_step(batch, optimizers)
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):  # half precision would leave the space
            for weight, old, part in zip(weights, before, self.space.project(changes(weights, before)), strict=True):
                torch.add(old, part, out=weight)
        self._frozen.restore()
        return logs


def changes(weights: Sequence[Tensor], before: Sequence[Tensor]) -> Sequence[Tensor]:
    """weights - before, a tensor for each; none for none."""
    return torch._foreach_sub(weights, before) if weights else []  # pyright: ignore


def answering(problem: Problem, index: int) -> Tensor:
    """The outputs that may answer for an image of this task when it ends, bool (n_outputs,)."""
    return problem.mask(problem.rules["evaluation"], after=index)[index]


def gradients_of_an_image(problem: Problem, gradients: Gradients) -> int:
    """How many are kept of one image of each task, for all tasks together."""
    every = gradients == "all"
    return sum(int(answering(problem, task).sum()) if every else 1 for task in range(problem.n_tasks))


def check_memory(space: GradientSpace | FactoredSpace, n_gradients: int, samples: int) -> None:
    """Raises InputError for a space that this machine can't hold, before any memory is taken for it."""
    import psutil  # brings what this system has in place of POSIX's

    # the space, the next one while it grows, copies for checkpoints: measured of gradients that are written out
    needed, memory = 4 * space.bytes_for(n_gradients) / 2**30, psutil.virtual_memory().total / 2**30
    if needed > memory:
        more = ", method.gradients=true_label" if space.gradients == "all" else ""
        raise InputError(
            f"method.samples={samples}: {n_gradients:,} gradients of {space.n_weights:,} weights need {needed:,.1f} GB "
            f"of memory, and this machine has {memory:,.1f} GB; set fewer{more} or method.space=inputs"
        )
