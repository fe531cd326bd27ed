"""Loops written by hand for the one experiment of `speed.py`: what a careful person writes who needs nothing else.

Images are floats in memory; nothing is logged, saved or configurable, and what is known of the experiment is used: two
classes a task in the order of the outputs, three linear layers, a fresh optimiser for each task (so an entry without a
gradient stays where it is). Everything that a method does is done, and every random number is the one that ours draws.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.linalg import solve_triangular
from scipy.optimize import nnls
from torch import Tensor, nn

from cl_bench.seeding import derive, seeded

EWC_STRENGTH = 100.0
STRENGTH, DAMPING = 1.0, 1e-3  # of SI, MAS and RWalk
FISHER_RATE, INTERVAL = 0.9, 10  # of RWalk
TEMPERATURE = 2.0  # of LwF
ER_BUDGET, AGEM_BUDGET, AGEM_REPLAY = 200, 25, 256  # of each class; drawn in each step
DER_BUDGET, ALPHA = 200, 0.2
GEM_BUDGET, MARGIN = 256, 0.5  # of each task
EXEMPLARS = 2000
PRUNE = 0.75
S_MAX, SPARSITY, EMBEDDING_LR, CLAMP = 400.0, 0.75, 0.05, 6.0
N_CRITIC, LAMBDA_GP, Z_DIM = 5, 10.0, 64
LOWEST = torch.finfo(torch.float32).min

_torch: Any = torch  # one call for all tensors: private by name, and what optimisers and careful people use
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


# -------------------------------------------------------------------------------------------- what they share


def mlp(weights: Iterable[Tensor]) -> nn.Sequential:
    """The classifier."""
    layers = (nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    return with_weights(nn.Sequential(nn.Flatten(), *layers), weights)


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
        began = time.perf_counter()
        with seeded(0, "task", task):
            yield task, images, labels
        timing.whole += time.perf_counter() - began


def epoch(
    images: Tensor, labels: Tensor, task: int, timing: Timing, *, phase: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """The mini-batches of a phase, timed: the permutation and the random numbers of ours."""
    generator = torch.Generator().manual_seed(derive(0, "batches", task, phase))
    with seeded(0, "phase", task, phase):
        began = time.perf_counter()
        for rows in torch.randperm(len(labels), generator=generator).split(128):
            yield images[rows], labels[rows]
            timing.steps += 1
        timing.training += time.perf_counter() - began


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


def finetune(tasks: Images, weights: Iterable[Tensor]) -> Timing:
    """Cross-entropy over the classes seen so far."""
    network = mlp(weights)
    timing = Timing(list(network.parameters()))
    for task, images, labels in each(tasks, timing):
        optimizer, unseen = sgd(network.parameters()), after(task)
        for x, y in epoch(images, labels, task, timing):
            descend(optimizer, cross_entropy(network(x), y, unseen))
    return timing


# ---------------------------------------------------------------------------------------------- regularisation


def recorded(network: nn.Sequential, x: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """The logits, and what went into each linear layer and what came out."""
    inputs, outputs = [], []
    for layer in network:
        if isinstance(layer, nn.Linear):
            inputs.append(x.detach())
        x = layer(x)
        if isinstance(layer, nn.Linear):
            outputs.append(x)
    return x, inputs, outputs


def per_sample(inputs: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
    """Sums over samples for weights and biases: |g_i a_j|^p = |g_i|^p |a_j|^p, of powers taken already."""
    return [part for a, g in zip(inputs, gradients, strict=True) for part in (g.T @ a, g.sum(0))]


def fisher_of_all_labels(network: nn.Sequential, images: Tensor, unseen: Tensor) -> list[Tensor]:
    """The exact diagonal of the Fisher information."""
    fisher = zeros(network.parameters())
    for x in images.split(512):
        logits, inputs, outputs = recorded(network, x)
        log_p = logits.masked_fill(unseen, LOWEST).log_softmax(1)
        squares = zeros(outputs)
        for c in range(int((~unseen).sum())):
            score = (log_p[:, c].detach().exp().sqrt() * log_p[:, c]).sum()
            gradients = torch.autograd.grad(score, outputs, retain_graph=True)
            addcmul_(squares, gradients, gradients)
        add_(fisher, per_sample([a.square() for a in inputs], squares))
    return [f / len(images) for f in fisher]


def fisher_of_labels(network: nn.Sequential, x: Tensor, y: Tensor, unseen: Tensor) -> list[Tensor]:
    """The empirical Fisher information of a mini-batch."""
    logits, inputs, outputs = recorded(network, x)
    score = -F.cross_entropy(logits.masked_fill(unseen, LOWEST), y, reduction="sum")
    gradients = torch.autograd.grad(score, outputs)
    sums = per_sample([a.square() for a in inputs], [g.square() for g in gradients])
    return [f / len(x) for f in sums]


def sensitivity(network: nn.Sequential, images: Tensor, unseen: Tensor) -> list[Tensor]:
    """MAS: the mean of |d ||f(x)||^2 / d theta|."""
    total = zeros(network.parameters())
    for x in images.split(512):
        logits, inputs, outputs = recorded(network, x)
        gradients = torch.autograd.grad(logits.masked_fill(unseen, 0.0).square().sum(), outputs)
        add_(total, per_sample([a.abs() for a in inputs], [g.abs() for g in gradients]))
    return [part / len(images) for part in total]


def ewc(tasks: Images, weights: Iterable[Tensor], *, merge: bool) -> Timing:
    """merge: one quadratic that all old tasks share, instead of a term for each of them."""
    network = mlp(weights)
    timing = Timing(list(network.parameters()))
    past: list[Quadratic] = []
    for task, images, labels in each(tasks, timing):
        optimizer, unseen = sgd(network.parameters()), after(task)
        for x, y in epoch(images, labels, task, timing):
            loss = cross_entropy(network(x), y, unseen)
            for fisher, old in past:
                for f, p, p_old in zip(fisher, network.parameters(), old, strict=True):
                    loss = loss + EWC_STRENGTH / 2 * (f * (p - p_old) ** 2).sum()
            descend(optimizer, loss)
        past.append((fisher_of_all_labels(network, images, unseen), clones(network.parameters())))
        if merge:
            past = [merged(past)]
    return timing


def merged(past: list[Quadratic]) -> Quadratic:
    """The quadratic with the gradient of the sum of these."""
    fisher = [torch.stack(fs).sum(0) for fs in zip(*(fisher for fisher, _ in past), strict=True)]
    pulls = [[f * old for f, old in zip(*one, strict=True)] for one in past]
    pull = [torch.stack(one).sum(0) for one in zip(*pulls, strict=True)]
    return fisher, [torch.where(f > 0, p / f, 0.0) for f, p in zip(fisher, pull, strict=True)]


def mas(tasks: Images, weights: Iterable[Tensor], *, autograd: bool) -> Timing:
    """autograd: the penalty is a part of the loss, instead of its gradient being added."""
    network = mlp(weights)
    P = list(network.parameters())
    timing = Timing(list(P))
    omega, old = zeros(P), clones(P)
    for task, images, labels in each(tasks, timing):
        optimizer, unseen = sgd(P), after(task)
        for x, y in epoch(images, labels, task, timing):
            loss = cross_entropy(network(x), y, unseen)
            if task and autograd:
                for o, p, p_old in zip(omega, P, old, strict=True):
                    loss = loss + STRENGTH * (o * (p - p_old) ** 2).sum()
            optimizer.zero_grad()
            loss.backward()
            if task and not autograd:
                with torch.no_grad():
                    addcmul_([p.grad for p in P], omega, sub(P, old), value=2 * STRENGTH)
            optimizer.step()
        add_(omega, sensitivity(network, images, unseen))
        old = clones(P)
    return timing


def walk(
    optimizer: torch.optim.Optimizer, loss: Tensor, P: Sequence[Tensor], path: list[Tensor], pull: Quadratic | None
) -> None:
    """A step of SI: along the gradient of the loss and the pull; `path` grows by what it lowered the loss."""
    optimizer.zero_grad()
    loss.backward()
    with torch.no_grad():
        gradient, before = [p.grad for p in P], clones(P)
        if pull:
            omega, old = pull
            for p, g in zip(P, addcmul(gradient, omega, sub(P, old), value=2 * STRENGTH), strict=True):
                p.grad = g
        optimizer.step()
        addcmul_(path, gradient, sub(P, before), value=-1)


def si(tasks: Images, weights: Iterable[Tensor]) -> Timing:
    """The gradient of the penalty is written out: that of the loss is needed apart from it anyway."""
    network = mlp(weights)
    P = list(network.parameters())
    timing = Timing(list(P))
    omega, old = zeros(P), clones(P)
    for task, images, labels in each(tasks, timing):
        optimizer, unseen, path = sgd(P), after(task), zeros(P)
        for x, y in epoch(images, labels, task, timing):
            loss = cross_entropy(network(x), y, unseen)
            walk(optimizer, loss, P, path, (omega, old) if task else None)
        with torch.no_grad():
            for o, w, moved in zip(omega, path, sub(P, old), strict=True):
                o += (w / (moved.square() + DAMPING)).relu()
        old = clones(P)
    return timing


def rwalk(tasks: Images, weights: Iterable[Tensor]) -> Timing:
    """SI's step; every INTERVAL of them the Fisher information moves on and the score grows."""
    network = mlp(weights)
    P = list(network.parameters())
    timing = Timing(list(P))
    fisher, score, pull = zeros(P), zeros(P), None
    for task, images, labels in each(tasks, timing):
        optimizer, unseen, path, start, task_score = sgd(P), after(task), zeros(P), clones(P), zeros(P)
        for i, (x, y) in enumerate(epoch(images, labels, task, timing)):
            if i % INTERVAL == 0:
                end_interval(P, start, path, fisher, task_score)
                lerp_(fisher, fisher_of_labels(network, x, y, unseen), FISHER_RATE)
            walk(optimizer, cross_entropy(network(x), y, unseen), P, path, pull)
        end_interval(P, start, path, fisher, task_score)
        lerp_(score, task_score, 0.5 if task else 1.0)
        pull = [f + s for f, s in zip(scaled(fisher), scaled(score), strict=True)], clones(P)
    return timing


