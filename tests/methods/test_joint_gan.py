"""The upper bound of the generative methods: all images at once, anew, and only when there is something to measure."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import Compose

from cl_bench.data.batches import Data
from cl_bench.data.scenarios import Scenario
from cl_bench.methods.base import Learner
from cl_bench.methods.joint_gan import JointGAN
from cl_bench.runs.setup import prepare


class Recorder:
    """Stands for `fit`: notes what would be trained on, and with which weights; trains nothing."""

    def __init__(self) -> None:
        self.calls: list[tuple[Data, dict[str, Any]]] = []
        self.weights: list[torch.Tensor] = []

    def __call__(self, module: Learner, data: Data, *, phase: str, **more: Any) -> None:
        assert phase == "gan"
        self.calls.append((data, more))
        self.weights.append(torch.cat([p.detach().flatten() for p in module.parameters()]))


def learned(small: Compose, *overrides: str) -> tuple[Scenario, JointGAN, Recorder, list[bool]]:
    scenario, method = prepare(small("method=joint_gan", *overrides))
    assert isinstance(method, JointGAN)
    fit, measurable = Recorder(), []
    for task in scenario.tasks:
        method.task = task.index
        method.learn(task, fit)
        measurable.append(method.measurable)
    return scenario, method, fit, measurable


@pytest.mark.parametrize(
    ("every", "expected"),
    [("null", [4]), ("1", [0, 1, 2, 3, 4]), ("2", [1, 3, 4]), ("3", [2, 4]), ("5", [4]), ("9", [4])],
)
def test_it_learns_all_that_came_and_is_measured_only_then(every: str, expected: list[int], small: Compose) -> None:
    scenario, _, fit, measurable = learned(small, f"method.every={every}")
    assert [index for index, able in enumerate(measurable) if able] == expected
    for index, (data, _) in zip(expected, fit.calls, strict=True):
        seen = [task.train for task in scenario.tasks[: index + 1]]
        assert torch.equal(data.labels.bincount(), torch.cat([one.labels for one in seen]).bincount())
        found, wanted = (
            sorted(bytes(image.flatten().tolist()) for one in part for image in one.images) for part in ([data], seen)
        )
        assert found == wanted


def test_it_starts_from_random_weights_each_time(small: Compose) -> None:
    _, _, fit, _ = learned(small, "method.every=1")
    assert len({tuple(weights[:50].tolist()) for weights in fit.weights}) == 5


def test_how_long(small: Compose) -> None:
    _, _, fit, _ = learned(small, "method.generator_epochs=4")
    assert [more for _, more in fit.calls] == [{"epochs": 4, "steps": None}]
    _, _, fit, _ = learned(small, "method.generator_steps=70")
    assert [more["steps"] for _, more in fit.calls] == [70]


def test_its_classifier_answers_and_its_generator_draws_every_class_seen(small: Compose) -> None:
    _, method, _, _ = learned(small)
    assert method.gan.allowed is not None
    assert method.gan.allowed.all()
    x = torch.rand(5, 1, 8, 8)
    network = method.gan.discriminator.network
    assert torch.equal(method(x), network(x))
    assert method(x).shape == (5, 10)
    images, labels = method.generate(3)
    assert images.shape == (30, 1, 8, 8)
    assert labels.tolist() == [c for c in range(10) for _ in range(3)]
    method.task = 1  # after two tasks
    assert method.generate(1)[1].tolist() == [0, 1, 2, 3]
    assert method.diagnostics["generator_bytes"] == 4 * sum(p.numel() for p in method.gan.generator.parameters())
