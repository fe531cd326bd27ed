"""OGD's own promises: what moves the weights is orthogonal to all that is kept, whatever the optimizer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import Recorder, made, one_pass
from torch import Tensor, nn

from cl_bench.config import InputError
from cl_bench.data.batches import Data
from cl_bench.data.tasks import Scenario
from cl_bench.methods.ogd import OGD
from cl_bench.methods.parts.subspaces import FactoredSpace, Gradients, GradientSpace, InputSpace, Subspace

OPTIMIZERS = {
    "sgd": ("optimizer=sgd", "optimizer.lr=0.1"),
    "momentum": ("optimizer=sgd", "optimizer.lr=0.1", "optimizer.momentum=0.9", "optimizer.weight_decay=0.01"),
    "adam": ("optimizer=adam", "optimizer.lr=0.01", "optimizer.weight_decay=0.01"),
}
KINDS = ("class", "task", "domain")
CNN = ("network=cnn", "network.channels=[4,6]", "network.hidden=12")


def ogd(kind: str, *settings: str) -> tuple[OGD, Scenario, list[tuple[Data, Tensor]]]:
    """The method, and a list to which it adds the images that it keeps of each task and the outputs that answered."""
    network = () if any("network" in setting for setting in settings) else ("network.hidden=[16]",)
    scenario, method = made("ogd", f"scenario={kind}_incremental", *network, *settings)
    kept: list[tuple[Data, Tensor]] = []
    extend = method.space.extend

    def and_note(network: Any, data: Data, outputs: Tensor) -> None:
        kept.append((data, outputs))
        extend(network, data, outputs)

    method.space.extend = and_note
    return method, scenario, kept


def logits_kept(method: OGD, data: Data, outputs: Tensor, which: str) -> list[Tensor]:
    """The logits whose gradients are kept, one after another."""
    batch = data.batch(torch.arange(len(data)))
    z = method(batch.x)
    if which == "true_label":
        return [row[label] for row, label in zip(z, batch.y, strict=True)]
    if which == "average":
        return [row[outputs].mean() for row in z]
    return [logit for row in z for logit in row[outputs]]


def rows_of_autograd(method: OGD, logits: list[Tensor]) -> Tensor:
    """The gradient of each of them, with respect to what is projected; one vector in each row."""
    weights = [method.weights[name] for name in method.projected]
    rows = [torch.autograd.grad(logit, weights, retain_graph=True, materialize_grads=True) for logit in logits]
    return torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])


def projected(method: OGD, update: Tensor) -> Tensor:
    """What is left of an update of all weights, as one vector."""
    weights = [method.weights[name] for name in method.projected]
    parts = update.split([weight.numel() for weight in weights])
    left = method.space.project([part.view_as(weight) for part, weight in zip(parts, weights, strict=True)])
    return torch.cat([part.flatten() for part in left])


def weights_of(method: OGD) -> Tensor:
    return torch.cat([method.weights[name].detach().flatten() for name in method.projected])


# ------------------------------------------------------------------------------------------- of the space


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_projection_is_what_least_squares_leaves(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    space, tolerance = Subspace(60).to(dtype), 1e-5 if dtype is torch.float32 else 1e-12
    vectors = torch.randn(25, 60, dtype=dtype) * torch.logspace(-2, 2, 25, dtype=dtype)[:, None]
    for some in vectors.split(10):
        space.extend(nn.functional.normalize(some))
    for _ in range(10):
        u = torch.randn(60, dtype=dtype)
        found = space.project(u)
        columns = nn.functional.normalize(vectors).T
        expected = u - columns @ torch.linalg.lstsq(columns, u[:, None]).solution.squeeze(1)
        assert (found - expected).norm() < tolerance * u.norm()
        assert (columns.T @ found).abs().max() < tolerance * u.norm()
        assert (space.project(found) - found).norm() < tolerance * u.norm()  # a second time changes nothing
        assert torch.allclose(space.project(torch.stack([u, -u])), torch.stack([found, -found]), atol=tolerance)


def test_nearly_dependent_vectors_leave_a_basis_of_right_angles() -> None:
    """In float32, where one pass of Gram and Schmidt would lose them."""
    torch.manual_seed(0)
    space, vectors = Subspace(500), torch.randn(20, 500)
    for scale in (1.0, 1e-1, 1e-2, 1e-3):
        space.extend(vectors[0] + scale * vectors)
        identity = torch.eye(len(space.basis))
        assert (space.basis @ space.basis.T - identity).abs().max() < 1e-5


def test_what_is_in_the_space_already_is_dropped() -> None:
    torch.manual_seed(0)
    space, vectors = Subspace(30), torch.randn(5, 30)
    space.extend(torch.cat([vectors, vectors, torch.zeros(2, 30)]))
    assert len(space.basis) == 5
    space.extend(torch.randn(8, 5) @ vectors)
    space.extend(torch.zeros(3, 30))
    assert len(space.basis) == 5
    space.extend(torch.randn(100, 30))
    assert len(space.basis) == 30
    assert space.project(torch.randn(30)).abs().max() < 1e-5  # nothing is left to move along


@pytest.mark.parametrize("energy", [0.0, 0.5, 0.95, 0.99, 1.0])
def test_the_fewest_directions_with_that_energy_are_added(energy: float) -> None:
    """Equations 5 and 9 in their own words, by a decomposition for each task."""
    torch.manual_seed(0)
    space = Subspace(40).double()
    for _ in range(3):
        R = torch.randn(12, 40, dtype=torch.float64) * torch.logspace(1, -1, 40, dtype=torch.float64)
        before = space.basis.clone()
        inside = (R @ before.T).square().sum()
        s = torch.linalg.svdvals(R - R @ before.T @ before)
        wanted = next(k for k in range(13) if inside + s[:k].square().sum() >= (energy - 1e-12) * R.square().sum())
        space.extend(R, energy)
        assert len(space.basis) - len(before) == wanted
        assert (R @ space.basis.T).square().sum() >= (energy - 1e-12) * R.square().sum()
        assert torch.equal(space.basis[: len(before)], before)


# ------------------------------------------------------------------------------------------ of gradients


@pytest.mark.parametrize("which", ["all", "average", "true_label"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("network", "how"), [(("network.hidden=[40]",), FactoredSpace), (CNN, GradientSpace)], ids=["mlp", "cnn"]
)
def test_the_space_is_that_of_the_gradients_of_logits_in_evaluation_mode(
    network: tuple[str, ...], how: type[nn.Module], kind: str, which: str
) -> None:
    """Against a loop over images; the logits of the outputs that may answer when the task ends."""
    method, scenario, kept = ogd(kind, *network, "method.samples=15", f"method.gradients={which}")
    method.network.features.append(nn.Dropout(0.5))
    assert type(method.space) is how
    for index in (0, 1):
        method.train().learn_task(scenario.tasks[index], Recorder())
        data, outputs = kept[index]
        answering = {"class": [*range(2 * index + 2)], "task": [2 * index, 2 * index + 1], "domain": [0, 1]}
        assert outputs.nonzero().squeeze(1).tolist() == answering[kind]
        assert len(data) == 15
        method.eval()
        rows = rows_of_autograd(method, logits_kept(method, data, outputs, which))
        left = torch.stack([projected(method, row) for row in rows])
        assert (left.norm(dim=1) < 1e-4 * rows.norm(dim=1)).all()
    rank = torch.linalg.matrix_rank(rows.double(), rtol=1e-5)
    assert rank <= method.space.dimensions[0] <= 2 * len(rows)


@pytest.mark.parametrize("which", ["all", "average", "true_label"])
@pytest.mark.parametrize("hidden", [[], [16, 12]])
def test_factors_stand_for_the_gradients_that_they_make(hidden: list[int], which: Gradients) -> None:
    """The same space as that of the gradients written out."""
    method, scenario, _ = ogd("class", f"network.hidden={hidden}")
    factors, written_out = (how(method.network, method.projected, which) for how in (FactoredSpace, GradientSpace))
    for task in scenario.tasks[:3]:
        method.learn_task(task, Recorder(steps=3))
        for space in (factors, written_out):
            with torch.no_grad():
                space.extend(method.network, task.train[torch.arange(20)], torch.arange(10) < 2 * task.index + 2)
        assert factors.dimensions == written_out.dimensions
        u = [torch.randn_like(method.weights[name]) for name in method.projected]
        for found, expected in zip(factors.project(u), written_out.project(u), strict=True):
            assert found.dtype == torch.float32
            assert torch.allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("which", ["all", "average", "true_label"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_update_is_orthogonal_to_every_gradient_kept(kind: str, optimizer: str, which: str) -> None:
    """The update itself: what the weights are after a step less what they were before."""
    settings = (f"method.gradients={which}", "method.samples=10")
    method, scenario, kept = ogd(kind, *OPTIMIZERS[optimizer], *settings)
    gradients = []
    for task in scenario.tasks[:2]:
        method.learn_task(task, one_pass)
        gradients.append(rows_of_autograd(method, logits_kept(method, *kept[-1], which)))
    v = nn.functional.normalize(torch.cat(gradients)).double()
    v = v[v.norm(dim=1) > 0.5]
    method.index, steps, lengths = 2, method.configure_optimizers(), []
    for batch in scenario.tasks[2].train.batches(32):
        before = weights_of(method).double()
        method.train_step(batch, steps)
        update = weights_of(method).double() - before
        assert (v @ update).abs().max() < 1e-5 * update.norm()
        lengths.append(float(update.norm()))
    assert min(lengths) > 1e-5  # it learns


def test_of_a_linear_model_the_logits_kept_stay_for_ever() -> None:
    """They are linear in the weights, so first order is all there is; to rounding."""
    method, scenario, kept = ogd("domain", "network.hidden=[]", "method.samples=8", *OPTIMIZERS["momentum"])
    after: list[Tensor] = []
    for task in scenario.tasks:
        method.learn_task(task, one_pass)
        after.append(torch.stack(logits_kept(method, *kept[-1], "true_label")).detach())
        for (data, outputs), then in zip(kept, after, strict=True):
            now = torch.stack(logits_kept(method, data, outputs, "true_label")).detach()
            assert torch.allclose(now, then, atol=1e-4)


@pytest.mark.parametrize("space", ["gradients", "inputs"])
def test_a_linear_model_with_heads_of_their_own_has_nothing_to_project(space: str) -> None:
    """Each task learns as if it were alone."""
    chosen = ("network.hidden=[]", *OPTIMIZERS["sgd"])
    method, scenario, _ = ogd("task", *chosen, f"method.space={space}")
    _, plain = made("finetune", "scenario=task_incremental", *chosen)
    for task in scenario.tasks[:3]:
        for learner in (method, plain):
            learner.learn_task(task, one_pass)
    assert torch.equal(method.network.head.weight, plain.network.head.weight)


# --------------------------------------------------------------------------------------------- of inputs


def pre_activations(method: OGD, data: Data) -> list[Tensor]:
    """What each linear or convolutional layer gives for these images."""
    found: list[Tensor] = []
    layers = [layer for layer in method.network.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    hooks = [layer.register_forward_hook(lambda _, __, z: found.append(z.detach())) for layer in layers]
    with torch.no_grad():
        method(data.batch(torch.arange(len(data))).x)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("network", [("network.hidden=[16,12]",), CNN], ids=["mlp", "cnn"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_first_layer_gives_for_kept_images_what_it_gave(
    kind: str, optimizer: str, network: tuple[str, ...]
) -> None:
    """With all energy kept; to rounding. Of the layers after it, as the first one gives the same, so do they."""
    inputs = ("method.space=inputs", "method.energy=[1.0,1.0]", "method.samples=3")
    method, scenario, kept = ogd(kind, *network, *OPTIMIZERS[optimizer], *inputs)
    then: list[list[Tensor]] = []
    for task in scenario.tasks[:3]:
        start = weights_of(method)
        method.learn_task(task, one_pass)
        assert (weights_of(method) - start).norm() > 1e-3  # it learns
        then.append(pre_activations(method, kept[-1][0]))
    shared = slice(0, -1) if kind == "task" else slice(None)
    for (data, outputs), before in zip(kept, then, strict=True):
        now = pre_activations(method, data)
        for a, b in zip(now[shared], before[shared], strict=True):
            assert (a - b).norm() < 1e-4 * b.norm()
        assert torch.allclose(now[-1][:, outputs], before[-1][:, outputs], atol=1e-3)


def test_each_row_of_an_update_is_orthogonal_to_the_inputs_that_were_kept() -> None:
    settings = ("method.space=inputs", "method.samples=40", "method.energy=[0.9,0.8]", *OPTIMIZERS["momentum"])
    method, scenario, _ = ogd("domain", "network.hidden=[16,12]", *settings)
    assert isinstance(method.space, InputSpace)
    for task in scenario.tasks[:2]:
        method.learn_task(task, one_pass)
    assert all(0 < k < n for k, n in zip(method.space.dimensions, (65, 17, 13), strict=True))
    method.index, steps = 2, method.configure_optimizers()
    for batch in scenario.tasks[2].train.batches(32):
        before = {name: weight.detach().clone() for name, weight in method.weights.items()}
        method.train_step(batch, steps)
        for layer, subspace in zip(("features.1", "features.3", "head"), method.space.of_layers, strict=True):
            names = f"{layer}.weight", f"{layer}.bias"
            weight, bias = (method.weights[name].detach() - before[name] for name in names)
            rows = torch.cat([weight, bias[:, None]], 1)
            assert (rows @ subspace.basis.T).abs().max() < 1e-5 * rows.norm()


def test_many_positions_of_a_convolution_count_as_all_of_them() -> None:
    """What is kept in place of them has the same products."""
    method, scenario, kept = ogd("domain", *CNN, "method.space=inputs", "method.samples=50")
    assert isinstance(method.space, InputSpace)
    method.learn_task(scenario.tasks[0], Recorder())
    found = method.space.inputs(method.network, kept[0][0])
    x = kept[0][0].batch(torch.arange(50)).x
    patches = nn.functional.unfold(x, 3, 1, 1, 2)
    rows = torch.cat([patches.transpose(1, 2).flatten(0, 1), torch.ones(50 * 16, 1)], 1)
    triangle = found["features.0.0"]
    assert len(triangle) == 10 < len(rows)
    assert torch.allclose(triangle.T @ triangle, rows.T @ rows, rtol=1e-4, atol=1e-2)


# ------------------------------------------------------------------------------------------ of the method


@pytest.mark.parametrize("space", ["gradients", "inputs"])
def test_rows_of_the_head_of_other_tasks_do_not_move(space: str) -> None:
    """Bit for bit, with momentum and weight decay."""
    method, scenario, _ = ogd("task", f"method.space={space}", *OPTIMIZERS["momentum"])
    for task in scenario.tasks[:3]:
        before = method.network.head.weight.detach().clone()
        method.learn_task(task, one_pass)
        moved = (method.network.head.weight != before).any(1).nonzero().squeeze(1).tolist()
        assert moved == [2 * task.index, 2 * task.index + 1]


@pytest.mark.parametrize("space", ["gradients", "inputs"])
def test_it_forgets_less_than_fine_tuning(space: str) -> None:
    """On the first task's images, once the second is learned."""
    losses = []
    for samples in (1, 100):
        method, scenario, _ = ogd("domain", f"method.space={space}", f"method.samples={samples}", *OPTIMIZERS["sgd"])
        for task in scenario.tasks[:2]:
            for _ in range(5):
                one_pass(method, task.train, phase="train")
            method.learn_task(task, one_pass)
        batch = scenario.tasks[0].train.batch(torch.arange(200))
        losses.append(method.loss(batch).item())
    assert losses[1] < losses[0]


