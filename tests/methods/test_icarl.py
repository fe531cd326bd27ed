"""iCaRL's own promises: herding, distillation, and means by the network as it is."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import Recorder, made, one_pass, train
from torch import Tensor, nn

from cl_bench.config import InputError
from cl_bench.data.batches import Batch, Data
from cl_bench.data.tasks import Scenario
from cl_bench.methods.base import frozen
from cl_bench.methods.icarl import ICaRL
from cl_bench.methods.parts.exemplars import herd
from cl_bench.record import Phase


def icarl(mask: str = "seen", temperature: float = 1.0, answer: str = "mean") -> tuple[ICaRL, Scenario]:
    chosen = (
        f"scenario.train_mask={mask}",
        f"method.temperature={temperature}",
        "memory=40",
        f"method.answer={answer}",
    )
    scenario, method = made("icarl", "network.hidden=[16]", "optimizer=sgd", *chosen)
    return method, scenario


def learned(method: ICaRL, scenario: Scenario, tasks: range) -> None:
    for index in tasks:
        method.learn_task(scenario.tasks[index], one_pass)


@pytest.mark.parametrize("unit", [True, False])
def test_herding_takes_what_a_search_over_all_images_takes(unit: bool) -> None:
    """Both averages are scaled to length 1: "the results of any operation on feature vectors, e.g. averages, are also
    re-normalized" (section 2.1)."""
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        features = torch.rand(40, 6, generator=generator, dtype=torch.float64)
        features = F.normalize(features) if unit else features
        target = F.normalize(features.mean(0), dim=0)
        taken: list[int] = []
        for _ in range(40):
            gaps = [
                torch.inf if i in taken else float((target - F.normalize(features[[*taken, i]].mean(0), dim=0)).norm())
                for i in range(40)
            ]
            taken.append(min(range(40), key=gaps.__getitem__))
        assert herd(features, 40).tolist() == taken
        assert herd(features, 7).tolist() == taken[:7]
        assert herd(features, 99).tolist() == taken


def test_exemplars_are_herded_from_their_own_class_and_old_classes_keep_their_first() -> None:
    method, scenario = icarl()
    learned(method, scenario, range(1))
    first, data = copy.deepcopy(method.memory), scenario.tasks[0].train
    assert first.labels.bincount().tolist() == [20, 20]
    for label in (0, 1):
        own = (data.labels == label).nonzero().squeeze(1)
        chosen = own[herd(method.features_of(data[own]), 20)]
        assert torch.equal(first.images[first.labels == label], data.images[chosen])
    learned(method, scenario, range(1, 3))
    assert method.memory.labels.bincount().tolist() == [6] * 6  # 40 / 6, never more than the budget
    for label in (0, 1):
        now = method.memory.images[method.memory.labels == label]
        assert torch.equal(now, first.images[first.labels == label][:6])


def test_class_means_are_those_of_the_current_network_and_the_nearest_answers() -> None:
    method, scenario = icarl()
    learned(method, scenario, range(1))
    before = method.means.clone()
    learned(method, scenario, range(1, 2))
    for label in range(4):
        exemplars = method.memory.images[method.memory.labels == label].float() / 255
        mean = F.normalize(method.network.features(exemplars)).mean(0)
        assert torch.allclose(method.means[label], mean / mean.norm(), atol=1e-5)
    assert not torch.allclose(method.means[:2], before[:2], atol=1e-3)
    x = next(scenario.tests[0].batches()).x
    phi = F.normalize(method.network.features(x))
    distances = torch.stack([(phi - mean).norm(dim=1) for mean in method.means[:4]], 1)
    assert torch.equal(method(x)[:, :4].argmax(1), distances.argmin(1))


@pytest.mark.parametrize("mask", ["seen", "all"])
def test_the_loss_asks_old_outputs_for_the_old_answer_and_new_ones_for_the_label(mask: str) -> None:
    """On images of the task and on exemplars alike, output by output."""
    temperature = 1.0 if mask == "seen" else 3.0
    method, scenario = icarl(mask, temperature)
    learned(method, scenario, range(2))
    old, checked = frozen(method.network), 0

    def sigmoids(network: Any, x: Tensor, t: float = 1.0) -> Tensor:
        return (network(x).double() / t).sigmoid()

    def watched(module: Any, data: Any, *, step: Any = None, **more: Any) -> Phase:
        nonlocal checked
        assert len(data) == len(scenario.tasks[2].train) + 40
        phase = one_pass(module, data, step=step, **more)
        rows = torch.cat([torch.arange(5), len(data) - 1 - torch.arange(5)])  # of the task, and of memory
        batch = data.batch(rows)
        p, q, expected = sigmoids(method.network, batch.x), sigmoids(old, batch.x, temperature), torch.zeros(())
        for i, label in enumerate(batch.y.tolist()):
            for y in range(10 if mask == "all" else 6):
                target = q[i, y] if y < 4 else float(label == y)
                expected = expected - (target * p[i, y].log() + (1 - target) * (1 - p[i, y]).log()) / 10
        assert method.loss(batch, **step.keywords).item() == pytest.approx(expected.item(), rel=1e-5)
        checked += 1
        return phase

    method.learn_task(scenario.tasks[2], watched)
    assert checked


