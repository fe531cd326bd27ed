"""GSS's own promises: scores are cosines of gradients, and places change hands with the chances of the paper."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import made, one_pass, train
from torch import Tensor

from cl_bench.config import InputError
from cl_bench.data.batches import Batch
from cl_bench.data.tasks import Scenario
from cl_bench.methods.gss import GSS, Scored
from cl_bench.methods.parts import cosines as module
from cl_bench.methods.parts.cosines import cosines

NETWORKS: dict[str, tuple[str, ...]] = {
    "mlp": ("network.hidden=[12,9]",),
    "cnn": ("network=cnn", "network.channels=[3,4,5]", "network.hidden=7"),
    "resnet18": ("network=resnet18", "network.width=2"),
}


def gss(*overrides: str, network: str = "mlp") -> tuple[GSS, Scenario]:
    scenario, method = made("gss", *NETWORKS[network], "optimizer=sgd", "memory=40", *overrides)
    return method, scenario


def numbered(first: int, n: int) -> Batch:
    """n images, image i labeled i."""
    y = torch.arange(first, first + n)
    images = y.remainder(256).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).to(torch.uint8)
    return Batch(images / 255, y, torch.zeros(n, dtype=torch.int16), images)


def full(scores: Tensor) -> Scored:
    """A memory with images 0, 1, ... that have these scores."""
    memory = Scored(len(scores))
    memory.greedy(numbered(0, len(scores)), scores)
    return memory


def by_hand(method: GSS, x: Tensor, y: Tensor) -> Tensor:
    """The gradient of the loss of each image, one after another, in float64."""
    rows = []
    for image, label in zip(x.split(1), y.split(1), strict=True):
        loss = F.cross_entropy(method.active(method(image), label), label)
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(method.network.parameters()))]))
    return torch.stack(rows).double()


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("kind", ["class", "task"])
def test_the_scores_are_those_of_explicit_gradients(kind: str, network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method, scenario = gss(f"scenario={kind}_incremental", "method.n_compared=6", network=network)
    for task in scenario.tasks[:2]:
        method.learn_task(task, one_pass)
    method.index = 2
    old = method.memory.sample(6)
    monkeypatch.setattr(method.memory, "sample", lambda n: old if n == 6 else None)
    batch = scenario.tasks[2].train.batch(torch.arange(9))
    method.train()
    found = method.scores(batch)
    assert all(part.training for part in method.network.modules())
    method.eval()
    G, M = (F.normalize(by_hand(method, images.x, images.y)) for images in (batch, old))
    assert found.tolist() == pytest.approx((1 + (G @ M.T).amax(1)).tolist(), abs=1e-4)
    assert found.min() >= 0
    assert found.max() <= 2 + 1e-5


@pytest.mark.parametrize("network", ["mlp", "cnn"])
@pytest.mark.parametrize("scratch", [2**24, 1])
def test_the_way_through_the_layers_gives_what_vmap_gives(
    network: str, scratch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, scenario = gss(network=network)
    method.index, batch = 0, scenario.tasks[0].train.batch(torch.arange(11))

    def slopes(logits: Tensor) -> Tensor:
        return method.slopes(logits, batch.y)

    monkeypatch.setattr(module, "_through_vmap", None)  # not taken
    short = cosines(method.network, batch.x, slopes, 8)
    monkeypatch.undo()
    monkeypatch.setattr(module, "layers_tell_all", lambda *_: False)
    monkeypatch.setattr(module, "SCRATCH", scratch)
    assert short.shape == (8, 3)
    assert torch.allclose(cosines(method.network, batch.x, slopes, 8), short, atol=1e-5)


def test_a_gradient_of_0_has_cosine_0() -> None:
    network = torch.nn.Linear(3, 2)
    found = cosines(network, torch.randn(4, 3), lambda logits: torch.tensor([[1.0, -1], [0, 0], [1, 1], [0, 0]]), 2)
    assert found[1].tolist() == [0, 0]
    assert found[0, 1] == 0
    assert found[0, 0] == pytest.approx(0, abs=1e-6)


def test_while_there_is_room_every_image_is_kept_with_its_score() -> None:
    memory = Scored(10)
    for first, scores in ((0, torch.tensor([1.0, 1, 1, 1])), (4, torch.tensor([1.9, 0.2, 1.5, 1.1]))):
        memory.greedy(numbered(first, 4), scores)
    assert memory.labels.tolist() == list(range(8))
    assert memory.scores.tolist() == pytest.approx([1, 1, 1, 1, 1.9, 0.2, 1.5, 1.1])
    memory.greedy(numbered(8, 4), torch.full((4,), 1.5))
    assert memory.labels.tolist() == list(range(10))  # two were kept, and two that agree with memory were not


def test_an_image_that_agrees_with_what_is_kept_takes_no_place() -> None:
    memory = full(torch.full((6,), 2.0))
    memory.greedy(numbered(6, 6), torch.tensor([1.0, 1.2, 2.0, 1.0, 1.9, 1.5]))
    assert memory.labels.tolist() == list(range(6))


def test_candidates_are_drawn_by_their_score_and_replaced_with_the_chance_of_the_paper() -> None:
    """P(image i goes) = C_i / sum C x C_i / (C_i + c), over many runs of one image."""
    scores, c, runs = torch.tensor([0.1, 0.5, 1.0, 1.9]), 0.6, 2000
    expected = scores / scores.sum() * scores / (scores + c)
    gone = torch.zeros(4)
    torch.manual_seed(0)
    for _ in range(runs):
        memory = full(scores)
        memory.greedy(numbered(4, 1), torch.tensor([c]))
        new = memory.labels == 4
        assert int(new.sum()) <= 1
        assert memory.scores[new].tolist() == pytest.approx([c] * int(new.sum()))
        assert torch.equal(memory.scores[~new], scores[~new])
        assert torch.equal(memory.images[:, 0, 0, 0].long(), memory.labels)
        gone += new
    assert torch.allclose(gone / runs, expected, atol=4 * 0.5 / runs**0.5)
    assert (gone / runs).argsort().tolist() == expected.argsort().tolist()


def test_the_images_of_a_mini_batch_draw_different_places() -> None:
    """One after another: the second as if what the first drew weren't there."""
    scores, runs = torch.tensor([0.5, 1.0, 1.5]), 2000
    P, pairs = scores / scores.sum(), torch.zeros(3, 3)
    torch.manual_seed(0)
    for _ in range(runs):
        memory = full(scores)
        memory.greedy(numbered(3, 2), torch.zeros(2))  # c = 0: each takes what it draws
        assert sorted(memory.labels.tolist())[1:] == [3, 4]
        places = memory.labels.tolist()
        pairs[places.index(3), places.index(4)] += 1
    expected = P[:, None] * P / (1 - P[:, None])
    assert torch.allclose(pairs / runs, expected.fill_diagonal_(0), atol=0.04)


