"""What every classifier network has: normalization as its first layer, and another one like it; frozen entries."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import learn, made
from torch import nn

from cl_bench.data import tasks
from cl_bench.data.problem import Problem
from cl_bench.networks.base import Network, Normalize
from cl_bench.networks.masks import Frozen

NETWORKS = {
    "mlp": ("network.hidden=[8]",),
    "cnn": ("network.channels=[4]", "network.hidden=8"),
    "dcgan": ("network.width=4", "network.norm=batch"),
    "resnet_gan": ("network.width=4",),
    "resnet18": ("network.width=4",),
    "resnet32": ("network.width=2",),
}
MEAN, STD = 0.3, 0.25


def test_each_channel_is_normalized_with_its_own_mean_and_deviation() -> None:
    images = torch.rand(4, 2, 3, 3)
    found = Normalize((0.5, 0.2), (0.1, 0.4))(images)
    assert torch.allclose(found[:, 0], (images[:, 0] - 0.5) / 0.1)
    assert torch.allclose(found[:, 1], (images[:, 1] - 0.2) / 0.4)
    assert not Normalize((0.5,), (0.1,)).state_dict()  # it follows from the data set


def standardized(method: str, *overrides: str) -> Any:
    """On digits that have a mean and a deviation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "Problem", lambda *args: replace(Problem(*args), mean=(MEAN,), std=(STD,)))
        return made(method, *overrides)


@pytest.mark.parametrize("network", NETWORKS)
def test_it_is_the_first_layer_where_the_data_have_a_mean(network: str) -> None:
    chosen = (f"network={network}", *NETWORKS[network])
    (_, plain), (_, method) = made("finetune", *chosen), standardized("finetune", *chosen)
    assert isinstance(method.network.features[0], Normalize)
    assert not any(isinstance(layer, Normalize) for layer in plain.network.modules())
    assert [p.shape for p in plain.parameters()] == [p.shape for p in method.parameters()]
    x = torch.rand(5, 1, 8, 8)
    with torch.no_grad():
        for p, q in zip(plain.parameters(), method.parameters(), strict=True):
            p.copy_(q)
    torch.testing.assert_close(method.eval()(x), plain.eval()((x - MEAN) / STD))


@pytest.mark.parametrize(("method", "network"), [("dgm", "network"), ("joint_gan", "gan.discriminator.network")])
def test_a_discriminator_that_answers_sees_normalized_pixels(method: str, network: str, tmp_path: Path) -> None:
    """Real and fake images alike, in training and when it answers."""
    scenario, learner = standardized(method, "scenario.n_tasks=1", "trainer.iterations=4")
    seen: list[Any] = []
    first, second = learner.get_submodule(network).features[:2]
    assert isinstance(first, Normalize)
    handle = second.register_forward_hook(lambda layer, args, out: seen.append(args[0].detach().aminmax()))
    learn(learner, scenario, 0, tmp_path, iterations=4)
    learner(scenario.tests[0].batch(torch.arange(50)).x)
    handle.remove()
    low, high = (torch.stack(values) for values in zip(*seen, strict=True))
    assert low.min() < 0  # a pixel in [0, 1] never is
    assert low.min() >= (0 - MEAN) / STD - 1e-5
    assert float(high.max()) == pytest.approx((1 - MEAN) / STD, rel=1e-3)
    assert (high - low).min() > 1.5


@pytest.mark.parametrize("network", NETWORKS)
def test_a_fresh_network_has_the_same_shape_and_weights_of_its_own(network: str) -> None:
    _, method = standardized("finetune", f"network={network}", *NETWORKS[network])
    ours: Network = method.network
    x = torch.rand(6, 1, 8, 8)
    ours(x)  # running statistics that a fresh one must not have
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    torch.manual_seed(5)
    fresh = ours.fresh()
    torch.manual_seed(5)
    again = ours.fresh()
    assert type(fresh) is type(ours)
    assert [p.shape for p in fresh.parameters()] == [p.shape for p in ours.parameters()]
    drawn = [name for name, p in ours.named_parameters() if p.dim() > 1]
    assert drawn
    assert not any(torch.equal(fresh.state_dict()[name], before[name]) for name in drawn)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in fresh.state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())  # ours stays as it is
    for part in fresh.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            assert part.running_mean is not None
            assert not part.running_mean.any()
    assert isinstance(fresh.features[0], Normalize)


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.SGD])
def test_frozen_entries_stay_whatever_an_optimizer_does_and_the_others_move(make: Any) -> None:
    """Momentum and weight decay move a weight without a gradient."""
    torch.manual_seed(0)
    weight, bias, free = (nn.Parameter(torch.randn(*shape)) for shape in ((3, 4), (3,), (2,)))
    options: Any = {"momentum": 0.9} if make is torch.optim.SGD else {}
    optimizer = make([weight, bias, free], lr=0.1, weight_decay=0.5, **options)
    rows = torch.tensor([True, False, True])
    frozen: Frozen | None = None
    start = weight.detach().clone(), bias.detach().clone()
    for step in range(6):
        if step == 2:  # with momentum of steps before
            frozen = Frozen({weight: rows[:, None], bias: torch.tensor(True), free: torch.tensor([False, False])})
            start = weight.detach().clone(), bias.detach().clone()
        optimizer.zero_grad()
        (weight.square().sum() + bias.sum() + free.sum()).backward()
        optimizer.step()
        if frozen:
            frozen.restore()
    assert torch.equal(weight[rows], start[0][rows])
    assert torch.equal(bias, start[1])
    assert not (weight[~rows] == start[0][~rows]).any()
    assert frozen is not None
    assert len(frozen.parts) == 2  # nothing is done where nothing is frozen
