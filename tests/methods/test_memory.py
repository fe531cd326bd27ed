"""What every memory of images promises: a budget that holds, and the same chance for every image."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import METHODS, Compose, made, one_pass, there
from scipy.stats import chi2
from torch import Tensor

from cl_bench.config import InputError
from cl_bench.config.compose import compose
from cl_bench.config.declared import reads_memory
from cl_bench.config.names import key_of
from cl_bench.data.batches import Data
from cl_bench.data.datasets import digits
from cl_bench.data.scenarios import permuted, split
from cl_bench.methods.parts.memory import Budget, Memory, Reservoir
from cl_bench.methods.parts.sizes import bytes_of
from cl_bench.record import MemoryUse
from cl_bench.runs.loop import run
from cl_bench.seeding import derive

COUNTED = [("er", "total", "reservoir"), ("der", "total", "")]
COUNTED += [("er", per, "random") for per in ("total", "class", "task")]
COUNTED += [(method, per, "") for method in ("gem", "agem", "icarl") for per in ("total", "class", "task")]
COUNTED += [("er_ace", "total", ""), ("mir", "total", ""), ("gss", "total", "greedy"), ("gss", "total", "random")]
COUNTED += [("wa", "task", ""), ("lucir", "class", ""), ("bic", "class", ""), ("ss_il", "total", "")]
IMAGE = 8 * 8 + 8 + 2  # bytes of a kept image, its label and its task
EXTRA = {"der": 4 * 10, "gss": 4}  # of what is kept with it: logits, a score
DIGITS = split(digits(), 0, kind="class", n_tasks=5).problem


def numbered(n: int) -> Data:
    """n images that can be told apart, image i labeled i."""
    images = torch.arange(n).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).to(torch.uint8)
    return Data(images.contiguous(), torch.arange(n), torch.zeros(n, dtype=torch.int16))


def chance(counts: Tensor, kept: int, runs: int) -> float:
    """Probability of counts as uneven as these when each of N images is kept with chance kept / N (chi-square)."""
    n, p = len(counts), kept / len(counts)
    unevenness = (counts - runs * p).square().sum() / (runs * p * (1 - p)) * (n - 1) / n
    return float(chi2.sf(unevenness.item(), n - 1))


@pytest.mark.parametrize("batch_size", [pytest.param(1, marks=pytest.mark.slow), 7, 32])
def test_a_reservoir_keeps_every_image_of_the_stream_with_the_same_chance(batch_size: int) -> None:
    """At any time: here when a third of the stream has come and at its end. A batch may be larger than the memory."""
    stream, runs, kept = numbered(60), 1000, 10
    counts = {20: torch.zeros(20), 60: torch.zeros(60)}
    torch.manual_seed(0)
    for _ in range(runs):
        memory = Reservoir(kept)
        for end, count in counts.items():
            for rows in torch.arange(memory.seen, end).split(batch_size):
                memory.after_step(stream.batch(rows))
            count += torch.bincount(memory.labels, minlength=end)
            assert len(memory) == len(memory.labels.unique()) == kept
    assert all(chance(count, kept, runs) > 1e-3 for count in counts.values())


@pytest.mark.parametrize("batch_size", [1, 3, 16, 50])
def test_a_mini_batch_is_taken_in_as_its_images_one_after_another(batch_size: int) -> None:
    """Against the algorithm as it is printed, with the same draws."""
    memory, stream, expected = Reservoir(12, n_logits=3), numbered(200), {}
    for rows in torch.arange(200).split(batch_size):
        draws = torch.rand(
            len(rows), generator=torch.Generator().manual_seed(derive(memory.seed, memory.seen)), dtype=torch.float64
        )
        for draw, i in zip(draws.tolist(), rows.tolist(), strict=True):
            place = i if i < 12 else int(draw * (i + 1))
            if place < 12:
                expected[place] = i
        memory.after_step(stream.batch(rows), logits=rows[:, None].expand(-1, 3).float())
    assert memory.labels.tolist() == [expected[place] for place in range(12)]
    assert torch.equal(memory.images, stream.images[memory.labels])
    assert torch.equal(memory.logits, memory.labels[:, None].expand(-1, 3).float())


def test_a_reservoir_never_exceeds_its_budget_in_images_and_bytes() -> None:
    memory, stream = Reservoir(50, n_logits=10), digits()
    data = Data(stream.x_train, stream.y_train, torch.zeros(len(stream.y_train), dtype=torch.int16))
    for rows in torch.arange(400).split(32):
        memory.after_step(data.batch(rows), torch.zeros(len(rows), 10))
        tensors = [value for value in memory.state_dict().values() if torch.is_tensor(value)]
        assert len(memory) <= 50
        assert sum(value.untyped_storage().nbytes() for value in tensors) <= 50 * (IMAGE + 4 * 10)
    assert len(memory) == 50


def test_a_reservoir_goes_on_from_its_state_alone_and_leaves_other_chance_alone() -> None:
    stream = numbered(200)
    torch.manual_seed(0)
    whole, other = Reservoir(9), Reservoir(9)
    before = torch.get_rng_state()
    for i, rows in enumerate(torch.arange(200).split(8)):
        if i == 11:
            other.load_state_dict(whole.state_dict())
        for memory in (whole, other) if i >= 11 else (whole,):
            memory.after_step(stream.batch(rows))
    assert torch.equal(whole.labels, other.labels)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("per", ["total", "class", "task"])
@pytest.mark.parametrize("kind", ["class", "domain"])
def test_a_budget_holds_after_every_task_in_images_and_bytes(per: str, kind: str) -> None:
    scenario = split(digits(), 0, kind=kind, n_tasks=5)  # type: ignore[arg-type]
    memory = Memory(Budget(23, per), scenario.problem)  # type: ignore[arg-type]
    for task in scenario.tasks:
        memory.after_task(task.train)
        classes = 2 * (task.index + 1)
        most = {"total": 23, "class": 23 * classes, "task": 23 * (task.index + 1)}[per]
        each = torch.bincount(2 * memory.task_ids.long() + memory.labels % 2)
        if per == "task":
            assert memory.task_ids.bincount().tolist() == [23] * (task.index + 1)
        else:
            assert each.tolist() == [23 // classes if per == "total" else 23] * classes
        assert len(memory) <= most
        assert bytes_of(memory.state_dict()) <= most * IMAGE


def test_what_is_drawn_from_a_task_is_any_of_its_images() -> None:
    data, runs, counts = numbered(40), 1000, torch.zeros(40)
    torch.manual_seed(0)
    for _ in range(runs):
        memory = Memory(Budget(8, "task"), DIGITS)
        memory.after_task(data)
        counts += torch.bincount(memory.labels, minlength=40)
    assert chance(counts, 8, runs) > 1e-3


def test_the_first_of_each_class_are_kept_in_their_order() -> None:
    memory = Memory(Budget(6), replace(DIGITS, outputs=((0, 1), (7,))))
    two = replace(numbered(20), labels=torch.arange(20) % 2)
    memory.add(two)
    assert memory.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
    memory.add(replace(numbered(20), labels=torch.full((20,), 7), task_ids=torch.ones(20, dtype=torch.int16)))
    of_class = [memory.images[memory.labels == label, 0, 0, 0].tolist() for label in (0, 1, 7)]
    assert of_class == [[0, 2], [1, 3], [0, 1]]


def test_old_images_are_seen_as_they_were() -> None:
    """Kept as bytes without their permutation, which comes back when they are drawn."""
    scenario = permuted(digits(), 0, kind="domain", n_tasks=2)
    first, second = (task.train for task in scenario.tasks)
    memory = Reservoir(30, scenario.problem)
    batch = first.batch(torch.arange(30))
    memory.after_step(batch)
    old = memory.data.batch(torch.arange(30))
    assert torch.equal(old.x, batch.x)
    assert not torch.equal(old.x, second.batch(torch.arange(30)).x)


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        (Budget(9), r"^memory\.images=9: less than 1 image for each of 10 classes"),
        (
            Budget(200, bytes=9 * IMAGE + 1),
            r"^memory\.bytes=667: holds 9 images, less than 1 image for each of 10 classes",
        ),
        (Budget(200, "class", bytes=IMAGE - 1), r"^memory\.bytes=73: an image takes 74"),
    ],
)
def test_a_budget_too_small_for_the_classes_is_refused(budget: Budget, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Memory(budget, DIGITS)


def test_bytes_are_as_many_images_as_fit_with_what_is_kept_of_each() -> None:
    budget = Budget(200, bytes=10_000)
    assert budget.count(DIGITS) == 10_000 // IMAGE
    assert budget.count(DIGITS, n_logits=10) == 10_000 // (IMAGE + 40)
    assert Budget(200).count(DIGITS, n_logits=10) == 200


def test_a_reservoir_has_no_more_places_than_there_are_images_and_counts_in_total() -> None:
    assert Budget(5000, available=1438).places(DIGITS) == 1438
    assert Budget(50, available=1438).places(DIGITS) == 50
    with pytest.raises(InputError, match=r"^memory\.per=class: a reservoir has one total size; set memory\.per=total$"):
        Budget(50, "class").places(DIGITS)


@pytest.mark.parametrize("unit", ["images", "bytes"])
@pytest.mark.parametrize(("method", "per", "selection"), COUNTED)
def test_what_a_method_keeps_stays_within_its_budget_in_images_and_bytes(
    method: str, per: str, selection: str, unit: str
) -> None:
    """All of its state but the network (and iCaRL's means) is memory; nothing is kept twice. A budget means the same
    to all of them: what it allows is used, up to what can't be shared equally."""
    each = IMAGE + EXTRA.get(method, 0)
    amount = "memory=13" if unit == "images" else f"memory.bytes={13 * each + 1}"
    chosen = [f"method.selection={selection}"] if selection else []
    scenario, learner = made(method, amount, f"memory.per={per}", *chosen)
    for task in scenario.tasks[:3]:
        learner.learn_task(task, one_pass)
        classes = 2 * (task.index + 1)
        groups = {"class": classes, "task": task.index + 1}.get(per, 1)
        others = bytes_of(learner.network.state_dict()) + (4 * 10 * 32 if method == "icarl" else 0)
        tensors = [value for value in learner.state_dict().values() if torch.is_tensor(value)]
        kept = sum(value.untyped_storage().nbytes() for value in tensors) - others
        assert 13 * groups - classes < len(learner.memory) <= 13 * groups
        assert kept == len(learner.memory) * each


@pytest.mark.parametrize("method", ["er", "der", "gss", "gem", "agem", "icarl", "wa"])
def test_a_memory_larger_than_the_data_set_keeps_what_there_is_and_says_so(
    method: str, small: Compose, caplog: pytest.LogCaptureFixture
) -> None:
    results = run(small(f"method={method}", "memory=5000"))
    each = IMAGE + EXTRA.get(method, 0)
    assert results.memory == MemoryUse(images=1438, bytes=1438 * each)
    assert [there(task.memory).images for task in results.tasks][-1] == 1438
    assert "memory.images=5000: there are only 1438 training images, and all of them are kept" in caplog.messages


@pytest.mark.parametrize(
    ("method", "budget", "said"),
    [
        ("er", "memory.bytes=130000", True),  # 74 bytes an image
        ("der", "memory.bytes=130000", False),  # 114, with its logits
        ("icarl", "memory={images: 200, per: class}", True),
        ("gem", "memory={images: 200, per: task}", False),
    ],
)
def test_a_budget_larger_than_the_data_set_is_said_once_whatever_it_counts(
    method: str, budget: str, said: bool, caplog: pytest.LogCaptureFixture
) -> None:
    made(method, budget)
    assert sum("there are only 1438 training images" in line for line in caplog.messages) == said


def test_every_rehearsal_method_reads_the_one_budget_and_nobody_elses_run_depends_on_it() -> None:
    settings = {method: compose(f"method={method}") for method in METHODS}
    reading = {method for method in METHODS if reads_memory(settings[method])}
    online = {"er_ace", "mir", "gss", "mer", "la_maml"}
    assert reading == {"er", "der", "gem", "agem", "icarl", "bic", "wa", "ss_il", "lucir"} | online
    page = (Path(__file__).parents[2] / "docs" / "memory.md").read_text()
    assert set(re.findall(r"`(\w+)`", page.partition(" keep\n")[0])) == reading
    for method in (*reading, "finetune", "dgr"):
        others = [compose(f"method={method}", budget) for budget in ("memory=100", "memory.bytes=9000")]
        keys = {key_of(given) for given in (settings[method], *others)}
        assert len(keys) == (3 if method in reading else 1), method


def test_a_generator_is_told_in_images_of_memory(small: Compose) -> None:
    memory = there(run(small("method=dgr", "scenario.n_tasks=2")).memory)
    assert memory.images == memory.bytes // IMAGE
    assert memory.bytes == memory.generator_bytes
