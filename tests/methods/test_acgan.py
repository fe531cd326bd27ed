"""The conditional GAN: its losses by hand, its players apart, its classes those asked for; and DGR with it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import Compose, made, there
from torch import Tensor, nn

from cl_bench.data.batches import REPLAYED, Batch
from cl_bench.data.tasks import Scenario
from cl_bench.methods.dgr import DGR
from cl_bench.methods.parts.acgan import ACGAN
from cl_bench.methods.parts.generative_replay import Scholar
from cl_bench.methods.parts.two_players import balanced_labels
from cl_bench.networks.base import Network, reset_parameters
from cl_bench.networks.gan import ConditionalGenerator, ConditionalMLP, Discriminator
from cl_bench.networks.mlp import MLP
from cl_bench.networks.optimizers import Adam
from cl_bench.runs.loop import run

SHAPE, CLASSES = (1, 8, 8), 4


def small_gan(**more: Any) -> ACGAN:
    torch.manual_seed(0)
    generator = ConditionalMLP(SHAPE, CLASSES, z_dim=4, hidden=(8,))
    discriminator = Discriminator(MLP(SHAPE, CLASSES, hidden=(8,)))
    settings = {"n_critic": 1, "lambda_gp": 10.0, "lambda_aux": 1.0, **more}
    return ACGAN(generator, discriminator, Adam(lr=0.01, betas=(0.5, 0.9)), **settings)


class Painter(nn.Module):
    """Draws each class as one image, whatever the noise; remembers the classes it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.images = nn.Parameter(torch.rand(CLASSES, *SHAPE))
        self.asked: list[list[int]] = []

    def forward(self, condition: Tensor) -> Tensor:
        y = condition[:, -CLASSES:].argmax(1)
        self.asked.append(y.tolist())
        return self.images[y]


def linear_gan(**more: Any) -> tuple[Any, Painter]:
    """Without a hidden layer: every answer about an image is linear in its pixels."""
    torch.manual_seed(0)
    painter = Painter()
    generator = ConditionalGenerator(CLASSES, 2, painter)
    settings = {"n_critic": 1, "lambda_gp": 10.0, "lambda_aux": 1.0, **more}
    return ACGAN(
        generator, Discriminator(Network([nn.Flatten()], 64, CLASSES)), Adam(lr=1e-3, betas=(0.9, 0.999)), **settings
    ), painter


def still(gan: ACGAN) -> list[torch.optim.Optimizer]:
    """Optimizers that leave every weight where it is, and its gradient to be read."""
    return [torch.optim.SGD(gan.discriminator.parameters(), lr=0), torch.optim.SGD(gan.generator.parameters(), lr=0)]


def some_batch(n: int = 6) -> Batch:
    return Batch(torch.rand(n, *SHAPE), torch.arange(n) % CLASSES, torch.zeros(n))


def moved(module: nn.Module, before: dict[str, Tensor]) -> set[bool]:
    return {not torch.equal(weight, before[name]) for name, weight in module.state_dict().items()}


def copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in module.state_dict().items()}


def test_the_discriminator_moves_on_every_mini_batch_and_the_generator_once_in_n_critic() -> None:
    gan = small_gan(n_critic=3)
    optimizers = gan.configure_optimizers()
    for gan.step_index in range(6):
        before = copied(gan.discriminator), copied(gan.generator)
        logs = gan.train_step(some_batch(), optimizers)
        turn = gan.step_index in (2, 5)
        assert True in moved(gan.discriminator, before[0])
        assert moved(gan.generator, before[1]) == {turn}
        assert ("generator" in logs) == turn


def test_neither_players_step_touches_the_other() -> None:
    gan = small_gan(n_critic=1)
    critics, generators = gan.configure_optimizers()
    batch = some_batch()
    before = copied(gan.generator)
    torch.manual_seed(1)
    gan.train_step(
        batch, [critics, torch.optim.SGD(gan.generator.parameters(), lr=0)]
    )  # the discriminator's step alone
    assert moved(gan.generator, before) == {False}
    before = copied(gan.discriminator)
    gan.train_step(batch, [torch.optim.SGD(gan.discriminator.parameters(), lr=0), generators])  # the generator's alone
    assert moved(gan.discriminator, before) == {False}
    assert all(p.requires_grad for p in gan.parameters())

    def slopes(at: int) -> list[Tensor | None]:
        torch.manual_seed(1)
        gan.step_index, gan.n_critic = at, 2
        gan.train_step(batch, still(gan))
        return [p.grad for p in gan.discriminator.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(slopes(0), slopes(1), strict=True))  # type: ignore[arg-type]


