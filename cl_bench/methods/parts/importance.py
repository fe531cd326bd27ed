"""The importance of parameters: squares or absolute values of the gradients of single samples, summed.

The square (or the absolute value) of a sum of gradients is not the sum of their squares. A Fisher information from the
gradient of a mini-batch's mean loss is too small, by about the size of the mini-batch. So all sums here are over the
gradients of single samples. They need no loop over samples: the gradient of a layer for one sample follows from the
input and the gradient at the output for this sample, and both are rows of a batch (Goodfellow, 2015).
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

SCRATCH = 2**24  # numbers in memory at a time if the gradient of each sample is written out: 64 MiB of float32


def fisher(
    network: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    active: Callable[[Tensor, Tensor], Tensor],
    *,
    labels: Labels = "exact",
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """The diagonal of the Fisher information, a mean over samples, for every trained parameter by name (Kirkpatrick et
    al., 2017): F_j = 1/N sum_n E_c[(d log p_c(x_n) / d theta_j)^2], with the network in `eval` mode.

    Args:
        batches: pairs of inputs (B, ...) and labels, int64 (B,).
        active: `active(logits, y)` returns the logits (B, outputs), with the lowest finite number for outputs that do
            not take part in the softmax.
        labels: the expectation over c. `exact`: all labels, weighted by their probability p_c; `sampled`: one label for
            each sample, drawn from p, correct on average; `empirical`: the true label, which is not the Fisher
            information but is often used for it.
        generator: draws the labels of `sampled`; on the device of the network.

    Raises ValueError if there are no samples.

    >>> layer = nn.Linear(1, 2, bias=False)
    >>> _ = nn.init.zeros_(layer.weight)  # p = 1/2
    >>> batches = [(torch.tensor([[2.0]]), torch.tensor([0]))]
    >>> fisher(layer, batches, lambda logits, y: logits)["weight"].round(decimals=4).tolist()
    [[1.0], [1.0]]
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

    F <- rate F_b + (1 - rate) F, from F = 0. F_b is the empirical Fisher information, with the true labels, a mean over
    the images of a mini-batch. There is one tensor for each parameter, in the order of the network's parameters.

    Args:
        weights: all parameters of the network.
        rate: alpha, from 0 to 1.
    """

    def __init__(self, weights: Iterable[Tensor], rate: float) -> None:
        super().__init__(nn.Parameter(torch.zeros_like(p), False) for p in weights)
        self.rate = rate

    def observe(self, network: nn.Module, batch: Batch, active: Callable[[Tensor, Tensor], Tensor]) -> None:
        """Moves F towards F_b of the mini-batch. active: as in `fisher`."""
        with torch.autocast(batch.x.device.type, enabled=False):  # sums of squares in half precision lose digits
            new = fisher(network, [(batch.x, batch.y)], active, labels="empirical")
        for (name, _), f in zip(network.named_parameters(), self, strict=True):
            f.lerp_(new[name], self.rate)


def sum_of_powers(
    network: nn.Module, x: Tensor, scores: Callable[[Tensor], Iterable[Tensor]], power: Power
) -> dict[str, Tensor]:
    """The sum over samples n and scores s of |d s_n / d theta_j|^power, for every trained parameter by name.

    The network is in `eval` mode here. Its modes and gradients do not change. A parameter without effect on the output
    gets 0. Networks of plain linear and convolutional layers use their layers' inputs and output gradients. All other
    networks use `torch.func.vmap`, which is slower and has the same result.

    Args:
        x: inputs (B, ...). The logits of a sample must not depend on other samples.
        scores: logits (B, outputs) -> the scores, each (B,). Row n of a score must depend only on row n of the logits.

    >>> layer = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.ones_(layer.weight)
    >>> x = torch.tensor([[3.0], [-1.0]])
    >>> sum_of_powers(layer, x, lambda logits: [logits.square().sum(1)], power=1)["weight"].item()  # MAS
    20.0
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
    """`eval` mode inside the context. Afterwards every module has its own mode again."""
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
    """Scores (scores, B). For each sample the sum of their squared gradients is E_c[(d log p_c)^2]."""
    log_p = F.log_softmax(active(logits, y), dim=1)
    p = log_p.detach().exp()
    if labels == "exact":
        # the weight p enters the square as its root; a label with p = 0 for all samples adds nothing
        return (p.sqrt() * log_p).T[p.any(0)]
    if labels == "sampled":
        y = torch.multinomial(p, 1, generator=generator).squeeze(1)
    return log_p.gather(1, y[:, None]).T


