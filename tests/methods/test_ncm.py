"""The nearest class mean, and the mean of the same direction."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from conftest import made, one_pass


def test_the_nearest_mean_answers_and_the_nearest_direction() -> None:
    for name in ("ncm", "simple_cil"):
        scenario, method = made(name, "network=linear")
        for task in scenario.tasks:
            method.learn_task(task, one_pass)
        x = torch.cat([next(test.batches()).x for test in scenario.tests]).flatten(1).double()
        means = torch.stack(
            [
                (task.train.images[task.train.labels == label] / 255).flatten(1).double().mean(0)
                for task in scenario.tasks
                for label in task.train.labels.unique()
            ]
        )
        if name == "ncm":
            expected = torch.cdist(x, means).argmin(1)
        else:
            expected = (F.normalize(x) @ F.normalize(means).T).argmax(1)
        assert torch.equal(method(x.float().view(-1, 1, 8, 8)).argmax(1), expected)
        assert (expected == torch.cat([test.labels for test in scenario.tests])).float().mean() > 0.85
