"""The meta-gradient goes through every inner step; the representation stays as it is; meta classes stay apart."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import Recorder, made, one_pass, there
from torch import Tensor, nn

from cl_bench.config import InputError
from cl_bench.data.batches import Data
from cl_bench.methods.oml import OML, MetaTraining, NeuromodulatedTraining, redraw

WIDTH, N_CLASSES, LR = 4, 3, 0.3
APART = ("scenario.meta_classes=4", "scenario.n_tasks=3", "network.hidden=[16]")
META = (*APART, "method.pretraining=meta", "method.meta_steps=3")
variants = pytest.mark.parametrize("variant", ["oml", "anml"])


def training(variant: str, **more: Any) -> MetaTraining:
    """Of a small representation in float64, on 30 random images of three classes."""
    torch.manual_seed(0)
    features = nn.Sequential(nn.Flatten(), nn.Linear(9, 6), nn.Tanh(), nn.Linear(6, WIDTH), nn.Tanh())
    gate = nn.Sequential(nn.Flatten(), nn.Linear(9, WIDTH), nn.Sigmoid()) if variant == "anml" else None
    images = torch.randint(256, (30, 1, 3, 3), dtype=torch.uint8)
    data = Data(images, torch.arange(30) % N_CLASSES, torch.zeros(30, dtype=torch.int16))
    given = {"lr": 0.01, "inner_lr": LR, "inner_steps": 2, "trajectory_classes": 2, "remembered": 10} | more
    kind = NeuromodulatedTraining if variant == "anml" else MetaTraining
    return kind(features, gate, data, width=WIDTH, n_classes=N_CLASSES, **given).double()


def images(module: MetaTraining, rows: Tensor) -> tuple[Tensor, Tensor]:
    batch = module.data.batch(rows)
    return batch.x.double(), batch.y


def meta_loss(module: MetaTraining, k: int) -> Tensor:
    """On ten images, after inner steps on the first k."""
    x, y = images(module, torch.arange(10))
    return F.cross_entropy(module.logits_after(x, y, k), y)


@variants
def test_the_meta_gradient_is_that_of_finite_differences(variant: str) -> None:
    """Of every weight, in float64; that of the first order alone is another one."""
    module, eps = training(variant), 1e-6
    names = [name for name, _ in module.named_parameters()]
    gradients = torch.autograd.grad(meta_loss(module, 4), list(module.parameters()))
    for name, p, gradient in zip(names, module.parameters(), gradients, strict=True):
        differences = torch.empty_like(p)
        for i in range(p.numel()):
            entry = p.data.view(-1)[i : i + 1]
            entry += eps
            above = meta_loss(module, 4).item()
            entry -= 2 * eps
            differences.view(-1)[i] = (above - meta_loss(module, 4).item()) / (2 * eps)
            entry += eps
        torch.testing.assert_close(gradient, differences, rtol=1e-6, atol=1e-8, msg=name)
    x, y = images(module, torch.arange(10))
    end = stepped(module, x[:4], y[:4])
    first_order = torch.autograd.grad(F.cross_entropy(logits(end, x), y), end.head.weight)[0]
    assert not torch.allclose(gradients[names.index("head.weight")], first_order, rtol=0.01)


def logits(module: MetaTraining, x: Tensor) -> Tensor:
    z = module.features(x)
    return module.head(z if module.gate is None else z * module.gate(x))


def stepped(module: MetaTraining, xs: Tensor, ys: Tensor) -> MetaTraining:
    """A copy whose inner weights went down the loss of each of these images, one after another."""
    module = copy.deepcopy(module)
    moving = [*module.head.parameters(), *([] if module.gate is None else module.features.parameters())]
    optimizer = torch.optim.SGD(moving, lr=LR)
    for x, y in zip(xs.split(1), ys.split(1), strict=True):
        optimizer.zero_grad()
        F.cross_entropy(logits(module, x), y).backward()
        optimizer.step()
    return module


@variants
@pytest.mark.parametrize("k", [0, 1, 2, 5])
def test_inner_steps_are_those_of_plain_sgd(variant: str, k: int) -> None:
    """Of the head in oml, of the head and the features, but not the gate, in anml."""
    module = training(variant)
    x, y = images(module, torch.arange(10))
    torch.testing.assert_close(module.logits_after(x, y, k), logits(stepped(module, x[:k], y[:k]), x))
    assert k == 0 or not torch.allclose(module.logits_after(x, y, k), logits(module, x), atol=1e-3)


@variants
def test_an_outer_step_moves_everything_down_the_loss_on_both(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = training(variant).float()
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    path, batch = module.trajectory(), module.random_images()
    assert (len(path.y), len(batch.y)) == (4, 10)
    monkeypatch.setattr(module, "trajectory", lambda: path)
    monkeypatch.setattr(module, "random_images", lambda: batch)
    x, y = torch.cat([path.x, batch.x]), torch.cat([path.y, batch.y])
    loss = F.cross_entropy(logits(stepped(module, x[:4], y[:4]), x), y)
    logs = module.train_step(batch, module.configure_optimizers())
    assert logs["loss"].item() == pytest.approx(loss.item(), rel=1e-5)
    assert all(not torch.equal(p, before[name]) for name, p in module.named_parameters())


def test_a_trajectory_is_class_after_class_and_their_rows_are_new() -> None:
    module = training("oml", inner_steps=10)  # all images of two classes
    for _ in range(5):
        weight, bias = module.head.weight.detach().clone(), module.head.bias.detach().clone()
        path = module.trajectory()
        first, second = path.y[0], path.y[10]
        assert path.y.tolist() == [int(first)] * 10 + [int(second)] * 10
        assert len(there(path.images).flatten(1).unique(dim=0)) == 20
        new = (module.head.weight != weight).all(1)
        assert new.nonzero().squeeze(1).tolist() == sorted([int(first), int(second)])
        assert not module.head.bias[new].any()
        assert torch.equal(module.head.bias[~new], bias[~new])


def test_new_rows_are_drawn_from_the_normal_distribution_of_he() -> None:
    torch.manual_seed(0)
    head = nn.Linear(800, 50)
    old = head.weight.detach().clone()
    redraw(head, torch.arange(25))
    assert torch.equal(head.weight[25:], old[25:])
    assert head.weight[:25].std().item() == pytest.approx((2 / 800) ** 0.5, rel=0.02)
    assert abs(head.weight[:25].mean().item()) < 0.002


@variants
@pytest.mark.parametrize("online", [False, True])
@pytest.mark.parametrize(
    "optimizer", [("optimizer=adam", "optimizer.weight_decay=0.1"), ("optimizer=sgd", "optimizer.momentum=0.9")]
)
def test_the_representation_stays_as_it_is_in_the_tasks(variant: str, online: bool, optimizer: tuple[str, ...]) -> None:
    """Bit by bit, whatever moves the head, in tasks and in a stream; meta-training is the first phase of all."""
    scenario, method = made("oml", *META, f"method.variant={variant}", *optimizer)
    assert not method.needs_borders
    method.problem = replace(method.problem, online=online)
    states: list[dict[str, Tensor]] = [state_of(method)]
    fit = Recorder(steps=3, look=lambda call: states.append(state_of(method)))
    for task in scenario.tasks:
        method.learn_task(task, fit)
    phase = "stream" if online else "train"
    assert [call.phase for call in fit.calls] == ["meta", phase, phase, phase]
    assert fit.calls[0].data is scenario.tasks[0].meta
    assert fit.calls[0].more == {"steps": 3}
    fixed = [name for name in states[0] if not name.startswith("network.head")]
    assert any(name.startswith("gate") for name in fixed) == (variant == "anml")
    assert all(not torch.equal(states[1][name], states[2][name]) for name in fixed)  # by meta-training
    for state in states[3:]:
        assert all(torch.equal(state[name], states[2][name]) for name in fixed)
    assert torch.equal(states[0]["network.head.weight"], states[2]["network.head.weight"])
    for before, after in pairwise(states[2::2]):
        assert not torch.equal(before["network.head.weight"], after["network.head.weight"])


def state_of(method: OML) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in method.state_dict().items() if torch.is_tensor(value)}


@variants
def test_the_head_learns_down_the_cross_entropy_of_all_outputs(variant: str) -> None:
    scenario, method = made("oml", *META, f"method.variant={variant}")
    method.learn_task(scenario.tasks[0], one_pass)
    batch = scenario.tasks[1].train.batch(torch.arange(20))
    z = method.network.features(batch.x)
    if variant == "anml":
        z = z * method.gate(batch.x)
    torch.testing.assert_close(method(batch.x), method.network.head(z))
    assert method.loss(batch).item() == pytest.approx(F.cross_entropy(method.network.head(z), batch.y).item())


def test_the_controls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Joint: the cross-entropy of the mini-batch; none: no phase at all; the same weights at first."""
    scenario, method = made("oml", *META, "method.pretraining=joint")
    fit = Recorder()
    method.learn_task(scenario.tasks[0], fit)
    assert [call.phase for call in fit.calls] == ["joint", "train"]
    module, step = fit.calls[0].module, fit.calls[0].step
    assert isinstance(module, MetaTraining)
    batch = there(scenario.tasks[0].meta).batch(torch.arange(20))
    monkeypatch.setattr(module, "random_images", lambda: batch)
    loss = F.cross_entropy(module.head(module.features(batch.x)), batch.y)
    gradient = torch.autograd.grad(loss, module.head.weight)[0]
    logs = there(step)(batch, torch.optim.SGD(module.parameters(), lr=0.0))
    assert logs["loss"].item() == pytest.approx(loss.item())
    torch.testing.assert_close(there(module.head.weight.grad), gradient)

    _, meta = made("oml", *META)
    _, none = made("oml", *META, "method.pretraining=none")
    assert all(torch.equal(p, q) for p, q in zip(meta.parameters(), none.parameters(), strict=True))
    fit = Recorder(steps=1)
    none.learn_task(scenario.tasks[0], fit)
    assert [call.phase for call in fit.calls] == ["train"]
    features = zip(meta.network.features.parameters(), none.network.features.parameters(), strict=True)
    assert all(torch.equal(p, q) for p, q in features)


