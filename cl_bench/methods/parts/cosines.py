"""Cosines between the gradients of single samples.

The gradient of a linear layer for one sample is an outer product, of the gradient at its output and its input. So the
inner product of two gradients is the product of two inner products of short vectors. No gradient is written out.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_bench.methods.parts.importance import SCRATCH, eval_mode, gradient_of_each, layers_tell_all, record


def cosines(network: nn.Module, x: Tensor, slopes: Callable[[Tensor], Tensor], n: int) -> Tensor:
    """The cosines between the gradients of the first n samples and of the other samples, (n, B - n), for all trained
    weights.

    The network is in `eval` mode here. Networks of plain linear and convolutional layers need no whole gradients. All
    other networks use `torch.func.vmap`, which is slower and has the same result. A gradient of 0 has cosine 0.

    Args:
        x: inputs (B, ...). The logits of a sample must not depend on other samples.
        slopes: logits (B, outputs) -> the gradient of each sample's loss by them, of the same shape.

    >>> x = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]])
    >>> cosines(nn.Linear(2, 1, bias=False), x, torch.ones_like, n=1).tolist()
    [[1.0, 0.0]]
    """
    with eval_mode(network), torch.enable_grad():
        logits, calls = record(network, x)
        down = slopes(logits)
        if not layers_tell_all(network, logits, calls):
            return _through_vmap(network, x, down, n)
        gradients = torch.autograd.grad(logits, [call.z for call in calls], down, allow_unused=True)
    layers = [factors(call.layer, call.a, g) for call, g in zip(calls, gradients, strict=True) if g is not None]
    products = sum(math.prod(rows[:n] @ rows[n:].T for rows in parts) for parts in layers)
    squares = sum(math.prod(rows.square().sum(1) for rows in parts) for parts in layers)
    lengths = torch.as_tensor(squares).sqrt().clamp(min=torch.finfo(x.dtype).tiny)
    return products / lengths[:n, None] / lengths[n:]


def factors(layer: nn.Linear | nn.Conv2d, a: Tensor, g: Tensor) -> list[Tensor]:
    """Matrices with a row for each sample. The inner products of their rows i and j, multiplied together, are the inner
    product of the gradients of the layer for samples i and j.

    Args:
        a: the input of the layer, (B, width) or (B, C, H, W).
        g: the gradient at its output, (B, units) or (B, channels, H', W').

    >>> [rows.shape[1] for rows in factors(nn.Linear(3, 2), torch.ones(4, 3), torch.ones(4, 2))]
    [4, 2]
    """
    if isinstance(layer, nn.Linear):
        return [a if layer.bias is None else F.pad(a, (0, 1), value=1.0), g]
    padding = 0 if layer.padding == "valid" else layer.padding
    patches = F.unfold(a, layer.kernel_size, layer.dilation, padding, layer.stride)  # type: ignore[arg-type]
    weights = (g.flatten(2) @ patches.transpose(1, 2)).flatten(1)  # all positions share the weight, so this is a sum
    return [weights if layer.bias is None else torch.cat([weights, g.sum((2, 3))], 1)]


def _through_vmap(network: nn.Module, x: Tensor, slopes: Tensor, n: int) -> Tensor:
    """The cosines for any network, from whole gradients, some samples at a time."""
    weights = {name: weight.detach() for name, weight in network.named_parameters() if weight.requires_grad}
    gradients = gradient_of_each(network)

    def directions(x: Tensor, slopes: Tensor) -> Tensor:
        return F.normalize(torch.cat([part.flatten(1) for part in gradients(weights, x, slopes).values()], 1))

    others = directions(x[n:], slopes[n:])
    size = max(1, SCRATCH // others.shape[1])
    parts = zip(x[:n].split(size), slopes[:n].split(size), strict=True)
    return torch.cat([directions(*part) @ others.T for part in parts])