def test_a_basis_that_the_machine_cannot_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """n_t T |theta| numbers, four times: 200 * 5 * 1,208 * 4 * 4 bytes are 18.4 MiB."""
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=18 * 2**20))
    settings = ("scenario=domain_incremental", "network.hidden=[18]", "method.samples=200")
    with pytest.raises(InputError, match=r"method.samples=200: 1,000 gradients of 1,208 weights need 0.0 GB") as error:
        made("ogd", *settings)
    assert str(error.value).endswith("; choose method.samples=195 or method.space=inputs")
    made("ogd", *settings[:2], "method.samples=195")
    with pytest.raises(InputError, match=r"method\.gradients=true_label or method\.space=inputs"):
        made("ogd", *settings, "method.gradients=all", "method.samples=150")
    with pytest.raises(InputError, match=r"choose method\.samples=[0-9]+$"):  # it has normalization
        made("ogd", "network=resnet18", "network.width=2", "method.samples=200")
    made("ogd", *settings, "method.samples=100")
    made("ogd", *settings, "method.space=inputs")
    made("ogd", "scenario=task_incremental", "network.hidden=[18]", "method.samples=199")  # the head doesn't count


def test_a_network_whose_layers_have_no_inputs_to_project_is_refused() -> None:
    for network in ("network=resnet18", "network=dcgan network.norm=batch"):
        with pytest.raises(InputError, match=r"method\.space=inputs: .*normalization; choose method\.space=gradients"):
            made("ogd", *network.split(), "network.width=2", "method.space=inputs")
    made("ogd", "network=resnet18", "network.width=2", "method.samples=2")
    made("ogd", "network=resnet_gan", "network.width=2", "method.space=inputs")
