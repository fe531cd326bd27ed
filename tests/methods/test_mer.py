"""MER's own promises: what it is without its shares, to which order it rewards agreement, and who comes when."""

from __future__ import annotations

import copy
from itertools import permutations
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import made, train
from torch import Tensor, nn

from cl_bench.config import InputError
from cl_bench.data.batches import Batch, Data
from cl_bench.data.tasks import Scenario
from cl_bench.methods.mer import MER


def mer(*overrides: str) -> tuple[MER, Scenario]:
    """On images of the digits, as one task of ten classes."""
    chosen = ("scenario=permuted", "network.hidden=[16]", "optimizer.lr=0.1", "memory=20")
    scenario, method = made("mer", *chosen, *overrides)
    method.index = 0
    return method, scenario


def by_hand(method: MER, data: Data, n: int, algorithm: int, k: int, s: int) -> nn.Module:
    """The network after plain SGD alone, on each of the first n images and on those drawn of all before it, with the
    random numbers of ours."""
    network = copy.deepcopy(method.network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for index in range(n):
        if algorithm == 7 and not index:
            continue
        walks = [torch.randperm(index)[:k].tolist() if index else [] for _ in range(s if algorithm == 1 else 1)]
        for old in walks:
            if algorithm == 1:
                rows = [index, *old]
            elif algorithm == 6:
                rows = [*old, index]
            else:
                place = int(torch.randint(len(old) + 1, ()))
                rows = [*old[:place], index, *old[place:]]
            for row in rows:
                image = data.batch(torch.tensor([row]))
                loss = F.cross_entropy(network(image.x), image.y)
                optimizer.zero_grad()
                (loss * s if algorithm == 7 and row == index else loss).backward()
                optimizer.step()
    return network


@pytest.mark.parametrize(("algorithm", "k", "s"), [(1, 3, 2), (1, 1, 4), (6, 3, 2), (7, 3, 2)])
def test_with_whole_shares_it_is_plain_sgd_on_single_images_bit_by_bit(algorithm: int, k: int, s: int) -> None:
    chosen = ("method.beta=1", "method.gamma=1", f"method.n_replay={k}", f"method.repeats={s}")
    method, scenario = mer(f"method.algorithm={algorithm}", *chosen)
    data = scenario.tasks[0].train
    torch.manual_seed(3)
    expected = by_hand(method, data, 12, algorithm, k, s)
    torch.manual_seed(3)
    train(method, [data.batch(rows) for rows in torch.arange(12).split(5)])
    assert all(map(torch.equal, method.network.parameters(), expected.parameters()))
    assert torch.equal(method.memory.images, data.images[:12])


@pytest.mark.parametrize("chosen", [("beta=0", "gamma=1"), ("beta=1", "gamma=0"), ("gamma=0", "algorithm=6")])
def test_a_share_of_nothing_moves_nothing(chosen: tuple[str, ...]) -> None:
    method, scenario = mer(*(f"method.{setting}" for setting in chosen))
    before = copy.deepcopy(method.network.state_dict())
    train(method, [scenario.tasks[0].train.batch(torch.arange(30))])
    assert all(torch.equal(value, before[name]) for name, value in method.network.state_dict().items())
    assert len(method.memory) == 20


def test_shares_are_of_each_walk_and_of_all_of_them() -> None:
    """One image, an empty memory: two walks of one step each."""
    method, scenario = mer("method.beta=0.25", "method.gamma=0.5", "method.repeats=2")
    image, network = scenario.tasks[0].train.batch(torch.arange(1)), copy.deepcopy(method.network)
    weights = list(network.parameters())
    start = [weight.detach().clone() for weight in weights]
    for _ in range(2):
        g = torch.autograd.grad(F.cross_entropy(network(image.x), image.y), weights)
        for weight, part in zip(weights, g, strict=True):
            weight.data -= 0.25 * 0.1 * part
    train(method, [image])
    for ours, weight, old in zip(method.network.parameters(), weights, start, strict=True):
        assert torch.allclose(ours, old + 0.5 * (weight - old), atol=1e-7)


class Point(nn.Module):
    """Weights and nothing else."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(size, dtype=torch.float64))


def test_to_second_order_it_subtracts_the_products_of_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over all orders of images with losses l_i = 1/2 (theta - c_i)' H_i (theta - c_i), and with gradients g_i where
    the walk begins, the mean of (theta_W - theta) / (alpha beta) is the gradient of

    sum_i l_i - alpha / 2 sum_{i<j} <g_i, g_j>, up to terms in alpha^2.
    """
    n, size = 3, 4
    generator = torch.Generator().manual_seed(0)
    roots = torch.randn(n, size, size, generator=generator, dtype=torch.float64)
    H, c = roots @ roots.mT, torch.randn(n, size, generator=generator, dtype=torch.float64)
    method, scenario = mer("method.beta=0.5", "method.gamma=1", f"method.n_replay={n}", "method.repeats=1")
    images = scenario.tasks[0].train.batch(torch.arange(n))

    def loss(theta: Tensor, i: int) -> Tensor:
        return (theta - c[i]) @ H[i] @ (theta - c[i]) / 2

    def loss_of_image(batch: Batch) -> Tensor:
        return loss(method.network.theta, int(batch.y[0]))  # type: ignore[arg-type]

    def direction(alpha: float) -> Tensor:
        moves = []
        for order in permutations(range(n)):
            method.network, method.__dict__["weights"] = point, dict(point.named_parameters())  # type: ignore[assignment]
            point.theta.data.zero_()
            singles = [images._replace(x=images.x[:1], y=torch.tensor([i])) for i in order]
            monkeypatch.setattr(method, "replayed", lambda n, singles=singles: [singles[1:]] * n)
            method.learn_image(singles[0], alpha)
            moves.append(-point.theta.detach().clone())
        return torch.stack(moves).mean(0) / (alpha * method.beta)

    point = Point(size)
    monkeypatch.setattr(method, "loss", loss_of_image)
    theta = torch.zeros(size, dtype=torch.float64, requires_grad=True)
    g = [torch.autograd.grad(loss(theta, i), theta, create_graph=True)[0] for i in range(n)]
    products = torch.stack([g[i] @ g[j] for i in range(n) for j in range(i)]).sum()
    first, second = torch.stack(g).sum(0).detach(), torch.autograd.grad(products, theta)[0]
    for alpha in (1e-3, 1e-4):
        found = (first - direction(alpha)) / (alpha / 2)
        assert (found - second).norm() < 20 * alpha * second.norm()
        assert second.norm() > 1


@pytest.mark.parametrize("algorithm", [1, 6, 7])
def test_where_the_image_that_came_stands(algorithm: int, monkeypatch: pytest.MonkeyPatch) -> None:
    method, scenario = mer(f"method.algorithm={algorithm}", "method.n_replay=2", "method.repeats=3", "memory=100")
    data, met = scenario.tasks[0].train, []
    seen = data.batch(torch.arange(40)).x
    monkeypatch.setattr(method, "loss", lambda batch, loss=method.loss: met.append(batch.x) or loss(batch))
    walks, places = 3 if algorithm == 1 else 1, set()
    for index in range(40):
        met.clear()
        train(method, [data.batch(torch.tensor([index]))])
        rows = [next(row for row in range(40) if torch.equal(x[0], seen[row])) for x in met[1:]]
        length = 1 + min(index, 2)
        assert met[0].shape[0] == 1
        assert len(rows) == (0 if algorithm == 7 and not index else walks * length)
        for walk in [rows[i : i + length] for i in range(0, len(rows), length)]:
            assert walk.count(index) == 1
            assert len(set(walk)) == length  # drawn without replacement, of images that came before
            assert max(walk) == index
            places.add(walk.index(index) if index > 1 else 0)
    assert places == {1: {0}, 6: {0, 2}, 7: {0, 1, 2}}[algorithm]


def test_each_walk_draws_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    method, scenario = mer("method.n_replay=5", "method.repeats=4")
    train(method, [scenario.tasks[0].train.batch(torch.arange(20))])
    walks = [[float(one.x.sum()) for one in old] for old in method.replayed(4)]
    assert len({tuple(walk) for walk in walks}) == 4
    assert all(len(walk) == 5 for walk in walks)


def test_the_rate_is_that_of_the_optimizer_now() -> None:
    """After a milestone, say."""
    method, scenario = mer("method.beta=1")
    before = copy.deepcopy(method.network.state_dict())
    optimizer = method.configure_optimizers()
    optimizer.param_groups[0]["lr"] = 0.0
    method.train_step(scenario.tasks[0].train.batch(torch.arange(5)), optimizer)
    assert all(torch.equal(value, before[name]) for name, value in method.network.state_dict().items())


def test_it_answers_a_mini_batch_before_it_learns_any_of_it() -> None:
    method, scenario = mer("method.beta=1")
    batch = scenario.tasks[0].train.batch(torch.arange(8))
    with torch.no_grad():
        expected = method(batch.x)
    method.asked = batch
    train(method, [batch])
    (answers,) = method.answers
    assert torch.equal(answers.logits, expected)
    assert not torch.equal(method(batch.x), expected)


def test_a_mini_batch_of_a_stream_is_kept_once() -> None:
    method, scenario = mer()
    batch = scenario.tasks[0].train.batch(torch.arange(8))
    for left in (2, 1, 0):
        assert not len(method.memory)
        train(method, [batch._replace(updates_left=left)])
    assert len(method.memory) == 8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("optimizer=adam",), r"^optimizer: method=mer needs plain SGD, not Adam; set optimizer=sgd$"),
        (("optimizer=rmsprop",), r"not RMSprop; set optimizer=sgd$"),
        (("optimizer.momentum=0.9",), r"^optimizer\.momentum=0\.9: .* set optimizer\.momentum=0$"),
        (("optimizer.weight_decay=0.01",), r"^optimizer\.weight_decay=0\.01: .* set optimizer\.weight_decay=0$"),
        (("network=resnet18", "network.width=2"), r"^network: its batch normalization .* network=mlp or network=cnn$"),
        (("memory.per=class",), r"^memory\.per=class: .* set memory\.per=total$"),
        (("method.algorithm=2",), r"^method\.algorithm=2: input should be 1, 6 or 7$"),
        (("method.beta=1.5",), r"^method\.beta=1\.5: "),
    ],
)
def test_what_it_cannot_do_is_said_in_one_line(settings: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        made("mer", *settings)


def test_images_of_several_tasks_keep_their_outputs() -> None:
    """With the task given, a step on an old image moves the rows of its own task alone."""
    scenario, method = made("mer", "scenario=task_incremental", "method.beta=1", "method.algorithm=6")
    method.index = 1
    head: Any = method.network.head.weight
    for task, moved in ((0, [0, 1]), (1, [0, 1, 2, 3])):  # the second time an image of the first task is replayed
        before = head.detach().clone()
        train(method, [scenario.tasks[task].train.batch(torch.arange(1))])
        assert (head.detach() - before).abs().sum(1).nonzero().flatten().tolist() == moved
