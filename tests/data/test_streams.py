"""Streams: each image once, in mini-batches, and what may come when."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import made
from torch import Tensor

from cl_bench.config import InputError
from cl_bench.data.batches import Batches, Data
from cl_bench.data.problem import Task
from cl_bench.data.streams import first_places
from cl_bench.data.tasks import Scenario

ONLINE = ("scenario.passes=online",)


def stream_of(*overrides: str) -> Scenario:
    return made("finetune", *overrides)[0]


def in_order(task: Task) -> Data:
    assert task.train.order is not None
    return task.train[task.train.order]


def labels_of(scenario: Scenario) -> list[Tensor]:
    return [in_order(task).labels for task in scenario.tasks]


def numbered(n: int, updates: int = 1) -> Data:
    """n images, the label of each being its number in the stream."""
    order = torch.randperm(n)
    labels = torch.empty(n, dtype=torch.int64)
    labels[order] = torch.arange(n)
    return Data(torch.zeros(n, 1, 2, 2, dtype=torch.uint8), labels, labels.short(), order=order, updates=updates)


@pytest.mark.parametrize(
    ("n", "size", "sizes"),
    [(25, 10, [10, 10, 5]), (21, 10, [10, 11]), (1, 10, [1]), (11, 10, [11]), (3, 1, [1, 1, 1]), (20, 10, [10, 10])],
)
@pytest.mark.parametrize("updates", [1, 3])
def test_each_image_comes_once_and_in_order(n: int, size: int, sizes: list[int], updates: int) -> None:
    data = numbered(n, updates)
    steps = data.n_batches(size) * updates
    batches = Batches(data, batch_size=size, steps=steps, seed=0, chunk=2)
    found = [batch for chunk in batches for _, batch in chunk]
    assert [len(batch.y) for batch in found] == [size for size in sizes for _ in range(updates)]
    assert [batch.updates_left for batch in found] == list(reversed(range(updates))) * len(sizes)
    assert torch.cat([batch.y for batch in found if not batch.updates_left]).tolist() == list(range(n))
    assert torch.equal(batches[steps - 1].y, found[-1].y)  # any step by itself, as after a kill


def test_after_each_step_it_is_said_how_many_are_done() -> None:
    heard: list[int] = []
    batches = Batches(numbered(100), batch_size=10, steps=10, seed=0, chunk=4, start=3, after_step=heard.append)
    for chunk in batches:
        for step, _ in chunk:
            assert heard == list(range(4, step + 1))  # of those before
    assert heard == list(range(4, 11))


def test_a_stream_has_the_images_of_its_tasks_in_another_order() -> None:
    plain, stream = stream_of(), stream_of(*ONLINE)
    for before, after in zip(plain.tasks, stream.tasks, strict=True):
        assert torch.equal(before.train.images, after.train.images)
        assert sorted(there_in(after)) == list(range(len(before.train)))
        assert there_in(after) != sorted(there_in(after))
    assert there_in(stream_of(*ONLINE, "seed=1").tasks[0]) != there_in(stream.tasks[0])


def there_in(task: Task) -> list[int]:
    assert task.train.order is not None
    return task.train.order.tolist()


def test_tasks_that_come_round_again_bring_other_images() -> None:
    once, twice = stream_of(*ONLINE), stream_of(*ONLINE, "scenario.repeat=true")
    assert [task.names for task in twice.tasks] == [task.names for task in once.tasks] * 2
    assert len(twice.tests) == 10
    for task, first, second in zip(once.tasks, twice.tasks[:5], twice.tasks[5:], strict=True):
        images = torch.cat([first.train.images, second.train.images]).flatten(1)
        assert Counter(map(tuple, images.tolist())) == Counter(map(tuple, task.train.images.flatten(1).tolist()))
        counts = [visit.train.labels.bincount(minlength=10) for visit in (first, second)]
        assert set((counts[0] - counts[1]).tolist()) <= {0, 1}  # of each class: what comes again came before


def test_blurry_classes_stray_as_much_as_was_asked() -> None:
    scenario = stream_of("scenario=blurry", "scenario.disjoint=0.5", "scenario.stray=0.3")
    parts = torch.stack([labels.bincount(minlength=10) for labels in labels_of(scenario)])  # part, output
    total = parts.sum(0)
    own = torch.tensor([test.labels.bincount(minlength=10).bool().tolist() for test in scenario.tests])
    assert own.sum(0).eq(1).all()  # each class is measured in one place
    assert own.sum(1).eq(2).all()
    assert total.sum() == sum(len(task.train) for task in stream_of().tasks)
    at_home = (parts * own).sum(0)
    disjoint = at_home == total
    assert disjoint.sum() == 5
    assert torch.equal(at_home[~disjoint], total[~disjoint] - (0.3 * total[~disjoint]).round().long())
    away = parts.masked_fill(own, -1)[:, ~disjoint]
    spread = away.max(0).values - torch.where(away < 0, 10**6, away).min(0).values
    assert spread.max() <= 1  # dealt out evenly over the other parts


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_drawn_streams_differ_in_their_parts_and_none_is_empty(seed: int) -> None:
    scenario = stream_of("scenario=blurry", "scenario.form=random", f"seed={seed}")
    assert all(len(test) for test in scenario.tests)
    assert len({len(test.labels.unique()) for test in scenario.tests}) > 1
    outputs = [label for test in scenario.tests for label in test.labels.unique().tolist()]
    assert outputs == list(range(10))


def test_what_came_is_what_came() -> None:
    """Outputs that stray into an early part belong to it, and each is known from its first image on."""
    scenario = stream_of("scenario=blurry", "scenario.stray=0.5")
    problem, labels = scenario.problem, labels_of(scenario)
    for index, task in enumerate(scenario.tasks):
        assert list(problem.outputs[index]) == labels[index].unique().tolist()
        assert problem.seen(index).tolist() == torch.cat(labels[: index + 1]).unique().tolist()
        first = first_places(problem, task)
        before = set(torch.cat(labels[:index]).tolist()) if index else set()
        for output in range(10):
            places = (labels[index] == output).nonzero().flatten().tolist()
            expected = -1 if output in before else places[0] if places else len(labels[index])
            assert first[output] == expected


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("scenario=blurry", "scenario.n_tasks=11"), r"scenario\.n_tasks=11: there are 10 classes"),
        (("scenario=blurry", "scenario.passes=epochs"), r"scenario\.passes=epochs: scenario=blurry is a stream"),
        (("scenario=blurry", "scenario.kind=task"), r"scenario\.kind=task: input should be 'class'"),
        (("scenario=blurry", "scenario.stray=1.5"), r"scenario\.stray=1\.5: "),
        ((*ONLINE, "scenario.train_mask=current"), r"scenario\.train_mask=current: in a stream"),
        ((*ONLINE, "scenario.batch_size=0"), r"scenario\.batch_size=0: "),
        ((*ONLINE, "scenario.measure_every=0"), r"scenario\.measure_every=0: "),
        ((*ONLINE, "trainer.iterations=5"), r"trainer\.iterations=5: a stream"),
        ((*ONLINE, "trainer.epochs=5"), r"trainer\.epochs=5: has no effect in a stream .*scenario\.updates_per_batch"),
        ((*ONLINE, "trainer.batch_size=5"), r"trainer\.batch_size=5: has no effect .*set scenario\.batch_size"),
        ((*ONLINE, "scheduler=multistep"), r"scheduler=multistep: needs whole tasks.*scheduler=none"),
        ((*ONLINE, "trainer.patience=3"), r"trainer\.patience=3: needs whole tasks"),
        ((*ONLINE, "trainer.freeze_batch_norm=true"), r"trainer\.freeze_batch_norm=true: needs whole tasks"),
        (
            (*ONLINE, "scenario.repeat=true", "scenario.n_tasks=10", "scenario.max_train=1"),
            r"scenario\.repeat=true: task 1 has one image of each class",
        ),
        (("scenario.passes=twice",), r"scenario\.passes=twice: input should be 'epochs' or 'online'"),
    ],
)
def test_what_a_stream_can_not_be(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        stream_of(*overrides)


def test_a_part_that_no_image_comes_to_is_named(tmp_path: Path) -> None:
    labels = torch.arange(10).repeat(4).numpy()
    images = torch.zeros(40, 8, 8, dtype=torch.uint8).numpy()
    np.savez(tmp_path / "few.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    blurry = ("scenario=blurry", "scenario.n_tasks=9", "scenario.disjoint=0", "scenario.stray=1")
    with pytest.raises(InputError, match=r"^scenario=blurry: task 6 has no training image; choose fewer tasks"):
        stream_of("dataset=npz", f"dataset.path={tmp_path / 'few.npz'}", *blurry)


def test_meta_classes_come_with_the_first_visit_alone() -> None:
    stream = stream_of(*ONLINE, "scenario.repeat=true", "scenario.meta_classes=4", "scenario.n_tasks=3")
    assert stream.problem.n_meta == 4
    first, *others = [task.meta for task in stream.tasks]
    assert others == [None] * 5
    assert first is not None
    assert first.order is None