@torch.no_grad()
def end_interval(
    P: Sequence[Tensor], start: list[Tensor], path: list[Tensor], fisher: list[Tensor], score: list[Tensor]
) -> None:
    """The score grows by the loss saved per change of the answers; the next interval starts here."""
    for p, p_start, w, f, s in zip(P, start, path, fisher, score, strict=True):
        s += (w / (f / 2 * (p - p_start).square() + DAMPING)).relu()
        p_start.copy_(p)
        w.zero_()


def scaled(values: list[Tensor]) -> list[Tensor]:
    """From 0 to 1."""
    low, high = min(float(value.min()) for value in values), max(float(value.max()) for value in values)
    return [(value - low) / (high - low) for value in values]


def lwf(tasks: Images, weights: Iterable[Tensor]) -> Timing:
    """Cross-entropy, and what the network of the last task says of the old classes."""
    network = mlp(weights)
    timing = Timing(list(network.parameters()))
    for task, images, labels in each(tasks, timing):
        teacher = copy.deepcopy(network)
        optimizer, unseen, old = sgd(network.parameters()), after(task), 2 * task
        for x, y in epoch(images, labels, task, timing):
            logits = network(x)
            loss = cross_entropy(logits, y, unseen)
            if task:
                with torch.no_grad():
                    target = (teacher(x)[:, :old] / TEMPERATURE).softmax(1)
                loss = loss + F.cross_entropy(logits[:, :old] / TEMPERATURE, target)
            descend(optimizer, loss)
    return timing