@variants
def test_nothing_of_meta_training_is_kept_but_the_representation(variant: str) -> None:
    scenario, method = made("oml", *META, f"method.variant={variant}")
    before = {name: getattr(value, "shape", None) for name, value in method.state_dict().items()}
    for task in scenario.tasks[:2]:
        method.learn_task(task, one_pass)
    assert {name: getattr(value, "shape", None) for name, value in method.state_dict().items()} == before
    parts = (method.network, method.gate) if variant == "anml" else (method.network,)
    assert method.answer_bytes == sum(p.nbytes for part in parts for p in part.parameters())


BAD = [
    (
        ("scenario.meta_classes=null", "scenario.n_tasks=5"),
        r"scenario\.meta_classes=null: method\.pretraining=meta needs",
    ),
    (
        ("scenario.meta_classes=null", "scenario.n_tasks=5", "method.pretraining=joint"),
        r"null: method\.pretraining=joint",
    ),
    (("method.trajectory_classes=5",), r"method\.trajectory_classes=5: there are 4 classes"),
    (("network=resnet18",), r"network: .*BatchNorm2d.* choose network=mlp or network=cnn"),
]


@pytest.mark.parametrize(("settings", "message"), BAD)
def test_what_cannot_be_meta_trained_is_refused(settings: tuple[str, ...], message: str) -> None:
    own = [setting for setting in META if not setting.startswith("network") or "network=resnet18" not in settings]
    with pytest.raises(InputError, match=message):
        made("oml", *own, *settings)


def test_a_scenario_without_classes_to_set_apart_is_refused() -> None:
    with pytest.raises(InputError, match=r"scenario\.meta_classes=null"):
        made("oml", "scenario=permuted", "method.pretraining=meta")


def test_a_class_with_fewer_images_than_a_trajectory_takes_is_refused() -> None:
    scenario, method = made("oml", *META, "method.inner_steps=200")
    with pytest.raises(InputError, match=r"method\.inner_steps=200: .* has 14\d images; choose at most this number"):
        method.learn_task(scenario.tasks[0], Recorder())