def test_a_class_that_comes_back_is_learned_by_its_labels() -> None:
    """The old network's answers alone, which the network starts with, would teach nothing."""
    method, scenario = icarl()
    learned(method, scenario, range(2))
    method.problem = replace(method.problem, outputs=(*method.problem.outputs[:2], (1, 4), *method.problem.outputs[3:]))
    recorder = Recorder()
    method.learn_task(replace(scenario.tasks[0], index=2), recorder)
    step: Any = recorder["train"].step
    batch, outputs = scenario.tasks[0].train.batch(torch.arange(9)), torch.tensor([1, 4])
    logits, y = method.network(batch.x).detach().requires_grad_(), F.one_hot(batch.y, 10)[:, outputs]
    method.network.forward = lambda x: logits
    (slope,) = torch.autograd.grad(method.loss(batch, **step.keywords), logits)
    torch.testing.assert_close(slope[:, outputs], (logits.sigmoid()[:, outputs] - y) / 9)
    torch.testing.assert_close(slope[:, [0, 2, 3]], torch.zeros(9, 3))


def test_the_old_network_never_changes() -> None:
    """It answers without dropout and by its own running statistics, while the network learns and moves on."""
    method, scenario = icarl()
    method.network.features.extend([nn.BatchNorm1d(16), nn.Dropout(0.2)])
    learned(method, scenario, range(1))
    start, x = copy.deepcopy(method.network).eval(), scenario.tests[0].batch(torch.arange(50)).x
    seen: list[Tensor] = []

    def fit(module: Any, data: Data, *, step: Any = None, **_: Any) -> Any:
        module.train()

        def and_look(batch: Batch, optimizer: Any) -> dict[str, Tensor]:
            logs = step(batch, optimizer)
            seen.append(step.keywords["previous"].network(x))
            return logs

        train(module, data.batches(32), and_look)
        assert not any("old" in name for name in module.state_dict())

    method.learn_task(scenario.tasks[1], fit)
    assert len(seen) > 5
    assert all(torch.equal(one, start(x)) and not one.requires_grad for one in seen)
    assert not torch.allclose(method.network.eval()(x), start(x))


def test_exemplars_and_means_are_chosen_by_the_network_in_evaluation_mode() -> None:
    method, scenario = icarl()
    dropout, norm = nn.Dropout(0.5), nn.BatchNorm1d(16)
    method.network.features.extend([dropout, norm])
    data, start = scenario.tasks[0].train, copy.deepcopy(norm.state_dict())
    found = method.train().features_of(data)
    assert all(torch.equal(value, start[name]) for name, value in norm.state_dict().items())
    assert dropout.training
    expected = F.normalize(method.eval().network.features(data.batch(torch.arange(len(data))).x))
    torch.testing.assert_close(found, expected)


def test_while_a_task_is_learned_the_network_answers() -> None:
    """The new classes have no mean yet, and would never be an answer."""
    method, scenario = icarl()
    learned(method, scenario, range(1))
    x = scenario.tasks[1].train.batch(torch.arange(50)).x
    answers: list[Tensor] = []

    def fit(module: Any, data: Data, **more: Any) -> Phase:
        phase = one_pass(module, data, **more)
        answers.extend([module(x), module.network(x)])
        return phase

    method.learn_task(scenario.tasks[1], fit)
    assert torch.equal(*answers)
    assert not torch.equal(method(x), answers[0])


def test_with_the_networks_answer_all_else_is_the_same_and_no_means_are_kept() -> None:
    (by_mean, scenario), (by_network, _) = icarl(), icarl(answer="network")
    learned(by_mean, scenario, range(3))
    learned(by_network, scenario, range(3))
    x = scenario.tests[0].batch(torch.arange(50)).x
    assert torch.equal(by_network(x), by_mean.network(x))
    assert not torch.equal(by_network(x).argmax(1), by_mean(x).argmax(1))
    assert torch.equal(by_network.memory.images, by_mean.memory.images)
    assert by_mean.state_dict().keys() - by_network.state_dict().keys() == {"means"}


def test_a_mask_that_its_loss_does_not_have_is_refused() -> None:
    with pytest.raises(InputError, match=r"^scenario\.train_mask=current: icarl trains the outputs of older classes"):
        icarl(mask="current")