# ------------------------------------------------------------------------------------------------------ replay


def some_of(images: Tensor, labels: Tensor, n: int, memory: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Memory, with n of each new class in front of it; in the order of ours, so that draws from it are the same."""
    order = torch.randperm(len(labels))
    drawn = labels[order]
    rows = order[torch.cat([(drawn == c).nonzero().squeeze(1)[:n] for c in drawn.unique()]).sort()[0]]
    return torch.cat([images[rows], memory[0]]), torch.cat([labels[rows], memory[1]])


def nothing() -> tuple[Tensor, Tensor]:
    """An empty memory."""
    return torch.empty(0, 1, 28, 28), torch.empty(0, dtype=torch.int64)


def er(tasks: Images, weights: Iterable[Tensor]) -> Timing:
    """Each mini-batch with as many images of memory."""
    network, memory = mlp(weights), nothing()
    timing = Timing(list(network.parameters()))
    for task, images, labels in each(tasks, timing):
        optimizer, unseen = sgd(network.parameters()), after(task)
        for x, y in epoch(images, labels, task, timing):
            if task:
                rows = torch.randperm(len(memory[1]))[: len(y)]
                x, y = torch.cat([x, memory[0][rows]]), torch.cat([y, memory[1][rows]])
            descend(optimizer, cross_entropy(network(x), y, unseen))
        memory = some_of(images, labels, ER_BUDGET, memory)
    return timing


def der(tasks: Images, weights: Iterable[Tensor]) -> Timing:
    """The reservoir's places are drawn as ours does, seeded anew for each mini-batch: some microseconds."""
    network = mlp(weights)
    timing = Timing(list(network.parameters()))
    with seeded(0, "method"):
        seed, seen = int(torch.randint(2**31, ())), 0
    generator = torch.Generator()
    kept, answers = torch.empty(DER_BUDGET, 1, 28, 28), torch.empty(DER_BUDGET, 10)
    for task, images, labels in each(tasks, timing):
        optimizer, unseen = sgd(network.parameters()), after(task)
        for x, y in epoch(images, labels, task, timing):
            logits = network(x)
            loss = cross_entropy(logits, y, unseen)
            if seen:
                rows = torch.randperm(min(seen, DER_BUDGET))[: len(y)]
                loss = loss + ALPHA * F.mse_loss(network(kept[rows]), answers[rows])
            descend(optimizer, loss)

            number = torch.arange(seen, seen + len(y))
            generator.manual_seed(derive(seed, seen))
            drawn = (torch.rand(len(y), generator=generator, dtype=torch.float64) * (number + 1)).long()
            place = torch.where(number < DER_BUDGET, number, drawn)
            for row in (place < DER_BUDGET).nonzero().squeeze(1).tolist():  # soon one or two of a mini-batch
                kept[place[row]], answers[place[row]] = x[row], logits[row].detach()
            seen += len(y)
    return timing


def gradient(loss: Tensor, P: Sequence[Tensor], out: Tensor | None = None) -> Tensor:
    """As one vector."""
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, P)], out=out)


