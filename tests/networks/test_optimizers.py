"""Optimizers as values: what goes on from task to task, and what starts anew."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import cast

import pytest
import torch
import torch.nn.functional as F
from conftest import Compose, one_pass

from cl_bench.config import InputError
from cl_bench.methods.base import Classifier
from cl_bench.runs.setup import prepare

KINDS = {
    "adam": (torch.optim.Adam, {"lr": 0.01, "fused": True}, ("optimizer.lr=0.01",)),
    "rmsprop": (
        torch.optim.RMSprop,
        {"lr": 0.01, "alpha": 0.9},
        ("optimizer=rmsprop", "optimizer.lr=0.01", "optimizer.alpha=0.9"),
    ),
    "sgd": (
        torch.optim.SGD,
        {"lr": 0.1, "momentum": 0.9},
        ("optimizer=sgd", "optimizer.lr=0.1", "optimizer.momentum=0.9"),
    ),
    "nesterov": (
        torch.optim.SGD,
        {"lr": 0.1, "momentum": 0.9, "nesterov": True},
        ("optimizer=sgd", "optimizer.lr=0.1", "optimizer.momentum=0.9", "optimizer.nesterov=true"),
    ),
    "adamw": (
        torch.optim.AdamW,
        {"lr": 0.01, "weight_decay": 0.5, "fused": True},
        ("optimizer=adamw", "optimizer.lr=0.01", "optimizer.weight_decay=0.5"),
    ),
}


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_its_state_goes_on_only_when_that_is_asked_for(
    name: str, keep: bool, saved: bool, small: Compose, tmp_path: Path
) -> None:
    """Against one optimizer of torch for both tasks, or one for each; saved in between, it makes no difference."""
    optimizer, options, chosen = KINDS[name]
    settings = small("method=finetune", "scenario=domain_incremental", *chosen, f"optimizer.keep_state={keep}".lower())
    scenario, method = prepare(settings)
    assert isinstance(method, Classifier)
    network = copy.deepcopy(method.network)
    theirs = optimizer(network.parameters(), **options)
    for task in scenario.tasks[:2]:
        method.learn_task(task, one_pass)
        if saved:
            torch.save(method.state_dict(), tmp_path / "state.pt")
            method = cast(Classifier, prepare(settings | {"seed": 9})[1])
            method.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        if task.index and not keep:
            theirs = optimizer(network.parameters(), **options)
        for batch in task.train.batches(32):
            loss = F.cross_entropy(network(batch.x), batch.y)
            theirs.zero_grad()
            loss.backward()
            theirs.step()
    for p, q in zip(method.network.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("method", ["dgm", "dgr"])
def test_a_gan_starts_anew(method: str, small: Compose) -> None:
    where = "method.optimizer" if method == "dgm" else "method.gan.optimizer"
    settings = small(f"method={method}")
    node = settings["method"]["optimizer"] if method == "dgm" else settings["method"]["gan"]["optimizer"]
    node["keep_state"] = True
    with pytest.raises(InputError, match=f"{where}.keep_state=true: a GAN has new optimizers"):
        prepare(settings)
