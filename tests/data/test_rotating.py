"""Pairs of classes that turn: which images come, in which order, and at which angle."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import made
from torch import Tensor

from cl_bench.config import InputError
from cl_bench.config.compose import compose
from cl_bench.data.datasets import Dataset, digits
from cl_bench.data.rotating import rotating_pairs

COUNTS = (60, 61, 62, 70, 90)  # training images of each class


def clocks(counts: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Images of 15x15 that say who they are, in the middle pixel, and where three o'clock was, by a bright spot."""
    images = torch.zeros(sum(counts), 1, 15, 15, dtype=torch.uint8)
    images[:, 0, 7, 12] = 255
    images[:, 0, 7, 7] = torch.cat([torch.arange(1, count + 1) for count in counts]).byte()
    return images, torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))


def dataset(counts: tuple[int, ...] = COUNTS) -> Dataset:
    return Dataset("clocks", *clocks(counts), *clocks((36,) * len(counts)), n_classes=len(counts))


def who(images: Tensor) -> list[int]:
    return images[:, 0, 7, 7].tolist()


def angles(images: Tensor) -> Tensor:
    """Degrees, counter-clockwise, of the bright spot of each image."""
    weight = images[:, 0].double()
    weight[:, 7, 7] = 0
    along = torch.arange(15) - 7.0
    right, down = (weight.sum(1) * along).sum(1), (weight.sum(2) * along).sum(1)
    return torch.rad2deg(torch.atan2(-down, right)) % 360


def apart(a: Tensor, b: Tensor) -> Tensor:
    """Degrees between two angles, on the shorter way."""
    return ((a - b + 180) % 360 - 180).abs()


def test_the_pairs_go_round_the_ring_and_every_image_comes_once() -> None:
    scenario = rotating_pairs(dataset(), 0, visits=2)
    ring = [("0", "1"), ("1", "2"), ("2", "3"), ("3", "4"), ("4", "0")]
    assert [task.names for task in scenario.tasks] == ring * 2
    assert scenario.problem.outputs == ((0, 1), (1, 2), (2, 3), (3, 4), (0, 4)) * 2
    for task, outputs in zip(scenario.tasks, scenario.problem.outputs, strict=True):
        assert task.train.labels.unique().tolist() == list(outputs)
        assert set(task.train.task_ids.tolist()) == {task.index}
    for label, count in enumerate(COUNTS):
        came = [number for task in scenario.tasks for number in who(task.train.images[task.train.labels == label])]
        assert sorted(came) == list(range(1, count + 1))
        assert came != sorted(came)  # drawn from the seed


def test_each_class_turns_once_around_and_the_two_of_a_pair_stand_alike() -> None:
    scenario = rotating_pairs(dataset(), 0, visits=3)
    for label, count in enumerate(COUNTS):
        seen = torch.cat([angles(task.train.images[task.train.labels == label]) for task in scenario.tasks])
        expected = (label - 1) * 60 + torch.arange(count) * 360 / count
        assert apart(seen, expected).max() < 3  # a spot of one pixel, between pixels
    for task in scenario.tasks:
        if task.names == ("4", "0"):  # the last beside the first, which is ahead of its turn
            continue
        pair = [angles(task.train.images[task.train.labels == label]) for label in scenario.problem.outputs[task.index]]
        gap = 60 if task.names == ("0", "1") else 0
        assert apart(pair[1][0], pair[0][0] + gap) < 10


def test_a_pair_alternates_in_proportion_to_its_images() -> None:
    for task in rotating_pairs(dataset(), 0).tasks:
        first = (task.train.labels == task.train.labels[0]).double()
        even = first.mean() * torch.arange(1, len(first) + 1)
        assert (first.cumsum(0) - even).abs().max() <= 1


def test_all_segments_share_one_test_set_that_turns_evenly() -> None:
    scenario = rotating_pairs(dataset(), 0)
    (test,) = scenario.tests
    assert test.labels.bincount().tolist() == [36] * 5
    for label in range(5):
        images = test.images[test.labels == label]
        assert who(images) == list(range(1, 37))
        assert apart(angles(images), torch.arange(36) * 10.0).max() < 3


def test_the_seed_draws_the_order_and_nothing_else() -> None:
    first, again, other = (rotating_pairs(dataset(), seed) for seed in (0, 0, 1))
    for a, b in zip(first.tasks, again.tasks, strict=True):
        assert torch.equal(a.train.images, b.train.images)
    assert who(first.tasks[0].train.images) != who(other.tasks[0].train.images)
    assert torch.equal(first.tests[0].images, other.tests[0].images)
    assert [len(task.train) for task in first.tasks] == [len(task.train) for task in other.tasks]


def test_mnist_360_leaves_one_digit_out() -> None:
    scenario = rotating_pairs(digits(), 0, classes=list(range(9)))
    assert len(scenario.tasks) == 27
    assert scenario.problem.class_names == tuple("012345678")
    kept = digits().y_train != 9
    assert sum(len(task.train) for task in scenario.tasks) == kept.sum()
    some = rotating_pairs(digits(), 0, classes=["8", "2", "5"], visits=1)
    assert [task.names for task in some.tasks] == [("8", "2"), ("2", "5"), ("5", "8")]
    assert math.prod(some.problem.image_shape) == 64


def test_images_set_apart_are_not_in_the_stream() -> None:
    scenario = rotating_pairs(dataset(), 0, val_fraction=0.2)
    for label, count in enumerate(COUNTS):
        parts = [(task.train, task.val) for task in scenario.tasks]
        came, kept = (
            [n for data in side for n in who(data.images[data.labels == label])] for side in zip(*parts, strict=True)
        )
        assert sorted(came + kept) == list(range(1, count + 1))
        assert kept


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"classes": [0, 1]}, r"^scenario\.classes=\[0,1\]: names 2 classes; at least 3 are needed$"),
        ({"classes": [0, 1, 1]}, r"^scenario\.classes=\[0,1,1\]: must have classes from 0 to 4, each once, or their"),
        ({"classes": [0, 1, 5]}, r"^scenario\.classes=\[0,1,5\]: must have classes from 0 to 4, each once, or their"),
        ({"classes": ["0", "1", "44"]}, r"did you mean '4'\?$"),
        ({"visits": 31}, r"^scenario\.visits=31: class '0' comes 62 times and has 60 images$"),
    ],
)
def test_bad_input_is_one_line(settings: dict[str, object], line: str) -> None:
    with pytest.raises(InputError, match=line):
        rotating_pairs(dataset(), 0, **settings)  # type: ignore[arg-type]


def test_two_classes_are_too_few() -> None:
    with pytest.raises(InputError, match=r"^dataset=clocks: has 2 classes, and scenario=rotating_pairs needs at"):
        rotating_pairs(dataset((20, 20)), 0)


def test_images_come_in_the_order_in_which_they_turn() -> None:
    for task in rotating_pairs(dataset(), 0).tasks:
        assert task.train.order is not None
        assert torch.equal(task.train.order, torch.arange(len(task.train)))


def test_it_has_a_meaning_as_a_stream_alone() -> None:
    line = r"^scenario\.passes=epochs: scenario=rotating_pairs is a stream; set online$"
    with pytest.raises(InputError, match=line):
        made("finetune", "scenario=rotating_pairs", "scenario.passes=epochs")
    assert compose("method=finetune", "scenario=rotating_pairs")["scenario"]["passes"] == "online"