def test_the_discriminators_loss_by_hand() -> None:
    """A linear critic has its weight for a slope everywhere; the classes take no part in the penalty."""
    gan, painter = linear_gan(lambda_gp=7.0, n_critic=2)
    batch = some_batch()
    x, y = batch.x.flatten(1), batch.y
    fake = painter.images.detach()[y].flatten(1)
    w, v = gan.discriminator.critic.weight.detach()[0], gan.discriminator.network.head
    logs = gan.train_step(batch, still(gan))

    assert logs["wasserstein"].item() == pytest.approx(float((x @ w).mean() - (fake @ w).mean()), abs=1e-6)
    assert logs["penalty"].item() == pytest.approx(float((w.norm() - 1).square()), rel=1e-5)
    p = v(x).softmax(1).detach()
    assert logs["error"].item() == pytest.approx(float(-p[torch.arange(6), y].log().mean()), rel=1e-5)
    expected = 7 * 2 * (w.norm() - 1) * w / w.norm() - (x.mean(0) - fake.mean(0))
    assert torch.allclose(gan.discriminator.critic.weight.grad[0], expected, atol=1e-5)
    expected = (p - F.one_hot(y, CLASSES)).T @ x / 6  # of the real images alone
    assert torch.allclose(v.weight.grad, expected, atol=1e-6)
    assert painter.images.grad is None


def test_the_generators_loss_by_hand() -> None:
    gan, painter = linear_gan(lambda_aux=0.3, n_critic=1)
    batch = some_batch(4)  # one image of each class
    logs = gan.train_step(batch, still(gan), penalty=lambda n: n * painter.images.square().sum())
    w, v = gan.discriminator.critic, gan.discriminator.network.head
    fake = painter.images.detach().requires_grad_()
    error = F.cross_entropy(v(fake.flatten(1)), batch.y)
    expected = 0.3 * error - w(fake.flatten(1)).mean() + 4 * fake.square().sum()
    assert logs["generator"].item() == pytest.approx(expected.item(), rel=1e-5)
    (slope,) = torch.autograd.grad(expected, fake)
    assert torch.allclose(painter.images.grad, slope, atol=1e-5)  # type: ignore[arg-type]


def test_fake_images_are_of_the_classes_of_the_batch_that_was_mixed() -> None:
    gan, painter = linear_gan(n_critic=1)
    batch = some_batch()
    gan.train_step(batch, still(gan))
    other = Batch(torch.ones(6, *SHAPE), torch.tensor([3, 3, 3, 0, 0, 0]), batch.task_ids)
    logs = gan.train_step(batch, still(gan), mix=lambda batch: other)
    assert painter.asked == [[0, 1, 2, 3, 0, 1]] * 2 + [[3, 3, 3, 0, 0, 0]] * 2
    logits = gan.discriminator(other.x)[1]
    assert logs["error"].item() == pytest.approx(F.cross_entropy(logits, other.y).item(), rel=1e-5)


