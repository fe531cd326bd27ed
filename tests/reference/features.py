"""Nearest means, discriminants and ridge regression on frozen features, written by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reference.common import Images, Timing, each, epoch, mlp

SHRINKAGE, RIDGE, PROJECTIONS = 0.01, 100.0, 50
Sums = dict[int, list[Tensor]]  # by class: how many, the sum of features, the sum of products


def summed(features: Callable[[Tensor], Tensor], tasks: Images, timing: Timing, *, products: bool = False) -> Sums:
    """Each image once."""
    sums: Sums = {}
    with torch.no_grad():
        for task, images, labels in each(tasks, timing):
            for x, y in epoch(images, labels, task, timing):
                phi = features(x)
                for c in y.unique().tolist():
                    own = phi[y == c]
                    new = [torch.tensor(float(len(own))), own.sum(0), *([own.T @ own] if products else [])]
                    sums[c] = [a + b for a, b in zip(sums[c], new, strict=True)] if c in sums else new
    return sums


def network_of(weights: Iterable[Tensor]) -> tuple[nn.Sequential, Callable[[Tensor], Tensor]]:
    """The network, which nobody trains, and its features."""
    network = mlp(list(weights)[:6])
    return network, lambda x: network[:-1](x).double()


def of_class(sums: Sums, part: int, like: Tensor) -> Tensor:
    """A part of the sums of all classes, 0 of those that didn't come."""
    return torch.stack([sums[c][part] if c in sums else torch.zeros_like(like) for c in range(10)])


def ncm(tasks: Images, weights: Iterable[Tensor]) -> Timing:
    """Twice the mean, and its length squared."""
    network, features = network_of(weights)
    timing = Timing(list(network.parameters()))
    sums = summed(features, tasks, timing)
    means = torch.stack([sums[c][1] / sums[c][0] for c in sorted(sums)])
    means = torch.cat([means, means.new_zeros(10 - len(means), means.shape[1])])
    timing.weights += [2 * means, -(means * means).sum(1)]
    return timing


def simple_cil(tasks: Images, weights: Iterable[Tensor]) -> Timing:
    """Means of length 1."""
    timing = ncm(tasks, weights)
    timing.weights[-2:] = [F.normalize(timing.weights[-2], dim=1), torch.zeros(10, dtype=torch.float64)]
    return timing


def slda(tasks: Images, weights: Iterable[Tensor]) -> Timing:
    """The covariance within classes is the sum of those of the classes, each by its number of images."""
    network, features = network_of(weights)
    timing = Timing(list(network.parameters()))
    sums = summed(features, tasks, timing, products=True)
    n = sum(float(own[0]) for own in sums.values())
    within = sum((own[2] - torch.outer(own[1], own[1]) / own[0] for own in sums.values()), torch.zeros(()))
    inverse = torch.linalg.inv((1 - SHRINKAGE) * within / n + SHRINKAGE * torch.eye(len(within), dtype=torch.float64))
    means = of_class({c: [own[1] / own[0]] for c, own in sums.items()}, 0, next(iter(sums.values()))[1])
    head = means @ inverse
    timing.weights += [head, -0.5 * torch.einsum("cd,cd->c", head, means)]
    return timing


def fecam(tasks: Images, weights: Iterable[Tensor]) -> Timing:
    """Square roots; a correlation matrix for each class, as its root."""
    network, features = network_of(weights)
    timing = Timing(list(network.parameters()))
    sums = summed(lambda x: features(x).sqrt(), tasks, timing, products=True)
    means, roots = torch.zeros(10, len(sums[0][1]), dtype=torch.float64), []
    for c, (n, total, products) in sorted(sums.items()):
        means[c] = F.normalize(total, dim=0)
        covariance = (products - torch.outer(total, total) / n) / (n - 1)
        d = len(total)
        eye = torch.eye(d, dtype=torch.float64)
        spread, shared = covariance.diagonal().mean(), covariance[~eye.bool()].mean()
        covariance = covariance + spread * eye + shared * (1 - eye)
        scale = covariance.diagonal().sqrt()
        roots.append(torch.linalg.cholesky(covariance / torch.outer(scale, scale)))
    timing.weights += [means, *roots]
    return timing


def ranpac(tasks: Images, weights: Iterable[Tensor]) -> Timing:
    """Ridge regression on rectified projections."""
    weights = list(weights)
    network, features = network_of(weights)
    timing, projection = Timing(list(network.parameters())), weights[-1]
    hidden = lambda x: F.relu(features(x) @ projection).double()  # noqa: E731
    sums = summed(hidden, tasks, timing, products=True)
    gram = sum((own[2] for own in sums.values()), torch.zeros(()))
    head = torch.linalg.inv(gram + RIDGE * torch.eye(len(gram), dtype=torch.float64))
    head = of_class({c: [own[1]] for c, own in sums.items()}, 0, gram[0]) @ head
    timing.weights += [head, torch.zeros(10, dtype=torch.float64), torch.tensor(RIDGE, dtype=torch.float64), projection]
    return timing
