"""PackNet (Mallya and Lazebnik, 2018): tasks packed into one network by pruning and training again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from cl_bench.config import Decay, InputError, Positive
from cl_bench.data.problem import Problem, Task
from cl_bench.methods.base import Fit
from cl_bench.methods.parts.isolation import Isolation
from cl_bench.methods.parts.sizes import bytes_of
from cl_bench.networks.base import Network
from cl_bench.networks.optimizers import Optimizer
from cl_bench.record import Capacity


class PackNet(Isolation):
    """Objective at task t: cross-entropy over the weights that belong to no earlier task. Weights of earlier tasks are
    used but do not change. Then the smallest of the task's own weights in each layer are pruned: they become 0 and are
    free for later tasks. The other weights, which now belong to the task, are trained again.

    An image of task t uses the weights of tasks 1 to t. Only weights are pruned (matrices and kernels). Biases, which
    all tasks share, are learned with the first task. Each task has its own rows of the head.

    Args:
        prune: share of a task's own weights that is pruned in each layer, one number or one per task; a higher value
            leaves more to later tasks. None: equal parts, 1 - 1 / T at the first of T tasks, 0 at the last.
        retrain_epochs: passes over the images after pruning; None: as in the trainer.
        retrain_steps: mini-batches instead.
    """

    n_phases = 2

    def __init__(
        self,
        problem: Problem,
        network: Network,
        optimizer: Optimizer,
        *,
        prune: Decay | list[Decay] | None = 0.75,
        retrain_epochs: Positive | None = None,
        retrain_steps: Positive | None = None,
    ) -> None:
        super().__init__(problem, network, optimizer)
        n_tasks = self.nobody = problem.n_tasks  # the owner of free weights: an index after the last task
        if isinstance(prune, list) and len(prune) != n_tasks:
            raise InputError(f"method.prune={prune}: needs one number, or one for each of {n_tasks} tasks")
        equal = [1 - 1 / (n_tasks - task) for task in range(n_tasks)]
        self.shares = equal if prune is None else prune if isinstance(prune, list) else [prune] * n_tasks
        self.retrain_epochs, self.retrain_steps = retrain_epochs, retrain_steps

        features = [(name, p) for name, p in self.weights.items() if not name.startswith("head.")]
        self.layers = {name: p for name, p in features if p.dim() > 1}
        self.shared = [p for _, p in features if p.dim() < 2]
        if not self.layers:
            raise InputError(
                "network: method=packnet needs hidden layers, and this network has none; choose network=mlp"
            )
        smallest = torch.uint8 if self.nobody < 256 else torch.int16
        owners = (torch.zeros_like(p, dtype=smallest) for p in self.layers.values())
        self.owners = nn.ParameterList(nn.Parameter(owner, False) for owner in owners)

        left = [owner.numel() for owner in self.owners]
        for task, share in enumerate(self.shares):
            if not any(left):
                wanted = "null" if prune is None else prune
                raise InputError(
                    f"method.prune={wanted}: leaves no free weight for task {task + 1} of {n_tasks}; prune a larger "
                    "share of the tasks before it, or make the network wider"
                )
            pruned = [round(share * n) for n in left]
            if task == 0 and any(n == m for n, m in zip(left, pruned, strict=True)):
                raise InputError(
                    f"method.prune={share}: leaves no weight of a layer to the first task; prune less, or make the "
                    "network wider"
                )
            left = pruned

    def learn(self, task: Task, fit: Fit) -> dict[str, Any]:
        for _, owner in self.owned:
            owner[owner == self.nobody] = task.index
        shared = dict.fromkeys(self.shared, torch.tensor(task.index > 0, device=self.device))
        self.freeze_entries(shared | {weight: owner < task.index for weight, owner in self.owned})
        fit(self, task.train, phase="train")
        if self.shares[task.index]:
            self.prune(self.shares[task.index])
            self.freeze_entries(shared | {weight: owner != task.index for weight, owner in self.owned})
            fit(self, task.train, phase="retrain", epochs=self.retrain_epochs, steps=self.retrain_steps)
        return {"capacity": self.capacity()}

    def forward(self, x: Tensor, index: int | None = None) -> Tensor:
        """index: the task whose weights are used; None: all weights, free ones too."""
        if index is None:
            return super().forward(x)
        own = {
            name: torch.where(owner <= index, weight, 0.0)
            for (name, weight), owner in zip(self.layers.items(), self.owners, strict=True)
        }
        return functional_call(self.network, own, (x,))

    @property
    def answer_bytes(self) -> int:
        """The network, and the owner of each weight."""
        return super().answer_bytes + bytes_of(self.owners.state_dict())

    @torch.no_grad()
    def prune(self, share: float) -> None:
        """Sets the smallest weights of the current task to 0 and frees them. share: of its weights in each layer."""
        for weight, owner in self.owned:
            own = (owner == self.index).flatten().nonzero().squeeze(1)
            smallest = weight.flatten()[own].abs().argsort(stable=True)[: round(share * len(own))]
            freed = torch.zeros(weight.numel(), dtype=torch.bool, device=weight.device)
            freed[own[smallest]] = True
            freed = freed.view(weight.shape)  # by position in the tensor, for any memory layout of the weight
            weight[freed] = 0.0
            owner[freed] = self.nobody

    @property
    def owned(self) -> list[tuple[nn.Parameter, Tensor]]:
        """Each weight that can be pruned, and the task that owns each of its entries."""
        return list(zip(self.layers.values(), self.owners, strict=True))

    def capacity(self) -> Capacity:
        """The number of weights of each layer by owner. The current task uses all that are reserved."""
        new = [int((owner == self.index).sum()) for owner in self.owners]
        free = [int((owner == self.nobody).sum()) for owner in self.owners]
        total = [owner.numel() for owner in self.owners]
        reserved = [n - m for n, m in zip(total, free, strict=True)]
        return Capacity(
            layers=list(self.layers),
            of="weights",
            total=total,
            new=new,
            reused=[n - m for n, m in zip(reserved, new, strict=True)],
            reserved=reserved,
            free=free,
            size=sum(total),
            size_worst=sum(total) * (self.index + 1),
        )