def gem(tasks: Images, weights: Iterable[Tensor]) -> Timing:
    """The gradient of each old task's memory in each step, and a quadratic program where one is violated."""
    network = mlp(weights)
    P = list(network.parameters())
    timing, memories = Timing(list(P)), []
    sizes = [p.numel() for p in P]
    for task, images, labels in each(tasks, timing):
        optimizer, unseen, G = sgd(P), after(task), torch.empty(task, sum(sizes))
        for x, y in epoch(images, labels, task, timing):
            g = gradient(cross_entropy(network(x), y, unseen), P)
            for (old_x, old_y), row in zip(memories, G, strict=True):
                gradient(cross_entropy(network(old_x), old_y, unseen), P, out=row)
            if task:
                g = without_violation(g, G)
            for p, part in zip(P, g.split(sizes), strict=True):
                p.grad = part.view_as(p)
            optimizer.step()
        rows = torch.randperm(len(labels))[:GEM_BUDGET]
        memories.append((images[rows], labels[rows]))
    return timing


def without_violation(g: Tensor, G: Tensor) -> Tensor:
    """min |u - g|^2, G u >= 0, by its dual, non-negative least squares."""
    along = G @ g
    if (along >= 0).all():
        return g
    Q = (G @ G.T).double().numpy()
    L = np.linalg.cholesky(Q + 1e-10 * Q.trace() * np.eye(len(Q)))
    v, _ = nnls(L.T, -solve_triangular(L, along.double().numpy() + MARGIN * Q.sum(1), lower=True))
    return g + torch.from_numpy(v + MARGIN).float() @ G


