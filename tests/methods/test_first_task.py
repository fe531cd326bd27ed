"""Before there is a past, a method that only protects the past is fine-tuning, bit for bit, whatever trains it."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from conftest import Compose, train

from cl_bench.data.batches import Step
from cl_bench.methods.base import Classifier, Learner
from cl_bench.runs.setup import prepare

FINETUNING_FIRST = ("ewc", "mas", "si", "rwalk", "lwf", "gem", "agem", "cumulative", "ogd", "meta_regularized")
NETWORKS = {
    "mlp": ("network.hidden=[16,16]",),
    "cnn": ("network=cnn", "network.channels=[4,4,4]", "network.hidden=16"),
    "resnet18": ("network=resnet18", "network.width=8"),  # its weights lie with channels last
}
OPTIMIZERS = {
    "adam": ("optimizer.lr=0.01", "optimizer.weight_decay=0.01"),
    "sgd": ("optimizer=sgd", "optimizer.lr=0.1", "optimizer.momentum=0.9"),
}
PRECISIONS = ("32-true", "bf16-mixed")
SETUPS: list[Any] = [  # each pair of a network, an optimizer and a precision; the other three at once are longer checks
    ("mlp", "adam", "32-true"),
    ("mlp", "sgd", "bf16-mixed"),
    ("cnn", "adam", "bf16-mixed"),
    ("cnn", "sgd", "32-true"),
    ("resnet18", "adam", "32-true"),
    ("resnet18", "sgd", "bf16-mixed"),
]
every = product(NETWORKS, OPTIMIZERS, PRECISIONS)
SETUPS += [pytest.param(*setup, marks=pytest.mark.slow) for setup in every if setup not in SETUPS]
FINETUNED: dict[tuple[str, ...], dict[str, torch.Tensor]] = {}


def first_task(settings: dict[str, Any], precision: str) -> dict[str, torch.Tensor]:
    """The network, its running statistics included, after some steps on the first task."""
    scenario, method = prepare(settings)
    assert isinstance(method, Classifier)
    task = scenario.tasks[0]

    def some_steps(module: Learner, *_: Any, step: Step | None = None, **__: Any) -> Any:
        module.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
            train(module, (task.train.batch(rows) for rows in torch.arange(128).split(32)), step)

    few = task.train[torch.arange(8)]  # for what follows, a Fisher information
    method.learn_task(replace(task, train=few), some_steps)
    return method.network.state_dict()


@pytest.mark.parametrize(("network", "optimizer", "precision"), SETUPS)
@pytest.mark.parametrize("method", FINETUNING_FIRST)
def test_the_first_task_equals_finetune(
    method: str, network: str, optimizer: str, precision: str, small: Compose
) -> None:
    chosen = (*NETWORKS[network], *OPTIMIZERS[optimizer], "scenario.n_tasks=2")
    setup = (network, optimizer, precision)
    if setup not in FINETUNED:
        FINETUNED[setup] = first_task(small("method=finetune", *chosen), precision)
    learned = first_task(small(f"method={method}", *chosen), precision)
    assert learned.keys() == FINETUNED[setup].keys()
    different = [name for name, value in learned.items() if not torch.equal(value, FINETUNED[setup][name])]
    assert not different


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_gradient_is_read_by_its_place_in_the_tensor_not_in_memory(optimizer: str, small: Compose) -> None:
    """A method may set gradients that lie in memory otherwise than their parameters."""
    _, method = prepare(small("method=finetune", *NETWORKS["resnet18"], *OPTIMIZERS[optimizer]))
    assert isinstance(method, Classifier)
    p = torch.nn.Parameter(torch.zeros(4, 3, 2, 2).to(memory_format=torch.channels_last))
    q = torch.nn.Parameter(torch.zeros(4, 3, 2, 2))
    step = method.optimizer([p, q])
    for _ in range(3):
        gradient = torch.randn(4, 3, 2, 2)
        p.grad, q.grad = gradient.clone(), gradient.clone().to(memory_format=torch.channels_last)
        step.step()
    assert torch.equal(p, q)
    assert p.abs().min() > 0
