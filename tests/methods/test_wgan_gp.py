"""The gradient penalty against a hand computation, and the two players kept apart."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from cl_bench.data.batches import Batch
from cl_bench.methods.parts.wgan_gp import WGANGP, gradient_penalty
from cl_bench.networks.base import reset_parameters
from cl_bench.networks.gan import DCCritic, DCGenerator, MLPCritic, MLPGenerator
from cl_bench.networks.optimizers import Adam

SHAPE = (1, 8, 8)


def small_gan(**more: int) -> WGANGP:
    torch.manual_seed(0)
    return WGANGP(
        MLPGenerator(SHAPE, z_dim=4, hidden=(8,)),
        MLPCritic(SHAPE, hidden=(8,)),
        Adam(lr=0.01, betas=(0.5, 0.9)),
        **{"n_critic": 5, "lambda_gp": 10.0, **more},
    )


def test_penalty_of_a_linear_critic() -> None:
    """D(x) = <w, x> has slope w everywhere: the penalty is (||w|| - 1)^2 with the norm over the whole image."""
    w = torch.full((3, 4, 4), 0.5)
    real, fake = torch.rand(5, 3, 4, 4), torch.rand(5, 3, 4, 4)
    penalty = gradient_penalty(lambda x: (x * w).sum((1, 2, 3)), real, fake, torch.rand(5))
    assert penalty.item() == pytest.approx((math.sqrt(48 * 0.25) - 1) ** 2, rel=1e-6)


def test_penalty_of_a_quadratic_critic_by_hand() -> None:
    """D(x) = sum x^2 / 2 has slope x: at x = e r + (1 - e) f, one e per sample."""
    real = torch.tensor([[[[3.0, 0.0]]], [[[0.0, 2.0]]]])
    fake = torch.tensor([[[[0.0, 4.0]]], [[[0.0, 0.0]]]])
    mix = torch.tensor([1.0, 0.25])
    # sample 1 lies at (3, 0): norm 3; sample 2 at (0, .5): norm .5; mean of 4 and .25
    penalty = gradient_penalty(lambda x: x.square().sum((1, 2, 3)) / 2, real, fake, mix)
    assert penalty.item() == pytest.approx(2.125, rel=1e-5)


def test_penalty_is_two_sided_and_reaches_the_weights_of_the_critic() -> None:
    w = torch.tensor([0.3], requires_grad=True)
    x = torch.rand(4, 1, 1, 1)
    gradient_penalty(lambda x: (x * w).sum((1, 2, 3)), x, x, torch.rand(4)).backward()
    assert w.grad is not None
    assert w.grad.item() == pytest.approx(2 * (0.3 - 1), rel=1e-5)  # a slope below 1 is pulled up


def step(gan: WGANGP, at: int) -> tuple[bool, bool]:
    """Whether a step moved the critic, the generator."""
    optimizers = gan.configure_optimizers()
    before = [[p.clone() for p in module.parameters()] for module in (gan.discriminator, gan.generator)]
    gan.step_index = at
    gan.train_step(Batch(torch.rand(6, *SHAPE), torch.zeros(6), torch.zeros(6)), optimizers)
    after = [list(module.parameters()) for module in (gan.discriminator, gan.generator)]
    critic, generator = (
        any(not torch.equal(p, q) for p, q in zip(a, b, strict=True)) for a, b in zip(before, after, strict=True)
    )
    return critic, generator


def test_the_generator_moves_once_in_n_critic_steps() -> None:
    moved = [step(small_gan(n_critic=3), at) for at in range(6)]
    assert moved == [(True, False), (True, False), (True, True)] * 2


def test_a_training_too_short_for_a_step_of_the_generator_is_said(caplog: pytest.LogCaptureFixture) -> None:
    gan = small_gan(n_critic=3)
    for gan.n_steps in (2, 3):
        moved = [step(gan, at)[1] for at in range(gan.n_steps)]
        assert any(moved) == (gan.n_steps == 3)
    why = "the generator learns nothing in a training of 2 mini-batches; train longer, or decrease it"
    assert caplog.messages == [f"n_critic=3: {why}"]


def test_reset_forgets_and_sample_leaves_the_mode() -> None:
    gan = small_gan()
    before = [p.clone() for p in gan.parameters()]
    reset_parameters(gan)
    assert all(not torch.equal(p, q) for p, q in zip(before, gan.parameters(), strict=True))
    gan.generator.train()
    images = gan.sample(5)
    assert gan.generator.training
    assert images.shape == (5, *SHAPE)
    assert 0 <= images.min() <= images.max() <= 1


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)])
def test_shapes_of_generators_and_critics(shape: tuple[int, int, int]) -> None:
    for generator, critic in [
        (MLPGenerator(shape, hidden=(256, 256)), MLPCritic(shape, hidden=(256, 256))),
        (DCGenerator(shape, width=4), DCCritic(shape, width=4)),
    ]:
        images: Tensor = generator(torch.randn(3, generator.z_dim))
        assert images.shape == (3, *shape)
        assert critic(images).shape == (3,)
        assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in critic.modules())


def test_it_learns_a_simple_image() -> None:
    """One bright corner: after training, the generator's mean image is near the data's."""
    gan = small_gan()
    x = torch.zeros(64, *SHAPE)
    x[:, :, :4, :4] = 1
    optimizers = gan.configure_optimizers()
    for gan.step_index in range(600):
        gan.train_step(Batch(x, torch.zeros(64), torch.zeros(64)), optimizers)
    assert (gan.sample(100).mean(0) - x[0]).abs().mean() < 0.15
