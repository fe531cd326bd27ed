"""Importance from per-sample gradients, against a loop over single samples in float64."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_bench.methods.parts import importance
from cl_bench.methods.parts.importance import Power, fisher, sum_of_powers

Scores = Callable[[Tensor], Iterable[Tensor]]


class WrittenOut(nn.Linear):
    """The same layer, which can't be known to be the same."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class Shared(nn.Module):
    """One layer called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.body(x.flatten(1)).tanh()).tanh())


class Tied(nn.Module):
    """A layer called once, whose weight also acts behind its back."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 5), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x.flatten(1)).tanh() @ self.body.weight)


class Spare(nn.Module):
    """Layers that are never called, called in vain, called without a gradient; and a frozen weight."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 5), nn.Linear(5, 4)
        self.idle, self.vain, self.cut = nn.Linear(3, 3), nn.Linear(6, 5), nn.Linear(6, 5)
        self.body.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        self.vain(x)
        with torch.no_grad():
            offset = self.cut(x)
        return self.head((self.body(x) + offset).relu())


class Residual(nn.Module):
    """In-place activations on what a layer gave, and an output used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (
            nn.Conv2d(1, 3, 3, padding=1, bias=False),
            nn.Conv2d(3, 3, (1, 3), padding="valid"),
        )
        self.head = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x), inplace=True)
        x = x[..., 1:-1] + F.relu_(self.second(x))
        return self.head(x.mean((2, 3)))


def mlp(layer: type[nn.Linear] = nn.Linear) -> nn.Module:
    relu = nn.ReLU(inplace=True)
    return nn.Sequential(nn.Flatten(), layer(6, 7), relu, layer(7, 5, bias=False), relu, layer(5, 4))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(3, 4, (2, 3), dilation=(2, 1), padding=(1, 1), bias=False),
        nn.Tanh(),
        nn.Flatten(),
        nn.LazyLinear(4),
    )


def grouped() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 2, groups=2), nn.Flatten(), nn.LazyLinear(4))


def padded(padding: Literal["same", 1], mode: Literal["zeros", "circular"]) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=padding, padding_mode=mode), nn.Flatten(), nn.LazyLinear(4))


def normalized() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.ReLU(True), nn.Flatten(), nn.LazyLinear(4))


def per_position() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Flatten(), nn.LazyLinear(4))


def folded() -> nn.Module:
    """Positions as rows: 2 for each sample."""
    rows, samples = nn.Flatten(0, 2), nn.Unflatten(0, (-1, 2))
    return nn.Sequential(rows, nn.Linear(3, 5), nn.Tanh(), samples, nn.Flatten(), nn.LazyLinear(4))


CLOSED_FORM = {"mlp": mlp, "cnn": cnn, "residual": Residual, "spare": Spare}
FALLBACK = {
    "written out": lambda: mlp(WrittenOut),
    "shared": Shared,
    "tied": Tied,
    "grouped": grouped,
    "same": lambda: padded("same", "zeros"),
    "circular": lambda: padded(1, "circular"),
    "batch norm": normalized,
    "per position": per_position,
    "folded": folded,
}


def make(build: Callable[[], nn.Module], size: tuple[int, ...]) -> tuple[nn.Module, Tensor, Tensor]:
    """A float64 network in `train` mode, images of this size and labels of 4 classes."""
    torch.manual_seed(0)
    x, y = torch.randn(9, *size).double(), torch.randint(4, (9,))
    network = build().double()
    network(x)  # lazy layers take their size; running statistics leave 0 and 1
    return network.train(), x, y


def images(name: str) -> tuple[int, ...]:
    return (1, 6, 7) if name in ("cnn", "residual", "grouped", "same", "circular", "batch norm") else (1, 2, 3)


def one_by_one(network: nn.Module, x: Tensor, scores: Scores, power: Power) -> dict[str, Tensor]:
    """What `sum_of_powers` stands for."""
    network.eval()
    trained = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
    total = {name: torch.zeros_like(weight) for name, weight in trained.items()}
    for i in range(len(x)):
        for score in scores(network(x[i : i + 1])):
            weights = list(trained.values())
            gradients = torch.autograd.grad(score.sum(), weights, retain_graph=True, allow_unused=True)
            for name, gradient in zip(trained, gradients, strict=True):
                if gradient is not None:
                    total[name] += gradient.abs() ** power
    network.train()
    return total


def expect_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


def output_norm(logits: Tensor) -> list[Tensor]:
    return [logits.square().sum(1)]


def some_scores(logits: Tensor) -> Tensor:
    """Three per sample, the last of them 0 for all."""
    return torch.stack([logits.logsumexp(1), logits[:, 0] * logits[:, 1], 0 * logits[:, 2]])


def everything(logits: Tensor, y: Tensor) -> Tensor:
    return logits


