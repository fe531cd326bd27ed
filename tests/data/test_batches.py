"""Images as tensors, and mini-batches that don't depend on where a phase was cut."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cl_bench.data.batches import REPLAYED, Batches, Data, at_once


def numbered(n: int) -> Data:
    """Images that can be told apart: image i has label i."""
    images = torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).expand(n, 1, 2, 2)
    return Data(images, torch.arange(n), torch.zeros(n, dtype=torch.int16))


def labels(batches: Batches) -> list[list[int]]:
    return [batch.y.tolist() for chunk in batches for _, batch in chunk]


def test_an_epoch_holds_every_image_once_and_the_next_is_in_another_order() -> None:
    steps = labels(Batches(numbered(10), batch_size=4, steps=6, seed=0, chunk=2))
    first, second = [y for step in steps[:3] for y in step], [y for step in steps[3:] for y in step]
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert [len(step) for step in steps] == [4, 4, 2] * 2


@pytest.mark.parametrize("start", range(8))  # 7: killed between its last step and its end
@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_a_phase_continued_anywhere_sees_the_rest_of_the_batches(start: int, chunk: int) -> None:
    whole = labels(Batches(numbered(10), batch_size=4, steps=7, seed=3))
    rest = Batches(numbered(10), batch_size=4, steps=7, seed=3, chunk=chunk, start=start)
    assert labels(rest) == whole[start:]
    assert len(list(rest)) == len(rest)
    assert all(list(part) for part in rest)
    assert [step for part in rest for step, _ in part] == list(range(start, 7))


def test_no_image_is_left_alone() -> None:
    """A network with batch normalization would raise."""
    for n, sizes in ((7, [3, 3, 2]), (1, [2]), (8, [3, 3, 2])):
        batches = Batches(numbered(n), batch_size=3, steps=len(sizes), seed=0)
        made = [batch for chunk in batches for _, batch in chunk]
        assert [len(batch.y) for batch in made] == sizes
        assert {int(y) for batch in made for y in batch.y} == set(range(n))


def test_pixels_become_floats_in_0_1_and_stay_bytes_in_memory() -> None:
    data = Data(torch.tensor([[[[0, 51], [255, 102]]]], dtype=torch.uint8), torch.tensor([1]), torch.tensor([0]))
    batch = data.batch(torch.tensor([0]))
    assert torch.equal(batch.x, torch.tensor([[[[0.0, 0.2], [1.0, 0.4]]]]))
    assert data.images.dtype == torch.uint8


def test_sets_are_joined_and_each_image_keeps_its_view() -> None:
    def turned(x: torch.Tensor, task: torch.Tensor) -> torch.Tensor:
        return torch.where(task.view(-1, 1, 1, 1) == REPLAYED, x, 1 - x)

    ours = Data(**{**vars(numbered(2)), "view": turned})
    dreams = Data(**{**vars(numbered(2)), "task_ids": torch.full((2,), REPLAYED, dtype=torch.int16)})
    both = ours + dreams
    x = both.batch(torch.arange(4)).x[:, 0, 0, 0]
    assert len(both) == 4
    assert torch.allclose(x, torch.tensor([1.0, 1 - 1 / 255, 0.0, 1 / 255]))


def test_augmentation_is_for_training_only() -> None:
    data = Data(**{**vars(numbered(4)), "augment": torch.zeros_like})
    assert data.batch(torch.arange(4)).x.any()
    assert not data.batch(torch.arange(4), training=True).x.any()
    assert not any(batch.x.any() for _, batch in next(iter(Batches(data, batch_size=2, steps=2, seed=0))))


def test_no_images_is_an_error() -> None:
    with pytest.raises(ValueError, match="no images"):
        Batches(numbered(0), batch_size=4, steps=1, seed=0)


@pytest.mark.parametrize(
    ("shape", "batch_size", "expected"),
    [
        ((1, 8, 8), 2, 1024),  # small ones as ever, whatever the batch size
        ((1, 28, 28), 10, 1024),
        ((3, 32, 32), 128, 341),
        ((3, 32, 32), 512, 512),
        ((3, 64, 64), 128, 128),
        ((3, 224, 224), 2, 6),
        ((3, 224, 224), 64, 64),
        ((3, 224, 224), 4096, 1024),
        ((3, 3000, 2000), 1, 1),
    ],
)
def test_images_are_looked_at_as_memory_allows(shape: tuple[int, ...], batch_size: int, expected: int) -> None:
    assert at_once(shape, 1024, batch_size=batch_size) == expected


def test_every_image_is_looked_at_once_in_order_however_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cl_bench.data.batches.AT_ONCE", 12)
    for batch_size, sizes in ((1, [3, 3, 3, 1]), (4, [4, 4, 2]), (99, [10])):
        batches = list(replace(numbered(10), batch_size=batch_size).batches())
        assert [len(batch.y) for batch in batches] == sizes
        assert torch.cat([batch.y for batch in batches]).tolist() == list(range(10))
    assert [len(batch.y) for batch in replace(numbered(10), batch_size=99).batches(4)] == [4, 4, 2]
