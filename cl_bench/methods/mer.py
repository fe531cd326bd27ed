"""Meta-experience replay: steps along which the gradients of old and new images agree (Riemer et al., 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from cl_bench.config import InputError, Positive, Share
from cl_bench.data.batches import Batch
from cl_bench.data.problem import Problem
from cl_bench.methods.base import Classifier
from cl_bench.methods.parts.memory import Budget, Reservoir
from cl_bench.methods.parts.one_by_one import check_alone, gradient, images_of
from cl_bench.networks.base import Network
from cl_bench.networks.optimizers import SGD, Optimizer


class MER(Classifier):
    """For each new image (Riemer et al., 2019, algorithm 1), from the weights theta_A:

    1. `repeats` times, a walk: k images are drawn from memory. From the weights theta_W, plain SGD makes a step on the
       new image, and then on each of the k images. Only a part is kept: theta <- theta_W + beta (theta - theta_W).
    2. theta <- theta_A + gamma (theta - theta_A). Then the image may enter the memory, a reservoir.

    To second order this minimizes the sum of the losses minus the inner products of their gradients (Reptile; Nichol et
    al., 2018). So it prefers weights for which the gradients of old and new images agree.

    Algorithm 6: one walk with the new image last, and only gamma. Algorithm 7: one walk with the new image at a random
    place and its loss multiplied by `repeats`, and only gamma; while the memory is empty, an image is kept but not
    learned.

    Args:
        optimizer: plain SGD; its learning rate is alpha.
        memory: images kept, counted in total.
        algorithm: of the paper.
        beta: part of each walk that is kept (algorithm 1); with a higher value learning is faster, and agreement of
            gradients counts less.
        gamma: part of all walks of an image that is kept; with a higher value learning is faster.
        n_replay: k, images from memory in each walk.
        repeats: s, walks for each image (algorithm 1), or the factor of its loss (algorithm 7).

    Raises InputError for an optimizer other than plain SGD, and for a network with batch normalization, which needs
    several images at once.
    """

    family = "optimization"
    needs_borders: ClassVar[bool] = False
    refused: ClassVar[dict[str, str]] = {
        "trainer.gradient_clip": "makes steps on single images without an optimizer",
    }
    unread: ClassVar[dict[str, dict[str, Any]]] = {
        "beta": {"algorithm": (6, 7)},
        "repeats": {"algorithm": 6},
        "optimizer.keep_state": {},
    }

    def __init__(
        self,
        problem: Problem,
        network: Network,
        optimizer: Optimizer,
        memory: Budget,
        *,
        algorithm: Literal[1, 6, 7],
        beta: Share,
        gamma: Share,
        n_replay: Positive,
        repeats: Positive,
    ) -> None:
        super().__init__(problem, network, optimizer)
        check_plain(optimizer)
        check_alone(network, "mer")
        self.memory = Reservoir(memory.places(problem), problem)
        self.algorithm, self.beta, self.gamma = algorithm, beta, gamma
        self.n_replay, self.repeats = n_replay, repeats

    def train_step(self, batch: Batch, optimizers: torch.optim.Optimizer) -> dict[str, Tensor]:
        with torch.no_grad():
            loss = self.loss(batch)  # before the images are learned
        rate = optimizers.param_groups[0]["lr"]
        for image in images_of(batch):
            self.learn_image(image, rate)
            self.memory.after_step(image)
        return {"loss": loss}

    def learn_image(self, image: Batch, rate: float) -> None:
        """All walks of a new image. rate: alpha."""
        if self.algorithm == 7 and not len(self.memory):
            return
        weights = list(self.weights.values())
        first = copies(weights)
        for old in self.replayed(self.repeats if self.algorithm == 1 else 1):
            before = copies(weights)
            self.walk(image, old, rate)
            if self.algorithm == 1:
                keep_share(weights, before, self.beta)
        keep_share(weights, first, self.gamma)

    def replayed(self, n: int) -> list[list[Batch]]:
        """The images from memory for n walks, a new draw for each. One access to the memory is faster than n."""
        if not len(self.memory):
            return [[] for _ in range(n)]
        rows = torch.cat([self.memory.draw(self.n_replay) for _ in range(n)])
        images = list(images_of(self.memory.data.batch(rows, training=True)))
        size = len(images) // n
        return [images[i * size : (i + 1) * size] for i in range(n)]

    def walk(self, image: Batch, old: Sequence[Batch], rate: float) -> None:
        """A step of plain SGD on each image, in the order of the algorithm. old: images from memory. rate: alpha."""
        weights = list(self.weights.values())
        place = int(torch.randint(len(old) + 1, ())) if self.algorithm == 7 else len(old) * (self.algorithm == 6)
        own_rate = rate * self.repeats if self.algorithm == 7 else rate  # a factor of the loss is a factor of the step
        for met in (*old[:place], image, *old[place:]):
            found = gradient(self.loss(met), weights)
            with torch.no_grad():
                torch._foreach_add_(weights, found, alpha=-own_rate if met is image else -rate)  # pyright: ignore


def copies(weights: Sequence[Tensor]) -> list[Tensor]:
    """Copies of the weights as they are now."""
    return [weight.detach().clone() for weight in weights]


@torch.no_grad()
def keep_share(weights: Sequence[Tensor], before: Sequence[Tensor], share: float) -> None:
    """weights <- before + share (weights - before), in place; exact for share 0 and 1.

    >>> weights = [torch.tensor([3.0])]
    >>> keep_share(weights, [torch.tensor([1.0])], share=0.25)
    >>> weights[0].item()
    1.5
    """
    for weight, old in zip(weights, before, strict=True):
        torch.lerp(old, weight, share, out=weight)


def check_plain(optimizer: Optimizer) -> None:
    """Raises InputError for an optimizer other than SGD, and for SGD with momentum or weight decay."""
    if not isinstance(optimizer, SGD):
        raise InputError(f"optimizer: method=mer needs plain SGD, not {type(optimizer).__name__}; set optimizer=sgd")
    for name in ("momentum", "weight_decay"):
        if value := getattr(optimizer, name):
            raise InputError(f"optimizer.{name}={value}: method=mer needs plain SGD; set optimizer.{name}=0")
