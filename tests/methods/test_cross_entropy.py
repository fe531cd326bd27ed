"""Smoothed labels: the loss itself, and which methods have it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import METHODS, Recorder, made
from test_contract import class_of

from cl_bench.config import InputError
from cl_bench.config.declared import declared
from cl_bench.config.names import file_of
from cl_bench.data.problem import masked
from cl_bench.methods.base import Learner
from cl_bench.methods.parts.cross_entropy import cross_entropy

# whose losses are not that of `Classifier`, or not alone
OF_THEIR_OWN = [
    "er",
    "der",
    "er_ace",
    "mir",
    "gss",
    "lwf",
    "wa",
    "ss_il",
    "lucir",
    "icarl",
    "oml",
    "continual_backprop",
    "hat",
    "supsup",
    "pnn",
    "den",
    "dgr",
    "dgm",
]
OF_THEIR_OWN += ["finetune", "progress_compress", "joint_gan"]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_labels_are_smoothed_over_the_outputs_that_take_part_alone(reduction: Any) -> None:
    """As torch has it where the others are cut away; their logits get no gradient."""
    torch.manual_seed(0)
    logits, y = torch.randn(6, 5, requires_grad=True), torch.tensor([0, 2, 3, 0, 2, 3])
    part = torch.tensor([True, False, True, True, False])
    place = part.cumsum(0) - 1
    ours = cross_entropy(masked(logits, part), y, 0.3, reduction)
    theirs = F.cross_entropy(logits[:, part], place[y], label_smoothing=0.3, reduction=reduction)
    torch.testing.assert_close(ours, theirs)
    slope, expected = (torch.autograd.grad(loss.sum(), logits)[0] for loss in (ours, theirs))
    torch.testing.assert_close(slope, expected)
    assert not slope[:, ~part].any()
    assert torch.equal(cross_entropy(logits, y, 0.0, reduction), F.cross_entropy(logits, y, reduction=reduction))


@pytest.mark.parametrize(
    "method", [m if m in OF_THEIR_OWN else pytest.param(m, marks=pytest.mark.slow) for m in METHODS]
)
def test_each_method_smooths_its_labels_or_says_that_it_can_not(method: str) -> None:
    """By the weights after some steps of its training, which are others with smoothed labels."""
    kind = declared({"method": file_of("method", method), "plugins": []}, "kinds")[0]
    more = [f"scenario={kind}_incremental", "scenario.val_fraction=0.2"]
    more += ["method.pretraining=none"] if method == "oml" else []
    if method in ("icarl", "joint_gan") or not class_of(method).trains:
        with pytest.raises(InputError, match=rf"^label_smoothing=0\.5: method={method} .*; set label_smoothing=0\.0$"):
            made(method, "label_smoothing=0.5", *more)
        return
    after: list[list[torch.Tensor]] = []
    for smoothing in ("0.0", "0.5"):
        scenario, learner = made(method, f"label_smoothing={smoothing}", *more)
        after.append([])
        fit = Recorder(3, lambda call: after[-1].append(flattened(call.module)))
        torch.manual_seed(1)
        learner.n_steps = 3
        for task in scenario.tasks if method == "joint" else scenario.tasks[:1]:
            learner.learn_task(task, fit)
    (begun, ended, *_), (other_begun, other_ended, *_) = after
    assert torch.equal(begun, other_begun)
    assert not torch.equal(ended, other_ended)


def flattened(module: Learner) -> torch.Tensor:
    return torch.cat([value.detach().flatten().double() for value in module.parameters()])