def agem(tasks: Images, weights: Iterable[Tensor]) -> Timing:
    """The gradient of images of memory in each step; tensor by tensor, without a long vector."""
    network, memory = mlp(weights), nothing()
    P = list(network.parameters())
    timing = Timing(list(P))
    for task, images, labels in each(tasks, timing):
        optimizer, unseen = sgd(P), after(task)
        for x, y in epoch(images, labels, task, timing):
            gradients = torch.autograd.grad(cross_entropy(network(x), y, unseen), P)
            if task:
                rows = torch.randperm(len(memory[1]))[:AGEM_REPLAY]
                old = torch.autograd.grad(cross_entropy(network(memory[0][rows]), memory[1][rows], unseen), P)
                along = dot(gradients, old)
                if along < 0:
                    add_(gradients, old, alpha=-along / dot(old, old))
            for p, g in zip(P, gradients, strict=True):
                p.grad = g
            optimizer.step()
        memory = some_of(images, labels, AGEM_BUDGET, memory)
    return timing


def dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    return float(sum(torch.dot(one.flatten(), other.flatten()) for one, other in zip(a, b, strict=True)))


def icarl(tasks: Images, weights: Iterable[Tensor]) -> Timing:
    """Binary cross-entropies with the old network's answers; exemplars by herding, and their means."""
    network = mlp(weights)
    features = network[:-1]
    timing = Timing(list(network.parameters()))
    exemplars: list[tuple[int, Tensor]] = []  # class, images; those of the last task first, as ours has them
    for task, images, labels in each(tasks, timing):
        old, seen, share = 2 * task, 2 * (task + 1), EXEMPLARS // (2 * (task + 1))
        all_images = torch.cat([images, *(kept for _, kept in exemplars)])
        all_labels = torch.cat([labels, *(torch.full((len(kept),), c) for c, kept in exemplars)])
        teacher, optimizer = copy.deepcopy(network), sgd(network.parameters())
        for x, y in epoch(all_images, all_labels, task, timing):
            target = F.one_hot(y, seen).float()
            if task:
                with torch.no_grad():
                    target[:, :old] = teacher(x)[:, :old].sigmoid()
            loss = F.binary_cross_entropy_with_logits(network(x)[:, :seen], target, reduction="sum") / len(y)
            descend(optimizer, loss)
        with torch.no_grad():
            new = [(c, images[labels == c]) for c in range(old, seen)]
            new = [(c, own[herd(F.normalize(features(own)), share)]) for c, own in new]
            exemplars = new + [(c, kept[:share]) for c, kept in exemplars]
            means = {c: F.normalize(F.normalize(features(kept)).mean(0), dim=0) for c, kept in exemplars}
    assert len(means) == 2 * len(tasks)
    return timing


def herd(features: Tensor, n: int) -> Tensor:
    """The rows of n features whose mean follows that of all, one after another."""
    wanted, squares = features.mean(0), features.square().sum(1)
    missing, rows = torch.zeros_like(wanted), []
    for _ in range(min(n, len(features))):
        missing += wanted
        rows.append(int(torch.addmv(squares, features, missing, alpha=-2).argmin()))
        missing -= features[rows[-1]]
        squares[rows[-1]] = torch.inf  # taken once
    return torch.tensor(rows)


