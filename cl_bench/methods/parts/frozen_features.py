"""Learning without gradients: sums of frozen features, and a classifier that is computed from them."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from cl_bench.config import InputError
from cl_bench.data.batches import Batch, Data
from cl_bench.data.problem import Problem, Task
from cl_bench.methods.base import Classifier, Fit
from cl_bench.methods.parts.sizes import bytes_of, machine_memory
from cl_bench.networks.base import Network
from cl_bench.networks.optimizers import Optimizer


class FrozenFeatures(Classifier):
    """Adds the features of each image once to sums by class. The classifier is computed from the sums when needed.

    Sums do not depend on the order. So predictions are the same for any order of images, classes and tasks, and the
    same as for all images at once. Nothing is forgotten, and the ends of tasks are not needed. Sums are float64. Images
    are not augmented. The size of mini-batches has no effect.

    Args:
        first_task: True: the network is trained with its head on the first task and then frozen. False: the features
            of the network as it is, for example pretrained features, or the pixels of `network=linear`.

    Raises InputError for `first_task` in a stream, where the end of the first task is not known, and for `first_task`
    with features that have no weights to train.
    """

    family = "frozen features"
    needs_borders: ClassVar[bool] = False
    trains: ClassVar[bool] = False
    refused: ClassVar[dict[str, str]] = {"trainer.freeze_batch_norm": "trains nothing after the first task"}
    unread: ClassVar[dict[str, dict[str, Any]]] = {
        "optimizer": {"first_task": False},
        "trainer.epochs": {"first_task": False},
        "trainer.iterations": {"first_task": False},
        "scenario.train_mask": {"first_task": False},
    }
    counts: Tensor
    sums: Tensor

    def __init__(self, problem: Problem, network: Network, optimizer: Optimizer, *, first_task: bool) -> None:
        super().__init__(problem, network, optimizer)
        if first_task and problem.online:
            raise InputError(
                "method.first_task=true: in a stream (scenario.passes=online) the end of the first task is not known; "
                "set false"
            )
        if first_task and not any(weights.requires_grad for weights in network.features.parameters()):
            raise InputError("method.first_task=true: the features of this network have nothing to train; set false")
        self.first_task = first_task
        self.width = network.head.in_features
        self.register_buffer("counts", torch.zeros(problem.n_outputs, dtype=torch.float64))
        self.register_buffer("sums", torch.zeros(problem.n_outputs, self.width, dtype=torch.float64))
        self._answer: tuple[Tensor, ...] | None = None  # the classifier; None after more images came

    def learn(self, task: Task, fit: Fit) -> dict[str, Any] | None:
        if self.first_task and task.index == 0:
            self.by_gradients = True
            fit(self, task.train, phase="first task")
            self.by_gradients = False
        in_order = torch.arange(len(task.train))  # with an order the last mini-batch is not filled up: each image once
        fit(self, replace(task.train, augment=None, order=in_order), phase="statistics", epochs=1, step=self.take_in)
        return self.diagnostics()

    def learn_stream(self, images: Data, fit: Fit) -> None:
        fit(self, replace(images, augment=None), phase="stream", step=self.take_in)

    def diagnostics(self) -> dict[str, Any] | None:
        """Notes about a task for the results; none here."""
        return None

    def products_of(
        self, *shape: int, copies: int = 3, what: str = "", way: str = "choose one that gives fewer"
    ) -> Tensor:
        """Zeros for sums of products, float64, of this shape.

        Args:
            copies: number of such tensors that are needed, with those for computing the classifier.
            what, way: words of the error: what is too large, and what to do. By default the features of the network.

        Raises InputError if they need more memory than this machine has.
        """
        needs, has = copies * 8 * math.prod(shape) / 2**30, machine_memory() / 2**30
        if needs > has:
            what = what or f"network: gives {self.width:,} features; sums of their products need"
            raise InputError(f"{what} {needs:,.0f} GB, and this machine has {has:,.0f} GB; {way}")
        return torch.zeros(shape, dtype=torch.float64)

    @torch.no_grad()
    def take_in(self, batch: Batch, optimizers: Any) -> dict[str, Tensor]:
        """A step, without the optimizer. In a stream the images are predicted before they are added."""
        features = self.features(batch.x)
        if self.problem.online:
            self.answered(self.logits(self.online_scores(features)), batch.y)
        self.add(features, batch.y)
        self._answer = None
        return {}

    def features(self, x: Tensor) -> Tensor:
        """The features of images (B, C, H, W), float64 (B, width), from the network in evaluation mode."""
        self.network.features.eval()
        with torch.autocast(x.device.type, enabled=False):
            return self.network.features(x).double()

    def add(self, features: Tensor, y: Tensor) -> None:
        """Adds the features (B, width) of images with labels y (B,) to the sums."""
        self.counts += torch.bincount(y, minlength=len(self.counts))
        self.sums.index_add_(0, y, features)

    @property
    def means(self) -> Tensor:
        """The mean features of each class, (n_outputs, width); 0 for classes without images."""
        return self.sums / self.counts.clamp(min=1)[:, None]

    @property
    def answer(self) -> tuple[Tensor, ...]:
        """The classifier for all images so far, from `worked_out`."""
        if self._answer is None:
            with torch.no_grad():
                self._answer = self.worked_out()
        return self._answer

    @abstractmethod
    def worked_out(self) -> tuple[Tensor, ...]:
        """Computes the classifier from the sums: for a linear head weights (n_outputs, width), biases (n_outputs,)."""

    def scores(self, features: Tensor) -> Tensor:
        """The score of each class, (B, n_outputs), for features (B, width); here from a linear head."""
        weight, bias = self.answer
        return features @ weight.T + bias

    def online_scores(self, features: Tensor) -> Tensor:
        """The scores for a mini-batch of a stream before it is added; here the same as `scores`."""
        return self.scores(features)

    def logits(self, scores: Tensor) -> Tensor:
        """The scores as float32, very low for classes without images: they are predicted only if no other may be."""
        scores = scores.float()
        return scores.masked_fill(self.counts == 0, torch.finfo(scores.dtype).min / 2)

    def forward(self, x: Tensor, index: int | None = None) -> Tensor:
        return self.network(x) if self.by_gradients else self.logits(self.scores(self.features(x)))

    @property
    def answer_bytes(self) -> int:
        """The features of the network, and the classifier. The weights of a pretrained backbone are not counted."""
        return bytes_of(self.network.features.state_dict()) + sum(part.nbytes for part in self.answer)

    def set_extra_state(self, state: dict[str, Any]) -> None:
        super().set_extra_state(state)
        self._answer = None


def times_inverse(rows: Tensor, matrix: Tensor) -> Tensor:
    """The rows, (N, M), times the inverse of a symmetric matrix (M, M), or times its pseudo-inverse if it is singular
    by rounding.

    >>> times_inverse(torch.tensor([[2.0, 2.0]]), torch.ones(2, 2)).round(decimals=4).tolist()
    [[1.0, 1.0]]
    """
    solution, singular = torch.linalg.solve_ex(matrix, rows.T)
    return rows @ torch.linalg.pinv(matrix, hermitian=True) if singular else solution.T
