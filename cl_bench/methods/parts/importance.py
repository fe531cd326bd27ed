"""How much each parameter matters to what a network says: powers of per-sample gradients, summed.

The square (or the absolute value) of a sum of gradients is not the sum of their squares: a Fisher taken from
the gradient of a mini-batch's mean loss is too small by about the size of the mini-batch. So everything here
is exact per sample, and still no loop runs over samples: a layer's gradient for one sample is made of that
sample's input and of the gradient at its output, which a batch keeps apart in its rows (Goodfellow, 2015).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_bench.data.batches import Batch

Power = Literal[1, 2]
Labels = Literal["exact", "sampled", "empirical"]
Key = TypeVar("Key")

SCRATCH = 2**24  # numbers held at a time where a gradient per sample must be written out: 64 MiB of float32


def fisher(
    network: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    active: Callable[[Tensor, Tensor], Tensor],
    *,
    labels: Labels = "exact",
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """The diagonal of the Fisher information, a mean over samples (Kirkpatrick et al., 2017, equation 3).

    F_j = 1/N sum_n E_c[(d log p_c(x_n) / d theta_j)^2], the network in `eval` mode.

    Args:
        batches: (x, y), a network's input of B samples and their labels, int64 of shape (B,).
        active: `active(logits, y)` gives the logits, shape (B, outputs), with those that may not answer at
            the lowest finite number: the softmax of training.
        labels: what the expectation over c is. `exact`: every label, weighted by its probability; `sampled`:
            one label per sample drawn from p, right on average; `empirical`: the label given, which is not
            the Fisher information but is often used for it.
        generator: draws the labels of `sampled`, on the device of the network.

    Raises ValueError where there is no sample.
    """
    total: dict[str, Tensor] = {}
    count = 0
    for x, y in batches:
        scores = partial(_log_likelihoods, y=y, active=active, labels=labels, generator=generator)
        for name, value in sum_of_powers(network, x, scores, power=2).items():
            _add(total, name, value)
        count += len(x)
    if not count:
        raise ValueError("no samples to take the Fisher information from")
    return {name: value / count for name, value in total.items()}


class RunningFisher(nn.ParameterList):
    """The diagonal of the Fisher information as a moving average over mini-batches: "EWC++" (Chaudhry et al., 2018).

    F <- rate F_b + (1 - rate) F, from F = 0, with F_b that at the labels given, the mean over the images b of a
    mini-batch. A tensor per weight, in the order of the network's.

    Args:
        weights: all parameters of the network.
        rate: alpha, from 0 to 1.
    """

    def __init__(self, weights: Iterable[Tensor], rate: float) -> None:
        super().__init__(nn.Parameter(torch.zeros_like(p), False) for p in weights)
        self.rate = rate

    def observe(self, network: nn.Module, batch: Batch, active: Callable[[Tensor, Tensor], Tensor]) -> None:
        """Moves F towards that of the mini-batch. active: as in `fisher`."""
        with torch.autocast(batch.x.device.type, enabled=False):  # squares summed in half precision lose digits
            new = fisher(network, [(batch.x, batch.y)], active, labels="empirical")
        for (name, _), f in zip(network.named_parameters(), self, strict=True):
            f.lerp_(new[name], self.rate)


def sum_of_powers(
    network: nn.Module, x: Tensor, scores: Callable[[Tensor], Iterable[Tensor]], power: Power
) -> dict[str, Tensor]:
    """Sum over samples n and scores s of |d s_n / d theta_j|^power, for every parameter that is trained.

    The network is in `eval` mode meanwhile and left as it was found, gradients included. A parameter that
    doesn't act on the output has 0. Plain linear and convolutional networks take a short cut through their
    layers; any other goes through `torch.func.vmap`, slower and with the same result.

    Args:
        x: a batch of B samples that the network answers each on its own.
        scores: from the logits, shape (B, outputs), to the scalars whose gradients count, each of shape (B,)
            and row n made from row n alone. MAS (Aljundi et al., 2018) is
            `lambda logits: [logits.square().sum(1)]` with power 1.
    """
    trained = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
    sums: dict[Tensor, Tensor] = {}
    x = x.detach()
    with eval_mode(network), torch.enable_grad():
        logits, calls = record(network, x)
        if logits.requires_grad:
            cotangents = _cotangents(logits, scores)
            if layers_tell_all(network, logits, calls):
                sums = _through_layers(logits, calls, cotangents, power)
            else:
                sums = _through_vmap(network, trained, x, cotangents, power)
    return {name: sums.get(weight, torch.zeros_like(weight)) for name, weight in trained.items()}


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """`eval` mode inside; every module's own mode afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _log_likelihoods(
    logits: Tensor,
    y: Tensor,
    active: Callable[[Tensor, Tensor], Tensor],
    labels: Labels,
    generator: torch.Generator | None,
) -> Tensor:
    """Scores, shape (scores, B), whose squared gradients sum to E_c[(d log p_c)^2] for each sample."""
    log_p = F.log_softmax(active(logits, y), dim=1)
    p = log_p.detach().exp()
    if labels == "exact":
        # A constant weight goes inside the square as its root; a label that no sample can have adds nothing.
        return (p.sqrt() * log_p).T[p.any(0)]
    if labels == "sampled":
        y = torch.multinomial(p, 1, generator=generator).squeeze(1)
    return log_p.gather(1, y[:, None]).T


