"""Dynamic generative memory (Ostapenko et al., 2019): a generator that reserves, grows and never forgets."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_bench.config import NonNegative, Positive, Rate
from cl_bench.data.batches import FLOATS, REPLAYED, Batch, Data, at_once
from cl_bench.data.problem import Problem, Task
from cl_bench.methods.base import Classifier, Fit, bytes_of, forget
from cl_bench.methods.parts.acgan import evenly
from cl_bench.methods.parts.wgan_gp import drawn, gradient_penalty
from cl_bench.networks.gan import Discriminator
from cl_bench.networks.masked import Mask, MaskedGenerator, Position
from cl_bench.networks.optimizers import Adam
from cl_bench.record import Capacity

MOMENTS = 50  # of a task's training at which the masks are looked at


class DGM(Classifier):
    """Objective at task t, of the generator: -E D(G(z, y)) + lambda_aux CE(C(G(z, y)), y) + lambda_t R(M_t, M_<t);
    of the discriminator, which starts anew: E D(G(z, y)) - E D(x) + lambda_gp penalty + CE(C(x), y) + CE(C(x'), y').

    x, y: images and classes of the task; x', y': images of past classes that the generator makes once, when the task
    begins. D: a critic, sees the task only. C: the classifier of everything seen; it is the learner, and shares its
    features (those of `network`) with D.

    The generator's masks m = sigmoid(s e) are learned with it. s grows from 1 / s_max to s_max over the epochs, so
    they end binary; what they open is reserved: no later step changes it, and images of past classes stay what they
    were, bit for bit. R (equation 6) is the share of free capacity that a task opens; its weight lambda_t = sparsity *
    size now / size at the start. The layers grow by what was reserved.

    n_gen: images replayed per past task, or in total (`n_gen_mode`). mask: of units (activations) or of weights.
    mask_position: of a mask of units, after or before normalisation and ReLU. s_max: scale of the masks at the end.
    sparsity: lambda_RU. n_critic: discriminator steps per generator step. optimizer: of both. generator_epochs:
    passes over a task's images, None for the trainer's. generator_steps: mini-batches per task instead.
    """

    plasticity: Tensor
    kinds = ("class", "task")  # a domain is no condition that the generator could be asked for

    def __init__(
        self,
        problem: Problem,
        network: nn.Module,
        *,
        generator: MaskedGenerator,
        optimizer: Adam,
        n_gen: Positive = 12000,
        n_gen_mode: Literal["per_task", "total"] = "per_task",
        mask: Mask = "activations",
        mask_position: Position = "after",
        s_max: Rate = 1e4,
        sparsity: NonNegative = 0.01,
        lambda_aux: NonNegative = 1.0,
        lambda_gp: NonNegative = 10.0,
        n_critic: Positive = 5,
        generator_epochs: Positive | None = None,
        generator_steps: Positive | None = None,
    ) -> None:
        super().__init__(problem, network, optimizer)
        self.discriminator, self.generator = Discriminator(network), generator
        generator.mask_by(mask, mask_position)
        self.mask = mask
        self.n_gen, self.n_gen_mode, self.s_max, self.sparsity = n_gen, n_gen_mode, s_max, sparsity
        self.lambda_aux, self.lambda_gp, self.n_critic = lambda_aux, lambda_gp, n_critic
        self.generator_epochs, self.generator_steps = generator_epochs, generator_steps
        self.register_buffer("plasticity", torch.zeros(MOMENTS, 2))  # mean and deviation of the masks in training
        self._replay: Data | None = None  # follows from the state when the task begins, so no part of it

    def learn(self, task: Task, fit: Fit) -> None:
        past = task.index if self.n_gen_mode == "per_task" else min(task.index, 1)
        self._replay = self.dream(self.n_gen * past) if past else None
        self._share = len(task.train) / (len(task.train) + len(self._replay or ()))
        forget(self.discriminator)
        self.generator.begin()
        fit(self, task.train, phase="gan", epochs=self.generator_epochs, steps=self.generator_steps)
        self._replay = None
        counts = self.generator.end()
        self.facts |= {
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
            "generator_bytes": bytes_of(self.generator),
        }

    def forward(self, x: Tensor, task: int | None = None) -> Tensor:
        return self.discriminator(x)[1]

    def step(self, batch: Batch, optimizers: Any) -> dict[str, Tensor]:
        discriminator_optimizer, generator_optimizer = optimizers
        real, y = batch.x, batch.y
        self.generator.anneal(self.scale)
        with torch.no_grad():
            fake = self.generator(self.noise(len(y)), y, self.task).to(real.dtype)
        penalty = gradient_penalty(
            lambda x: self.discriminator(x)[0], real, fake, torch.rand(len(y), device=real.device)
        )
        old = self.replayed(len(y))
        scores, logits = self.discriminator(torch.cat([real, fake, *old[:1]]))
        distance = scores[: len(y)].mean() - scores[len(y) : 2 * len(y)].mean()
        error = F.cross_entropy(self.active(logits[: len(y)], y), y)
        if old:
            error = self._share * error + (1 - self._share) * F.cross_entropy(
                self.active(logits[2 * len(y) :], old[1]), old[1]
            )
        discriminator_optimizer.zero_grad()
        (self.lambda_gp * penalty - distance + error).backward()
        discriminator_optimizer.step()
        logs = {"wasserstein": distance.detach(), "penalty": penalty.detach(), "error": error.detach()}

        if (self.at + 1) % self.n_critic == 0:
            self.discriminator.requires_grad_(False)
            scores, logits = self.discriminator(self.generator(self.noise(len(y)), y, self.task))
            opened = self.generator.sparsity()
            loss = self.lambda_aux * F.cross_entropy(self.active(logits, y), y) - scores.mean() + self.price * opened
            generator_optimizer.zero_grad()
            loss.backward()
            generator_optimizer.step()
            self.generator.freeze()
            self.discriminator.requires_grad_(True)
            logs |= {"generator": loss.detach(), "opened": opened.detach()}
        if self.at * MOMENTS % self.steps < MOMENTS:
            masks = self.generator.masks().detach()
            self.plasticity[self.at * MOMENTS // self.steps] = torch.stack([masks.mean(), masks.std()])
        return logs

    @property
    def scale(self) -> float:
        """s (equation 3): 1 / s_max in the first epoch, s_max in the last."""
        along = self.epoch / (self.epochs - 1) if self.epochs > 1 else 1.0
        return 1 / self.s_max + (self.s_max - 1 / self.s_max) * along

    @property
    def price(self) -> float:
        """lambda_t, the weight of R: it grows with the network, so that later tasks reuse rather than reserve."""
        return self.sparsity * self.generator.size / self.generator.size_at_start

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:  # type: ignore[override]
        learning = [p for p in self.generator.parameters() if p.requires_grad]
        return [self.optimizer(self.discriminator.parameters()), self.optimizer(learning)]

    def noise(self, n: int) -> Tensor:
        return torch.randn(n, self.generator.z_dim, device=self.device)

    def replayed(self, n: int) -> tuple[Tensor, Tensor] | tuple[()]:
        """A mini-batch of the images of past classes, and their labels; nothing in the first task."""
        if self._replay is None:
            return ()
        rows = torch.randint(len(self._replay), (n,), device=self.device)
        return self._replay.batch(rows)[:2]

    def dream(self, n: int) -> Data:
        """n images of past classes, of each equally many."""
        y = evenly(self.problem.seen(self.task - 1).to(self.device), n)
        size = at_once(self.problem.image_shape, 10000, numbers=FLOATS)
        images = torch.cat([(self.sample(part) * 255).round().to(torch.uint8) for part in y.split(size)])
        self.facts["replay_histogram"] = torch.bincount(y, minlength=self.problem.n_outputs).tolist()
        return Data(images, y, torch.full_like(y, REPLAYED, dtype=torch.int16))

    @torch.no_grad()
    def sample(self, y: Tensor) -> Tensor:
        """One image in [0, 1] of each class in y, of tasks learned, (N, C, H, W)."""
        images = torch.empty(len(y), *self.problem.image_shape, device=self.device)
        for task in range(self.task + 1):
            rows = (self.task_of_output[y] == task).nonzero().squeeze(1)
            for part in rows.split(1000) if len(rows) else []:
                images[part] = drawn(partial(self.generator, task=task), self.noise(len(part)), y[part])
        return images

    def generate(self, n: int) -> tuple[Tensor, Tensor]:
        y = self.problem.seen(self.task).to(self.device).repeat_interleave(n)
        return self.sample(y), y
