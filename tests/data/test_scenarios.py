"""How data sets are cut into tasks, and which outputs may answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from conftest import there

from cl_bench.config import InputError
from cl_bench.data.datasets import Dataset, digits
from cl_bench.data.problem import Kind, Problem, masked
from cl_bench.data.scenarios import permuted, rotated, sequence, split
from cl_bench.data.tasks import Scenario, drawn
from cl_bench.data.views import Rotate

SPLIT = ((0, 1), (2, 3), (4, 5))


def mask(kind: str, rule: str, after: int, task: int) -> list[int]:
    outputs = ((0, 1),) * 3 if kind == "domain" else SPLIT
    problem = Problem(kind, (1, 8, 8), outputs)  # type: ignore[arg-type]
    return problem.mask(rule, after)[task].nonzero().squeeze(1).tolist()  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["class", "task", "domain"])
def test_tasks_of_a_split_are_drawn_from_theirs_when_there_are_to_be_fewer_images(kind: Kind) -> None:
    whole = split(digits(), 0, kind=kind, n_tasks=5, val_fraction=0.1)
    few, again = (split(digits(), 0, kind=kind, n_tasks=5, val_fraction=0.1, max_train=20) for _ in range(2))
    for task, same, other in zip(few.tasks, again.tasks, whole.tasks, strict=True):
        assert len(task.train) == 20
        assert set(task.train.labels.tolist()) == set(other.train.labels.tolist())
        theirs = {image.numpy().tobytes() for image in other.train.images}
        assert {image.numpy().tobytes() for image in task.train.images} <= theirs
        assert torch.equal(task.train.images, same.train.images)
        assert torch.equal(task.val.images, other.val.images)
    with pytest.raises(InputError, match=r"^scenario.max_train=1: less than one image for each of 2 classes"):
        split(digits(), 0, kind=kind, n_tasks=5, max_train=1)


def test_which_outputs_may_answer() -> None:
    assert mask("class", "seen", after=1, task=0) == [0, 1, 2, 3]
    assert mask("class", "seen", after=1, task=2) == [0, 1, 2, 3]  # its own are not among them yet
    assert mask("class", "current", after=1, task=0) == [2, 3]
    assert mask("class", "all", after=0, task=0) == [0, 1, 2, 3, 4, 5]
    assert mask("task", "own", after=0, task=2) == [4, 5]
    assert mask("domain", "all", after=0, task=2) == [0, 1]


def test_outputs_without_names_have_their_numbers() -> None:
    problem = Problem("class", (1, 8, 8), ((0, 1), (2,)))
    assert Scenario(problem, [], []).problem.class_names == ("0", "1", "2")
    with pytest.raises(InputError, match="class_names has 2 names for 3 outputs"):
        Scenario(replace(problem, class_names=("a", "b")), [], [])


def test_each_kind_has_its_rules() -> None:
    rules = {kind: Problem(kind, (1, 8, 8), SPLIT).rules for kind in ("class", "task", "domain")}
    assert rules["class"] == {"train": "seen", "evaluation": "seen", "baseline": "all"}
    assert set(rules["task"].values()) == {"own"}
    assert set(rules["domain"].values()) == {"all"}


def test_masked_logits_never_make_a_nan() -> None:
    logits = torch.randn(2, 4, requires_grad=True)
    out = masked(logits, torch.tensor([[True, False, True, False]]))
    assert torch.equal(out.softmax(1)[:, 1::2], torch.zeros(2, 2))
    out.log_softmax(1)[:, 0].sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert not logits.grad[:, 1::2].any()


def test_a_larger_first_task_then_equal_ones() -> None:
    scenario = split(digits(), 0, kind="class", n_tasks=None, base=4, classes_per_task=2, class_order="icarl")
    assert [len(outputs) for outputs in scenario.problem.outputs] == [4, 2, 2, 2]
    assert scenario.problem.outputs == ((0, 1, 2, 3), (4, 5), (6, 7), (8, 9))
    order = np.arange(10)
    np.random.RandomState(1993).shuffle(order)  # as the code of the literature draws it
    assert [int(name) for name in scenario.problem.class_names] == order.tolist()
    for index, task in enumerate(scenario.tasks):
        assert task.train.labels.unique().tolist() == list(scenario.problem.outputs[index])
    small = split(digits(), 0, kind="class", n_tasks=None, base=1, classes_per_task=3)
    assert [len(outputs) for outputs in small.problem.outputs] == [1, 3, 3, 3]
    uneven = split(digits(), 0, kind="class", n_tasks=None, base=5, classes_per_task=2, uneven=True)
    assert [len(outputs) for outputs in uneven.problem.outputs] == [5, 2, 2, 1]


KINDS = ("class", "task", "domain")
CUTS = (("n_tasks", 5), ("classes_per_task", 5), ("n_tasks", 1))


@pytest.mark.parametrize(("kind", "cut"), [*product(KINDS, CUTS), ("class", ("n_tasks", 10))])
def test_split_hands_every_image_to_one_task(kind: str, cut: tuple[str, int]) -> None:
    key, n = cut
    scenario = split(digits(), 0, kind=kind, **{"n_tasks": None, key: n})  # type: ignore[arg-type]
    assert len(scenario.tasks) == (n if key == "n_tasks" else 10 // n)
    assert sum(len(task.train) for task in scenario.tasks) == len(digits().y_train)
    assert sum(len(test) for test in scenario.tests) == len(digits().y_test)
    for task, test, outputs in zip(scenario.tasks, scenario.tests, scenario.problem.outputs, strict=True):
        assert set(task.train.labels.tolist()) == set(test.labels.tolist()) == set(outputs)
        assert set(task.train.task_ids.tolist()) == {task.index}
    per_task = 10 // len(scenario.tasks)
    assert scenario.problem.n_outputs == (per_task if kind == "domain" else 10)


def test_outputs_are_numbered_in_order_of_appearance() -> None:
    order: list[int | str] = [7, 3, 9, 0, 1, 2, 4, 5, 6, 8]
    scenario = split(digits(), 0, kind="class", n_tasks=5, class_order=order)
    assert scenario.problem.outputs[1] == (2, 3)
    assert scenario.tasks[1].names == ("9", "0")
    nines = digits().x_train[digits().y_train == 9]
    assert torch.equal(scenario.tasks[1].train.images[scenario.tasks[1].train.labels == 2], nines)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("meta_classes", "apart"), [(4, [7, 3, 9, 0]), ([8, 3, 1, 0], [3, 0, 1, 8]), (["8", 3, "1", 0], [3, 0, 1, 8])]
)
def test_meta_classes_never_reach_a_task(kind: Any, meta_classes: Any, apart: list[int]) -> None:
    """Neither their training nor their test images; theirs for training come with the first task alone."""
    data, order = digits(), [7, 3, 9, 0, 1, 2, 4, 5, 6, 8]
    given: dict[str, Any] = {"kind": kind, "n_tasks": 3, "class_order": order, "val_fraction": 0.2}
    scenario = split(data, 0, meta_classes=meta_classes, **given).to("cpu", batch_size=7)
    problem, others = scenario.problem, [label for label in order if label not in apart]
    assert [int(name) for task in scenario.tasks for name in task.names] == others
    parts = [part for task in scenario.tasks for part in (task.train, task.val)]
    met = {image.numpy().tobytes() for part in (*parts, *scenario.tests) for image in part.images}
    for x, y in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
        of_others = torch.isin(y, torch.tensor(others))
        assert met >= {image.numpy().tobytes() for image in x[of_others]}
        assert not met & {image.numpy().tobytes() for image in x[~of_others]}
    assert problem.n_outputs == (2 if kind == "domain" else 6)
    assert problem.n_meta == len(apart) == 4
    meta = there(scenario.tasks[0].meta)
    assert [task.meta for task in scenario.tasks[1:]] == [None, None]
    for label, number in enumerate(apart):
        assert torch.equal(meta.images[meta.labels == label], data.x_train[data.y_train == number])
    assert len(meta) == int(torch.isin(data.y_train, torch.tensor(apart)).sum())
    assert meta.batch_size == 7
    plain = split(data, 0, kind=kind, n_tasks=5)
    assert plain.problem.n_meta == 0
    assert all(task.meta is None for task in plain.tasks)


@pytest.mark.parametrize(
    ("meta_classes", "message"),
    [
        (10, "=10: leaves no class of 10 for the tasks; choose fewer"),
        (99, "=99: leaves no class of 10"),
        (list(range(10)), r"=.*\]: leaves no class of 10"),
        ([3], r"=\[3\]: meta-training needs at least two classes"),
        ([], r"=\[\]: meta-training needs at least two classes"),
        ([1, 1], r"=\[1,1\]: must have classes from 0 to 9, each once"),
        ([1, 10], r"=\[1,10\]: must have classes from 0 to 9"),
        (["1", 1, 2], r'=\["1",1,2\]: must have classes from 0 to 9, each once'),
        (["ankle boot", 1], r'=\["ankle boot",1\]: must have classes from 0 to 9, each once, or their names'),
    ],
)
def test_meta_classes_that_cannot_be_set_apart(meta_classes: Any, message: str) -> None:
    with pytest.raises(InputError, match=rf"^scenario\.meta_classes{message}"):
        split(digits(), 0, kind="class", n_tasks=1, meta_classes=meta_classes)


def test_what_meta_classes_leave_must_be_enough_for_the_tasks() -> None:
    beside = r"3 classes besides the 7 of scenario\.meta_classes cannot be divided like this; choose 1, 3"
    with pytest.raises(InputError, match=rf"scenario\.n_tasks=5: {beside}$"):
        split(digits(), 0, kind="class", n_tasks=5, meta_classes=7)
    with pytest.raises(InputError, match=rf"scenario\.classes_per_task=2: {beside}"):
        split(digits(), 0, kind="class", n_tasks=None, classes_per_task=2, meta_classes=7)
    with pytest.raises(InputError, match=r"kind=task: a task with one class has only one possible answer"):
        split(digits(), 0, kind="task", n_tasks=3, meta_classes=7)


def test_a_random_class_order_follows_the_seed() -> None:
    names = [
        [t.names for t in split(digits(), seed, kind="class", n_tasks=5, class_order="random").tasks]
        for seed in (0, 0, 1)
    ]
    assert names[0] == names[1] != names[2]


def test_uneven_splits_only_when_asked_for() -> None:
    with pytest.raises(InputError, match=r"scenario.n_tasks=3: 10 classes .* choose 1, 2, 5, 10"):
        split(digits(), 0, kind="class", n_tasks=3)
    sizes = [len(t.names) for t in split(digits(), 0, kind="class", n_tasks=3, uneven=True).tasks]
    assert sizes == [4, 3, 3]
    assert split(digits(), 0, kind="domain", n_tasks=3, uneven=True).problem.n_outputs == 4


@pytest.mark.parametrize(("kind", "mask"), [("task", "seen"), ("domain", "seen"), ("class", "current")])
def test_a_single_class_must_have_something_to_be_told_from(kind: str, mask: str) -> None:
    with pytest.raises(InputError, match="a task with one class has only one possible answer"):
        split(digits(), 0, kind=kind, n_tasks=10, train_mask=mask)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "mask", "cut", "which"),
    [
        ("task", "seen", {"classes_per_task": 3}, "task 4"),  # 3 + 3 + 3 + 1
        ("domain", "seen", {"classes_per_task": 3}, "task 4"),
        ("class", "current", {"classes_per_task": 9}, "task 2"),
        ("task", "seen", {"n_tasks": 9}, "task 2"),  # 2 + 1 + 1 + ...
    ],
)
def test_one_small_task_is_enough_to_be_refused(kind: str, mask: str, cut: dict[str, int], which: str) -> None:
    """It would be right before it is learned."""
    with pytest.raises(
        InputError, match=rf"scenario\.\w+={kind if kind != 'class' else mask}: {which} would have one class"
    ):
        split(digits(), 0, kind=kind, train_mask=mask, uneven=True, **{"n_tasks": None, **cut})  # type: ignore[arg-type]
    assert split(digits(), 0, kind="class", uneven=True, **{"n_tasks": None, **cut}).problem.n_outputs == 10


def few_of_one(n: int) -> Dataset:
    """Ten classes, of which the last has n training images."""
    whole = digits()
    keep = torch.cat([(whole.y_train != 9).nonzero()[:, 0], (whole.y_train == 9).nonzero()[:n, 0]])
    return replace(whole, x_train=whole.x_train[keep], y_train=whole.y_train[keep])


def test_a_rare_class_is_learned_and_chosen_by() -> None:
    for scenario in (
        split(few_of_one(3), 0, kind="class", n_tasks=5, val_fraction=0.1),
        split(few_of_one(3), 0, kind="class", n_tasks=5, val_fraction=0.8),
    ):
        assert (scenario.tasks[4].train.labels == 9).sum() > 0
        assert (scenario.tasks[4].val.labels == 9).sum() > 0
    for n, fraction in ((1, 0.1), (3, 0.9)):
        line = rf"scenario.val_fraction={fraction}: leaves no training image of its {n} images of class '9'"
        with pytest.raises(InputError, match=line):
            split(few_of_one(n), 0, kind="class", n_tasks=5, val_fraction=fraction)
        with pytest.raises(InputError, match=line):
            permuted(few_of_one(n), 0, kind="domain", val_fraction=fraction)


NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NAMED = replace(digits(), class_names=NAMES)


def test_a_class_order_by_name_or_number() -> None:
    def first(order: list[Any], data: Dataset = NAMED) -> tuple[str, ...]:
        return split(data, 0, kind="class", n_tasks=5, class_order=order).tasks[0].names

    assert first([*reversed(NAMED.class_names)]) == ("nine", "eight")
    assert first([*reversed(range(10))]) == ("nine", "eight")
    from_one = replace(digits(), class_names=tuple(str(n) for n in range(1, 11)))
    assert first([*reversed(range(1, 11))], from_one) == ("10", "9")  # they are names
    assert first([*reversed(range(10))], from_one) == ("10", "9")  # 0 is none, so these are numbers
    for wrong in (["nin"], [*range(9), "nine"], [*range(9)], [0, *range(9)], [*NAMED.class_names[:9], "nin"]):
        with pytest.raises(InputError, match=r"scenario.class_order=.*each class from 0 to 9 once, as number or name"):
            first(wrong)
    with pytest.raises(InputError, match="did you mean 'nine'"):
        first([*NAMED.class_names[:9], "nin"])


def test_what_each_output_stands_for(tmp_path: Path) -> None:
    order = [7, 3, 9, 0, 1, 2, 4, 5, 6, 8]
    of = split(NAMED, 0, kind="class", n_tasks=5, class_order=order).problem  # type: ignore[arg-type]
    assert of.class_names == tuple(NAMED.class_names[label] for label in order)
    assert split(NAMED, 0, kind="domain", n_tasks=2).problem.class_names[0] == "zero/five"
    assert split(NAMED, 0, kind="domain", n_tasks=5).problem.class_names[1] == "one/three/five/..."
    assert permuted(NAMED, 0, kind="domain", n_tasks=3).problem.class_names == NAMED.class_names
    several = permuted(NAMED, 0, kind="class", n_tasks=2).problem.class_names
    assert several[:11:10] == ("zero (permutation 0)", "zero (permutation 1)")
    assert len(set(several)) == 20
    both = sequence(tmp_path, 0, kind="class", datasets=["digits", "digits"]).problem
    assert len(both.class_names) == both.n_outputs == 20


def test_the_validation_slice_is_stratified_and_apart() -> None:
    whole = split(digits(), 0, kind="class", n_tasks=5)
    scenario = split(digits(), 0, kind="class", n_tasks=5, val_fraction=0.2)
    for task, before in zip(scenario.tasks, whole.tasks, strict=True):
        counts = torch.bincount(before.train.labels)
        assert torch.equal(torch.bincount(task.val.labels), (0.2 * counts).round().long())
        assert len(task.train) + len(task.val) == len(before.train)
        rows = {image.numpy().tobytes() for image in before.train.images}
        assert {image.numpy().tobytes() for image in (task.train + task.val).images} == rows


def first(scenario: Scenario, task: int) -> torch.Tensor:
    return scenario.tasks[task].train.batch(torch.arange(5)).x


def test_permutations_are_views_of_the_same_pixels() -> None:
    scenario = permuted(digits(), 0, kind="domain", n_tasks=3, first_plain=True)
    plain = digits().x_train[:5].float() / 255
    assert torch.equal(first(scenario, 0), plain)
    assert not torch.equal(first(scenario, 1), first(scenario, 2))
    assert torch.equal(first(scenario, 1).flatten().sort()[0], plain.flatten().sort()[0])
    assert scenario.tasks[0].train.images.data_ptr() == scenario.tasks[2].train.images.data_ptr()
    train, test = scenario.tasks[1].train, scenario.tests[1]
    assert train.view is test.view
    assert permuted(digits(), 0, kind="class", n_tasks=3).problem.n_outputs == 30


@pytest.mark.parametrize(
    "cut",
    [partial(permuted, kind="class"), partial(rotated, kind="domain"), partial(rotated, kind="domain", max_train=50)],
)
def test_images_set_apart_are_the_same_in_every_view_and_never_copied(cut: Callable[..., Scenario]) -> None:
    scenario = cut(digits(), 0, n_tasks=3, val_fraction=0.1)
    first = scenario.tasks[0]
    assert first.val.labels.bincount().min() == 14
    apart = {image.numpy().tobytes() for image in first.val.images}
    for task in scenario.tasks:
        assert task.val.images.data_ptr() == first.val.images.data_ptr()
        assert not apart & {image.numpy().tobytes() for image in task.train.images}
        assert torch.equal(task.val.labels - task.val.labels.min(), first.val.labels)
        assert set(task.val.task_ids.tolist()) == set(task.train.task_ids.tolist()) == {task.index}


def test_joined_permuted_tasks_keep_each_its_own_permutation() -> None:
    scenario = permuted(digits(), 0, kind="domain", n_tasks=3)
    both = scenario.tasks[2].train + scenario.tasks[1].train
    n = len(scenario.tasks[2].train)
    assert torch.equal(both.batch(torch.arange(n, n + 5)).x, first(scenario, 1))


def test_rotation_by_quarter_turns_is_exact() -> None:
    scenario = rotated(digits(), 0, kind="domain", n_tasks=4, max_angle=360)
    for task in range(4):
        turned = torch.rot90(first(scenario, 0), task, dims=(3, 2) if task % 2 else (2, 3))
        mirrored = torch.rot90(first(scenario, 0), task, dims=(2, 3))
        close = [torch.allclose(first(scenario, task), x, atol=1e-4) for x in (turned, mirrored)]
        assert any(close)


def test_drawn_angles_are_the_same_sorted_or_not() -> None:
    def angles_of(angles: Literal["random", "unsorted"], seed: int = 0) -> list[float]:
        view = rotated(digits(), seed, kind="domain", n_tasks=9, angles=angles).problem.view
        assert isinstance(view, Rotate)
        return view.degrees[:-1].tolist()

    assert angles_of("random") == sorted(angles_of("unsorted")) != angles_of("unsorted")
    assert angles_of("unsorted", seed=1) != angles_of("unsorted")


@pytest.mark.parametrize("shape", [(12, 24), (24, 12), (12, 12)])
def test_a_turned_square_is_a_square_in_images_of_any_shape(shape: tuple[int, int]) -> None:
    height, width = shape
    image = torch.zeros(1, 1, height, width)
    image[..., height // 2 - 2 : height // 2 + 2, width // 2 - 2 : width // 2 + 2] = 1
    for degrees in (0.0, 90.0, 180.0, 270.0):
        turned = Rotate(torch.tensor([degrees]))(image, torch.tensor([0]))
        assert torch.allclose(turned, image, atol=1e-5)
    corner = torch.zeros_like(image)  # up and right of the center
    corner[..., height // 2 - 4 : height // 2 - 2, width // 2 + 2 : width // 2 + 4] = 1
    there = {
        tuple((Rotate(torch.tensor([degrees]))(corner, torch.tensor([0]))[0, 0] > 0.5).nonzero()[0].tolist())
        for degrees in (0.0, 90.0, 180.0, 270.0)
    }
    rows, columns = (height // 2 - 4, height // 2 + 2), (width // 2 - 4, width // 2 + 2)
    assert there == set(product(rows, columns))


def test_each_rotation_may_have_a_few_images_of_its_own() -> None:
    few = rotated(digits(), 0, kind="domain", n_tasks=3, max_train=50)
    assert [len(task.train) for task in few.tasks] == [50] * 3
    assert [len(test) for test in few.tests] == [359] * 3
    assert not torch.equal(few.tasks[0].train.images, few.tasks[1].train.images)
    again = rotated(digits(), 0, kind="domain", n_tasks=3, max_train=50)
    assert torch.equal(few.tasks[2].train.images, again.tasks[2].train.images)


def test_a_sequence_reconciles_size_and_color(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 10
    color = rng.integers(0, 255, (40, 12, 12, 3), dtype=np.uint8)
    np.savez(tmp_path / "color.npz", x_train=color, y_train=labels, x_test=color, y_test=labels)
    path = str(tmp_path / "color.npz")
    scenario = sequence(tmp_path, 0, kind="domain", datasets=["digits", path])
    assert scenario.problem.image_shape == (3, 12, 12)
    assert scenario.problem.outputs == (tuple(range(10)),) * 2
    assert first(scenario, 0).shape == first(scenario, 1).shape == (5, 3, 12, 12)
    assert [task.names for task in scenario.tasks] == [("digits",), ("color",)]
    few = sequence(tmp_path, 0, datasets=["digits", path], kind="class", max_train=20, size=8)
    assert few.problem.n_outputs == 20
    assert [len(task.train) for task in few.tasks] == [20, 20]


def test_a_sequence_of_images_that_are_not_square(tmp_path: Path) -> None:
    labels = np.arange(20) % 10
    square = np.zeros((20, 12, 24), np.uint8)
    square[:, 4:8, 10:14] = 255
    np.savez(tmp_path / "wide.npz", x_train=square, y_train=labels, x_test=square, y_test=labels)
    names = ["digits", str(tmp_path / "wide.npz")]
    wide = sequence(tmp_path, 0, kind="domain", datasets=names)
    assert wide.problem.image_shape == (1, 12, 24)
    assert torch.equal(wide.tests[1].images[0, 0], torch.from_numpy(square[0]))
    assert not wide.tests[0].images[..., :6].any()  # an 8x8 digit is 12x12 in the middle
    assert not wide.tests[0].images[..., 18:].any()
    small = sequence(tmp_path, 0, kind="domain", datasets=names, size=12).tests[1].images[0, 0] > 127
    assert small.any(1).sum() == small.any(0).sum() == 2


def test_a_few_images_are_some_of_each_class() -> None:
    labels = torch.tensor([0] * 500 + [1] * 500 + [2])
    for seed in range(20):
        rows = drawn(labels, 6, seed, "max_train")
        assert len(rows.unique()) == 6
        assert labels[rows].unique().tolist() == [0, 1, 2]
    plain = torch.randperm(1001, generator=torch.Generator().manual_seed(3))[:900]
    assert 1000 in plain
    assert torch.equal(drawn(labels, 900, 3, "max_train"), plain)  # as drawn, where no class is left out
    with pytest.raises(InputError, match=r"scenario.max_train=9: less than one image for each of 10 classes"):
        rotated(digits(), 0, kind="domain", max_train=9)


def test_a_shared_head_needs_shared_classes(tmp_path: Path) -> None:
    x = np.zeros((4, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "two.npz", x_train=x, y_train=[0, 1, 0, 1], x_test=x, y_test=[0, 1, 0, 1])
    with pytest.raises(InputError, match=r"scenario.kind=domain.*digits has 10, two has 2"):
        sequence(tmp_path, 0, kind="domain", datasets=["digits", str(tmp_path / "two.npz")])


def test_classes_of_one_data_set_twice_have_names_of_their_own(tmp_path: Path) -> None:
    problem = sequence(tmp_path, 0, kind="class", datasets=["digits", "digits"]).problem
    assert len(set(problem.class_names)) == 20
    assert problem.class_names[0] == "0 (digits (0))"
    assert problem.class_names[10] == "0 (digits (1))"
