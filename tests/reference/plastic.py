"""Continual backpropagation and shrink-and-perturb, written by hand."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from reference.common import Images, Timing, add_, after, cross_entropy, descend, each, epoch, linear, mlp, sgd

REPLACEMENT_RATE, MATURITY, DECAY = 0.01, 4, 0.99
SHRINK, NOISE = 0.01, 1e-4


def continual_backprop(tasks: Images, weights: Iterable[Tensor]) -> Timing:
    """Least useful units replaced, by the adaptable contribution."""
    network = mlp(weights)
    timing, layers = Timing(list(network.parameters())), linear(network)
    n_units = [len(layer.weight) for layer in layers[:-1]]
    utility, mean, age = ([torch.zeros(n) for n in n_units] for _ in range(3))
    due = [0.0 for _ in n_units]
    young = [[(0, n)] for n in n_units]  # step at which they were new, how many
    step = 0
    for task, images, labels in each(tasks, timing):
        optimizer, unseen = sgd(network.parameters()), after(task)
        for x, y in epoch(images, labels, task, timing):
            step += 1
            logits, given = activations(network, x)
            descend(optimizer, cross_entropy(logits, y, unseen))
            with torch.no_grad():
                for i, h in enumerate(given):
                    below, above = layers[i], layers[i + 1]
                    age[i] += 1
                    started = 1 - DECAY ** age[i]
                    mean[i].lerp_(h.mean(0), 1 - DECAY)
                    average = mean[i] / started
                    worth = (h - average).abs().mean(0) * above.weight.abs().mean(0) / below.weight.abs().mean(1)
                    utility[i].lerp_(worth, 1 - DECAY)
                    young[i] = [(born, n) for born, n in young[i] if step - born <= MATURITY]
                    due[i] += REPLACEMENT_RATE * (n_units[i] - sum(n for _, n in young[i]))
                    n = int(due[i])
                    if not n:
                        continue
                    due[i] -= n
                    young[i].append((step, n))
                    known = torch.where(age[i] > MATURITY, utility[i] / started, torch.inf)
                    rows = known.topk(n, largest=False).indices
                    above.bias.add_(above.weight[:, rows] @ average[rows])
                    bound = below.weight.shape[1] ** -0.5
                    below.weight[rows] = torch.empty(n, below.weight.shape[1]).uniform_(-bound, bound)
                    below.bias[rows] = 0
                    above.weight[:, rows] = 0
                    for values in (utility[i], mean[i], age[i]):
                        values[rows] = 0
                    optimizer.state[below.weight]["momentum_buffer"][rows] = 0
                    optimizer.state[below.bias]["momentum_buffer"][rows] = 0
                    optimizer.state[above.weight]["momentum_buffer"][:, rows] = 0
    return timing


def activations(network: nn.Sequential, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The logits, and what each hidden layer gives."""
    given = []
    for layer in network:
        x = layer(x)
        if isinstance(layer, nn.ReLU):
            given.append(x.detach())
    return x, given


def shrink_perturb(tasks: Images, weights: Iterable[Tensor]) -> Timing:
    """Weight decay, and noise after each step."""
    network = mlp(weights)
    parameters: list[Tensor] = list(network.parameters())
    timing = Timing(parameters)
    for task, images, labels in each(tasks, timing):
        optimizer, unseen = torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=SHRINK), after(task)
        for x, y in epoch(images, labels, task, timing):
            descend(optimizer, cross_entropy(network(x), y, unseen))
            with torch.no_grad():
                add_(parameters, [torch.randn_like(p) for p in parameters], alpha=NOISE)
    return timing
