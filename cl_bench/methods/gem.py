"""Gradient episodic memory (Lopez-Paz and Ranzato, 2017): no step raises the loss on an old task."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from cl_bench.config import NonNegative
from cl_bench.data.batches import Batch
from cl_bench.data.problem import Problem, Task
from cl_bench.methods.base import Classifier, Fit
from cl_bench.methods.parts.memory import Budget, Memory
from cl_bench.networks.base import Network
from cl_bench.networks.optimizers import Optimizer


class GEM(Classifier):
    """Objective at each step: the cross-entropy on the mini-batch. Its gradient g is replaced by the nearest vector
    that raises the loss on no old task's memory: min |u - g|^2, <u, g_k> >= 0 for all k < t (equation 8).

    g_k is the gradient of the mean loss on the whole memory of task k, computed at every step. The memory of a task is
    drawn when the task ends. The guarantee holds for plain SGD. Momentum and Adam make other steps.

    Args:
        memory: images kept; in total, the same number of each class.
        margin: gamma, the memory strength. If g violates a constraint, g + gamma sum_k g_k replaces g before the
            projection, which is v >= gamma in the dual of the paper. A higher value helps old tasks more.
    """

    family = "optimization"
    grows = True

    def __init__(
        self,
        problem: Problem,
        network: Network,
        optimizer: Optimizer,
        memory: Budget,
        *,
        margin: NonNegative = 0.5,
    ) -> None:
        super().__init__(problem, network, optimizer)
        self.memory = Memory(memory, problem)
        self.margin = margin

    def learn(self, task: Task, fit: Fit) -> None:
        kept = self.memory.data
        past = [kept.batch((kept.task_ids == k).nonzero().squeeze(1)) for k in range(task.index)]
        fit(self, task.train, phase="train", step=partial(self.train_step, past=past))
        self.memory.after_task(task.train)

    def train_step(
        self, batch: Batch, optimizers: torch.optim.Optimizer, past: Sequence[Batch] = ()
    ) -> dict[str, Tensor]:
        """past: the memory of each old task."""
        parameters = list(self.network.parameters())
        loss = self.loss(batch)
        g = gradient(loss, parameters)
        if past:
            g = project(g, torch.stack([gradient(self.loss(old), parameters) for old in past]), self.margin)
        follow(g, parameters)
        optimizers.step()
        return {"loss": loss.detach()}


def gradient(loss: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
    """The gradient of a loss by all parameters as one vector (P,); 0 for parameters without effect on it."""
    parts = torch.autograd.grad(loss, parameters, materialize_grads=True)
    return torch.cat([part.flatten() for part in parts])


def follow(g: Tensor, parameters: Sequence[nn.Parameter]) -> None:
    """Writes the vector g (P,) to `grad` of the parameters, for the optimizer."""
    for p, part in zip(parameters, g.split([p.numel() for p in parameters]), strict=True):
        p.grad = part.view_as(p)


def project(g: Tensor, G: Tensor, margin: float = 0.0) -> Tensor:
    """g (P,) itself if <g, g_k> >= 0 for all rows g_k of G (K, P). Otherwise the vector u nearest to g + margin sum_k
    g_k with <u, g_k> >= 0 for all k.

    It is computed from the dual (equation 11): u = g + G' v, with v = argmin 1/2 v' G G' v + (G g)' v over v >= margin.

    >>> project(torch.tensor([1.0, -1.0]), torch.tensor([[0.0, 2.0], [1.0, 0.0]])).tolist()
    [1.0, 0.0]
    """
    with torch.autocast(g.device.type, enabled=False):  # half precision would miss violated constraints
        products = torch.column_stack([G @ G.T, G @ g]).double().cpu().numpy()  # only K (K + 1) numbers leave a GPU
        if not np.isfinite(products).all():
            return torch.full_like(g, torch.nan)  # no step is valid: the next loss is NaN too and ends the run
        if (products[:, -1] >= 0).all():
            return g
        Q, q = products[:, :-1], products[:, -1]
        v = margin + nonnegative(Q, q + margin * Q.sum(1))
        return g + torch.from_numpy(v).to(g) @ G


def nonnegative(Q: np.ndarray, q: np.ndarray) -> np.ndarray:
    """The v (K,) >= 0 that minimizes 1/2 v' Q v + q' v. Exact, by the active-set method of Lawson and Hanson (1974).

    All entries start at 0. One after another becomes free: the one along which the objective decreases fastest. If the
    minimum over the free entries has negative entries, these return to 0.

    Args:
        Q: positive semi-definite, float64 (K, K).
        q: in the range of Q, float64 (K,).

    >>> nonnegative(np.eye(2), np.array([-3.0, 1.0])).tolist()
    [3.0, 0.0]
    """
    scale = 1 / np.sqrt(np.maximum(np.diag(Q), np.finfo(float).tiny))  # gradients may differ in size by any factor
    Q, q = Q * scale * scale[:, None], q * scale
    v, free = np.zeros(len(q)), np.zeros(len(q), dtype=bool)
    for _ in range(10 * len(q)):
        descent = np.where(free, 0.0, -(q + Q @ v))
        enters = descent.argmax()
        if descent[enters] <= 1e-12 * max(np.abs(q).max(), v.max()):
            break
        free[enters] = True
        while True:
            goal = np.zeros_like(v)
            goal[free] = np.linalg.lstsq(Q[np.ix_(free, free)], -q[free], rcond=None)[0]
            negative = (goal < 0).nonzero()[0]
            if not len(negative):
                break
            steps = v[negative] / (v[negative] - goal[negative])
            v += steps.min() * (goal - v)
            free[negative[steps.argmin()]] = False
            v[~free] = 0
        v = goal
    return v * scale