# --------------------------------------------------------------------------------------------------- isolation


def among_own(logits: Tensor, y: Tensor, task: int) -> Tensor:
    """Cross-entropy over the two classes of a task."""
    return F.cross_entropy(logits[:, 2 * task : 2 * task + 2], y - 2 * task)


def packnet(tasks: Images, weights: Iterable[Tensor]) -> Timing:
    """Gradients of weights of other tasks are zeroed, which is enough for this optimiser."""
    network = mlp(weights)
    timing = Timing(list(network.parameters()))
    first, second, _ = linear(network)
    biases, layers = [first.bias, second.bias], [first.weight, second.weight]
    free = [torch.ones_like(p, dtype=torch.bool) for p in layers]
    for task, images, labels in each(tasks, timing):
        for bias in biases:
            bias.requires_grad_(task == 0)
        movable = [own.float() for own in free]
        for phase in range(2):
            optimizer = sgd(p for p in network.parameters() if p.requires_grad)
            for x, y in epoch(images, labels, task, timing, phase=phase):
                optimizer.zero_grad()
                among_own(network(x), y, task).backward()
                if task or phase:
                    mul_([p.grad for p in layers], movable)
                optimizer.step()
            if phase == 0:
                with torch.no_grad():
                    kept = [largest(p, own) for p, own in zip(layers, free, strict=True)]
                    for p, own, some in zip(layers, free, kept, strict=True):
                        p.masked_fill_(own & ~some, 0.0)
                    movable = [some.float() for some in kept]
                    free = [own & ~some for own, some in zip(free, kept, strict=True)]
    return timing


def largest(p: Tensor, own: Tensor) -> Tensor:
    """Which of a task's own weights are left when the smallest are pruned."""
    sizes = p[own].abs()
    return own & (p.abs() > sizes.kthvalue(round(PRUNE * len(sizes))).values)


def hat(tasks: Images, weights: Iterable[Tensor]) -> Timing:
    """The gates are leaves of the graph: the slope of their embeddings is written out, and differs from theirs."""
    *weights, first_embedding, second_embedding = weights
    network = mlp(weights)
    first, second, head = linear(network)
    embeddings = [first_embedding.clone(), second_embedding.clone()]
    timing = Timing([*network.parameters(), *embeddings])
    reserved = [torch.zeros(256, dtype=torch.bool) for _ in embeddings]
    for task, images, labels in each(tasks, timing):
        below, above = ((~units).float() for units in reserved)
        n_free = float(below.sum() + above.sum())
        between = (~(reserved[1][:, None] & reserved[0])).float()
        movable = [below[:, None].expand(-1, 784).contiguous(), below, between, above]
        held = [first.weight, first.bias, second.weight, second.bias]
        for embedding in embeddings:
            nn.init.normal_(embedding)
        optimizer, last = sgd(network.parameters()), (len(labels) - 1) // 128
        for i, (x, y) in enumerate(epoch(images, labels, task, timing)):
            s = 1 / S_MAX + (S_MAX - 1 / S_MAX) * i / last
            a, b = gates = [torch.sigmoid(s * embedding).requires_grad_() for embedding in embeddings]
            logits = head((second((first(x.flatten(1)) * a).relu()) * b).relu())
            loss = among_own(logits, y, task) + SPARSITY / n_free * (a @ below + b @ above)
            optimizer.zero_grad()
            loss.backward()
            if task:
                mul_([p.grad for p in held], movable)
            optimizer.step()
            for embedding, gate in zip(embeddings, gates, strict=True):
                assert gate.grad is not None
                open_ = embedding.sigmoid()
                slope = S_MAX * open_ * (1 - open_)
                embedding.sub_(EMBEDDING_LR * slope * gate.grad).clamp_(-CLAMP, CLAMP)
        reserved = [units | (embedding >= 0) for units, embedding in zip(reserved, embeddings, strict=True)]
    return timing


