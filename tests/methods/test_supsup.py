"""SupSup: its masks, their gradient, their bits, and the task that is inferred for each image."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import Compose, Recorder, learn, made, there
from torch import Tensor, nn
from torch.func import functional_call

from cl_bench.config import InputError
from cl_bench.data.tasks import Scenario
from cl_bench.methods.parts.sizes import bytes_of
from cl_bench.methods.supsup import SupSup
from cl_bench.networks.plain import weighted
from cl_bench.networks.supermasks import packed, supermask, unpacked
from cl_bench.runs.loop import run

NETWORKS = {
    "mlp": ("network.hidden=[17,11]",),
    "cnn": ("network=cnn", "network.channels=[5,6]", "network.hidden=9"),
}
OPTIMIZERS = {  # each moves a weight whose gradient is 0
    "sgd": ("optimizer=sgd", "optimizer.lr=0.1", "optimizer.momentum=0.9", "optimizer.weight_decay=0.001"),
    "rmsprop": ("optimizer=rmsprop", "optimizer.lr=0.001", "optimizer.weight_decay=0.001"),
}


def supsup(kind: str, *overrides: str) -> tuple[Scenario, SupSup]:
    defaults = ("method.superfluous=0", "method.inference=one_shot")
    return made("supsup", f"scenario={kind}_incremental", *defaults, *overrides)


def with_masks(method: SupSup, n_tasks: int) -> SupSup:
    """The method with random masks of so many tasks."""
    for task in range(n_tasks):
        method.index = task
        for masks in method.supermasks:
            masks.begin()
            masks.end()
    return method.double()


def images(scenario: Scenario, n: int, task: int = 0) -> Tensor:
    return scenario.tasks[task].train.batch(torch.arange(n)).x.double()


# ------------------------------------------------------------------------------------------------ masks


@pytest.mark.parametrize("n", [1, 7, 8, 9, 250])
def test_packed_and_unpacked(n: int) -> None:
    bits = torch.rand(n, generator=torch.Generator().manual_seed(n)) < 0.5
    bytes_ = packed(bits)
    assert bytes_.dtype == torch.uint8
    assert len(bytes_) == math.ceil(n / 8)
    assert torch.equal(unpacked(bytes_, bits.shape), bits)
    assert [bool(int(bytes_[i // 8]) >> i % 8 & 1) for i in range(n)] == bits.tolist()
    square = torch.rand(3, 2, n) < 0.5
    assert torch.equal(unpacked(packed(square), square.shape), square)


def test_a_mask_keeps_what_it_should() -> None:
    scores = torch.randn(50, 40)
    scores[0, 0] = 0.0
    assert torch.equal(supermask(scores, None) == 1, scores >= 0)  # 0 too
    for n_kept in (1, 137, 2000):
        mask = supermask(scores, n_kept)
        assert int(mask.sum()) == n_kept
        assert scores[mask == 1].min() >= scores[mask == 0].max() if n_kept < 2000 else mask.all()
    ties = torch.zeros(9)
    assert int(supermask(ties, 4).sum()) == 4


@pytest.mark.parametrize("kept", ["null", "0.3"])
def test_the_gradient_goes_straight_through(kept: str, small: Compose) -> None:
    """dL/dS = W * dL/dW_eff, whatever the score."""
    scenario, method = supsup("task", f"method.kept={kept}", *NETWORKS["mlp"])
    method.index = 0
    for masks in method.supermasks:
        masks.begin()
    batch = scenario.tasks[0].train.batch(torch.arange(16))
    method.loss(batch).backward()
    effective = {
        name: (weight * masks[0]).detach().requires_grad_()
        for (name, weight), masks in zip(method.weights.items(), method.supermasks, strict=True)
    }
    logits = functional_call(method.network, effective, (batch.x,))
    F.cross_entropy(logits[:, :2], batch.y).backward()
    for weight, eff, masks in zip(method.weights.values(), effective.values(), method.supermasks, strict=True):
        torch.testing.assert_close(masks.scores.grad, weight * there(eff.grad), rtol=1e-5, atol=1e-7)
        assert weight.grad is None


@pytest.mark.parametrize("network", NETWORKS)
def test_weights_are_signed_constants(network: str, small: Compose) -> None:
    _, method = supsup("task", "method.superfluous=5", *NETWORKS[network])
    layers = weighted([*method.layers, method.network.head])
    assert len(layers) == len(method.supermasks)
    assert len(method.network.head.weight) == 15
    for layer in layers:
        size = math.sqrt(2 / layer.weight[0].numel())
        torch.testing.assert_close(layer.weight.abs(), torch.full_like(layer.weight, size))
        assert 0.2 < float((layer.weight > 0).float().mean()) < 0.8
        assert layer.bias is None
    assert not any(p.requires_grad for p in method.network.parameters())


def test_the_share_that_is_kept_is_rounded(small: Compose) -> None:
    _, method = supsup("task", "method.kept=0.3", "network.hidden=[7]")
    assert [masks.n_kept for masks in method.supermasks] == [round(0.3 * 64 * 7), round(0.3 * 7 * 10)]
    for masks in method.supermasks:
        masks.begin()
        masks.end()
        assert int(masks[0].sum()) == masks.n_kept


# ------------------------------------------------------------------------------------- what is guaranteed


@pytest.mark.parametrize("kept", ["null", "0.5"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("network", NETWORKS)
def test_old_logits_never_change_by_a_bit(
    network: str, optimizer: str, kept: str, small: Compose, tmp_path: Path
) -> None:
    scenario, method = supsup("task", f"method.kept={kept}", *NETWORKS[network], *OPTIMIZERS[optimizer])
    start = {name: weight.clone() for name, weight in method.weights.items()}
    before: list[Tensor] = []
    for task in range(3):
        learn(method, scenario, task, tmp_path, epochs=3, batch_size=32)
        with torch.no_grad():
            after = [method(images(scenario, 60, past).float(), index=past) for past in range(task + 1)]
        for old, new in zip(before, after, strict=False):
            assert torch.equal(old, new)
        before = after
        masks = [method.supermasks[0][past] for past in range(task + 1)]
        assert all(not torch.equal(masks[-1], mask) for mask in masks[:-1])
        assert all(torch.equal(start[name], weight) for name, weight in method.weights.items())


def test_while_a_task_is_learned_its_mask_is_the_one_that_will_be_kept(small: Compose) -> None:
    scenario, method = supsup("task")
    x, found = images(scenario, 50).float(), []
    method.learn_task(scenario.tasks[0], Recorder(steps=5, look=lambda call: found.append(method(x, index=0))))
    assert not torch.equal(found[0], found[1])
    assert torch.equal(found[1], method(x, index=0))


def test_a_task_is_a_bit_a_weight_in_the_bytes_kept(small: Compose, tmp_path: Path) -> None:
    scenario, method = supsup("domain", *NETWORKS["mlp"])
    sizes = []
    for task in range(3):
        learn(method, scenario, task, tmp_path, epochs=1)
        sizes.append(bytes_of(method.state_dict()))
    bits = [math.ceil(weight.numel() / 8) for weight in method.weights.values()]
    weights = 4 * sum(weight.numel() for weight in method.weights.values())
    assert sizes == [weights + n * sum(bits) for n in (1, 2, 3)]


# -------------------------------------------------------------------------------------------- inference


def objective(method: SupSup, logits: Tensor) -> Tensor:
    """By hand, of one image."""
    p = logits.softmax(0)
    if method.objective == "entropy":
        return -sum((q * q.log() for q in p), torch.zeros((), dtype=p.dtype))
    n_outputs = method.problem.n_outputs
    return torch.log(torch.cat([logits[:n_outputs].detach(), logits[n_outputs:]]).exp().sum())


def mixed(method: SupSup, alpha: Tensor) -> dict[str, Tensor]:
    """The weights of one image's mixture, from all masks."""
    every = [torch.stack([masks[i] for i in range(len(masks))]) for masks in method.supermasks]
    return {
        name: weight * torch.tensordot(alpha, masks, 1)
        for (name, weight), masks in zip(method.weights.items(), every, strict=True)
    }


