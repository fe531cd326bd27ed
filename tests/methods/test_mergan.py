"""Memory replay GANs: the alignment by hand, what each way trains on, and an old generator that stays as it was."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from conftest import Compose
from torch import Tensor

from cl_bench.config import InputError
from cl_bench.data.batches import REPLAYED, Data
from cl_bench.data.scenarios import Scenario
from cl_bench.methods.base import Learner, frozen
from cl_bench.methods.mergan import MeRGAN
from cl_bench.runs.setup import prepare


def beginning(small: Compose, *overrides: str, task: int = 2) -> tuple[Scenario, MeRGAN]:
    scenario, method = prepare(small("method=mergan", *overrides))
    assert isinstance(method, MeRGAN)
    method.task = task
    return scenario, method


def weights(module: torch.nn.Module) -> list[Tensor]:
    return [value.clone() for value in module.state_dict().values()]


def same(some: list[Tensor], others: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


class Training:
    """Stands for `fit`: a few steps on what it is given, and a look at the GAN and its elders meanwhile."""

    def __init__(self, method: MeRGAN, steps: int = 3) -> None:
        self.method, self.steps = method, steps
        self.data: dict[str, Data] = {}
        self.started_from: list[Tensor] = []
        self.penalty: Any = None
        self.old_stayed = True

    def __call__(self, module: Learner, data: Data, *, phase: str, **_: Any) -> None:
        self.data[phase] = data
        optimizers: Any = module.configure_optimizers()
        if module is self.method.gan:
            self.started_from, self.penalty = weights(module), self.method.gan.penalty
        elders = [self.method._old.gan] if self.method._old else []
        elders += [self.penalty.args[0]] if self.penalty else []
        before = [weights(elder) for elder in elders]
        for module.step_index in range(self.steps):
            rows = torch.randperm(len(data))[:32]
            module.step(data.batch(rows), optimizers)
        self.old_stayed &= all(same(weights(elder), old) for elder, old in zip(elders, before, strict=True))


def learn(method: MeRGAN, scenario: Scenario, index: int, **more: int) -> Training:
    method.task = index
    fit = Training(method, **more)
    method.learn(scenario.tasks[index], fit)
    return fit


def test_alignment_is_nothing_until_the_generator_moves(small: Compose) -> None:
    _, method = beginning(small)
    old = frozen(method.gan.generator)
    assert method.alignment(old, 12).item() == 0
    with torch.no_grad():
        for weight in method.gan.generator.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    loss = method.alignment(old, 12)
    assert loss.item() > 0
    loss.backward()
    assert all(weight.grad is None for weight in old.parameters())
    assert any(weight.grad.any() for weight in method.gan.generator.parameters())  # type: ignore[union-attr]


def test_alignment_by_hand(small: Compose) -> None:
    """lambda / (t-1) sum_c 1/2 sum_i |G(z_i, c) - G_old(z_i, c)|^2 over pixels in [-1, 1], for 4 past classes."""
    _, method = beginning(small, "method.lambda_ra=0.02")
    old = frozen(method.gan.generator)
    with torch.no_grad():
        for weight in method.gan.generator.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    z = torch.randn(12, method.gan.generator.z_dim)
    method.gan.noise = lambda n: z[:n]
    total = 0.0
    for c in range(4):
        for i in (c, c + 4, c + 8):  # 3 noises for each
            y = torch.tensor([c])
            new, before = (2 * g(z[i : i + 1], y).detach() - 1 for g in (method.gan.generator, old))
            total += sum(((a - b) ** 2).item() for a, b in zip(new.flatten(), before.flatten(), strict=True)) / 2
    assert method.alignment(old, 12).item() == pytest.approx(0.02 / 4 * total, rel=1e-4)


def test_replay_shows_the_gan_n_gen_images_per_past_class(small: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario, method = beginning(small, "scenario.n_tasks=10", "method.n_gen=30")  # one class per task
    for index in range(3):
        left = weights(method.gan)
        fit = learn(method, scenario, index)
        assert same(fit.started_from, left)  # neither player starts anew
        assert not same(weights(method.gan), left)
        assert fit.old_stayed
        assert fit.penalty is None
        data, own = fit.data["generator"], scenario.tasks[index].train
        replayed = data[data.task == REPLAYED]
        assert torch.bincount(replayed.labels, minlength=10).tolist() == [30] * index + [0] * (10 - index)
        assert torch.equal(data[data.task != REPLAYED].images, own.images)
        assert fit.data["solver"] is data
        assert method.gan.allowed is not None
        assert method.gan.allowed.nonzero().squeeze(1).tolist() == list(range(index + 1))


def test_replayed_images_are_the_old_generators(small: Compose) -> None:
    scenario, method = beginning(small)
    z = torch.randn(100, method.gan.generator.z_dim)
    old = frozen(method.gan)
    old.noise = method.gan.noise = lambda n: z[:n]
    fit = learn(method, scenario, 1)
    replayed = fit.data["generator"][fit.data["generator"].task == REPLAYED]
    assert torch.equal(replayed.images, (255 * old.sample(replayed.labels)).round().to(torch.uint8))


def test_alignment_shows_the_gan_the_new_images_alone(small: Compose) -> None:
    scenario, method = beginning(small, "method.way=alignment")
    for index in range(3):
        left = weights(method.gan)
        fit = learn(method, scenario, index, steps=6)
        assert same(fit.started_from, left)
        assert fit.old_stayed
        assert fit.data["generator"] is scenario.tasks[index].train
        replayed = int((fit.data["solver"].task == REPLAYED).sum())  # the solver needs the past all the same
        assert replayed == 100 * index
        assert (fit.penalty is None) == (index == 0)
        assert method.gan.penalty is None  # what comes next isn't held
        if index:
            assert isinstance(fit.penalty, partial)
            assert fit.penalty.args[0] is not method.gan.generator
            assert fit.penalty(8).item() > 0  # from where it started, as far as it has moved


def test_alignment_holds_the_images_of_past_classes(small: Compose) -> None:
    moved = []
    for strength in (0.0, 0.1):
        torch.manual_seed(0)
        scenario, method = beginning(small, "method.way=alignment", f"method.lambda_ra={strength}")
        learn(method, scenario, 0, steps=30)
        z, y = torch.randn(40, method.gan.generator.z_dim), torch.arange(40) % 2
        before = method.gan.generator(z, y).detach()
        learn(method, scenario, 1, steps=100)
        moved.append((method.gan.generator(z, y) - before).abs().mean().item())
    assert moved[1] < 0.5 * moved[0]


def test_domains_share_their_classes(small: Compose) -> None:
    with pytest.raises(InputError, match="method=mergan: has no meaning in scenario=domain_incremental"):
        prepare(small("method=mergan", "scenario=domain_incremental"))
