"""WGAN-GP and AC-GAN, written by hand."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reference.common import (
    LAMBDA_GP,
    N_CRITIC,
    Z_DIM,
    Images,
    Timing,
    after,
    cross_entropy,
    descend,
    each,
    epoch,
    mlp,
)


def adam(network: nn.Module) -> torch.optim.Adam:
    return torch.optim.Adam(network.parameters(), lr=1e-3, betas=(0.5, 0.9))


def wgan_gp(tasks: Images, weights: Iterable[Tensor]) -> Timing:
    """A generator and a critic, carried on from task to task."""
    weights = list(weights)
    G = nn.Sequential(mlp(weights[:6], flat=True), nn.Sigmoid())
    D = mlp(weights[6:], between=lambda: nn.LeakyReLU(0.2), flat=True)
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
    G = nn.Sequential(mlp(weights[:6], flat=True), nn.Sigmoid())
    features = nn.Sequential(mlp(weights[6:10], flat=True), nn.ReLU())
    classes, critic = mlp(weights[10:12], flat=True), mlp(weights[12:14], flat=True)
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