# -------------------------------------------------------------------------------------------------------- GANs


def adam(network: nn.Module) -> torch.optim.Adam:
    return torch.optim.Adam(network.parameters(), lr=1e-3, betas=(0.5, 0.9))


def wgan_gp(tasks: Images, weights: Iterable[Tensor]) -> Timing:
    """A generator and a critic, carried on from task to task."""
    weights = list(weights)
    layers = (nn.Linear(Z_DIM, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 784), nn.Sigmoid())
    G = with_weights(nn.Sequential(*layers), weights[:6])
    layers = (nn.Linear(784, 256), nn.LeakyReLU(0.2), nn.Linear(256, 256), nn.LeakyReLU(0.2), nn.Linear(256, 1))
    D = with_weights(nn.Sequential(*layers), weights[6:])
    timing = Timing([*G.parameters(), *D.parameters()])
    for task, images, labels in each(tasks, timing):
        of_G, of_D = adam(G), adam(D)
        for i, (x, _) in enumerate(epoch(images, labels, task, timing)):
            real = x.flatten(1)
            with torch.no_grad():
                fake = G(torch.randn(len(real), Z_DIM))
            between = torch.lerp(fake, real, torch.rand(len(real), 1)).requires_grad_()
            (slope,) = torch.autograd.grad(D(between).sum(), between, create_graph=True)
            penalty = ((slope.norm(dim=1) - 1) ** 2).mean()
            of_fake, of_real = D(torch.cat([fake, real])).chunk(2)
            descend(of_D, of_fake.mean() - of_real.mean() + LAMBDA_GP * penalty)
            if (i + 1) % N_CRITIC == 0:
                D.requires_grad_(False)
                descend(of_G, -D(G(torch.randn(len(real), Z_DIM))).mean())
                D.requires_grad_(True)
    return timing


def acgan(tasks: Images, weights: Iterable[Tensor]) -> Timing:
    """A generator and a discriminator with two heads, carried on from task to task."""
    weights = list(weights)
    layers = (nn.Linear(Z_DIM + 10, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 784), nn.Sigmoid())
    G = with_weights(nn.Sequential(*layers), weights[:6])
    features = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU())
    features = with_weights(features, weights[6:10])
    classes = with_weights(nn.Sequential(nn.Linear(256, 10)), weights[10:12])
    critic = with_weights(nn.Sequential(nn.Linear(256, 1)), weights[12:14])
    D = nn.ModuleList([features, classes, critic])
    timing = Timing([*G.parameters(), *D.parameters()])
    for task, images, labels in each(tasks, timing):
        of_G, of_D, unseen = adam(G), adam(D), after(task)
        for i, (x, y) in enumerate(epoch(images, labels, task, timing)):
            real, condition = x.flatten(1), F.one_hot(y, 10).float()
            with torch.no_grad():
                fake = G(torch.cat([torch.randn(len(y), Z_DIM), condition], 1))
            between = torch.lerp(fake, real, torch.rand(len(y), 1)).requires_grad_()
            (slope,) = torch.autograd.grad(critic(features(between)).sum(), between, create_graph=True)
            penalty = ((slope.norm(dim=1) - 1) ** 2).mean()
            seen = features(torch.cat([fake, real]))
            of_fake, of_real = critic(seen).chunk(2)
            error = cross_entropy(classes(seen[len(y) :]), y, unseen)
            descend(of_D, of_fake.mean() - of_real.mean() + LAMBDA_GP * penalty + error)
            if (i + 1) % N_CRITIC == 0:
                D.requires_grad_(False)
                seen = features(G(torch.cat([torch.randn(len(y), Z_DIM), condition], 1)))
                descend(of_G, cross_entropy(classes(seen), y, unseen) - critic(seen).mean())
                D.requires_grad_(True)
    return timing
