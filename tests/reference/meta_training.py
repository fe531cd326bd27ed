"""Online-aware meta-learning, written by hand."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reference.common import Images, Timing, descend, each, epoch, linear, mlp, sgd

META_CLASSES, META_STEPS, META_LR = 4, 20, 0.001
INNER_LR, INNER_STEPS, TRAJECTORY_CLASSES, REMEMBERED = 0.05, 5, 3, 64


def oml(tasks: Images, weights: Iterable[Tensor], meta: Images) -> Timing:
    """A head for meta-training on the representation, then one that learns alone. meta: the images set apart."""
    network = mlp(weights)
    timing, phi, head = Timing(list(network.parameters())), network[:-1], linear(network)[-1]
    for task, images, labels in each(tasks, timing):
        if task == 0:
            meta_train(phi, head.in_features, *meta[0], timing)
        optimizer = sgd(head.parameters())
        for x, y in epoch(images, labels, task, timing, phase=int(task == 0)):
            with torch.no_grad():
                z = phi(x)
            descend(optimizer, F.cross_entropy(head(z), y))
    return timing


def meta_train(phi: nn.Module, width: int, images: Tensor, labels: Tensor, timing: Timing) -> None:
    """Second order, by autograd through every inner step."""
    head = nn.Linear(width, META_CLASSES)
    anew(head, range(META_CLASSES))
    optimizer = torch.optim.Adam([*phi.parameters(), *head.parameters()], lr=META_LR, fused=True)
    of_class = [(labels == label).nonzero().squeeze(1) for label in range(META_CLASSES)]
    for _ in epoch(images, labels, 0, timing, steps=META_STEPS):
        classes = torch.randperm(META_CLASSES, device="cpu")[:TRAJECTORY_CLASSES].tolist()
        some = [
            of_class[label][torch.randperm(len(of_class[label]), device="cpu")[:INNER_STEPS].to(labels.device)]
            for label in classes
        ]
        anew(head, classes)
        rows = torch.cat([*some, torch.randint(len(labels), (REMEMBERED,), device="cpu").to(labels.device)])
        z, wanted = phi(images[rows]), labels[rows]
        weight, bias = head.weight, head.bias
        for i in range(INNER_STEPS * TRAJECTORY_CLASSES):
            loss = F.cross_entropy(F.linear(z[i : i + 1], weight, bias), wanted[i : i + 1])
            g_weight, g_bias = torch.autograd.grad(loss, [weight, bias], create_graph=True)
            weight, bias = weight - INNER_LR * g_weight, bias - INNER_LR * g_bias
        descend(optimizer, F.cross_entropy(F.linear(z, weight, bias), wanted))


def anew(head: nn.Linear, classes: Iterable[int]) -> None:
    """Rows of the head as a new network has them."""
    rows = list(classes)
    with torch.no_grad():
        head.weight[rows] = torch.randn(len(rows), head.in_features) * (2 / head.in_features) ** 0.5
        head.bias[rows] = 0