def first_three(logits: Tensor, y: Tensor) -> Tensor:
    return logits.masked_fill(torch.arange(4) == 3, torch.finfo(logits.dtype).min)


def own_pair(logits: Tensor, y: Tensor) -> Tensor:
    """Outputs 0 and 1 answer for labels 0 and 1, 2 and 3 for the others."""
    return logits.masked_fill(torch.arange(4) // 2 != y[:, None] // 2, torch.finfo(logits.dtype).min)


@pytest.fixture
def no_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("took the slow way")

    monkeypatch.setattr(importance, "_through_vmap", refuse)


@pytest.fixture
def no_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importance, "layers_tell_all", lambda *_: False)


@pytest.mark.parametrize("scores", [output_norm, some_scores])
@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("name", CLOSED_FORM)
def test_closed_form_is_a_loop_over_samples(name: str, power: Power, scores: Scores, no_fallback: None) -> None:
    network, x, _ = make(CLOSED_FORM[name], images(name))
    expect_equal(sum_of_powers(network, x, scores, power), one_by_one(network, x, scores, power))


@pytest.mark.parametrize("scores", [output_norm, some_scores])
@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("name", FALLBACK)
def test_fallback_is_a_loop_over_samples(name: str, power: Power, scores: Scores) -> None:
    network, x, _ = make(FALLBACK[name], images(name))
    expect_equal(sum_of_powers(network, x, scores, power), one_by_one(network, x, scores, power))


@pytest.mark.parametrize("name", FALLBACK)
def test_what_has_no_closed_form_is_recognized(name: str, no_fallback: None) -> None:
    network, x, _ = make(FALLBACK[name], images(name))
    with pytest.raises(AssertionError, match="slow way"):
        sum_of_powers(network, x, output_norm, 2)


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("name", CLOSED_FORM)
def test_fallback_equals_closed_form(name: str, power: Power, no_closed_form: None) -> None:
    network, x, _ = make(CLOSED_FORM[name], images(name))
    expect_equal(sum_of_powers(network, x, some_scores, power), one_by_one(network, x, some_scores, power))


@pytest.mark.parametrize("build", [cnn, normalized])
def test_sub_batches_change_nothing(build: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    network, x, _ = make(build, (1, 6, 7))
    whole = sum_of_powers(network, x, some_scores, 1)
    for scratch in (1, 1000):
        monkeypatch.setattr(importance, "SCRATCH", scratch)
        expect_equal(sum_of_powers(network, x, some_scores, 1), whole)


@pytest.mark.parametrize("name", ["mlp", "batch norm"])
def test_network_is_left_as_it_was(name: str) -> None:
    network, x, _ = make({**CLOSED_FORM, **FALLBACK}[name], images(name))
    network[-1].eval()  # type: ignore[index]
    modes = [module.training for module in network.modules()]
    state = {key: value.clone() for key, value in network.state_dict().items()}
    for weight in network.parameters():
        weight.grad = torch.ones_like(weight)

    with torch.no_grad():  # a caller's, which must not matter
        found = sum_of_powers(network, x, output_norm, 2)

    assert all(value.any() and not value.requires_grad for value in found.values())
    assert modes == [module.training for module in network.modules()]
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert all(weight.grad is not None and (weight.grad == 1).all() for weight in network.parameters())
    pickle.dumps(network)  # which fails when a hook is left: it is a function inside another


def test_mode_and_hooks_are_put_back_after_an_error() -> None:
    network, x, _ = make(mlp, (1, 2, 3))
    with pytest.raises(RuntimeError):
        sum_of_powers(network, x[..., :1], output_norm, 2)
    assert network.training
    pickle.dumps(network)  # which fails when a hook is left: it is a function inside another


def test_dropout_is_off() -> None:
    network, x, _ = make(lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.Dropout(), nn.Linear(5, 4)), (6,))
    expect_equal(sum_of_powers(network, x, output_norm, 1), one_by_one(network, x, output_norm, 1))


def test_what_does_not_act_has_no_importance() -> None:
    network, x, _ = make(Spare, (1, 2, 3))
    found = sum_of_powers(network, x, output_norm, 1)
    assert "body.weight" not in found
    assert found["body.bias"].all()
    for name in ("idle.weight", "idle.bias", "vain.weight", "vain.bias", "cut.weight", "cut.bias"):
        assert not found[name].any()
        assert found[name].shape == network.get_parameter(name).shape


def test_nothing_acts() -> None:
    network, x, _ = make(mlp, (1, 2, 3))
    network.requires_grad_(False)
    assert sum_of_powers(network, x.requires_grad_(), output_norm, 2) == {}


