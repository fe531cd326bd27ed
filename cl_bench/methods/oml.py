"""Online-aware meta-learning (Javed and White, 2019) and ANML (Beaulieu et al., 2020): features for online learning."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from cl_bench.config import InputError, Positive, Rate
from cl_bench.data.batches import Batch, Data
from cl_bench.data.problem import Problem, Task, TrainMask
from cl_bench.methods.base import Classifier, Fit, Learner
from cl_bench.methods.parts.sizes import bytes_of
from cl_bench.networks.base import Network, batch_norms
from cl_bench.networks.optimizers import Adam, Optimizer


class OML(Classifier):
    """The features are meta-trained on classes that are in no task, and frozen. Then only the head learns the tasks.

    Meta-training comes before the first task, see `MetaTraining`. In the tasks the objective is the cross-entropy of
    W phi(x) + b (`oml`), or of W (phi(x) * m(x)) + b (`anml`), over W and b. phi are the features of the network.
    m = sigmoid(linear(features of a second network)) is the neuromodulatory network, with the same width as phi.

    Args:
        network: without batch normalization, because its statistics would change in the tasks.
        optimizer: of the head, in the tasks.
        variant: `oml` or `anml`.
        pretraining: of the features. `meta`: as in the papers; `joint` and `none` are controls. `joint`: the
            cross-entropy of all meta-training classes, with the same number of steps; `none`: random features.
        meta_steps: steps of the pretraining.
        meta_lr: step size of Adam in the pretraining.
        inner_lr: step size of the inner steps.
        inner_steps: inner steps for each class of a trajectory, each on one image.
        trajectory_classes: number of classes in a trajectory.
        remembered: images of all meta-training classes in each step of the pretraining.

    Raises InputError for pretraining with no or too few meta-training classes, and for batch normalization.
    """

    family = "optimization"
    train_mask: ClassVar[TrainMask] = "all"
    needs_borders: ClassVar[bool] = False
    unread: ClassVar[dict[str, dict[str, Any]]] = {
        "inner_lr": {"pretraining": ("joint", "none")},
        "inner_steps": {"pretraining": ("joint", "none")},
        "trajectory_classes": {"pretraining": ("joint", "none")},
        "meta_steps": {"pretraining": "none"},
        "meta_lr": {"pretraining": "none"},
        "remembered": {"pretraining": "none"},
    }

    def __init__(
        self,
        problem: Problem,
        network: Network,
        optimizer: Optimizer,
        *,
        variant: Literal["oml", "anml"],
        pretraining: Literal["meta", "joint", "none"],
        meta_steps: Positive,
        meta_lr: Rate,
        inner_lr: Rate,
        inner_steps: Positive,
        trajectory_classes: Positive,
        remembered: Positive,
    ) -> None:
        super().__init__(problem, network, optimizer)
        if pretraining != "none" and not problem.n_meta:
            raise InputError(
                f"scenario.meta_classes=null: method.pretraining={pretraining} needs classes that are in no task; set "
                "e.g. scenario.meta_classes=5 in scenario=class_incremental, or method.pretraining=none"
            )
        if pretraining == "meta" and trajectory_classes > problem.n_meta:
            raise InputError(
                f"method.trajectory_classes={trajectory_classes}: there are {problem.n_meta} classes for meta-training "
                "(scenario.meta_classes); choose at most this number"
            )
        if norms := [type(part).__name__ for part in batch_norms(network)]:
            raise InputError(
                f"network: method=oml freezes the features, and the statistics of {norms[0]} would change in "
                "the tasks; choose network=mlp or network=cnn"
            )
        self.pretraining, self.meta_steps = pretraining, meta_steps
        width = network.head.in_features
        if variant == "anml":
            self.gate = nn.Sequential(network.fresh().features, nn.Linear(width, width), nn.Sigmoid())
        else:
            self.gate = None
        self.training_of = partial(
            NeuromodulatedTraining if variant == "anml" else MetaTraining,
            width=width,
            n_classes=problem.n_meta,
            lr=meta_lr,
            inner_lr=inner_lr,
            inner_steps=inner_steps if pretraining == "meta" else 0,
            trajectory_classes=trajectory_classes,
            remembered=remembered,
        )
        redraw(network.head, torch.arange(problem.n_outputs))

    def learn_task(self, task: Task, fit: Fit) -> dict[str, Any]:
        if task.meta is not None and self.pretraining != "none":  # before the first task, or before a stream begins
            training = self.training_of(self.network.features, self.gate, task.meta)
            step = training.joint_step if self.pretraining == "joint" else training.train_step
            fit(training, task.meta, phase=self.pretraining, step=step, steps=self.meta_steps)
        return super().learn_task(task, fit)

    def represent(self, x: Tensor) -> Tensor:
        """The input of the head, (B, width), for images in [0, 1]."""
        z = self.network.features(x)
        return z if self.gate is None else z * self.gate(x)

    def forward(self, x: Tensor, index: int | None = None) -> Tensor:
        return self.network.head(self.represent(x))

    def loss(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            z = self.represent(batch.x)
        return self.cross_entropy(self.active(self.network.head(z), batch.y), batch.y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = self.optimizer(self.network.head.parameters())
        return self.optimizer_state.handed_to(optimizer) if self.optimizer_state else optimizer

    @property
    def answer_bytes(self) -> int:
        return super().answer_bytes + (bytes_of(self.gate.state_dict()) if self.gate else 0)


class MetaTraining(Learner):
    """Trains features so that a head which learns one class after another does not forget (Javed and White, 2019).

    Each step draws a trajectory: images (x_1, y_1) ... (x_k, y_k), some of one class, then some of the next class. The
    head's rows for these classes get new random weights. theta_0 are the weights W and biases b of the head. Each image
    makes an inner step: theta_i = theta_{i-1} - inner_lr * (gradient of CE(x_i, y_i; phi, theta_{i-1}) by theta). Then
    Adam makes a step in phi and theta_0 on CE(trajectory and remembered images; phi, theta_k). Its gradient goes
    through all k inner steps. The remembered images are random images of all classes.

    All images are drawn here. The mini-batch that a step gets is not used, because its size is that of the tasks.

    Args:
        features: phi, images -> (B, width).
        gate: m, images -> (B, width); None: no gate.
        data: images of the meta-training classes, labeled from 0.
        width: of phi.
        n_classes: of `data`.
        lr: step size of Adam.
        inner_lr, inner_steps, trajectory_classes, remembered: see `OML`.

    Raises InputError if a class has fewer images than `inner_steps`.
    """

    def __init__(
        self,
        features: nn.Module,
        gate: nn.Module | None,
        data: Data,
        *,
        width: int,
        n_classes: int,
        lr: float,
        inner_lr: float,
        inner_steps: int,
        trajectory_classes: int,
        remembered: int,
    ) -> None:
        super().__init__()
        self.features, self.gate, self.head, self.data = features, gate, nn.Linear(width, n_classes), data
        self.lr, self.inner_lr = lr, inner_lr
        self.inner_steps, self.trajectory_classes, self.remembered = inner_steps, trajectory_classes, remembered
        labels = data.labels.cpu()
        self.rows = [(labels == label).nonzero().squeeze(1) for label in range(n_classes)]
        if inner_steps > min(map(len, self.rows)):
            raise InputError(
                f"method.inner_steps={inner_steps}: a class of scenario.meta_classes has {min(map(len, self.rows))} "
                "images; choose at most this number"
            )
        redraw(self.head, torch.arange(n_classes))

    def train_step(self, batch: Batch, optimizers: torch.optim.Optimizer) -> dict[str, Tensor]:
        path, remembered = self.trajectory(), self.random_images()
        x, y = torch.cat([path.x, remembered.x]), torch.cat([path.y, remembered.y])
        return descend(F.cross_entropy(self.logits_after(x, y, len(path.y)), y), optimizers)

    def joint_step(self, batch: Batch, optimizers: torch.optim.Optimizer) -> dict[str, Tensor]:
        """A step on the cross-entropy of remembered images, without a trajectory."""
        x, y, *_ = self.random_images()
        return descend(F.cross_entropy(self.logits_after(x, y, 0), y), optimizers)

    def trajectory(self) -> Batch:
        """`inner_steps` images of each of some random classes, class after class. Resets their rows of the head."""
        classes = torch.randperm(len(self.rows))[: self.trajectory_classes]  # on the CPU, so nothing waits for a GPU
        drawn = [self.rows[label][torch.randperm(len(self.rows[label]))] for label in classes.tolist()]
        redraw(self.head, classes)
        return self.images(torch.cat([rows[: self.inner_steps] for rows in drawn]))

    def random_images(self) -> Batch:
        """`remembered` random images of all classes."""
        return self.images(torch.randint(len(self.data), (self.remembered,)))

    def images(self, rows: Tensor) -> Batch:
        """The images with these row numbers, as training shows them."""
        return self.data.batch(rows.to(self.data.labels.device), training=True)

    def logits_after(self, x: Tensor, y: Tensor, k: int) -> Tensor:
        """The logits of all images, (B, n_classes), after an inner step on each of the first k images, as a function of
        phi and theta_0. y: labels, (B,).

        The gradient for image i by W is e_i phi(x_i)^T, and by b it is e_i, where e_i is the softmax at theta_{i-1}
        minus the one-hot label. So the logits of x after i steps are those at theta_0 minus
        inner_lr * sum_{j <= i} (phi(x) . phi(x_j) + 1) e_j. No W_i must be computed.
        """
        z = self.features(x)
        logits, alike = self.head(z), self.inner_lr * (z @ z[:k].T + 1)
        wanted, errors = F.one_hot(y[:k], logits.shape[1]), logits[:0]
        for i in range(k):
            error = (logits[i] - alike[i, :i] @ errors).softmax(0) - wanted[i]
            errors = torch.cat([errors, error.unsqueeze(0)])
        return logits - alike @ errors

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return Adam(lr=self.lr, betas=(0.9, 0.999))(self.parameters())


class NeuromodulatedTraining(MetaTraining):
    """Meta-training of ANML (Beaulieu et al., 2020): theta is W, b and the weights of phi, without the gate."""

    gate: nn.Module

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        """Logits of the prediction network. gate: output of the neuromodulatory network for the images, (B, width)."""
        return self.head(self.features(x) * gate)

    def logits_after(self, x: Tensor, y: Tensor, k: int) -> Tensor:
        gate = self.gate(x)
        theta: dict[str, Tensor] = {name: p for name, p in self.named_parameters() if not name.startswith("gate.")}
        for x_i, gate_i, y_i in zip(x[:k].split(1), gate[:k].split(1), y[:k].split(1), strict=True):
            loss = F.cross_entropy(functional_call(self, theta, (x_i, gate_i)), y_i)
            gradients = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
            steps = zip(theta.items(), gradients, strict=True)
            theta = {name: weight - self.inner_lr * gradient for (name, weight), gradient in steps}
        return functional_call(self, theta, (x, gate))


def descend(loss: Tensor, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """One step of the optimizer on a loss; returns what to log."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return {"loss": loss.detach()}


@torch.no_grad()
def redraw(head: nn.Linear, classes: Tensor) -> None:
    """Gives the rows of these classes new weights from N(0, 2 / width) (He et al., 2015), and biases 0."""
    classes = classes.to(head.weight.device)
    rows = torch.randn_like(head.weight[classes]) * (2 / head.in_features) ** 0.5
    head.weight.index_copy_(0, classes, rows)
    head.bias.index_fill_(0, classes, 0)
