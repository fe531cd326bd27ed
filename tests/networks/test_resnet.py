"""ResNet-18: the same function as torchvision's, learned by every kind of method. ResNet-32, against its layers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from conftest import Compose, there
from torch import Tensor, nn
from torchvision.models import resnet18

from cl_bench.config import InputError
from cl_bench.networks.resnet import Residual, ResNet18, ResNet32
from cl_bench.runs.loop import run
from cl_bench.runs.setup import prepare


def test_it_is_the_network_of_torchvision_with_another_beginning() -> None:
    theirs, ours = resnet18(num_classes=10), ResNet18((3, 32, 32), 10)
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.MaxPool2d(1)  # of one pixel
    blocks = [block for n in range(1, 5) for block in getattr(theirs, f"layer{n}")]
    pairs: list[tuple[nn.Module, nn.Module]] = [(ours.features[0], theirs.conv1), (ours.features[1], theirs.bn1)]
    for mine, block in zip((m for m in ours.modules() if isinstance(m, Residual)), blocks, strict=True):
        parts = (block.conv1, block.bn1, block.relu, block.conv2, block.bn2)
        pairs += zip(mine.branch.children(), parts, strict=True)
        if block.downsample:
            pairs += zip(mine.shortcut.children(), block.downsample, strict=True)
    for mine, part in [*pairs, (ours.head, theirs.fc)]:
        mine.load_state_dict(part.state_dict())
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters()) == 11_173_962

    x = torch.rand(4, 3, 32, 32)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)  # with the statistics of the mini-batch
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("signed", [False, True])
def test_resnet32_is_what_its_layers_say(signed: bool) -> None:
    """In float64, by its own weights one after another: shortcuts that halve the side pad new channels with zeros."""
    torch.manual_seed(0)
    network = ResNet32((3, 32, 32), 10, signed=signed).double().eval()
    assert sum(p.numel() for p in network.parameters()) == 464_154
    pairs = iter([m for m in network.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)])

    def convolved(x: Tensor, stride: int = 1) -> Tensor:
        convolution, norm = next(pairs), next(pairs)
        assert isinstance(norm, nn.BatchNorm2d)
        return norm(F.conv2d(x, next(convolution.parameters()), stride=stride, padding=1))

    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    x = convolved(images).relu()
    for block in range(15):
        stride = 2 if block in (5, 10) else 1
        y = convolved(convolved(x, stride).relu())
        x = x[:, :, ::stride, ::stride]
        x = torch.cat([x, torch.zeros(2, y.shape[1] - x.shape[1], *x.shape[2:])], 1) + y
        x = x if signed and block == 14 else x.relu()
    assert next(pairs, None) is None
    torch.testing.assert_close(network.features(images), x.mean((2, 3)))
    assert x.shape == (2, 64, 8, 8)
    assert bool((x < 0).any()) == signed


def test_its_weights_and_what_it_computes_lie_with_channels_last() -> None:
    network = ResNet18((3, 8, 8), 10, width=8)
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in network.parameters() if p.dim() == 4)
    before_pooling = network.features[:-2](torch.rand(2, 3, 8, 8))
    assert before_pooling.shape == (2, 64, 1, 1)
    assert network.features[:5](torch.rand(2, 3, 8, 8)).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("width", [1, 7])
def test_a_narrow_one_keeps_channels_first(width: int) -> None:
    """With channels last its backward pass has ended the process, in torch, on some CPUs."""
    network = ResNet18((1, 8, 8), 10, width=width)
    assert all(p.is_contiguous() for p in network.parameters())
    network(torch.rand(2, 1, 8, 8)).sum().backward()


@pytest.mark.parametrize(
    "method",
    [("method=ewc", "method.fisher_samples=20"), ("method=lwf",), ("method=agem",), ("method=icarl",), ("method=dgr",)],
    ids=lambda method: method[0],
)
def test_methods_learn_with_it(method: tuple[str, ...], small: Compose) -> None:
    few = ("scenario.n_tasks=2", "trainer.iterations=3", "trainer.batch_size=32")
    results = run(small(*method, "network=resnet18", "network.width=2", *few))
    assert results.status == "finished"


@pytest.mark.parametrize(
    "replay",
    [
        ("method=der", "memory=1"),
        ("method=agem", "method.n_replay=1"),
        ("method=gem", "memory.images=1", "memory.per=task"),
    ],
)
def test_batch_normalization_of_one_replayed_image_is_one_line(replay: tuple[str, ...], small: Compose) -> None:
    with pytest.raises(InputError, match="batch normalization can't train on a single image; raise memory"):
        run(small(*replay, "network=resnet18", "network.width=2", "scenario.n_tasks=2"))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_it_learns_the_digits(precision: str, small: Compose) -> None:
    short = ("scenario.n_tasks=2", "trainer.iterations=40", "trainer.batch_size=64")
    results = run(
        small("method=joint", "network=resnet18", "network.width=4", f"trainer.precision={precision}", *short)
    )
    assert there(results.metrics["ACC"]) > 0.6


def test_one_image_gets_the_same_answer_alone(small: Compose) -> None:
    scenario, method = prepare(small("method=finetune", "network=resnet18", "network.width=4"))
    x = scenario.tasks[0].train.batch(torch.arange(3)).x
    method.eval()
    torch.testing.assert_close(method(x)[:1], method(x[:1]))