@pytest.mark.parametrize("chosen", ["entropy", "G"])
@pytest.mark.parametrize("network", NETWORKS)
def test_the_slope_of_the_objective(network: str, chosen: str, small: Compose) -> None:
    """Of each image: <dH/dW_eff, W * M_i>, and finite differences; the alphas of no two images are the same."""
    more = ("method.superfluous=4", f"method.objective={chosen}")
    scenario, method = supsup("domain", *NETWORKS[network], *more)
    with_masks(method, 3)
    x = images(scenario, 4)
    alpha = torch.rand(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    slopes = method.slopes(x, alpha.clone())
    for n in range(4):
        weights = {name: weight.requires_grad_() for name, weight in mixed(method, alpha[n]).items()}
        logits = functional_call(method.network, weights, (x[n : n + 1],))[0]
        gradients = torch.autograd.grad(objective(method, logits), list(weights.values()))
        for i in range(3):
            products = zip(gradients, method.weights.values(), method.supermasks, strict=True)
            expected = sum(float((g * weight * masks[i]).sum()) for g, weight, masks in products)
            assert float(slopes[n, i]) == pytest.approx(expected, rel=1e-9)
            if chosen == "entropy":  # the blocked gradient of G is no derivative of a function
                ends = [alpha[n] + step * F.one_hot(torch.tensor(i), 3) for step in (1e-6, -1e-6)]
                up, down = (functional_call(method.network, mixed(method, end), (x[n : n + 1],))[0] for end in ends)
                difference = (objective(method, up) - objective(method, down)) / 2e-6
                assert float(slopes[n, i]) == pytest.approx(float(difference), rel=1e-4, abs=1e-7)


def test_one_shot_between_two_masks_is_the_sign_of_the_directional_derivative(small: Compose) -> None:
    scenario, method = supsup("domain", *NETWORKS["mlp"])
    with_masks(method, 2)
    x = images(scenario, 30)
    with torch.no_grad():
        found = method.infer(x)
        for n in range(30):
            ends = [torch.tensor([0.5 + step, 0.5 - step], dtype=torch.float64) for step in (1e-6, -1e-6)]
            up, down = (functional_call(method.network, mixed(method, end), (x[n : n + 1],))[0] for end in ends)
            rises = objective(method, up) > objective(method, down)  # with the first mask's share
            assert int(found[n]) == int(rises)
    assert 0 < int(found.sum()) < 30


@pytest.mark.parametrize("k", [1, 2, 3, 5, 8])
def test_binary_ends_in_log_k_passes(k: int, small: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario, method = supsup("domain", "method.inference=binary", *NETWORKS["mlp"])
    with_masks(method, k)
    x, calls, slopes = images(scenario, 12), [], method.slopes

    def noted(x: Tensor, alpha: Tensor) -> Tensor:
        calls.append(alpha.detach().clone())
        return slopes(x, alpha)

    monkeypatch.setattr(method, "slopes", noted)
    found = method.infer(x)
    assert len(calls) == math.ceil(math.log2(k))
    for n in range(12):  # one image after another, by hand
        left = list(range(k))
        for alpha in calls:
            expected = torch.zeros(k, dtype=torch.float64)
            expected[left] = 1 / len(left)
            torch.testing.assert_close(alpha[n], expected)
            slope = slopes(x[n : n + 1], expected[None])[0]
            left = sorted(left, key=lambda i: float(slope[i]))[: math.ceil(len(left) / 2)]
        assert left == [int(found[n])]


def test_brute_force_is_the_mask_of_least_entropy(small: Compose) -> None:
    scenario, method = supsup("domain", "method.inference=brute_force", *NETWORKS["mlp"])
    with_masks(method, 4)
    x = images(scenario, 20)
    entropies = [[float(objective(method, logits)) for logits in method.masked_logits(x, i)] for i in range(4)]
    assert method.infer(x).tolist() == [column.index(min(column)) for column in zip(*entropies, strict=True)]


@pytest.mark.parametrize("inference", ["one_shot", "binary", "brute_force"])
def test_each_image_is_answered_by_itself(inference: str, small: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its neighbors in a mini-batch, all of one task, must not tell which; nor how many are looked at at once."""
    scenario, method = supsup("domain", f"method.inference={inference}", *NETWORKS["cnn"])
    with_masks(method, 3)
    x = torch.cat([images(scenario, 7, task) for task in range(3)])
    together = method(x)
    monkeypatch.setattr("cl_bench.methods.supsup.PRODUCTS", 6)  # two images with three masks
    torch.testing.assert_close(method(x), together)
    order = torch.randperm(21)
    torch.testing.assert_close(method(x[order]), together[order])
    torch.testing.assert_close(torch.cat([method(image[None]) for image in x]), together)


def test_in_class_incremental_learning_the_outputs_of_the_inferred_task_come_first(small: Compose) -> None:
    """And those of each task are by its own mask, so that with the task given they are right whatever was inferred."""
    scenario, method = supsup("class", *NETWORKS["mlp"])
    with_masks(method, 3)
    x = images(scenario, 25)
    tasks, logits = method.infer(x), method(x)
    for n, inferred in enumerate(tasks.tolist()):
        assert int(logits[n].argmax()) in method.problem.outputs[inferred]
        for task in range(3):
            own = list(method.problem.outputs[task])
            expected = method(x[n : n + 1], index=task)[0, own].log_softmax(0) - 100 * (task != inferred)
            torch.testing.assert_close(logits[n, own], expected)
    assert (logits[:, 6:] == torch.finfo(torch.float64).min).all()  # of tasks to come


def test_a_class_that_comes_back_is_ahead_where_one_of_its_tasks_is_inferred() -> None:
    scenario, method = supsup("class", *NETWORKS["mlp"])
    with_masks(method, 3)
    method.problem = replace(method.problem, outputs=((0, 1), (2, 3), (0, 3), (8, 9)))
    x, tasks = images(scenario, 25), torch.arange(25) % 3
    for n, logits in enumerate(method.by_task(x, tasks)):
        inferred = list(method.problem.outputs[tasks[n]])
        own = method(x[n : n + 1], index=int(tasks[n]))[0, inferred].log_softmax(0)
        torch.testing.assert_close(logits[inferred], own)
        assert int(logits.argmax()) == inferred[int(own.argmax())]


def test_superfluous_outputs_are_trained_and_never_answer(small: Compose) -> None:
    scenario, method = supsup("domain", "method.superfluous=3")
    method.index = 0
    for masks in method.supermasks:
        masks.begin()
    batch = scenario.tasks[0].train.batch(torch.arange(8))
    logits = method.masked_logits(batch.x, 0)
    assert logits.shape == (8, 5)
    torch.testing.assert_close(method.loss(batch), F.cross_entropy(logits, batch.y))
    assert method(batch.x).shape == (8, 2)


def test_without_a_mask_all_weights_answer(small: Compose) -> None:
    scenario, method = supsup("task", *NETWORKS["mlp"])
    x = images(scenario, 5).float()
    assert torch.equal(method(x, index=0), method.network(x))
    with_masks(method, 1)
    assert torch.equal(method(x.double(), index=3), method.network(x.double()))


def test_a_run_tells_how_many_images_find_their_task(small: Compose) -> None:
    permuted = ("scenario=permuted", "scenario.n_tasks=3", "network.hidden=[100,100]")
    told = ("method.superfluous=20", "method.inference=one_shot", "method.objective=G")
    results = run(small("method=supsup", *permuted, *told, "trainer.epochs=10", "optimizer.lr=0.01"))
    noted = [there(record.diagnostics.more) for record in results.tasks]
    assert noted[0]["assigned"] == 1  # one mask, no choice
    assert all(record["assigned"] > 0.9 for record in noted)
    assert all(len(record["kept"]) == 3 and 0.2 < min(record["kept"]) < max(record["kept"]) < 0.8 for record in noted)
    assert there(results.metrics["ACC"]) > 0.8


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (("network=resnet18", "network.width=2"), r"network: method=supsup masks .* choose network=mlp or network=cnn"),
        (("network=dcgan", "network.norm=batch"), r"network: method=supsup masks .* choose network=mlp or network=cnn"),
        (("method.objective=G",), r"method\.objective=G: .* set method\.superfluous"),
        (("method.objective=G", "method.superfluous=5", "method.inference=brute_force"), r"method\.inference=brute"),
        (("method.kept=0.001", "network.hidden=[5]"), r"method\.kept=0\.001: keeps no weight of a layer"),
        (("method.kept=0",), r"method\.kept=0"),
        (("method.inference=oneshot",), r"method\.inference=oneshot: .*one_shot"),
    ],
)
def test_what_it_cannot_do_is_one_line(overrides: tuple[str, ...], line: str, small: Compose) -> None:
    with pytest.raises(InputError, match=f"^{line}") as error:
        supsup("domain", *overrides)
    assert "\n" not in str(error.value)


def test_the_network_it_is_given_may_have_any_plain_layers(small: Compose) -> None:
    _, method = supsup("task", "network=dcgan", "network.norm=none", "network.width=4")
    assert all(isinstance(layer, nn.Conv2d | nn.Linear) for layer in weighted(method.layers))


def test_every_kind_has_a_meaning() -> None:
    """Given ("GG"), inferred with shared outputs ("GNs") and with outputs of their own ("GNu")."""
    assert set(SupSup.kinds) == {"task", "domain", "class"}