@pytest.mark.parametrize("active", [everything, first_three, own_pair])
@pytest.mark.parametrize("name", ["mlp", "batch norm"])
def test_exact_fisher_weighs_every_label(name: str, active: Callable[[Tensor, Tensor], Tensor]) -> None:
    network, x, y = make({**CLOSED_FORM, **FALLBACK}[name], images(name))
    network.eval()
    expected = {key: torch.zeros_like(weight) for key, weight in network.named_parameters()}
    for i in range(len(x)):
        log_p = active(network(x[i : i + 1]), y[i : i + 1]).log_softmax(1)[0]
        for c in range(4):
            gradients = torch.autograd.grad(log_p[c], list(network.parameters()), retain_graph=True)
            for key, gradient in zip(expected, gradients, strict=True):
                expected[key] += log_p[c].exp().detach() * gradient**2 / len(x)
    expect_equal(fisher(network, [(x, y)], active), expected)


def test_empirical_fisher_takes_the_labels_given() -> None:
    network, x, y = make(mlp, (1, 2, 3))
    expected = dict.fromkeys(dict(network.named_parameters()), torch.zeros(()))
    for i in range(len(x)):
        loss = F.cross_entropy(network(x[i : i + 1]), y[i : i + 1])
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        expected = {k: v + g**2 / len(x) for (k, v), g in zip(expected.items(), gradients, strict=True)}
    expect_equal(fisher(network, [(x, y)], everything, labels="empirical"), expected)


def test_sampled_fisher_is_right_on_average() -> None:
    network, x, y = make(mlp, (1, 2, 3))
    exact = fisher(network, [(x, y)], first_three)
    draws = 4000
    many = [(x.repeat(draws, 1, 1, 1), y.repeat(draws))]
    generator = torch.Generator().manual_seed(0)
    sampled = fisher(network, many, first_three, labels="sampled", generator=generator)
    for name, value in exact.items():
        torch.testing.assert_close(sampled[name], value, rtol=0.05, atol=0.02 * value.max().item())


def test_sampled_fisher_draws_from_its_generator_or_the_global_one() -> None:
    network, x, y = make(mlp, (1, 2, 3))

    def draw(generator: torch.Generator | None = None) -> dict[str, Tensor]:
        return fisher(network, [(x, y)], everything, labels="sampled", generator=generator)

    state = torch.get_rng_state()
    expect_equal(draw(torch.Generator().manual_seed(1)), draw(torch.Generator().manual_seed(1)))
    assert torch.equal(torch.get_rng_state(), state)
    first = draw()
    assert not torch.equal(torch.get_rng_state(), state)
    torch.set_rng_state(state)
    expect_equal(draw(), first)


def test_the_cut_into_batches_changes_nothing() -> None:
    network, x, y = make(cnn, (1, 6, 7))
    for labels in ("exact", "empirical"):
        whole = fisher(network, [(x, y)], own_pair, labels=labels)
        parts = fisher(network, zip(x.split([4, 4, 1]), y.split([4, 4, 1]), strict=True), own_pair, labels=labels)
        expect_equal(parts, whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("labels", ["exact", "sampled", "empirical"])
@pytest.mark.parametrize("lowest", ["finite", "infinite"])
def test_masked_outputs_have_no_importance(labels: importance.Labels, dtype: torch.dtype, lowest: str) -> None:
    network, x, _ = make(mlp, (1, 2, 3))
    network.to(dtype)
    low = torch.finfo(dtype).min if lowest == "finite" else -torch.inf

    def only_the_middle(logits: Tensor, y: Tensor) -> Tensor:
        return logits.masked_fill(torch.tensor([True, False, False, True]), low)

    found = fisher(network, [(x.to(dtype), torch.ones(9).long())], only_the_middle, labels=labels)
    assert all(value.isfinite().all() and value.dtype == dtype for value in found.values())
    assert not found["5.weight"][[0, 3]].any()
    assert not found["5.bias"][[0, 3]].any()
    assert found["5.bias"][[1, 2]].all()


@pytest.mark.parametrize("labels", ["exact", "sampled", "empirical"])
def test_infinite_masks_are_the_same_as_finite_ones(labels: importance.Labels) -> None:
    network, x, y = make(mlp, (1, 2, 3))

    def infinite(logits: Tensor, y: Tensor) -> Tensor:
        return logits.masked_fill(own_pair(logits, y) != logits, -torch.inf)

    torch.manual_seed(0)
    expected = fisher(network, [(x, y)], own_pair, labels=labels)
    torch.manual_seed(0)
    expect_equal(fisher(network, [(x, y)], infinite, labels=labels), expected)


def test_certainty_is_not_nan() -> None:
    """Probabilities that underflow to 0 and 1."""
    network, x, y = make(mlp, (1, 2, 3))
    network.float()[-1].bias.data[0] = 1e4  # type: ignore[index]
    for labels in ("exact", "sampled", "empirical"):
        found = fisher(network, [(x.float(), y)], everything, labels=labels)
        assert all(value.isfinite().all() for value in found.values())


def test_fisher_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no samples"):
        fisher(mlp(), [], everything)
