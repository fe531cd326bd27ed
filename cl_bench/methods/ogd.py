"""Orthogonal gradient descent (Farajtabar et al., 2020), and gradient projection memory (Saha et al., 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_bench.config import InputError, Positive, Share
from cl_bench.data.batches import Batch, Data
from cl_bench.data.problem import Problem, Task
from cl_bench.methods.base import Classifier, Fit
from cl_bench.methods.parts.importance import SCRATCH, eval_mode, gradient_of_each, is_plain
from cl_bench.networks.base import Network
from cl_bench.networks.growing import Growing
from cl_bench.networks.masks import Frozen
from cl_bench.networks.optimizers import Optimizer

Gradients = Literal["all", "average", "true_label"]


class OGD(Classifier):
    """Objective at task t: the cross-entropy on its own images, by steps that change, to first order, nothing of what
    the network says of kept images of old tasks.

    Each update u of the optimizer, momentum and weight decay included, is replaced by its part orthogonal to a space
    that grows when a task ends: u - sum_v <u, v> v, over an orthonormal basis.

    gradients (Farajtabar et al., 2020, algorithm 1): the space of the gradients of logits, d f_c(x) / d theta, for kept
    images x, at the weights that their task left. u is the update of all weights, as one vector.

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
            self.space: GradientSpace | InputSpace = InputSpace(network, self.projected, energy)
        else:
            n_weights = sum(self.weights[name].numel() for name in self.projected)
            check_memory(problem, n_weights, gradients, samples)
            self.space = GradientSpace(self.projected, n_weights, gradients)
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
            return super().train_step(batch, optimizers)
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


def check_memory(problem: Problem, n_weights: int, gradients: Gradients, samples: int) -> None:
    """Raises InputError for a basis that this machine can't hold, before any memory is taken for it."""
    import psutil  # brings what this system has in place of POSIX's

    each = [int(answering(problem, task).sum()) if gradients == "all" else 1 for task in range(problem.n_tasks)]
    n_gradients = samples * sum(each)
    numbers = 4 * n_gradients * n_weights  # the basis, the next one while it grows, copies for checkpoints: measured
    needed, memory = 4 * numbers / 2**30, psutil.virtual_memory().total / 2**30
    if needed > memory:
        more = ", method.gradients=true_label" if gradients == "all" else ""
        raise InputError(
            f"method.samples={samples}: {n_gradients:,} gradients of {n_weights:,} weights need {needed:,.1f} GB of "
            f"memory, and this machine has {memory:,.1f} GB; set fewer{more} or method.space=inputs"
        )


class Subspace(Growing):
    """A space of vectors: an orthonormal basis, in rows. It is empty at first and grows.

    Args:
        width: numbers in a vector.
    """

    basis: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("basis", torch.empty(0, width))

    def project(self, u: Tensor) -> Tensor:
        """What of u is orthogonal to the space: of a vector (width,), or of each of the rows (N, width)."""
        if u.dim() == 1:
            return torch.addmv(u, self.basis.T, self.basis @ u, alpha=-1)
        return torch.addmm(u, u @ self.basis.T, self.basis, alpha=-1)

    def extend(self, vectors: Tensor, energy: float = 1.0) -> None:
        """Adds the fewest directions that leave at most a share 1 - energy of the vectors' squared length outside.

        What is left of the vectors (N, width) in a direction, where it is shorter than 1e-5 of the longest of them, is
        rounding, and dropped.

        >>> space = Subspace(2)
        >>> space.extend(torch.tensor([[3.0, 0.0], [0.0, 1.0]]), energy=0.9)
        >>> space.project(torch.tensor([5.0, 5.0])).tolist()
        [0.0, 5.0]
        """
        if not vectors.numel():
            return
        Q, R = torch.linalg.qr(self.project(vectors).T)  # the decomposition of the small R takes a third of the time
        _, lengths, directions = torch.linalg.svd(R.T, full_matrices=False)
        outside = lengths.double().square().flip(0).cumsum(0).flip(0)  # while this direction and the next are not in it
        needed = outside > (1 - energy) * (1 + 1e-6) * vectors.double().square().sum()  # of energy 0 rounding adds none
        needed &= lengths > 1e-5 * torch.linalg.vector_norm(vectors, dim=1).max()
        new = self.project(directions[needed] @ Q.T)  # again: of a short rest, rounding has lost the right angle
        self.basis = torch.cat([self.basis, torch.linalg.qr(new.T).Q.T])


