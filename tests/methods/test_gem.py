"""GEM's own promises: the step it takes satisfies every constraint and is the nearest that does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import made, one_pass
from scipy.optimize import lsq_linear, minimize, nnls
from torch import Tensor

from cl_bench.data.tasks import Scenario
from cl_bench.methods.gem import GEM, gradient, project


def instance(k: int, seed: int, p: int = 40) -> tuple[Tensor, Tensor]:
    """g (p,) and the gradients of k old tasks (k, p), which have something in common; float64."""
    generator = torch.Generator().manual_seed(1000 * k + seed)
    common = torch.randn(p, generator=generator, dtype=torch.float64)
    G = torch.randn(k, p, generator=generator, dtype=torch.float64) + 0.5 * common
    return torch.randn(p, generator=generator, dtype=torch.float64) - 0.3 * common, G


def nearest(g: Tensor, G: Tensor) -> Tensor:
    """The nearest u with G u >= 0, by a general solver of constrained problems."""
    w, A = g.numpy(), G.numpy()
    found = minimize(
        lambda u: ((u - w) @ (u - w) / 2, u - w),
        w,
        jac=True,
        method="SLSQP",
        constraints={"type": "ineq", "fun": lambda u: A @ u, "jac": lambda u: A},
        options={"ftol": 1e-12},
    )
    return torch.from_numpy(found.x)


def by_the_dual(g: Tensor, G: Tensor, margin: float) -> Tensor:
    """g + G' v with v = argmin |G' v + g|^2, all v >= margin: the paper's own form, by bounded least squares."""
    v = lsq_linear(G.T.numpy(), -g.numpy(), bounds=(margin, np.inf), method="bvls", tol=1e-15).x
    return g + torch.from_numpy(v) @ G


@pytest.mark.parametrize("margin", [0.0, 0.5])
@pytest.mark.parametrize("k", range(1, 21))
def test_a_projected_gradient_satisfies_every_constraint_and_is_the_nearest(k: int, margin: float) -> None:
    conflicts = 0
    for seed in range(12):
        g, G = instance(k, seed)
        u = project(g, G, margin)
        if (G @ g >= 0).all():
            assert u is g
            continue
        conflicts += 1
        assert (G @ u).min() > -1e-9
        assert torch.allclose(u, nearest(g + margin * G.sum(0), G), atol=1e-6)
        assert torch.allclose(u, by_the_dual(g, G, margin), atol=1e-8)
    assert conflicts > 3


@pytest.mark.parametrize("margin", [0.0, 0.5])
@pytest.mark.parametrize("case", ["repeated", "dependent", "opposed", "vanished", "sizes", "all but parallel"])
def test_gradients_that_depend_on_one_another_are_projected_too(case: str, margin: float) -> None:
    for seed in range(20):
        g, G = instance(12, seed, p=8 if case == "dependent" else 40)
        if case == "repeated":
            G = torch.cat([G, G, G[:1]])
        elif case == "opposed":
            G = torch.cat([G, -G[:2]])
        elif case == "vanished":
            G[3] = 0
        elif case == "sizes":
            G = G * torch.logspace(-6, 3, 12, dtype=torch.float64)[:, None]
        elif case == "all but parallel":
            G = G[:1] + 1e-4 * G
        u, wanted = project(g, G, margin), g + margin * G.sum(0)
        if (G @ g >= 0).all():
            continue
        unit, size = G / G.norm(dim=1, keepdim=True).clamp(min=1e-300), float(wanted.norm())
        assert (unit @ u).min() > -1e-7 * size
        v = torch.from_numpy(nnls(unit.T.numpy(), -wanted.numpy())[0])
        assert torch.allclose(u, wanted + v @ unit, atol=1e-7 * size)


def test_single_precision_and_half_precision_arithmetic_around_it_let_nothing_through() -> None:
    for seed in range(20):
        g, G = (x.float() for x in instance(10, seed))
        with torch.autocast("cpu", torch.bfloat16):
            u = project(g, G)
        assert u.dtype == torch.float32
        assert (G @ u).min() > -1e-4


def gem(*overrides: str) -> tuple[GEM, Scenario]:
    scenario, method = made("gem", "scenario=domain_incremental", "network.hidden=[16]", "optimizer=sgd", *overrides)
    return method, scenario


def test_gradients_that_are_not_finite_end_in_a_loss_that_is_not() -> None:
    """And so in the run's one line on that, not in a solver's traceback."""
    g, G = instance(3, 0)
    for bad in (torch.nan, torch.inf, -torch.inf):
        broken = G.clone()
        broken[1, 2] = bad
        assert project(g, broken).isnan().all()
        assert project(g.index_fill(0, torch.tensor([4]), bad), G).isnan().all()


def test_no_step_raises_the_loss_on_an_old_task() -> None:
    """The gradient that the optimizer is given, against those of each task's whole memory."""
    method, scenario = gem("memory=20", "memory.per=task")
    for task in scenario.tasks[:3]:
        method.learn_task(task, one_pass)
    assert method.memory.task_ids.bincount().tolist() == [20] * 3
    corrected = 0

    def watched(module: Any, data: Any, *, step: Any = None, **_: Any) -> Any:
        nonlocal corrected
        optimizer, parameters = method.configure_optimizers(), list(method.network.parameters())
        kept = method.memory.data
        memories = [kept.batch((kept.task_ids == k).nonzero().squeeze(1)) for k in range(3)]
        for batch in data.batches(32):
            g = gradient(method.loss(batch), parameters)
            old = torch.stack([gradient(method.loss(one), parameters) for one in memories])
            step(batch, optimizer)
            taken = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
            assert (old @ taken).min() > -1e-5 * taken.norm()
            conflict = bool((old @ g < 0).any())
            assert conflict or torch.equal(taken, g)
            corrected += conflict

    method.learn_task(scenario.tasks[3], watched)
    assert corrected > 3
