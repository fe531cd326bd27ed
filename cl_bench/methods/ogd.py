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
from cl_bench.methods.parts.sizes import machine_memory, most_that_fits
from cl_bench.methods.parts.subspaces import (
    FactoredSpace,
    Gradients,
    GradientSpace,
    InputSpace,
    inputs_tell_all,
    layers_are_factors,
)
from cl_bench.networks.base import Network
from cl_bench.networks.masks import Frozen
from cl_bench.networks.optimizers import Optimizer


class OGD(Classifier):
    """Objective at task t: the cross-entropy on its images. Steps do not change, to first order, the outputs for kept
    images of old tasks.

    Each update u of the optimizer (with its momentum and weight decay) becomes u - sum_v <u, v> v, where v are an
    orthonormal basis of a space that grows when a task ends.

    space=gradients (Farajtabar et al., 2020, algorithm 1): the space of the gradients of logits, d f_c(x) / d theta,
    for kept images x, at the weights at the end of their task. u is the update of all weights, as one vector. For a
    network of linear layers the factors of the gradients are kept if they are smaller, see `FactoredSpace`.

    space=inputs (gradient projection memory, GPM; Saha et al., 2021): for each layer the space of its inputs for kept
    images. Each task adds the fewest directions that leave at most a share 1 - energy of the squared length of its
    inputs outside (equations 5 and 9). u is each row of the update of the layer's weight. A bias is the weight of an
    input that is always 1. A convolution has an input at each position.

    In task-incremental learning the head is not projected: each task has its own rows of it, and only the rows of the
    current task change.

    Args:
        space: `gradients` or `inputs`, as above.
        gradients: of which logits. `all`: each logit that may answer; `average`: their mean; `true_label`: the logit of
            the label.
        samples: number of images per task that span the space.
        energy: for `inputs`, in the first layer and in the others; a higher value forgets less and learns less.

    Raises InputError if the gradients need more memory than this machine has, and for layers that `inputs` does not
    support.
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
            check_memory(self.space, problem, samples, inputs_tell_all(network, self.projected))
        self._frozen = Frozen({})  # set again at each task, so it is not in the state

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
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):  # half precision is not orthogonal
            for weight, old, part in zip(weights, before, self.space.project(changes(weights, before)), strict=True):
                torch.add(old, part, out=weight)
        self._frozen.restore()
        return logs


def changes(weights: Sequence[Tensor], before: Sequence[Tensor]) -> Sequence[Tensor]:
    """weights - before, for each tensor; also for no tensors, which torch refuses."""
    return torch._foreach_sub(weights, before) if weights else []  # pyright: ignore


def answering(problem: Problem, index: int) -> Tensor:
    """The outputs that may answer for images of a task at its end, bool (n_outputs,). index: the task, from 0."""
    return problem.mask(problem.rules["evaluation"], after=index)[index]


def gradients_of_an_image(problem: Problem, gradients: Gradients) -> int:
    """Number of gradients for one image of each task, summed over all tasks."""
    every = gradients == "all"
    return sum(int(answering(problem, task).sum()) if every else 1 for task in range(problem.n_tasks))


def check_memory(space: GradientSpace | FactoredSpace, problem: Problem, samples: int, inputs: bool) -> None:
    """Raises InputError for a space that needs more memory than this machine has, before the training starts.

    Args:
        samples: number of images per task that span the space.
        inputs: whether the layers' inputs can be projected instead.
    """
    memory = machine_memory()

    def needed(samples: int, gradients: Gradients = space.gradients) -> int:
        # 4, measured with `GradientSpace`: the space, a larger one while it grows, and copies for checkpoints
        return 4 * space.bytes_for(samples * gradients_of_an_image(problem, gradients))

    if needed(samples) > memory:
        fitting = most_that_fits(samples, needed, memory)
        ways = [f"method.samples={fitting}"] if fitting else []
        ways += ["method.gradients=true_label"] if needed(samples, "true_label") <= memory else []
        ways += ["method.space=inputs"] if inputs else []
        n_gradients = samples * gradients_of_an_image(problem, space.gradients)
        raise InputError(
            f"method.samples={samples}: {n_gradients:,} gradients of {space.n_weights:,} weights need "
            f"{needed(samples) / 2**30:,.1f} GB of memory, and this machine has {memory / 2**30:,.1f} GB; choose "
            f"{' or '.join(ways or ['a smaller network'])}"
        )