def _cotangents(logits: Tensor, scores: Callable[[Tensor], Iterable[Tensor]]) -> Iterator[Tensor]:
    """d s_n / d logits_n for each score s, shape (B, outputs): where backpropagation through the layers starts."""
    logits = logits.detach().requires_grad_()
    for score in scores(logits):
        yield torch.autograd.grad(score.sum(), logits, retain_graph=True)[0]


class Call(NamedTuple):
    """One call of a layer, with its input a and its output z, a row for each sample."""

    layer: nn.Linear | nn.Conv2d
    a: Tensor
    z: Tensor


def record(network: nn.Module, x: Tensor) -> tuple[Tensor, list[Call]]:
    """The logits for x, and the calls of plain layers in this forward pass."""
    calls: list[Call] = []

    def note(layer: nn.Module, args: tuple[Tensor, ...], z: Tensor) -> Tensor:
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        if z.requires_grad:
            calls.append(Call(layer, args[0].detach(), z))
        return z.clone()  # an in-place activation would overwrite z

    layers = [layer for layer in network.modules() if is_plain(layer)]
    hooks = [layer.register_forward_hook(note, prepend=True) for layer in layers]
    try:
        return network(x), calls
    finally:
        for hook in hooks:
            hook.remove()


def gradient_of_each(network: nn.Module) -> Callable[[dict[str, Tensor], Tensor, Tensor], dict[str, Tensor]]:
    """A function of weights by name, x (B, ...) and c (B, outputs). It returns the gradient of <c_n, logits_n> for each
    sample n by these weights, by name, of shape (B, *shape of the weight). Other parameters come from the network."""

    def towards(weights: dict[str, Tensor], x: Tensor, cotangent: Tensor) -> Tensor:
        return torch.func.functional_call(network, weights, (x[None],))[0] @ cotangent

    return torch.func.vmap(torch.func.grad(towards), in_dims=(None, 0, 0))


def is_plain(layer: nn.Module) -> bool:
    """Whether `_through_layers` computes the gradient of this layer: linear, or a convolution without groups."""
    if isinstance(layer, nn.Conv2d):
        untouched = type(layer).forward is nn.Conv2d.forward
        untouched &= type(layer)._conv_forward is nn.Conv2d._conv_forward
        return untouched and layer.groups == 1 and layer.padding_mode == "zeros" and layer.padding != "same"
    return isinstance(layer, nn.Linear) and type(layer).forward is nn.Linear.forward


def layers_tell_all(network: nn.Module, logits: Tensor, calls: list[Call]) -> bool:
    """Whether each trained parameter is used in only one recorded call, with one row for each sample."""
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
    """How many times each parameter is in the graph of `output`; a shared weight is there several times."""
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
    # |g_i a_j|^power = |g_i|^power |a_j|^power: one matrix product sums over samples, for all scores
    for layer, a, _ in calls:
        if layer in rows:
            sums[layer.weight] = rows[layer].T @ _raise(a, power)
            if layer.bias is not None:
                sums[layer.bias] = rows[layer].sum(0)
    return sums


def _convolution(layer: nn.Conv2d, a: Tensor, g: Tensor, power: Power) -> Tensor:
    """The sum over samples of |gradient of the weight|^power, from the input a and g, both (B, C, H, W).

    All positions of an image share the weight, so the gradient of each sample is summed before its power is taken.
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
    """The sums by parameter for any network, from the whole gradient of each sample; some samples at a time."""

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