def _cotangents(logits: Tensor, scores: Callable[[Tensor], Iterable[Tensor]]) -> Iterator[Tensor]:
    """d s_n / d logits_n for each score s, shape (B, outputs): what is carried back through the layers."""
    logits = logits.detach().requires_grad_()
    for score in scores(logits):
        yield torch.autograd.grad(score.sum(), logits, retain_graph=True)[0]


class Call(NamedTuple):
    """A layer that was called, on what (rows are samples), and what it gave."""

    layer: nn.Linear | nn.Conv2d
    a: Tensor
    z: Tensor


def record(network: nn.Module, x: Tensor) -> tuple[Tensor, list[Call]]:
    """The logits, and the calls of plain layers that made them."""
    calls: list[Call] = []

    def note(layer: nn.Module, args: tuple[Tensor, ...], z: Tensor) -> Tensor:
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        if z.requires_grad:
            calls.append(Call(layer, args[0].detach(), z))
        return z.clone()  # an in-place activation would turn z into its own output

    layers = [layer for layer in network.modules() if is_plain(layer)]
    hooks = [layer.register_forward_hook(note, prepend=True) for layer in layers]
    try:
        return network(x), calls
    finally:
        for hook in hooks:
            hook.remove()


def gradient_of_each(network: nn.Module) -> Callable[[dict[str, Tensor], Tensor, Tensor], dict[str, Tensor]]:
    """A function of weights by name, x (B, ...) and c (B, outputs): for each sample the gradient of <c, logits> with
    respect to these weights, by name, with B in front of their shapes; other parameters are the network's own."""

    def towards(weights: dict[str, Tensor], x: Tensor, cotangent: Tensor) -> Tensor:
        return torch.func.functional_call(network, weights, (x[None],))[0] @ cotangent

    return torch.func.vmap(torch.func.grad(towards), in_dims=(None, 0, 0))


def is_plain(layer: nn.Module) -> bool:
    """Whether a layer's gradient is the one written in `_through_layers`."""
    if isinstance(layer, nn.Conv2d):
        untouched = type(layer).forward is nn.Conv2d.forward
        untouched &= type(layer)._conv_forward is nn.Conv2d._conv_forward
        return untouched and layer.groups == 1 and layer.padding_mode == "zeros" and layer.padding != "same"
    return isinstance(layer, nn.Linear) and type(layer).forward is nn.Linear.forward


def layers_tell_all(network: nn.Module, logits: Tensor, calls: list[Call]) -> bool:
    """Whether trained parameters act through one recorded call each, on one row per sample."""
    for layer, a, _ in calls:
        if a.dim() != (4 if isinstance(layer, nn.Conv2d) else 2) or len(a) != len(logits):
            return False
    called, uses = Counter(call.layer for call in calls), _uses(logits)
    for layer in network.modules():
        for name, weight in layer.named_parameters(recurse=False):
            ours = name in ("weight", "bias") and uses[weight] <= called[layer] <= 1  # type: ignore[index]
            if weight.requires_grad and not (is_plain(layer) and ours):
                return False
    return True