@pytest.mark.parametrize("selection", ["greedy", "random"])
@pytest.mark.parametrize("places", [1, 3, 100])
def test_a_mini_batch_larger_than_the_memory_fits(selection: str, places: int) -> None:
    memory, given = Scored(places), {"greedy": [torch.full((20,), 0.5)], "random": []}[selection]
    for first in (0, 20, 40):
        getattr(memory, selection)(numbered(first, 20), *given)
        assert len(memory) == min(places, first + 20)
    assert len(set(memory.labels.tolist())) == len(memory)
    assert torch.equal(memory.images[:, 0, 0, 0].long(), memory.labels)


def test_at_random_each_of_memory_and_mini_batch_stays_with_the_same_chance() -> None:
    stays, runs = torch.zeros(16), 2000
    torch.manual_seed(0)
    for _ in range(runs):
        memory = full(torch.ones(12))
        memory.random(numbered(12, 4))
        stays += memory.labels.bincount(minlength=16)
    assert torch.allclose(stays / runs, torch.full((16,), 12 / 16), atol=0.04)


@pytest.mark.parametrize("selection", ["greedy", "random"])
def test_an_image_is_looked_at_once_after_its_last_update(selection: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method, scenario = gss(f"method.selection={selection}")
    method.index, data, scored = 0, scenario.tasks[0].train, []
    scores = method.scores
    monkeypatch.setattr(method, "scores", lambda batch: scored.append(len(method.memory)) or scores(batch))
    for first in (0, 10):
        batch = data.batch(torch.arange(first, first + 10))
        for left in (2, 1, 0):
            assert len(method.memory) == first
            train(method, [batch._replace(updates_left=left)])
    assert len(method.memory) == 20
    assert scored == ([0, 10] if selection == "greedy" else [])  # random costs no gradient


def test_the_loss_is_a_mean_over_the_mini_batch_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    method, scenario = gss("method.n_replay=15")
    method.learn_task(scenario.tasks[0], one_pass)
    method.index, old = 1, method.memory.sample(15)
    asked: list[Any] = []
    monkeypatch.setattr(method.memory, "sample", lambda n: asked.append(n) or old)
    batch = scenario.tasks[1].train.batch(torch.arange(5))
    total = sum(
        F.cross_entropy(method.active(method(one.x), one.y), one.y, reduction="sum").item() for one in (batch, old)
    )
    assert method.loss(batch).item() == pytest.approx(total / 20, rel=1e-5)
    assert asked == [15]


def test_its_memory_counts_in_total() -> None:
    with pytest.raises(InputError, match=r"^memory\.per=task: a reservoir has one total size; set memory\.per=total$"):
        gss("memory.per=task")
