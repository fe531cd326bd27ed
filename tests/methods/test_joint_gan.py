"""The upper bound of the generative methods: all images at once, anew, and only when there is something to measure."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import Recorder, made

from cl_bench.data.tasks import Scenario
from cl_bench.methods.joint_gan import JointGAN


def learned(*overrides: str, **how: Any) -> tuple[Scenario, JointGAN, Recorder, list[bool]]:
    """After all tasks, of which it was not trained on any; and after which of them there was something to measure."""
    scenario, method = made("joint_gan", *overrides)
    fit, measurable = Recorder(**how), []
    for task in scenario.tasks:
        method.learn_task(task, fit)
        measurable.append(method.measurable)
    assert {call.phase for call in fit.calls} == {"gan"}
    return scenario, method, fit, measurable


@pytest.mark.parametrize(
    ("every", "expected"),
    [("null", [4]), ("1", [0, 1, 2, 3, 4]), ("2", [1, 3, 4]), ("3", [2, 4]), ("5", [4]), ("9", [4])],
)
def test_it_learns_all_that_came_and_is_measured_only_then(every: str, expected: list[int]) -> None:
    scenario, _, fit, measurable = learned(f"method.every={every}")
    assert [index for index, able in enumerate(measurable) if able] == expected
    for index, call in zip(expected, fit.calls, strict=True):
        data = call.data
        seen = [task.train for task in scenario.tasks[: index + 1]]
        assert torch.equal(data.labels.bincount(), torch.cat([one.labels for one in seen]).bincount())
        found, wanted = (
            sorted(bytes(image.flatten().tolist()) for one in part for image in one.images) for part in ([data], seen)
        )
        assert found == wanted


def test_it_starts_from_random_weights_each_time() -> None:
    weights: list[torch.Tensor] = []
    learned("method.every=1", look=lambda call: weights.append(next(call.module.parameters()).detach().clone()))
    assert len({tuple(values.flatten()[:50].tolist()) for values in weights}) == 5


def test_how_long() -> None:
    _, _, fit, _ = learned("method.generator_epochs=4")
    assert [call.more for call in fit.calls] == [{"epochs": 4, "steps": None}]
    _, _, fit, _ = learned("method.generator_steps=70")
    assert [call.more["steps"] for call in fit.calls] == [70]


def test_its_classifier_answers_and_its_generator_draws_every_class_seen() -> None:
    _, method, fit, _ = learned()
    step: Any = fit["gan"].step
    assert step.keywords["allowed"].all()
    x = torch.rand(5, 1, 8, 8)
    gan: Any = method.gan
    network = gan.discriminator.network
    assert torch.equal(method(x), network(x))
    assert method(x).shape == (5, 10)
    images, labels = method.generate(3)
    assert images.shape == (30, 1, 8, 8)
    assert labels.tolist() == [c for c in range(10) for _ in range(3)]
    method.index = 1  # after two tasks
    assert method.generate(1)[1].tolist() == [0, 1, 2, 3]
    scenario, method = made("joint_gan", "scenario.n_tasks=1")
    diagnostics = method.learn_task(scenario.tasks[0], Recorder())
    assert diagnostics["generator_bytes"] == 4 * sum(p.numel() for p in method.gan.generator.parameters())