def test_classes_that_have_not_come_take_no_part() -> None:
    gan, painter = linear_gan(n_critic=1, lambda_aux=1.0)
    batch = some_batch()._replace(y=torch.tensor([0, 2, 0, 2, 2, 0]))
    logs = gan.train_step(batch, still(gan), allowed=torch.tensor([True, False, True, False]))
    scores, logits = gan.discriminator(batch.x)
    error = F.cross_entropy(logits[:, [0, 2]], batch.y // 2)
    assert logs["error"].item() == pytest.approx(error.item(), rel=1e-5)
    slope = gan.discriminator.network.head.weight.grad
    assert slope[[0, 2]].abs().sum(1).min() > 0
    assert not slope[[1, 3]].any()
    scores, logits = gan.discriminator(painter.images[batch.y])
    loss = F.cross_entropy(logits[:, [0, 2]], batch.y // 2) - scores.mean()
    assert logs["generator"].item() == pytest.approx(loss.item(), rel=1e-5)


def test_samples_are_of_the_classes_asked_for_and_leave_the_mode() -> None:
    gan, painter = linear_gan()
    y = torch.randint(CLASSES, (2500,))  # more than are made at a time
    assert torch.equal(gan.sample(y), painter.images[y])
    assert [len(part) for part in painter.asked if len(part) > 1] == [1000, 1000, 500]  # one tells how large they are
    gan = small_gan()
    for training in (True, False):
        gan.generator.train(training)
        images = gan.sample(torch.arange(CLASSES))
        assert gan.generator.training == gan.generator.layers.training == training
        assert images.shape == (CLASSES, *SHAPE)
        assert not images.requires_grad
        assert 0 <= images.min() < images.max() <= 1
    assert not torch.equal(gan.sample(torch.zeros(1).long()), gan.sample(torch.zeros(1).long()))  # new noise each time


def test_reset_forgets() -> None:
    gan = small_gan()
    before = [p.clone() for p in gan.parameters()]
    reset_parameters(gan)
    assert all(not torch.equal(p, q) for p, q in zip(before, gan.parameters(), strict=True))


def test_classes_come_equally_often_and_none_is_left_out_for_good() -> None:
    classes = torch.tensor([2, 5, 7])
    assert balanced_labels(classes, 6).bincount().tolist() == [0, 0, 2, 0, 0, 2, 0, 2]
    assert sorted(balanced_labels(classes, 7).bincount()[classes].tolist()) == [2, 2, 3]
    torch.manual_seed(0)
    few = torch.cat([balanced_labels(classes, 2) for _ in range(3000)]).bincount()[classes]
    assert few.sum() == 6000
    assert (few - 2000).abs().max() < 150


def test_it_learns_which_image_belongs_to_which_class() -> None:
    """One bright half per class: top, bottom, left, right."""
    gan = small_gan()
    shapes = torch.zeros(CLASSES, *SHAPE)
    shapes[0, :, :4], shapes[1, :, 4:], shapes[2, :, :, :4], shapes[3, :, :, 4:] = 1, 1, 1, 1
    y = torch.arange(64) % CLASSES
    optimizers = gan.configure_optimizers()
    for gan.step_index in range(1000):
        gan.train_step(Batch(shapes[y], y, torch.zeros(64)), optimizers)
    drawn = gan.sample(y)
    distance = (drawn[:, None] - shapes).abs().mean((2, 3, 4))
    assert torch.equal(distance.argmin(1), y)
    assert distance.gather(1, y[:, None]).mean() < 0.15


# Deep generative replay with it


def learning(*overrides: str) -> tuple[DGR, Scholar, Scenario]:
    """A method in the middle of learning, and what the last task left."""
    scenario, method = made("dgr", "gan@method.gan=acgan_mlp", *overrides)
    method.index = 2
    return method, method.scholar(), scenario


def labeled(y: Tensor) -> Tensor:
    """Images that bear their class."""
    return (y / 255).view(-1, 1, 1, 1).repeat(1, *SHAPE)


@pytest.mark.parametrize("kind", ["class", "task", "domain"])
def test_replayed_images_bear_the_labels_that_were_asked_for(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method, old, scenario = learning(f"scenario={kind}_incremental", "method.n_gen=100")
    monkeypatch.setattr(old.gan, "sample", labeled)
    images, labels = method.generate_replay(old, 200)
    assert torch.equal(images[:, 0, 0, 0].long(), labels)
    expected = [100, 100] if kind == "domain" else [50, 50, 50, 50]
    assert torch.bincount(labels).tolist() == expected
    batch = scenario.tasks[2].train.batch(torch.arange(30))
    mixed = method.mixed(old, batch)
    assert torch.equal(mixed.x[:10], batch.x[:10])
    assert torch.equal(mixed.y[:10], batch.y[:10])
    assert torch.equal((255 * mixed.x[10:, 0, 0, 0]).round().long(), mixed.y[10:])
    assert torch.bincount(mixed.y[10:], minlength=4)[:4].tolist() == ([10, 10, 0, 0] if kind == "domain" else [5] * 4)
    assert (method.mixture(scenario.tasks[2], old)[0].task_ids == REPLAYED).sum() == 200


def test_disagreement_is_the_share_that_the_old_solver_takes_for_another_class() -> None:
    method, old, scenario = learning("method.n_gen=100")
    data, diagnostics = method.mixture(scenario.tasks[2], old)
    replayed = data[data.task_ids == REPLAYED]
    wrong = 0
    for image, label in zip(replayed.images, replayed.labels.tolist(), strict=True):
        logits = old.solver(image[None].float() / 255)[0].tolist()[:4]  # the classes that it knows
        wrong += logits.index(max(logits)) != label
    assert 0 < wrong < 200
    assert diagnostics["disagreement"] == pytest.approx(wrong / 200)
    assert diagnostics["replay_histogram"] == [50] * 4 + [0] * 6


def test_generate_gives_n_of_each_class_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    method, _, _ = learning()
    monkeypatch.setattr(method.gan, "sample", labeled)
    images, labels = method.generate(7)
    assert torch.bincount(labels).tolist() == [7] * 6
    assert torch.equal((255 * images[:, 0, 0, 0]).round().long(), labels)


@pytest.mark.parametrize("replay", ["fixed", "fresh"])
def test_dgr_with_it(replay: str, small: Compose) -> None:
    settings = small(
        "method=dgr",
        "gan@method.gan=acgan_mlp",
        "method.gan.generator.hidden=[16]",
        "method.gan.discriminator.network.hidden=[16]",
        f"method.replay={replay}",
        "trainer.precision=bf16-mixed",
        "scenario.n_tasks=2",
        "trainer.epochs=10",
        "optimizer.lr=0.01",
    )
    results = run(settings)
    assert results.status == "finished"
    assert there(results.R[1][1]) > 0.75
    assert 0 <= there(results.tasks[1].diagnostics.disagreement) <= 1
