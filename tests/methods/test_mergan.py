"""Memory replay GANs: the alignment by hand, what each way trains on, and an old generator that stays as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import Call, Recorder, made
from torch import Tensor

from cl_bench.config import InputError
from cl_bench.data.batches import REPLAYED
from cl_bench.data.tasks import Scenario
from cl_bench.methods.base import frozen
from cl_bench.methods.mergan import MeRGAN
from cl_bench.methods.parts.generative_replay import Scholar


def beginning(*overrides: str, task: int = 2) -> tuple[Scenario, MeRGAN]:
    scenario, method = made("mergan", *overrides)
    method.index = task
    return scenario, method


def weights(module: torch.nn.Module) -> list[Tensor]:
    return [value.clone() for value in module.state_dict().values()]


def same(some: list[Tensor], others: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


class Watched(Recorder):
    """Notes the weights that the GAN starts from, what the last task left, and whether that stayed as it was."""

    def __init__(self, steps: int) -> None:
        super().__init__(steps, self.note)
        self.started_from: list[Tensor] = []
        self.old: Scholar | None = None
        self.old_stayed = True

    def note(self, call: Call) -> None:
        if call.phase == "generator" and not self.started_from:
            self.started_from = weights(call.module)

    def given(self, name: str) -> Any:
        """What the steps of the GAN were handed."""
        step: Any = self["generator"].step
        return step.keywords.get(name)


def learn(method: MeRGAN, scenario: Scenario, index: int, steps: int = 3) -> Watched:
    fit, scholar, before = Watched(steps), MeRGAN.scholar, []

    def and_note(self: MeRGAN, *args: int) -> Scholar:
        fit.old = scholar(self, *args)
        before.extend(weights(fit.old.gan))
        return fit.old

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MeRGAN, "scholar", and_note)
        method.learn_task(scenario.tasks[index], fit)
    assert (fit.old is None) == (index == 0)
    fit.old_stayed = fit.old is None or same(weights(fit.old.gan), before)
    return fit


def test_alignment_is_nothing_until_the_generator_moves() -> None:
    _, method = beginning()
    old = method.scholar()
    assert method.alignment(old, 12).item() == 0
    with torch.no_grad():
        for weight in method.gan.generator.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    loss = method.alignment(old, 12)
    assert loss.item() > 0
    loss.backward()
    assert all(weight.grad is None for weight in old.gan.parameters())
    assert any(weight.grad.any() for weight in method.gan.generator.parameters() if weight.grad is not None)


def test_alignment_by_hand() -> None:
    """lambda / (t-1) sum_c 1/2 sum_i |G(z_i, c) - G_old(z_i, c)|^2 over pixels in [-1, 1], for 4 past classes."""
    _, method = beginning("method.lambda_ra=0.02", "method.way=alignment")
    old = method.scholar()
    with torch.no_grad():
        for weight in method.gan.generator.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    z = torch.randn(12, method.gan.generator.z_dim)
    method.gan.noise = lambda n: z[:n]
    total = 0.0
    for c in range(4):
        for i in (c, c + 4, c + 8):  # 3 noises for each
            y = torch.tensor([c])
            new, before = (2 * g(z[i : i + 1], y).detach() - 1 for g in (method.gan.generator, old.gan.generator))
            total += sum(((a - b) ** 2).item() for a, b in zip(new.flatten(), before.flatten(), strict=True)) / 2
    assert method.alignment(old, 12).item() == pytest.approx(0.02 / 4 * total, rel=1e-4)


def test_replay_shows_the_gan_n_gen_images_per_past_class() -> None:
    scenario, method = beginning("scenario.n_tasks=10", "method.n_gen=30")  # one class per task
    for index in range(3):
        left = weights(method.gan)
        fit = learn(method, scenario, index)
        assert same(fit.started_from, left)  # neither player starts anew
        assert not same(weights(method.gan), left)
        assert fit.old_stayed
        assert fit.given("penalty") is None
        data, own = fit["generator"].data, scenario.tasks[index].train
        replayed = data[data.task_ids == REPLAYED]
        assert torch.bincount(replayed.labels, minlength=10).tolist() == [30] * index + [0] * (10 - index)
        assert torch.equal(data[data.task_ids != REPLAYED].images, own.images)
        assert fit["solver"].data is data
        assert fit.given("allowed").nonzero().squeeze(1).tolist() == list(range(index + 1))


def test_replayed_images_are_the_old_generators() -> None:
    scenario, method = beginning()
    z = torch.randn(100, method.gan.generator.z_dim)
    old: Any = frozen(method.gan)
    old.noise = method.gan.noise = lambda n: z[:n]
    fit = learn(method, scenario, 1)
    data = fit["generator"].data
    replayed = data[data.task_ids == REPLAYED]
    assert torch.equal(replayed.images, (255 * old.sample(replayed.labels)).round().to(torch.uint8))


def test_alignment_shows_the_gan_the_new_images_alone() -> None:
    scenario, method = beginning("method.way=alignment")
    for index in range(3):
        left = weights(method.gan)
        fit = learn(method, scenario, index, steps=6)
        assert same(fit.started_from, left)
        assert fit.old_stayed
        assert fit["generator"].data is scenario.tasks[index].train
        replayed = int((fit["solver"].data.task_ids == REPLAYED).sum())  # the solver needs the past all the same
        assert replayed == 100 * index
        assert (fit.given("penalty") is None) == (index == 0)
        if index:
            assert fit.old is not None
            assert fit.old.gan.generator is not method.gan.generator
            assert fit.given("penalty").args[0] is fit.old
            assert fit.given("penalty")(8).item() > 0  # from where it started, as far as it has moved


def test_alignment_holds_the_images_of_past_classes() -> None:
    moved = []
    for strength in (0.0, 0.1):
        torch.manual_seed(0)
        scenario, method = beginning("method.way=alignment", f"method.lambda_ra={strength}")
        learn(method, scenario, 0, steps=30)
        z, y = torch.randn(40, method.gan.generator.z_dim), torch.arange(40) % 2
        before = method.gan.generator(z, y).detach()
        learn(method, scenario, 1, steps=100)
        moved.append((method.gan.generator(z, y) - before).abs().mean().item())
    assert moved[1] < 0.5 * moved[0]


def test_domains_share_their_classes() -> None:
    with pytest.raises(InputError, match="method=mergan: does not work in scenario=domain_incremental"):
        made("mergan", "scenario=domain_incremental")
