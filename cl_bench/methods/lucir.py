"""Learning a unified classifier incrementally via rebalancing (LUCIR; Hou et al., 2019)."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, ClassVar, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_bench.config import NonNegative, Positive
from cl_bench.data.batches import Batch, Data
from cl_bench.data.problem import Kind, Problem, Task
from cl_bench.methods.base import Fit, frozen
from cl_bench.methods.parts.exemplars import Exemplary
from cl_bench.methods.parts.memory import Budget
from cl_bench.networks.base import Network
from cl_bench.networks.cosine import CosineHead
from cl_bench.networks.masks import Frozen
from cl_bench.networks.optimizers import Optimizer


class Past(NamedTuple):
    """The features at the end of the last task, and the vectors of old classes; both do not change.

    weight: lambda. new: the outputs of the current task, bool (n_outputs,).
    """

    features: nn.Module
    vectors: Frozen
    weight: float
    new: Tensor


class LUCIR(Exemplary):
    """Objective at task t, on its images and all exemplars, with unit features f and unit class vectors w:

    CE(eta <f, w>) + lambda mean_n (1 - <f_old, f>) + ranking_weight mean [margin - <f, w_y> + <f, w_k>]+

    The logits are cosines times a learned eta (equation 4), so the length of a class vector has no effect. The second
    term, less-forget, keeps the direction of features (equation 6), with lambda = strength sqrt(n_old / n_new). The
    third term separates exemplars of old classes from the `top` new classes k that are nearest to them (equation 8).
    Vectors of old classes do not change.

    When a task begins, the vectors of its classes get the direction of the mean of their features, and the mean length
    of old vectors (imprinting; Qi et al., 2018).

    Args:
        memory: exemplars kept, chosen by herding.
        strength: lambda_base; a higher value forgets less and learns less.
        ranking_weight: of the third term.
        margin: between cosines, without eta.
        top: K, new classes that an old image is separated from.
    """

    family = "rehearsal"
    grows = True
    kinds: tuple[Kind, ...] = ("class",)
    unread: ClassVar[dict[str, dict[str, Any]]] = {
        "margin": {"ranking_weight": 0},
        "top": {"ranking_weight": 0},
    }

    def __init__(
        self,
        problem: Problem,
        network: Network,
        optimizer: Optimizer,
        memory: Budget,
        *,
        strength: NonNegative,
        ranking_weight: NonNegative,
        margin: NonNegative,
        top: Positive,
    ) -> None:
        head = CosineHead(network.head.in_features, problem.n_outputs)
        super().__init__(problem, network.with_head(head), optimizer, memory)
        self.strength, self.ranking_weight, self.margin, self.top = strength, ranking_weight, margin, top

    @property
    def head(self) -> CosineHead:
        """The head of the network. As an attribute it would be in the state twice."""
        return cast(CosineHead, self.network.head)

    def learn(self, task: Task, fit: Fit) -> None:
        past = None
        if task.index:
            self.imprint(task.train)
            past = self.past()
        fit(self, self.with_exemplars(task.train), phase="train", step=partial(self.train_step, past=past))
        self.keep_exemplars(task.train)

    def past(self) -> Past:
        """What the loss needs of earlier tasks, when a task begins."""
        old = self.task_of_output < self.index
        new = self.task_of_output == self.index
        weight = self.strength * math.sqrt(int(old.sum()) / max(1, int(new.sum())))  # a task may have only old classes
        return Past(frozen(self.network.features), Frozen({self.head.weight: old.unsqueeze(1)}), weight, new)

    @torch.no_grad()
    def imprint(self, data: Data) -> None:
        """Gives the vector of each new class the direction of its mean features under the current network."""
        old, new = self.task_of_output < self.index, self.task_of_output == self.index
        length = self.head.weight[old].norm(dim=1).mean()
        self.head.weight[new] = length * self.class_means(data)[new]

    def train_step(self, batch: Batch, optimizers: torch.optim.Optimizer, **given: Any) -> dict[str, Tensor]:
        logs = super().train_step(batch, optimizers, **given)
        if past := given["past"]:
            past.vectors.restore()
        return logs

    def loss(self, batch: Batch, past: Past | None) -> Tensor:
        features = self.network.features(batch.x).to(self.head.weight.dtype)
        cosines = self.head.cosines(features)
        loss = self.cross_entropy(self.active(self.head.scale * cosines, batch.y), batch.y)
        if past is None:
            return loss
        with torch.no_grad():
            before = past.features(batch.x).to(features.dtype)
        ranking = margin_ranking(cosines, batch.y, past.new, self.margin, self.top)
        return loss + past.weight * less_forget(features, before) + self.ranking_weight * ranking


def less_forget(features: Tensor, before: Tensor) -> Tensor:
    """The mean over images of 1 - cos(features, before), both (B, width) (equation 6).

    >>> less_forget(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])).item()
    0.5
    """
    return (1 - F.cosine_similarity(features, before)).mean()


def margin_ranking(cosines: Tensor, y: Tensor, new: Tensor, margin: float, top: int) -> Tensor:
    """The mean of [margin - cos_y + cos_k]+ over images of old classes and the `top` new classes k with the highest
    cosines (equation 8); 0 without such images.

    Args:
        cosines: of features and class vectors, (B, n_outputs).
        y: labels, (B,).
        new: the outputs of new classes, bool (n_outputs,).

    >>> cosines, new = torch.tensor([[0.9, 0.6, 0.1], [0.1, 0.2, 0.9]]), torch.tensor([False, True, True])
    >>> round(margin_ranking(cosines, torch.tensor([0, 2]), new, margin=0.5, top=2).item(), 4)
    0.1
    """
    old = (~new[y]).to(cosines.dtype).unsqueeze(1)
    nearest = cosines[:, new].topk(min(top, int(new.sum())), dim=1).values
    pairs = (margin - cosines.gather(1, y.unsqueeze(1)) + nearest).clamp(min=0) * old
    return pairs.sum() / (old.sum() * nearest.shape[1]).clamp(min=1)
