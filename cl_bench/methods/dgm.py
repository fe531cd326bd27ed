"""Dynamic generative memory (Ostapenko et al., 2019): a generator that reserves parts of itself, grows and never
forgets.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_bench.config import NonNegative, Positive, Rate
from cl_bench.data.batches import FLOATS, REPLAYED, Batch, Data, at_once
from cl_bench.data.problem import Problem, Task
from cl_bench.methods.base import Classifier, Fit
from cl_bench.methods.parts.sizes import bytes_of
from cl_bench.methods.parts.two_players import Losses, TwoPlayers, balanced_labels, drawn
from cl_bench.methods.parts.wgan_gp import gradient_penalty
from cl_bench.networks.base import Network, reset_parameters
from cl_bench.networks.gan import Discriminator
from cl_bench.networks.masked import Mask, MaskedGenerator, Position
from cl_bench.networks.masks import annealed
from cl_bench.networks.optimizers import Adam
from cl_bench.record import Capacity

log = logging.getLogger(__name__)

MOMENTS = 50  # number of times in a task's training at which the masks are recorded


class DGM(TwoPlayers, Classifier):
    """Objective of the generator at task t: -E D(G(z, y)) + lambda_aux CE(C(G(z, y)), y) + lambda_t R(M_t, M_<t).
    Objective of the discriminator, which has new weights: E D(G(z, y)) - E D(x) + lambda_gp penalty + CE(C(x), y) +
    CE(C(x'), y').

    x, y: images and classes of the task. x', y': images of old classes, generated once when the task begins. D: a
    critic, which gets only images of the task. C: the classifier of all classes so far. It makes the predictions and
    shares its features (those of `network`) with D.

    The masks m = sigmoid(s e) of the generator are learned with it. s grows from 1 / s_max to s_max over the epochs, so
    masks become binary. The units or weights that a task uses are reserved: no later step changes them, so generated
    images of old classes stay the same, bit for bit. R (equation 6) is the share of free capacity that a task uses. Its
    weight is lambda_t = sparsity * size now / size at the start. Then each layer grows by the number that was reserved.

    Args:
        network: of C and D.
        generator: with masks.
        optimizer: of both.
        n_gen: images replayed.
        n_gen_mode: whether they are counted per old task or in total.
        mask: of units (activations) or of weights.
        mask_position: of a mask of units, after or before normalization and ReLU.
        s_max: scale of the masks at the end.
        sparsity: lambda_RU; a higher value reserves less.
        lambda_aux: weight of the class in the generator's loss.
        lambda_gp: weight of the gradient penalty.
        n_critic: discriminator steps per generator step.
        generator_epochs: passes over a task's images; None: as in the trainer.
        generator_steps: mini-batches per task instead.
    """

    family = "generative replay"
    plasticity: Tensor
    kinds = ("class", "task")  # the condition of the generator is the class, and domains share their classes
    answers_by = ("discriminator.",)
    refused: ClassVar[dict[str, str]] = {
        "scheduler": "trains only a GAN, whose step size is constant",
        "trainer.patience": "has binary masks only at the end of a whole training",
        "trainer.freeze_batch_norm": "starts with a new classifier in every task",
    }
    unread: ClassVar[dict[str, dict[str, Any]]] = {
        "mask_position": {"mask": "weights"},
        "trainer.epochs": {"generator_epochs": ..., "generator_steps": ...},
        "trainer.iterations": {"generator_epochs": ..., "generator_steps": ...},
    }

    def __init__(
        self,
        problem: Problem,
        network: Network,
        *,
        generator: MaskedGenerator,
        optimizer: Adam,
        n_gen: Positive,
        n_gen_mode: Literal["per_task", "total"],
        mask: Mask,
        mask_position: Position,
        s_max: Rate,
        sparsity: NonNegative,
        lambda_aux: NonNegative,
        lambda_gp: NonNegative,
        n_critic: Positive,
        generator_epochs: Positive | None,
        generator_steps: Positive | None,
    ) -> None:
        super().__init__(problem, network, optimizer)
        self.discriminator, self.generator = Discriminator(network), generator
        generator.mask_by(mask, mask_position)
        self.mask = mask
        self.n_gen, self.n_gen_mode, self.s_max, self.sparsity = n_gen, n_gen_mode, s_max, sparsity
        self.lambda_aux, self.lambda_gp, self.n_critic = lambda_aux, lambda_gp, n_critic
        self.generator_epochs, self.generator_steps = generator_epochs, generator_steps
        self.register_buffer("plasticity", torch.zeros(MOMENTS, 2))  # mean and deviation of the masks in training

    def learn(self, task: Task, fit: Fit) -> dict[str, Any]:
        past = task.index if self.n_gen_mode == "per_task" else min(task.index, 1)
        replay = self.generate_replay(self.n_gen * past) if past else None
        reset_parameters(self.discriminator)
        self.generator.begin()
        share = len(task.train) / (len(task.train) + len(replay or ()))
        step = partial(self.train_step, replay=replay, share=share)
        fit(self, task.train, phase="gan", step=step, epochs=self.generator_epochs, steps=self.generator_steps)
        histogram: dict[str, Any] = {}
        if replay:
            histogram["replay_histogram"] = torch.bincount(replay.labels, minlength=self.problem.n_outputs).tolist()
        counts = self.generator.end()
        closed = [number for number, count in enumerate(counts, 1) if not count.new + count.reused]
        if closed:
            log.warning(
                "task %d: the generator uses nothing of layer %d, so all images of a class are "
                "the same; decrease method.sparsity",
                task.index + 1,
                closed[0],
            )
        return histogram | {
            "capacity": Capacity(
                layers=[f"layer {i}" for i in range(1, 1 + len(counts))],
                of="units" if self.mask == "activations" else "weights",
                total=[count.total for count in counts],
                new=[count.new for count in counts],
                reused=[count.reused for count in counts],
                reserved=[count.reserved for count in counts],
                free=[layer.free for layer in self.generator.hidden],
                size=self.generator.size,
                size_worst=self.generator.size_at_start * (task.index + 2),
                parameters=self.generator.n_weights,
            ),
            "plasticity": self.plasticity.tolist(),
            "generator_bytes": bytes_of(self.generator.state_dict()),
        }

    def forward(self, x: Tensor, index: int | None = None) -> Tensor:
        return self.discriminator(x)[1]

    @property
    def answer_bytes(self) -> int:
        return bytes_of(self.discriminator.state_dict())

    def train_step(
        self, batch: Batch, optimizers: Any, replay: Data | None = None, share: float = 1.0
    ) -> dict[str, Tensor]:
        """As in `TwoPlayers`, with the masks at the scale s of this step.

        Args:
            replay: images of old classes; None in the first task.
            share: weight of the task's images in the loss of the classifier, in [0, 1]; old images have the rest.
        """
        self.generator.anneal(self.scale)
        logs = super().train_step(batch, optimizers, replay=replay, share=share)
        if self.generator_turn:
            self.generator.restore_frozen()
        if self.step_index * MOMENTS % self.n_steps < MOMENTS:
            masks = self.generator.masks().detach()
            self.plasticity[self.step_index * MOMENTS // self.n_steps] = torch.stack([masks.mean(), masks.std()])
        return logs

    def discriminator_loss(self, batch: Batch, replay: Data | None = None, share: float = 1.0) -> Losses:
        real, y = batch.x, batch.y
        with torch.no_grad():
            fake = self.generator(self.noise(len(y)), y, self.index).to(real.dtype)
        mix = torch.rand(len(y), device=real.device)
        penalty = gradient_penalty(lambda x: self.discriminator(x)[0], real, fake, mix)
        old = replay.batch(torch.randint(len(replay), (len(y),), device=self.device)) if replay else None
        scores, logits = self.discriminator(torch.cat([real, fake, old.x] if old else [real, fake]))
        distance = scores[: len(y)].mean() - scores[len(y) : 2 * len(y)].mean()
        error = self.cross_entropy(self.active(logits[: len(y)], y), y)
        if old:
            of_past = self.cross_entropy(self.active(logits[2 * len(y) :], old.y), old.y)
            error = share * error + (1 - share) * of_past
        logs = {"wasserstein": distance.detach(), "penalty": penalty.detach(), "error": error.detach()}
        return self.lambda_gp * penalty - distance + error, logs

    def generator_loss(self, batch: Batch, replay: Data | None = None, share: float = 1.0) -> Losses:
        y = batch.y
        scores, logits = self.discriminator(self.generator(self.noise(len(y)), y, self.index))
        opened = self.generator.sparsity()
        loss = self.lambda_aux * F.cross_entropy(self.active(logits, y), y) - scores.mean()
        return loss + self.sparsity_weight * opened, {"opened": opened.detach()}

    @property
    def scale(self) -> float:
        """s (equation 3): 1 / s_max in the first epoch, s_max in the last."""
        return annealed(self.s_max, self.epoch / (self.n_epochs - 1) if self.n_epochs > 1 else 1.0)

    @property
    def sparsity_weight(self) -> float:
        """lambda_t, the weight of R. It grows with the generator, so that later tasks reuse more and reserve less."""
        return self.sparsity * self.generator.size / self.generator.size_at_start

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        learning = [p for p in self.generator.parameters() if p.requires_grad]
        return [self.optimizer(self.discriminator.parameters()), self.optimizer(learning)]

    def generate_replay(self, n: int) -> Data:
        """n images of old classes, the same number of each."""
        y = balanced_labels(self.problem.seen(self.index - 1).to(self.device), n)
        size = at_once(self.problem.image_shape, 10000, numbers=FLOATS)
        images = torch.cat([(self.sample(part) * 255).round().to(torch.uint8) for part in y.split(size)])
        return Data(images, y, torch.full_like(y, REPLAYED, dtype=torch.int16))

    @torch.no_grad()
    def sample(self, y: Tensor) -> Tensor:
        """One image in [0, 1] for each entry of y, a class of the tasks so far, (N, C, H, W)."""
        images = torch.empty(len(y), *self.problem.image_shape, device=self.device)
        for task in range(self.index + 1):
            rows = (self.task_of_output[y] == task).nonzero().squeeze(1)
            for part in rows.split(1000) if len(rows) else []:
                images[part] = drawn(partial(self.generator, task=task), self.noise(len(part)), y[part])
        return images

    def generate(self, n: int) -> tuple[Tensor, Tensor]:
        y = self.problem.seen(self.index).to(self.device).repeat_interleave(n)
        return self.sample(y), y
