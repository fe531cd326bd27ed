"""Shrink and perturb: the pull is weight decay, the noise has its size, and without both it is fine-tuning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import learn, made, train
from torch import Tensor

from cl_bench.networks.optimizers import SGD


def after_two_tasks(name: str, folder: Path, *overrides: str) -> list[Tensor]:
    scenario, method = made(name, "scenario=domain_incremental", "network.hidden=[12]", *overrides)
    for index in (0, 1):
        learn(method, scenario, index, folder)
    return list(method.network.parameters())


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("shrink", [0.0, 0.1])
def test_without_noise_it_is_weight_decay_bit_by_bit(optimizer: str, shrink: float, tmp_path: Path) -> None:
    ours = after_two_tasks(
        "shrink_perturb", tmp_path / "1", f"optimizer={optimizer}", f"method.shrink={shrink}", "method.noise=0"
    )
    theirs = after_two_tasks("finetune", tmp_path / "2", f"optimizer={optimizer}", f"optimizer.weight_decay={shrink}")
    exact = optimizer == "sgd" or not shrink  # the fused kernel of Adam rounds once less
    assert all(
        torch.equal(a, b) if exact else torch.allclose(a, b, atol=1e-4) for a, b in zip(ours, theirs, strict=True)
    )


def test_the_noise_of_a_step_has_its_size_in_every_parameter() -> None:
    scenario, method = made(
        "shrink_perturb", "network.hidden=[200]", "optimizer=sgd", "method.shrink=0", "method.noise=0.5"
    )
    method.optimizer = SGD(lr=1e-9)
    method.index = 0
    before = [p.detach().clone() for p in method.network.parameters()]
    train(method, [scenario.tasks[0].train.batch(torch.arange(20))])
    moved: list[Any] = [p.detach() - q for p, q in zip(method.network.parameters(), before, strict=True)]
    assert torch.cat([part.flatten() for part in moved]).std().item() == pytest.approx(0.5, rel=0.05)
    assert all(part.abs().max() > 0.3 for part in moved)
