"""The plain GAN: its losses by hand, both players on every mini-batch, and DGR with it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from conftest import Compose
from torch import Tensor, nn

from cl_bench.data.batches import Batch
from cl_bench.methods.parts.gan import GAN
from cl_bench.networks.gan import MLPCritic, MLPGenerator
from cl_bench.networks.optimizers import Adam
from cl_bench.runs.loop import run

SHAPE = (1, 8, 8)


class Painter(nn.Module):
    """One image for every noise."""

    z_dim = 2

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Parameter(torch.rand(SHAPE))

    def forward(self, z: Tensor) -> Tensor:
        return self.image.expand(len(z), *SHAPE)


def small_gan() -> GAN:
    torch.manual_seed(0)
    return GAN(
        MLPGenerator(SHAPE, z_dim=4, hidden=(8,)), MLPCritic(SHAPE, hidden=(8,)), Adam(lr=0.01, betas=(0.9, 0.999))
    )


def batch_of(x: Tensor) -> Batch:
    return Batch(x, torch.zeros(len(x)), torch.zeros(len(x)))


def test_both_losses_are_the_binary_cross_entropy_by_hand() -> None:
    torch.manual_seed(0)
    gan = GAN(Painter(), MLPCritic(SHAPE, hidden=(8,)), Adam(lr=1e-3, betas=(0.9, 0.999)))
    real, image = torch.rand(6, *SHAPE), gan.generator.image.detach().requires_grad_()
    optimizers = [torch.optim.SGD(player.parameters(), lr=0) for player in (gan.discriminator, gan.generator)]
    logs = gan.train_step(batch_of(real), optimizers)

    # real is 1 and fake is 0 for the critic, fake is 1 for the generator; each kind of image weighs the same
    scores = gan.discriminator(real), gan.discriminator(image[None])
    one, zero = torch.ones(6), torch.zeros(1)
    expected = F.binary_cross_entropy_with_logits(scores[0], one) + F.binary_cross_entropy_with_logits(scores[1], zero)
    assert logs["discriminator"].item() == pytest.approx(expected.item(), rel=1e-6)
    slopes = torch.autograd.grad(expected, list(gan.discriminator.parameters()), retain_graph=True)
    for weight, slope in zip(gan.discriminator.parameters(), slopes, strict=True):
        assert torch.allclose(weight.grad, slope, atol=1e-6)  # type: ignore[arg-type]
    expected = F.binary_cross_entropy_with_logits(scores[1], one[:1])
    assert logs["generator"].item() == pytest.approx(expected.item(), rel=1e-6)
    (slope,) = torch.autograd.grad(expected, image)
    assert torch.allclose(gan.generator.image.grad, slope, atol=1e-7)


def test_the_generator_answers_to_the_critic_as_it_is_after_its_step() -> None:
    gan = small_gan()
    critics = torch.optim.SGD(gan.discriminator.parameters(), lr=1.0)
    still = torch.optim.SGD(gan.generator.parameters(), lr=0)
    x, z = torch.rand(6, *SHAPE), torch.randn(6, 4)
    gan.noise = lambda n: z
    logs = gan.train_step(batch_of(x), [critics, still])
    expected = -gan.discriminator(gan.generator(z)).sigmoid().log().mean()
    assert logs["generator"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_each_player_steps_on_noise_of_its_own() -> None:
    """Algorithm 1 draws a second mini-batch of noise for the generator."""
    gan = small_gan()
    drawn: list[Tensor] = []
    noise = gan.noise
    gan.noise = lambda n: drawn.append(noise(n)) or drawn[-1]
    gan.train_step(batch_of(torch.rand(6, *SHAPE)), gan.configure_optimizers())
    assert [z.shape for z in drawn] == [(6, 4)] * 2
    assert not torch.equal(*drawn)


def test_both_move_on_every_mini_batch() -> None:
    gan = small_gan()
    optimizers = gan.configure_optimizers()
    for gan.step_index in range(3):
        before = [p.clone() for p in gan.parameters()]
        gan.train_step(batch_of(torch.rand(6, *SHAPE)), optimizers)
        assert not any(torch.equal(p, q) for p, q in zip(gan.parameters(), before, strict=True))
        assert all(p.requires_grad for p in gan.parameters())


def test_the_critic_takes_the_mixed_images_for_real() -> None:
    gan = small_gan()
    z = torch.randn(6, 4)
    gan.noise = lambda n: z[:n]
    expected = (
        F.softplus(-gan.discriminator(torch.ones(1, *SHAPE))) + F.softplus(gan.discriminator(gan.generator(z))).mean()
    )
    ones = batch_of(torch.ones(6, *SHAPE))
    logs = gan.train_step(batch_of(torch.zeros(6, *SHAPE)), gan.configure_optimizers(), mix=lambda batch: ones)
    assert logs["discriminator"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_it_learns_a_simple_image() -> None:
    """One bright corner: after training, the generator's mean image is near the data's."""
    torch.manual_seed(0)
    optimizer = Adam(lr=0.003, betas=(0.5, 0.999))
    gan = GAN(MLPGenerator(SHAPE, z_dim=4, hidden=(16,)), MLPCritic(SHAPE, hidden=(16,)), optimizer)
    x = torch.zeros(32, *SHAPE)
    x[:, :, :4, :4] = 0.9
    optimizers = gan.configure_optimizers()
    assert (gan.sample(100).mean(0) - x[0]).abs().mean() > 0.3
    for gan.step_index in range(300):
        gan.train_step(batch_of(x), optimizers)
    assert (gan.sample(100).mean(0) - x[0]).abs().mean() < 0.1


def test_dgr_with_it(small: Compose) -> None:
    settings = small(
        "method=dgr",
        "gan@method.gan=plain_mlp",
        "method.gan.generator.hidden=[16]",
        "method.gan.critic.hidden=[16]",
        "scenario.n_tasks=2",
    )
    results = run(settings)
    phases = results.tasks[1].phases
    assert [phase.phase for phase in phases] == ["solver", "generator"]
    assert phases[1].optimizer_steps == [phases[1].steps] * 2