def _uses(output: Tensor) -> Counter[Tensor]:
    """How many times each parameter enters the graph of `output`: shared weights enter more than once."""
    uses: Counter[Tensor] = Counter()
    waiting: list[Any] = [output.grad_fn]
    seen = set(waiting)
    while waiting:
        for node, _ in waiting.pop().next_functions:
            if hasattr(node, "variable"):
                uses[node.variable] += 1
            elif node is not None and node not in seen:
                seen.add(node)
                waiting.append(node)
    return uses


def _through_layers(
    logits: Tensor, calls: list[Call], cotangents: Iterable[Tensor], power: Power
) -> dict[Tensor, Tensor]:
    """The sums by parameter, from each layer's input a and the gradient g at its output."""
    sums: dict[Tensor, Tensor] = {}
    rows: dict[nn.Module, Tensor] = {}  # |g|^power of a linear layer, shape (B, out), summed over the scores
    outputs = [call.z for call in calls]
    for cotangent in cotangents:
        gradients = torch.autograd.grad(logits, outputs, cotangent, retain_graph=True, allow_unused=True)
        for (layer, a, _), g in zip(calls, gradients, strict=True):
            if g is None:
                continue
            if isinstance(layer, nn.Linear):
                _add(rows, layer, _raise(g, power))
                continue
            _add(sums, layer.weight, _convolution(layer, a, g, power))
            if layer.bias is not None:
                _add(sums, layer.bias, _raise(g.sum((2, 3)), power).sum(0))
    # |g_i a_j|^power = |g_i|^power |a_j|^power: one matrix product sums over samples, however many scores.
    for layer, a, _ in calls:
        if layer in rows:
            sums[layer.weight] = rows[layer].T @ _raise(a, power)
            if layer.bias is not None:
                sums[layer.bias] = rows[layer].sum(0)
    return sums


def _convolution(layer: nn.Conv2d, a: Tensor, g: Tensor, power: Power) -> Tensor:
    """The sum over samples of |gradient of the weight|^power, from the input a and g, both (B, C, H, W).

    Positions share the weight, so a sample's gradient is written out before its power is taken.
    """
    padding = 0 if layer.padding == "valid" else layer.padding
    total = torch.zeros_like(layer.weight).flatten(1)
    patch, positions = total.shape[1], g[0, 0].numel()
    size = max(1, SCRATCH // (patch * (positions + layer.out_channels)))
    for some_a, some_g in zip(a.split(size), g.flatten(2).split(size), strict=True):
        patches = F.unfold(some_a, layer.kernel_size, layer.dilation, padding, layer.stride)  # type: ignore[arg-type]
        total += _raise(some_g @ patches.transpose(1, 2), power).sum(0)
    return total.view_as(layer.weight)


def _through_vmap(
    network: nn.Module,
    trained: dict[str, nn.Parameter],
    x: Tensor,
    cotangents: Iterable[Tensor],
    power: Power,
) -> dict[Tensor, Tensor]:
    """The sums by parameter for any network: every sample's whole gradient, as many at a time as fit."""

    per_sample = gradient_of_each(network)
    weights = {name: weight.detach() for name, weight in trained.items()}
    size = max(1, SCRATCH // sum(weight.numel() for weight in weights.values()))
    sums: dict[Tensor, Tensor] = {}
    for cotangent in cotangents:
        for some_x, some_cotangents in zip(x.split(size), cotangent.split(size), strict=True):
            for name, g in per_sample(weights, some_x, some_cotangents).items():
                _add(sums, trained[name], _raise(g, power).sum(0))
    return sums


def _raise(x: Tensor, power: Power) -> Tensor:
    """|x|^power."""
    return x.abs() if power == 1 else x.square()


def _add(sums: dict[Key, Tensor], key: Key, value: Tensor) -> None:
    sums[key] = sums[key] + value if key in sums else value
