"""SupSup (Wortsman et al., 2020): a mask for each task over weights that never change; the task can be inferred."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn
from torch.func import functional_call

from cl_bench.config import InputError
from cl_bench.data.batches import Batch, Data
from cl_bench.data.problem import Problem, Task, masked
from cl_bench.methods.base import Classifier, Fit
from cl_bench.networks.base import Network
from cl_bench.networks.optimizers import Optimizer
from cl_bench.networks.plain import plain_layers
from cl_bench.networks.supermasks import Supermasks, fix_weights

ASSIGNED = 1000  # largest number of images for which the inferred task is checked when a task ends
BEHIND = 100.0  # subtracted from other tasks: the best log-probability of a task is above -100
PRODUCTS = 8192  # images times masks that are mixed at once, so that their activations fit into memory


class SupSup(Classifier):
    """Objective at task t: the cross-entropy of f(x, W * M), minimized over the scores S of the task's mask M. The
    weights W have random signs and the same size in each layer, and never change. There are no biases.

    M is 1 where S >= 0, or at the highest scores of each layer. The gradient goes through M to the scores as if M were
    S: dL/dS = W * dL/d(W * M). When a task ends, its mask is kept, one bit per weight. The scores are not kept.

    In task-incremental learning the task of an image is given (the paper's "GG"). Otherwise it is inferred for each
    image. The masks of the k tasks so far are mixed: p(alpha) = f(x, W * sum_i alpha_i M_i) with alpha_i = 1/k. The
    inferred task is the one whose share would lower the objective H most, argmax_i -dH/dalpha_i. Domain-incremental
    learning is the paper's "GNs". Class-incremental learning is "GNu": outputs of the inferred task come first.

    Args:
        kept: share of each layer's weights that a mask keeps; None: those with a score of at least 0.
        superfluous: number of outputs beyond those of the benchmark. They are never correct, so each mask learns to
            keep them low, but only for images of its task.
        inference: of the task. `one_shot`: one gradient; `binary`: each gradient removes half of the masks, so it takes
            ceil(log2 k) gradients; `brute_force`: the mask whose output has the lowest entropy.
        objective: H. `entropy`: of p; `G`: logsumexp of the logits, of which only superfluous ones have a gradient.

    Raises InputError for `G` without superfluous outputs or with `brute_force`, and if a layer would keep no weight.
    """

    family = "architecture"
    train_mask = "all"
    unread: ClassVar[dict[str, dict[str, Any]]] = {
        "inference": {"scenario.kind": "task"},
        "objective": {"scenario.kind": "task"},
        "optimizer.keep_state": {},
    }

    def __init__(
        self,
        problem: Problem,
        network: Network,
        optimizer: Optimizer,
        *,
        kept: Annotated[float, Gt(0), Le(1)] | None,
        superfluous: Annotated[int, Ge(0), Le(10**4)],
        inference: Literal["one_shot", "binary", "brute_force"],
        objective: Literal["entropy", "G"],
    ) -> None:
        super().__init__(problem, network, optimizer)
        self.optimizer_state = None  # each task learns other scores
        if objective == "G" and not superfluous:
            raise InputError("method.objective=G: needs superfluous outputs; set method.superfluous, e.g. 90")
        if objective == "G" and inference == "brute_force":
            raise InputError("method.inference=brute_force: compares entropies; set method.objective=entropy")
        self.superfluous, self.inference, self.objective = superfluous, inference, objective
        self.layers = plain_layers(network, "method=supsup masks the weights")
        fix_weights(network.with_head(nn.Linear(network.head.in_features, problem.n_outputs + superfluous)))
        numbers = [None if kept is None else round(kept * weight.numel()) for weight in self.weights.values()]
        if 0 in numbers:
            raise InputError(f"method.kept={kept}: keeps no weight of a layer; increase it, or make the network wider")
        weights = zip(self.weights.values(), numbers, strict=True)
        self.masks = nn.ModuleList(Supermasks(weight.shape, number) for weight, number in weights)

    def learn(self, task: Task, fit: Fit) -> dict[str, Any]:
        for masks in self.supermasks:
            masks.begin()
        fit(self, task.train, phase="train")
        for masks in self.supermasks:
            masks.end()
        noted: dict[str, Any] = {"kept": [float(masks[task.index].mean()) for masks in self.supermasks]}
        return noted if self.problem.kind == "task" else noted | {"assigned": self.assigned(task)}

    def loss(self, batch: Batch) -> Tensor:
        logits, superfluous = self.parts(self.masked_logits(batch.x, self.index))
        return self.cross_entropy(torch.cat([self.active(logits, batch.y), superfluous], 1), batch.y)

    def forward(self, x: Tensor, index: int | None = None) -> Tensor:
        """index: the task whose mask is used; None: it is inferred for each image. Without any mask: all weights."""
        if index is not None or not self.n_masks:
            return self.parts(self.masked_logits(x, index or 0))[0]
        tasks = self.infer(x)
        if self.problem.kind == "class":
            return self.by_task(x, tasks)
        logits = x.new_empty(len(x), self.problem.n_outputs)
        for task in tasks.unique().tolist():
            rows = tasks == task
            logits[rows] = self.parts(self.masked_logits(x[rows], task))[0]
        return logits

    @property
    def answer_bytes(self) -> int:
        """The weights, and one bit per weight for each task."""
        return super().answer_bytes + sum(masks.packed.nbytes for masks in self.supermasks)

    def by_task(self, x: Tensor, tasks: Tensor) -> Tensor:
        """Log-probabilities of the outputs of each task, with its own mask, (B, n_outputs). tasks: the inferred task of
        each image, whose outputs come before all others. A class of several tasks has its highest value."""
        answers = x.new_full((len(x), self.problem.n_outputs), torch.finfo(x.dtype).min)
        for task in range(self.n_masks):
            own = self.problem.outputs[task]
            log_p = self.masked_logits(x, task)[:, own].log_softmax(1)
            answers[:, own] = torch.maximum(answers[:, own], log_p.to(answers) - BEHIND * (tasks != task)[:, None])
        return answers

    def masked_logits(self, x: Tensor, task: int) -> Tensor:
        """All logits, superfluous ones too, with the mask of a task; with all weights if it has no mask yet."""
        if task >= self.n_masks:
            return self.network(x)
        weights = zip(self.weights.items(), self.supermasks, strict=True)
        return functional_call(self.network, {name: weight * masks[task] for (name, weight), masks in weights}, (x,))

    def infer(self, x: Tensor) -> Tensor:
        """The inferred task of each image, int64 (B,), among tasks with a mask. It does not depend on other images."""
        if self.inference == "brute_force":
            entropies = [self.entropy(self.masked_logits(x, task)) for task in range(self.n_masks)]
            return torch.stack(entropies, 1).argmin(1)
        some = max(1, PRODUCTS // self.n_masks)
        return torch.cat([self.search(part) for part in x.split(some)])

    def search(self, x: Tensor) -> Tensor:
        """The inferred task of each image, int64 (B,), by one or several gradients."""
        tasks = torch.arange(self.n_masks, device=x.device).expand(len(x), -1)
        while (left := tasks.shape[1]) > 1:
            alpha = x.new_zeros(len(x), self.n_masks).scatter_(1, tasks, 1 / left)
            steepest = self.slopes(x, alpha).gather(1, tasks)
            n_kept = 1 if self.inference == "one_shot" else math.ceil(left / 2)
            tasks = tasks.gather(1, steepest.topk(n_kept, largest=False).indices)
        return tasks.squeeze(1)

    @torch.enable_grad()
    def slopes(self, x: Tensor, alpha: Tensor) -> Tensor:
        """dH/dalpha for each image, (B, k), with the masks mixed by its own alpha, (B, k)."""
        alpha = alpha.requires_grad_()
        layers = zip(self.weights.values(), self.supermasks, strict=True)

        def mixed(layer: nn.Module, x: Tensor) -> Tensor:
            weight, masks = next(layers)
            total = None
            for task, share in enumerate(alpha.T):
                product = functional_call(layer, {"weight": weight * masks[task].detach()}, (x,))
                product = share.view(-1, *[1] * (product.dim() - 1)) * product
                total = product if total is None else total + product
            assert total is not None
            return total

        for layer in [*self.layers, self.network.head]:
            x = mixed(layer, x) if isinstance(layer, nn.Linear | nn.Conv2d) else layer(x)
        value = self.entropy(x) if self.objective == "entropy" else self.g(x)
        return torch.autograd.grad(value.sum(), alpha)[0]

    def entropy(self, logits: Tensor) -> Tensor:
        """The entropy of the softmax for each image, (B,), over the outputs that were trained."""
        of_task, superfluous = self.parts(logits)
        rule = "all" if self.problem.rules["train"] == "all" else "seen"
        trained = self.problem.mask(rule, self.index)[0].to(logits.device)
        log_p = torch.cat([masked(of_task, trained), superfluous], 1).log_softmax(1)
        return -(log_p.exp() * log_p).sum(1)

    def g(self, logits: Tensor) -> Tensor:
        """logsumexp of each image's logits, (B,). Only superfluous logits have a gradient."""
        of_task, superfluous = self.parts(logits)
        return torch.cat([of_task.detach(), superfluous], 1).logsumexp(1)

    def parts(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The logits of the benchmark's outputs, and the superfluous ones."""
        n_outputs = self.problem.n_outputs
        return logits[:, :n_outputs], logits[:, n_outputs:]

    @torch.no_grad()
    def assigned(self, task: Task) -> float:
        """The share of the task's images whose task is inferred correctly; of validation images, if there are some."""
        data: Data = task.val if len(task.val) else task.train
        data = data[torch.arange(0, len(data), math.ceil(len(data) / ASSIGNED), device=data.labels.device)]
        right = [self.infer(batch.x) == task.index for batch in data.batches()]
        return float(torch.cat(right).float().mean())

    @property
    def supermasks(self) -> list[Supermasks]:
        """The masks of each weight."""
        return cast(list[Supermasks], list(self.masks))

    @property
    def n_masks(self) -> int:
        """Number of masks: of all tasks so far, with the current one."""
        return len(self.supermasks[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer([masks.scores for masks in self.supermasks])