class GradientSpace(nn.Module):
    """The space of gradients of logits with respect to parameters, taken together as one vector.

    Args:
        names: of the parameters of a network.
        n_weights: numbers in them.
        gradients: of which logits.
    """

    def __init__(self, names: Sequence[str], n_weights: int, gradients: Gradients) -> None:
        super().__init__()
        self.names = names
        self.gradients: Gradients = gradients
        self.subspace = Subspace(n_weights)

    @property
    def dimensions(self) -> list[int]:
        """Directions kept."""
        return [len(self.subspace.basis)]

    def project(self, update: Sequence[Tensor]) -> list[Tensor]:
        """What of an update of the parameters, a tensor for each, is orthogonal to the space."""
        if not update:
            return []
        u = self.subspace.project(torch.cat([part.flatten() for part in update]))
        parts = u.split([part.numel() for part in update])
        return [new.view(part.shape) for new, part in zip(parts, update, strict=True)]

    def extend(self, network: Network, data: Data, outputs: Tensor) -> None:
        """Adds the gradients for these images. outputs: those that may answer for them, bool (n_outputs,)."""
        each = torch.eye(len(outputs), device=outputs.device)
        one_hot = each[data.labels]
        chosen = {
            "all": [row.expand_as(one_hot) for row in each[outputs]],
            "average": [(outputs / outputs.sum()).expand_as(one_hot)],
            "true_label": [one_hot],
        }
        for weights in chosen[self.gradients]:
            vectors = self.vectors(network, data, weights)
            self.subspace.extend(F.normalize(vectors))  # a small gradient counts as much as a large one

    def vectors(self, network: Network, data: Data, of_logits: Tensor) -> Tensor:
        """For each image the gradient of a sum of logits, these (N, n_outputs) their weights; (N, n_weights)."""
        if not self.names:
            return of_logits.new_empty(len(data), 0)
        parameters = dict(network.named_parameters())
        shared, gradients = {name: parameters[name].detach() for name in self.names}, gradient_of_each(network)
        vectors, done = [], 0
        for batch in data.batches(max(1, SCRATCH // self.subspace.basis.shape[1])):
            found = gradients(shared, batch.x, of_logits[done : done + len(batch.y)])
            vectors.append(torch.cat([found[name].flatten(1) for name in self.names], 1))
            done += len(batch.y)
        return torch.cat(vectors)


class InputSpace(nn.Module):
    """For each linear or convolutional layer the space of its inputs.

    Args:
        network: that has the layers.
        names: of the parameters that are to be projected.
        energy: in the first layer, in all others.

    Raises InputError where one of the parameters belongs to another kind of layer.
    """

    def __init__(self, network: Network, names: Sequence[str], energy: tuple[float, float]) -> None:
        super().__init__()
        self.energy = energy
        layers = [name for name, layer in network.named_modules() if is_plain(layer)]
        parts = {layer: [name for name in names if name.rpartition(".")[0] == layer] for layer in layers}
        self.parts = {layer: own for layer, own in parts.items() if own}  # names of its weight and bias
        moved_by_every_task = network.state_dict().keys() - dict(network.named_parameters()).keys()
        if sum(map(len, self.parts.values())) < len(names) or moved_by_every_task:
            raise InputError(
                "method.space=inputs: it projects linear and convolutional layers, and this network has others, such "
                "as normalisation; choose method.space=gradients, or network=mlp"
            )
        self.names, weights = names, dict(network.named_parameters())
        self.subspaces = nn.ModuleList(
            Subspace(joined([weights[name] for name in own]).shape[1]) for own in self.parts.values()
        )

    @property
    def dimensions(self) -> list[int]:
        """Directions kept of each layer."""
        return [len(subspace.basis) for subspace in self.of_layers]

    @property
    def of_layers(self) -> list[Subspace]:
        return [subspace for subspace in self.subspaces if isinstance(subspace, Subspace)]

    def project(self, update: Sequence[Tensor]) -> list[Tensor]:
        """What of an update of the parameters, a tensor for each, is orthogonal to the space of its layer."""
        updates = dict(zip(self.names, update, strict=True))
        for subspace, own in zip(self.of_layers, self.parts.values(), strict=True):
            rows = subspace.project(joined([updates[name] for name in own]))
            widths = [updates[name][0].numel() for name in own]
            for name, part in zip(own, rows.split(widths, 1), strict=True):
                updates[name] = part.reshape(updates[name].shape)
        return list(updates.values())

    def extend(self, network: Network, data: Data, outputs: Tensor) -> None:
        """Adds what the layers are given for these images."""
        inputs = self.inputs(network, data)
        for i, (layer, subspace) in enumerate(zip(self.parts, self.of_layers, strict=True)):
            subspace.extend(inputs[layer], self.energy[min(i, 1)])

    def inputs(self, network: Network, data: Data) -> dict[str, Tensor]:
        """For each layer rows with the products and lengths of its inputs in all directions, (N, width): the inputs
        themselves, or a triangle in place of many."""
        seen: dict[str, Tensor] = {}

        def note(layer: nn.Module, args: tuple[Tensor, ...], name: str) -> None:
            rows = inputs_of(layer, args[0])
            rows = torch.cat([seen[name], rows]) if name in seen else rows
            seen[name] = torch.linalg.qr(rows, mode="r").R if len(rows) > 2 * rows.shape[1] else rows

        layers = dict(network.named_modules())
        hooks = [layers[name].register_forward_pre_hook(partial(note, name=name)) for name in self.parts]
        try:
            for batch in data.batches():
                network(batch.x)
        finally:
            for hook in hooks:
                hook.remove()
        return seen


def joined(parts: Sequence[Tensor]) -> Tensor:
    """The weight and the bias of a layer as one matrix, a row for each of its outputs."""
    return torch.cat([part.reshape(len(part), -1) for part in parts], 1)


def inputs_of(layer: nn.Module, x: Tensor) -> Tensor:
    """The vectors (N, width) by which the rows of the weight of a layer are multiplied when it is given x; with a bias
    each ends with 1.

    >>> inputs_of(nn.Linear(2, 5), torch.tensor([[3.0, 4.0]])).tolist()
    [[3.0, 4.0, 1.0]]
    """
    if isinstance(layer, nn.Conv2d):
        padding = 0 if layer.padding == "valid" else layer.padding
        patches = F.unfold(x, layer.kernel_size, layer.dilation, padding, layer.stride)  # type: ignore[arg-type]
        rows = patches.transpose(1, 2).flatten(0, 1)
    else:
        rows = x.flatten(0, -2)
    return rows if layer.bias is None else F.pad(rows, (0, 1), value=1.0)
