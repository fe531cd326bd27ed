"""A-GEM's own promises: GEM with one constraint, and nothing where nothing conflicts."""

from __future__ import annotations

import pytest
import torch
from conftest import made, one_pass

from cl_bench.methods import gem
from cl_bench.methods.agem import project


def test_it_equals_gem_with_one_constraint_and_no_margin() -> None:
    torch.manual_seed(0)
    conflicts = 0
    for _ in range(100):
        g, r = torch.randn(2, 30, dtype=torch.float64)
        u = project(g, r)
        conflict = bool(g @ r < 0)
        conflicts += conflict
        assert conflict or torch.equal(u, g)
        assert torch.allclose(u, gem.project(g, r[None], margin=0.0), atol=1e-12)
    assert 20 < conflicts < 80


def test_a_memory_without_a_gradient_changes_nothing() -> None:
    g = torch.randn(30)
    assert torch.equal(project(g, torch.zeros(30)), g)


@pytest.mark.parametrize("kind", ["class", "task", "domain"])
def test_no_step_raises_the_loss_on_memory(kind: str) -> None:
    """With all of memory in each draw: the gradient that the optimizer is given, against memory's own."""
    settings = ("network.hidden=[16]", "optimizer=sgd", "memory=10", "memory.per=class", "method.n_replay=1000")
    scenario, method = made("agem", f"scenario={kind}_incremental", *settings)
    for task in scenario.tasks[:2]:
        method.learn_task(task, one_pass)
    assert len(method.memory) == 10 * 2 * 2
    method.index, data = 2, scenario.tasks[2].train
    parameters, optimizer, corrected = list(method.network.parameters()), method.configure_optimizers(), 0
    old = method.memory.data.batch(torch.arange(40))
    for batch in data.batches(32):
        g, r = (gem.gradient(method.loss(one), parameters) for one in (batch, old))
        method.train_step(batch, optimizer)
        taken = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
        assert taken @ r > -1e-5 * taken.norm() * r.norm()
        corrected += bool(g @ r < 0)
    assert corrected or kind == "task"
