"""Which way the gradients of single samples point: cosines between them.

A sample's gradient for a linear layer is the outer product of the gradient at its output and of its input. So the
inner product of two of them is the product of two inner products of short vectors, and none is ever written out.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_bench.methods.parts.importance import SCRATCH, eval_mode, gradient_of_each, layers_tell_all, record


def cosines(network: nn.Module, x: Tensor, slopes: Callable[[Tensor], Tensor], n: int) -> Tensor:
    """Between the gradients of the first n samples and those of the others, for all trained weights; (n, B - n).

    The network is in `eval` mode meanwhile. Plain linear and convolutional networks take a short cut through their
    layers; any other goes through `torch.func.vmap`, slower and with the same result. A gradient of 0 has cosine 0.

    Args:
        x: a batch of B samples that the network answers each on its own.
        slopes: from the logits (B, outputs) to the gradient of each sample's loss for them, of the same shape.
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
    """Matrices with a row for each sample: the inner products of rows i and j, multiplied over the matrices, are the
    inner product of the gradients of samples i and j for the layer.

    Args:
        a: the input of the layer. g: the gradient at its output.

    >>> [rows.shape[1] for rows in factors(nn.Linear(3, 2), torch.ones(4, 3), torch.ones(4, 2))]
    [4, 2]
    """
    if isinstance(layer, nn.Linear):
        return [a if layer.bias is None else F.pad(a, (0, 1), value=1.0), g]
    padding = 0 if layer.padding == "valid" else layer.padding
    patches = F.unfold(a, layer.kernel_size, layer.dilation, padding, layer.stride)  # type: ignore[arg-type]
    weights = (g.flatten(2) @ patches.transpose(1, 2)).flatten(1)  # positions share them: a product of sums
    return [weights if layer.bias is None else torch.cat([weights, g.sum((2, 3))], 1)]


def _through_vmap(network: nn.Module, x: Tensor, slopes: Tensor, n: int) -> Tensor:
    """The cosines for any network, from whole gradients, as many at a time as fit."""
    weights = {name: weight.detach() for name, weight in network.named_parameters() if weight.requires_grad}
    gradients = gradient_of_each(network)

    def directions(x: Tensor, slopes: Tensor) -> Tensor:
        return F.normalize(torch.cat([part.flatten(1) for part in gradients(weights, x, slopes).values()], 1))

    others = directions(x[n:], slopes[n:])
    size = max(1, SCRATCH // others.shape[1])
    parts = zip(x[:n].split(size), slopes[:n].split(size), strict=True)
    return torch.cat([directions(*part) @ others.T for part in parts])
