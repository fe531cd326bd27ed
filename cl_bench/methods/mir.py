"""Maximally interfered retrieval (Aljundi et al., 2019a): replays the images that the next step would harm most."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from cl_bench.config import InputError, Positive
from cl_bench.data.batches import Batch, Data, at_once
from cl_bench.data.problem import Problem, Task
from cl_bench.methods.base import Classifier, Fit
from cl_bench.methods.gem import follow, gradient
from cl_bench.methods.parts.importance import eval_mode
from cl_bench.methods.parts.memory import Budget, Reservoir
from cl_bench.networks.base import Network
from cl_bench.networks.optimizers import Optimizer

RATIO = 5  # candidates per replayed image, as in the paper


class MIR(Classifier):
    """Objective at each step: the mean cross-entropy on the mini-batch and on replayed images together.

    Candidates are drawn from a reservoir over all images so far. The candidates are replayed whose loss a step on only
    the mini-batch would raise most (section 3.1, criterion s_MI-1):

    s(x) = l(theta - lr grad L(mini-batch); x) - l(theta; x)

    This step is plain gradient descent with the learning rate of the optimizer, for any optimizer. Both losses are
    computed in `eval` mode, without statistics of a mini-batch.

    Args:
        memory: images kept, counted in total.
        n_replay: images replayed in each step; None: as many as the mini-batch has.
        n_candidates: number of candidates; None: five times n_replay. More give a stricter choice and take longer.

    Raises InputError for fewer candidates than replayed images.
    """

    family = "rehearsal"
    grows = True
    needs_borders: ClassVar[bool] = False

    def __init__(
        self,
        problem: Problem,
        network: Network,
        optimizer: Optimizer,
        memory: Budget,
        *,
        n_replay: Positive | None = None,
        n_candidates: Positive | None = None,
    ) -> None:
        super().__init__(problem, network, optimizer)
        self.memory = Reservoir(memory.places(problem), problem)
        self.n_replay, self.n_candidates = n_replay, n_candidates
        self.check_candidates(n_replay or 1)

    def check_candidates(self, n: int) -> None:
        """Raises InputError if `n_candidates` is less than n, the number of replayed images."""
        if self.n_candidates and self.n_candidates < n:
            key = f"method.n_replay={n}" if self.n_replay else f"the {n} images of a mini-batch"
            raise InputError(
                f"method.n_candidates={self.n_candidates}: fewer than {key}, which are chosen from them; set at "
                f"least {n}"
            )

    def learn(self, task: Task, fit: Fit) -> None:
        self.check_candidates(self.n_replay or task.train.batch_size)
        super().learn(task, fit)

    def learn_stream(self, images: Data, fit: Fit) -> None:
        self.check_candidates(self.n_replay or images.batch_size)
        super().learn_stream(images, fit)

    def train_step(self, batch: Batch, optimizers: torch.optim.Optimizer) -> dict[str, Tensor]:
        parameters = list(self.network.parameters())
        loss = self.loss(batch)
        g = gradient(loss, parameters)
        if len(self.memory):
            n = self.n_replay or len(batch.y)
            old = self.retrieve(n, g, optimizers.param_groups[0]["lr"], at_a_time=len(batch.y))
            old_loss, share = self.loss(old), len(old.y) / (len(old.y) + len(batch.y))
            g = torch.lerp(g, gradient(old_loss, parameters), share)  # the gradient of the mean over both
            loss = torch.lerp(loss, old_loss, share)
        follow(g, parameters)
        optimizers.step()
        self.memory.after_step(batch)
        return {"loss": loss.detach()}

    def retrieve(self, n: int, g: Tensor, lr: float, at_a_time: int = 1) -> Batch:
        """The n images with the largest s(x) among random candidates from memory.

        Args:
            n: images to replay.
            g: gradient of the loss on the mini-batch, (P,).
            lr: step size of the virtual step.
            at_a_time: images in one forward pass; more, if images are small.
        """
        candidates = self.memory.sample(self.n_candidates or RATIO * n)
        size = at_once(candidates.x.shape[1:], len(candidates.y), batch_size=at_a_time)
        parts = zip(candidates.x.split(size), candidates.y.split(size), strict=True)
        harm = torch.cat(self.interference(list(parts), g, lr))
        rows = harm.topk(min(n, len(harm))).indices
        return Batch(candidates.x[rows], candidates.y[rows], candidates.task_ids[rows])

    @torch.no_grad()
    def interference(self, parts: list[tuple[Tensor, Tensor]], g: Tensor, lr: float) -> list[Tensor]:
        """s(x) of each image, (B,) for each part with images x (B, C, H, W) and labels y (B,)."""
        steps = g.split([p.numel() for p in self.weights.values()])
        virtual = {
            name: torch.sub(p, step.view_as(p), alpha=lr)
            for (name, p), step in zip(self.weights.items(), steps, strict=True)
        }
        with eval_mode(self.network):
            return [
                self.losses(torch.func.functional_call(self.network, virtual, (x,)), y) - self.losses(self(x), y)
                for x, y in parts
            ]

    def losses(self, logits: Tensor, y: Tensor) -> Tensor:
        """The cross-entropy of each image, (B,). logits: (B, n_outputs). y: (B,)."""
        return self.cross_entropy(self.active(logits, y), y, reduction="none")
