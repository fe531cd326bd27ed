"""Every network of a GAN: its shapes, its range, and that no image of a conditional generator knows of another."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from conftest import Compose
from torch import nn

from cl_bench.config import InputError
from cl_bench.data.batches import Batch
from cl_bench.methods.parts.acgan import ACGAN
from cl_bench.networks.base import Network
from cl_bench.networks.cnn import CNN
from cl_bench.networks.gan import (
    ConditionalDCGenerator,
    ConditionalGenerator,
    ConditionalMLP,
    DCCritic,
    DCGenerator,
    DCNetwork,
    Discriminator,
    MLPCritic,
    MLPGenerator,
    halvings,
)
from cl_bench.networks.mlp import MLP
from cl_bench.networks.optimizers import Adam
from cl_bench.networks.resnet_gan import ConditionalResNetGenerator, ResNetNetwork
from cl_bench.runs.setup import prepare

Shape = tuple[int, int, int]
SHAPES: list[Shape] = [(1, 8, 8), (1, 28, 28), (3, 32, 32)]
CLASSES = 4

CONDITIONAL: dict[str, Callable[[Shape], ConditionalGenerator]] = {
    "mlp": lambda shape: ConditionalMLP(shape, CLASSES, z_dim=5, hidden=(8,)),
    "dcgan": lambda shape: ConditionalDCGenerator(shape, CLASSES, z_dim=5, width=4),
    "resnet": lambda shape: ConditionalResNetGenerator(shape, CLASSES, z_dim=5, width=4),
}
NETWORKS: dict[str, Callable[[Shape], Network]] = {
    "mlp": lambda shape: MLP(shape, CLASSES, hidden=(8,)),
    "cnn": lambda shape: CNN(shape, CLASSES, channels=(4, 4), hidden=8),
    "dcgan": lambda shape: DCNetwork(shape, CLASSES, width=4),
    "dcgan of two": lambda shape: DCNetwork(shape, CLASSES, width=4, depth=2, norm="batch"),
    "resnet": lambda shape: ResNetNetwork(shape, CLASSES, width=4),
}


def independent(images: Callable[[torch.Tensor], torch.Tensor], z: torch.Tensor) -> bool:
    """Whether the first three images of a batch are the same in another batch."""
    return torch.allclose(images(z)[:3], images(torch.cat([z[:3], 9 * torch.rand(4, z.shape[1])]))[:3], atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", CONDITIONAL)
def test_conditional_generators(name: str, shape: Shape) -> None:
    torch.manual_seed(0)
    generator = CONDITIONAL[name](shape).train()
    z, y = torch.randn(7, generator.z_dim), torch.arange(7) % CLASSES
    images = generator(z, y)
    assert images.shape == (7, *shape)
    assert 0 <= images.min() < images.max() <= 1
    extreme = generator(1e4 * z, y)
    assert 0 <= extreme.min() <= extreme.max() <= 1
    assert independent(lambda z: generator(z, y), z)
    assert torch.allclose(generator(z[2:3], y[2:3])[0], images[2], atol=1e-5)  # nor is there one alone
    assert torch.allclose(generator.eval()(z, y), images, atol=1e-6)
    assert (generator(z, (y + 1) % CLASSES) - images).abs().amax((1, 2, 3)).min() > 1e-4  # the class tells
    assert (generator(-z, y) - images).abs().amax((1, 2, 3)).min() > 1e-4  # and the noise


@pytest.mark.parametrize("shape", SHAPES)
def test_generators_without_a_class(shape: Shape) -> None:
    torch.manual_seed(0)
    for generator in (MLPGenerator(shape, z_dim=5, hidden=(8,)), DCGenerator(shape, z_dim=5, width=4)):
        z = torch.randn(7, 5)
        images = generator.train()(z)
        assert images.shape == (7, *shape)
        assert 0 <= images.min() < images.max() <= 1
        assert independent(generator.eval(), z)
    assert not independent(generator.train(), z)  # batch normalization: what the test above must notice


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NETWORKS)
def test_classifiers_and_the_discriminators_made_of_them(name: str, shape: Shape) -> None:
    network = NETWORKS[name](shape)
    x = torch.rand(7, *shape)
    assert network(x).shape == (7, CLASSES)
    features = network.features(x)
    assert features.dim() == 2  # flat
    network.eval()
    discriminator = Discriminator(network)
    scores, logits = discriminator(x)
    assert scores.shape == (7,)
    assert torch.equal(logits, network(x))
    for answer in (scores, logits):  # both heads teach the features
        assert torch.autograd.grad(answer.sum(), next(network.parameters()), retain_graph=True)[0].any()
    assert torch.allclose(scores, network.features(x) @ discriminator.critic.weight[0] + discriminator.critic.bias)


@pytest.mark.parametrize("shape", SHAPES)
def test_critics(shape: Shape) -> None:
    for critic in (MLPCritic(shape, hidden=(8,)), DCCritic(shape, width=4)):
        assert critic(torch.rand(7, *shape)).shape == (7,)


@pytest.mark.parametrize("name", CONDITIONAL)
def test_a_step_of_the_gan_moves_every_weight(name: str) -> None:
    """Through the gradient of a gradient too."""
    torch.manual_seed(0)
    shape = (3, 16, 16)
    gan = ACGAN(
        CONDITIONAL[name](shape),
        Discriminator(NETWORKS[name](shape)),
        Adam(lr=0.01, betas=(0.9, 0.999)),
        n_critic=1,
        lambda_gp=10.0,
        lambda_aux=1.0,
    )
    before = [p.clone() for p in gan.parameters()]
    gan.train_step(
        Batch(torch.rand(32, *shape), torch.arange(32) % CLASSES, torch.zeros(32)), gan.configure_optimizers()
    )
    moved = {n: not torch.equal(p, old) for (n, p), old in zip(gan.named_parameters(), before, strict=True)}
    del moved["discriminator.critic.bias"]  # real and fake images pull it equally, both ways
    assert all(moved.values()), moved


@pytest.mark.parametrize(
    "make",
    [
        lambda shape: DCGenerator(shape),
        lambda shape: DCCritic(shape),
        lambda shape: ConditionalDCGenerator(shape, CLASSES, width=32),
        lambda shape: ConditionalResNetGenerator(shape, CLASSES),
    ],
    ids=["DCGenerator", "DCCritic", "ConditionalDCGenerator", "ConditionalResNetGenerator"],
)
@pytest.mark.parametrize("shape", [(1, 9, 9), (3, 30, 30), (1, 8, 12), (1, 3, 3)])
def test_a_size_that_does_not_fit_is_named(make: Callable[[Shape], nn.Module], shape: Shape) -> None:
    size = f"{shape[1]}" if shape[1] == shape[2] else f"{shape[1]}x{shape[2]}"
    with pytest.raises(InputError, match=rf"^dataset\.size={size}: .*; try 32$"):
        make(shape)


def test_halvings() -> None:
    assert {side: halvings((1, side, side)) for side in (8, 10, 12, 14, 16, 28, 32, 64)} == {
        8: (4, 1),
        10: (5, 1),
        12: (6, 1),
        14: (7, 1),
        16: (4, 2),
        28: (7, 2),
        32: (4, 3),
        64: (4, 4),
    }
    for side in (4, 7, 9, 18, 30):
        with pytest.raises(InputError, match=rf"dataset\.size={side}: "):
            halvings((1, side, side))


def test_batch_normalization_follows_all_but_the_first_convolution() -> None:
    kinds = [type(layer) for layer in DCNetwork((3, 32, 32), CLASSES, width=4, norm="batch").features]
    convolution = [nn.Conv2d, nn.LeakyReLU]
    normed = [nn.Conv2d, nn.BatchNorm2d, nn.LeakyReLU]
    assert kinds == [*convolution, *normed, *normed, nn.Flatten]
    plain = [type(layer) for layer in DCNetwork((3, 32, 32), CLASSES, width=4).features]
    assert plain == [*convolution, *convolution, *convolution, nn.Flatten]


def test_the_residual_networks_are_those_of_the_paper() -> None:
    """Counted by hand, for 32x32 and 128 channels: three blocks up; two down and two level ones without a norm."""
    convolution, norm, short = 9 * 128 * 128 + 128, 2 * 128, 128 * 128 + 128
    generator = ConditionalResNetGenerator((3, 32, 32), 10)
    up = 2 * convolution + 2 * norm + short
    expected = (138 * 2048 + 2048) + 3 * up + norm + (9 * 128 * 3 + 3)
    assert sum(p.numel() for p in generator.parameters()) == expected
    network = ResNetNetwork((3, 32, 32), 10)
    first = (9 * 3 * 128 + 128) + convolution + (3 * 128 + 128)
    expected = first + (2 * convolution + short) + 2 * 2 * convolution + (128 * 10 + 10)
    assert sum(p.numel() for p in network.parameters()) == expected
    sides = [network.features[:n](torch.rand(1, 3, 32, 32)).shape[-1] for n in range(1, 5)]
    assert sides == [16, 8, 8, 8]


@pytest.mark.parametrize("network", ["dcgan", "resnet_gan"])
def test_a_discriminator_serves_as_the_classifier(network: str, small: Compose) -> None:
    scenario, method = prepare(small("method=finetune", f"network={network}", "network.width=4"))
    assert method(scenario.tasks[0].train.batch(torch.arange(3)).x).shape == (3, 10)
