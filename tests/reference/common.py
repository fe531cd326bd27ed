"""What the loops share: settings, networks, mini-batches with the random numbers of ours, and a clock."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_bench.seeding import derive, seeded

EWC_STRENGTH = 100.0
STRENGTH, DAMPING = 1.0, 1e-3  # of SI, MAS and RWalk
FISHER_RATE, INTERVAL = 0.9, 10  # of RWalk
TEMPERATURE = 2.0  # of LwF
ER_BUDGET, AGEM_BUDGET, AGEM_REPLAY = 200, 25, 256  # of each class; drawn in each step
DER_BUDGET, ALPHA = 200, 0.2
ONLINE_BUDGET = 200  # of ER-ACE, MIR and GSS
GEM_BUDGET, MARGIN = 256, 0.5  # of each task
EXEMPLARS = 2000
FEW_EXEMPLARS = 200  # herding takes the first ones by clear differences, whatever rounding does
HELD_OUT, RIDGE = 0.1, 0.01  # of BiC
SEPARATED_REPLAY = 32  # of SS-IL
LUCIR_STRENGTH, LUCIR_MARGIN, TOP = 5.0, 0.5, 2
PRUNE = 0.75
OGD_SAMPLES, ENERGY = 200, (0.95, 0.99)
META_PULL, META_RATE = 0.1, 0.5
S_MAX, SPARSITY, EMBEDDING_LR, CLAMP = 400.0, 0.75, 0.05, 6.0
KNOWN_STRENGTH, KNOWN_DECAY = 15.0, 0.9  # of Progress & Compress
L1, VAL_MARGIN, VAL_FRACTION = 1e-4, 0.01, 0.1  # of CLNP
N_CRITIC, LAMBDA_GP, Z_DIM = 5, 10.0, 64
LOWEST = torch.finfo(torch.float32).min


_torch: Any = torch  # one call for all tensors: private by name, and what optimizers and careful people use
add_, mul_, sub, lerp_ = _torch._foreach_add_, _torch._foreach_mul_, _torch._foreach_sub, _torch._foreach_lerp_
addcmul, addcmul_ = _torch._foreach_addcmul, _torch._foreach_addcmul_

Images = list[tuple[Tensor, Tensor]]  # of each task: floats (N, 1, 28, 28), labels (N,)
Quadratic = tuple[list[Tensor], list[Tensor]]  # of a penalty: importance, old weights


@dataclass
class Timing:
    """What the weights became; seconds of the training steps, and of all that learning takes."""

    weights: list[Tensor]
    steps: int = 0
    training: float = 0.0
    whole: float = 0.0


def now(device: torch.device) -> float:
    """Seconds, once the device has done all that it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def permutation(labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Of the rows; drawn on the CPU, as ours are."""
    return torch.randperm(len(labels), generator=generator, device="cpu").to(labels.device)


def mlp(weights: Iterable[Tensor], between: Callable[[], nn.Module] = nn.ReLU, flat: bool = False) -> nn.Sequential:
    """Linear layers with these weights and biases. flat: it is given images without dimensions."""
    weights = list(weights)
    layers: list[nn.Module] = [] if flat else [nn.Flatten()]
    for weight in weights[::2]:
        layers += [nn.Linear(weight.shape[1], weight.shape[0]), between()]
    return with_weights(nn.Sequential(*layers[:-1]), weights)


def linear(network: nn.Sequential) -> list[nn.Linear]:
    """Its layers with weights."""
    return [layer for layer in network if isinstance(layer, nn.Linear)]


def with_weights(network: nn.Sequential, weights: Iterable[Tensor]) -> nn.Sequential:
    """The network, with these weights."""
    with torch.no_grad():
        for p, weight in zip(network.parameters(), weights, strict=True):
            p.copy_(weight)
    return network


def each(tasks: Images, timing: Timing) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Task after task, timed; random numbers between phases are those of ours."""
    for task, (images, labels) in enumerate(tasks):
        began = now(images.device)
        with seeded(0, "task", task):
            yield task, images, labels
        timing.whole += now(images.device) - began


def epoch(
    images: Tensor,
    labels: Tensor,
    task: int,
    timing: Timing,
    *,
    phase: int = 0,
    batch_size: int = 128,
    steps: int | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """The mini-batches of a phase, timed: the permutation and the random numbers of ours. steps: of several passes."""
    seed = derive(0, "batches", task, phase)
    passes = itertools.count() if steps else range(1)
    with seeded(0, "phase", task, phase):
        began = now(images.device)
        orders = (permutation(labels, torch.Generator().manual_seed(seed + number)) for number in passes)
        for rows in itertools.islice(itertools.chain.from_iterable(order.split(batch_size) for order in orders), steps):
            yield images[rows], labels[rows]
            timing.steps += 1
        timing.training += now(images.device) - began


def sgd(parameters: Iterable[Tensor]) -> torch.optim.SGD:
    return torch.optim.SGD(parameters, lr=0.01, momentum=0.9)


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def after(task: int) -> Tensor:
    """The outputs that take no part yet in the training of a task."""
    return torch.arange(10) >= 2 * (task + 1)


def cross_entropy(logits: Tensor, y: Tensor, unseen: Tensor) -> Tensor:
    """Over the classes seen so far."""
    return F.cross_entropy(logits.masked_fill(unseen, LOWEST), y)


def clones(tensors: Iterable[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


def zeros(tensors: Iterable[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(tensor) for tensor in tensors]
