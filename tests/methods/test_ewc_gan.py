"""EWC on a generator: the importance against a loop over images, the merged pull, and a discriminator that is free."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import Call, Recorder, made
from torch import Tensor

from cl_bench.config import InputError
from cl_bench.data.batches import REPLAYED
from cl_bench.data.tasks import Scenario
from cl_bench.methods.ewc_gan import EWCGAN

GANS = {
    "acgan_mlp": [],
    "acgan_dcgan": ["method.gan.generator.width=2", "method.gan.discriminator.network.width=2"],
    "acgan_resnet": ["method.gan.generator.width=2", "method.gan.discriminator.network.width=2"],
}


def beginning(*overrides: str, task: int = 2) -> tuple[Scenario, EWCGAN]:
    scenario, method = made("ewc_gan", *overrides)
    method.index = task
    return scenario, method


@pytest.mark.parametrize("fisher", ["critic", "classifier"])
@pytest.mark.parametrize("gan", GANS)
def test_importance_equals_a_loop_over_images(gan: str, fisher: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One backward pass in float64 for each; 264 images of the small one, more than are looked at together."""
    n = 264 if gan == "acgan_mlp" else 12
    more = [f"method.fisher={fisher}", f"method.fisher_samples={n}", f"gan@method.gan={gan}", *GANS[gan]]
    _, method = beginning(*more)
    z = torch.randn(n, method.gan.generator.z_dim)
    monkeypatch.setattr(method.gan, "noise", lambda n: z[:n])
    found = method.importance()

    exact = copy.deepcopy(method.gan).double()
    weights = dict(exact.generator.named_parameters())
    expected = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for i in range(n):
        y = torch.tensor([i % 6])  # the classes that have come, each equally often
        score, logits = exact.discriminator(exact.generator(z[i : i + 1].double(), y))
        loss = score[0] if fisher == "critic" else F.cross_entropy(logits[:, :6], y)
        for name, slope in zip(expected, torch.autograd.grad(loss, list(weights.values())), strict=True):
            expected[name] += slope.square()
    mean = torch.cat([value.flatten() for value in expected.values()]).mean()

    assert found.keys() == expected.keys() == method.drawing.keys()
    for name, value in expected.items():
        assert torch.allclose(found[name].double(), value / mean, rtol=1e-3, atol=1e-4 * float(value.max() / mean))
    assert torch.cat([value.flatten() for value in found.values()]).mean().item() == pytest.approx(1, rel=1e-5)
    assert all(weight.grad is None for weight in method.gan.parameters())


def test_what_does_not_act_has_no_importance() -> None:
    """The weights of classes that have not come; and a unit that nothing listens to."""
    _, method = beginning()
    layers: Any = method.gan.generator.layers
    first, last = (layers[i] for i in (0, 2))
    with torch.no_grad():
        last.weight[:, 3] = 0
    z_dim = method.gan.generator.z_dim
    importance = method.importance()
    assert list(importance) == ["layers.0.weight", "layers.0.bias", "layers.2.weight", "layers.2.bias"]
    of_classes = importance["layers.0.weight"][:, z_dim:]
    assert of_classes.shape == (first.out_features, 10)
    assert (of_classes[:, :6].sum(0) > 0).all()
    assert not of_classes[:, 6:].any()
    assert not importance["layers.0.weight"][3].any()
    assert not importance["layers.0.bias"][3]
    assert importance["layers.2.bias"].any()


def test_where_nothing_matters_the_importance_is_0() -> None:
    """And no NaN: the classifier has no choice while there is one class."""
    _, method = beginning("method.fisher=classifier", "scenario.n_tasks=10", task=0)
    assert not any(value.any() for value in method.importance().values())
    method.index = 1
    assert any(value.any() for value in method.importance().values())


def test_the_penalty_has_one_anchor_for_all_past_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """In value and gradient: the last importance, of all classes so far, and the weights that the last task left;
    nothing of it reaches the discriminator."""
    scenario, method = beginning("method.strength=20")
    importances: list[dict[str, Tensor]] = []
    anchors: list[dict[str, Tensor]] = []
    real = method.importance
    monkeypatch.setattr(method, "importance", lambda: importances.append(real()) or importances[-1])
    looks = []

    def look(call: Call) -> None:
        step: Any = call.step
        if call.phase == "solver":
            return
        looks.append(step.keywords["penalty"])
        assert step.keywords["allowed"].equal(method.seen)
        if not looks[-1]:
            return
        method.gan.zero_grad()
        penalty = looks[-1](32)
        penalty.backward()
        theta = {name: weight.detach().requires_grad_() for name, weight in method.drawing.items()}
        expected = sum(
            20 / 2 * (importances[-1][name] * (theta[name] - anchors[-1][name]).square()).sum() for name in theta
        )
        assert penalty.item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-4)  # type: ignore[union-attr]
        slopes = torch.autograd.grad(expected, list(theta.values()))  # type: ignore[arg-type]
        for weight, slope in zip(method.drawing.values(), slopes, strict=True):
            assert torch.allclose(weight.grad, slope, atol=1e-4 * float(slope.abs().max()) + 1e-6)  # type: ignore[arg-type]
        assert all(weight.grad is None for weight in method.gan.discriminator.parameters())

    for task in scenario.tasks[:3]:
        fit = Recorder(10, look)
        method.learn_task(task, fit)
        anchors.append({name: weight.detach().clone() for name, weight in method.drawing.items()})
        assert fit["generator"].data is task.train  # the new images alone
        assert int((fit["solver"].data.task_ids == REPLAYED).sum()) == 100 * task.index
    assert [penalty is None for penalty in looks] == [True, True, False, False, False, False]
    assert len(importances) == 3


def test_a_strong_pull_holds_the_generator_and_not_the_discriminator() -> None:
    moved, discriminators = [], []
    for strength in (0, 10000):
        torch.manual_seed(0)
        scenario, method = beginning(f"method.strength={strength}", "method.gan.n_critic=1")
        method.learn_task(scenario.tasks[0], Recorder(30))
        before = copy.deepcopy(method.gan)
        z, y = torch.randn(40, method.gan.generator.z_dim), torch.arange(40) % 2
        method.learn_task(scenario.tasks[1], Recorder(50))
        moved.append((method.gan.generator(z, y) - before.generator(z, y)).abs().mean().item())
        pairs = zip(method.gan.discriminator.parameters(), before.discriminator.parameters(), strict=True)
        discriminators.append(sum((a - b).square().sum().item() for a, b in pairs))
    assert moved[1] < 0.5 * moved[0]
    assert discriminators[1] > 0.5 * discriminators[0]


def test_domains_share_their_classes() -> None:
    with pytest.raises(InputError, match="method=ewc_gan: does not work in scenario=domain_incremental"):
        made("ewc_gan", "scenario=domain_incremental")
