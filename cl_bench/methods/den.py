"""DEN, dynamically expandable networks (Yoon et al., 2018): a network that grows if old units are not enough for a
task.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_bench.config import InputError, NonNegative, Positive
from cl_bench.data.batches import Batch, Data
from cl_bench.data.problem import Kind, Problem, Task
from cl_bench.methods.base import Classifier, Fit
from cl_bench.methods.parts.proximal import pull, shrink_rows, soft_threshold
from cl_bench.methods.parts.sizes import bytes_of, machine_memory, most_that_fits
from cl_bench.networks.base import Network
from cl_bench.networks.growing import Growing
from cl_bench.networks.growing_linear import GrowingLinear, growing_mlp
from cl_bench.networks.masks import Frozen
from cl_bench.networks.optimizers import Optimizer
from cl_bench.networks.plain import gated
from cl_bench.record import Capacity

Prox = Callable[[float], None]
"""The proximal map of the weights after a step. Its argument is the step size."""


class Old(NamedTuple):
    """Weights (units, inputs) and biases (units,) of a hidden layer before the task."""

    weight: Tensor
    bias: Tensor


class DEN(Growing, Classifier):
    """Learns the first task with l1 |W|_1 (equation 2), and each later task t, with cross-entropy L, in these steps:

    1. select: only its rows of the head, L + l1 |W|_1 (equation 3). S: units connected to them by weights other than 0.
    2. retrain: only the weights between units of S, L + l2 |W_S|^2 / 2 (equation 4).
    3. expand, if the mean L over the training images is then above tau: `new_units` in each hidden layer. Only their
       weights are trained, L + l1 |W_N|_1 + group_lasso sum_g |W_g|_2, where g are the weights into one new unit
       (equation 5). New units with no weights into them other than 0 are removed.
    4. drift: all weights, L + pull |W - W_old|^2, where W_old are the weights before the task (equation 6).
    5. split, if a unit's weights have moved by more than sigma: the unit gets its old weights again and is used only by
       old tasks, and a copy with the new weights replaces it from now on. Then equation 6 is trained again.

    Task t uses the units that existed when it was learned and were not split before (timestamps). Every penalty is a
    proximal map after each step of the optimizer. The task of an image must be given.

    Args:
        l1: mu; a higher value selects fewer units and leaves fewer weights of new units.
        l2: a higher value keeps the weights of S smaller.
        group_lasso: gamma; a higher value removes more of the new units.
        pull: lambda; a higher value forgets less and changes old units less.
        tau: loss above which the network grows; 1e30 is never.
        sigma: distance above which a unit is split; 1e30 is never.
        new_units: k, in each hidden layer.

    Raises InputError if the new units need more memory than this machine has.
    """

    family = "architecture"
    kinds: ClassVar[tuple[Kind, ...]] = ("task",)
    n_phases = 5
    born: nn.ParameterList
    until: nn.ParameterList
    unread: ClassVar[dict[str, dict[str, Any]]] = {
        "optimizer.keep_state": {},
        "new_units": {"tau": 1e30},
        "group_lasso": {"tau": 1e30},
    }

    def __init__(
        self,
        problem: Problem,
        network: Network,
        optimizer: Optimizer,
        *,
        l1: NonNegative,
        l2: NonNegative,
        group_lasso: NonNegative,
        pull: NonNegative,
        tau: NonNegative,
        sigma: NonNegative,
        new_units: Positive,
    ) -> None:
        super().__init__(problem, growing_mlp(network, "method=den"), optimizer)
        self.optimizer_state = None  # the number of weights changes, so an old state would not fit
        self.l1, self.l2, self.group_lasso, self.pull = l1, l2, group_lasso, pull
        self.tau, self.sigma, self.new_units = tau, sigma, new_units
        widths = [len(layer.weight) for layer in self.hidden]
        check_memory([self.hidden[0].in_features, *widths, problem.n_outputs], new_units)
        first = (torch.zeros(n, dtype=torch.int16) for n in widths)
        never = (torch.full((n,), problem.n_tasks, dtype=torch.int16) for n in widths)
        self.born = nn.ParameterList(nn.Parameter(task, False) for task in first)  # the first task with a unit
        self.until = nn.ParameterList(nn.Parameter(task, False) for task in never)  # the first later task without it
        self._frozen = Frozen({})  # set again in each phase, so it is not in the state

    def learn(self, task: Task, fit: Fit) -> dict[str, Any]:
        usable = self.usable(task.index)
        if not task.index:
            self.move_between(usable)
            self.train_by(task, fit, "train", self.sparse)
            return {"capacity": self.capacity(usable), "parameters": self.n_parameters}
        old = [Old(layer.weight.detach().clone(), layer.bias.detach().clone()) for layer in self.hidden]
        self.move(self.of_head(self.own.new_ones(self.head.in_features)))
        self.train_by(task, fit, "select", self.sparse, head_only=True)

        selected = self.selected()
        self.move_between(selected)
        self.train_by(task, fit, "retrain", self.small)

        loss, added = self.mean_loss(task.train), [0 for _ in old]
        if loss > self.tau:
            self.grow()
            self.train_by(task, fit, "expand", self.few)
            added = self.drop_idle()

        self.move_between(self.usable(task.index))
        self.train_by(task, fit, "drift", partial(self.near, old=old))
        drift, split = self.drift(old), [0 for _ in old]
        moved = [distance > self.sigma for distance in drift]
        if any(units.any() for units in moved):
            split = self.split(moved, old)
            self.move_between(self.usable(task.index))
            self.train_by(task, fit, "split", partial(self.near, old=old))
        self._frozen = Frozen({})
        return {
            "capacity": self.capacity(selected),
            "parameters": self.n_parameters,
            "loss": loss,
            "added": added,
            "drift": [float(distance.max()) for distance in drift],
            "split": split,
        }

    def train_by(self, task: Task, fit: Fit, phase: str, prox: Prox, head_only: bool = False) -> None:
        fit(self, task.train, phase=phase, step=partial(self.proximal_step, prox=prox, head_only=head_only))

    # ------------------------------------------------------------------------------------------- answers

    def forward(self, x: Tensor, index: int | None = None) -> Tensor:
        """index: the task whose units are used; None: the current task."""
        return self.head(self.features(x, max(self.index, 0) if index is None else index))

    def features(self, x: Tensor, index: int) -> Tensor:
        """The outputs of the last hidden layer, 0 for units that the task does not use."""
        return gated(self.network.features, x, self.usable(index))

    def usable(self, index: int) -> list[Tensor]:
        """The units of each hidden layer that a task uses, bool (units,)."""
        return [(born <= index) & (index < until) for born, until in zip(self.born, self.until, strict=True)]

    @property
    def hidden(self) -> list[GrowingLinear]:
        return [layer for layer in self.network.features if isinstance(layer, GrowingLinear)]

    @property
    def head(self) -> GrowingLinear:
        return cast(GrowingLinear, self.network.head)

    @property
    def own(self) -> Tensor:
        """The rows of the head of the current task, bool (n_outputs,)."""
        return self.task_of_output == self.index

    @property
    def answer_bytes(self) -> int:
        return super().answer_bytes + bytes_of({**self.born.state_dict(), "until": dict(self.until.state_dict())})

    @property
    def n_parameters(self) -> int:
        return sum(p.numel() for p in self.network.parameters())

    # ---------------------------------------------------------------------------------------------- steps

    def loss(self, batch: Batch, *, head_only: bool = False) -> Tensor:
        with torch.set_grad_enabled(not head_only):
            features = self.features(batch.x, self.index)
        return self.cross_entropy(self.active(self.head(features), batch.y), batch.y)

    def proximal_step(
        self, batch: Batch, optimizers: torch.optim.Optimizer, *, prox: Prox, head_only: bool
    ) -> dict[str, Tensor]:
        logs = self.train_step(batch, optimizers, head_only=head_only)
        prox(optimizers.param_groups[0]["lr"])
        self._frozen.restore()  # after the map, which goes over whole tensors
        return logs

    def sparse(self, lr: float) -> None:
        """The map of l1 |W|_1."""
        for layer in [*self.hidden, self.head]:
            soft_threshold(layer.weight, lr * self.l1)

    @torch.no_grad()
    def small(self, lr: float) -> None:
        """The map of l2 |W|^2 / 2."""
        for layer in [*self.hidden, self.head]:
            layer.weight.div_(1 + lr * self.l2)

    def few(self, lr: float) -> None:
        """The map of l1 |W|_1 and of the group lasso together: the map of the first, then the map of the second."""
        self.sparse(lr)
        for layer in self.hidden:
            shrink_rows(layer.weight[-self.new_units :].detach(), lr * self.group_lasso)

    def near(self, lr: float, *, old: Sequence[Old]) -> None:
        """The map of pull |W - W_old|^2, for the weights that existed before the task."""
        for layer, (weight, bias) in zip(self.hidden, old, strict=True):
            units, inputs = weight.shape
            pull(layer.weight.detach()[:units, :inputs], weight, lr * self.pull)
            pull(layer.bias.detach()[:units], bias, lr * self.pull)

    def move(self, parts: dict[Any, Tensor]) -> None:
        """From now on steps change only these entries. parts: bool for each parameter, of its shape."""
        still = {p: torch.ones_like(p, dtype=torch.bool) for p in self.network.parameters()}
        self._frozen = Frozen(still | {p: ~part for p, part in parts.items()})

    def move_between(self, units: Sequence[Tensor]) -> None:
        """From now on steps change only the weights between these units, from pixels into them, and from them into the
        task's rows of the head, and the biases of these. units: bool (units,) for each hidden layer."""
        parts, below = {}, units[0].new_ones(self.hidden[0].in_features)
        for layer, above in zip(self.hidden, units, strict=True):
            parts |= {layer.weight: above[:, None] & below, layer.bias: above}
            below = above
        self.move(parts | self.of_head(below))

    def of_head(self, inputs: Tensor) -> dict[Any, Tensor]:
        """The weights of the head from these inputs, bool (inputs,), into the current task's rows, and their biases."""
        return {self.head.weight: self.own[:, None] & inputs, self.head.bias: self.own}

    # -------------------------------------------------------------------------------- selection and growth

    @torch.no_grad()
    def selected(self) -> list[Tensor]:
        """The units that are connected to the current task's rows of the head by weights other than 0, bool (units,)
        for each hidden layer."""
        reached, found = self.own, []
        layers = [*self.hidden[1:], self.head]
        for layer, usable in zip(reversed(layers), reversed(self.usable(self.index)), strict=True):
            reached = (reached.float() @ (layer.weight != 0).float() > 0) & usable
            found.append(reached)
        return found[::-1]

    @torch.no_grad()
    def mean_loss(self, data: Data) -> float:
        """The mean cross-entropy over all images; that of one mini-batch would be too noisy."""
        total = torch.zeros((), device=self.device)
        for batch in data.batches():
            total += F.cross_entropy(self.active(self(batch.x), batch.y), batch.y, reduction="sum")
        return float(total) / len(data)

    @torch.no_grad()
    def grow(self) -> None:
        """Adds units to each hidden layer. Weights into them are random, and weights from them into old units and the
        head are 0, so no logit changes. From now on only their weights change."""
        n, parts, new = self.new_units, {}, 0
        below = self.own.new_ones(self.hidden[0].in_features)
        for number, (layer, usable) in enumerate(zip(self.hidden, self.usable(self.index), strict=True)):
            layer.add_inputs(layer.weight.new_zeros(len(layer.weight), new))
            added = nn.Linear(layer.in_features, n, device=self.device)
            layer.add_units(added.weight * below, added.bias)
            self.add_stamps(number, n)
            parts |= {layer.weight: corner(layer.weight, n, new), layer.bias: corner(layer.bias, n)}
            below, new = torch.cat([usable, usable.new_ones(n)]), n
        self.head.add_inputs(self.head.weight.new_zeros(len(self.head.weight), n))
        self.move(parts | self.of_head(corner(self.head.weight[0], n)))

    @torch.no_grad()
    def drop_idle(self) -> list[int]:
        """Removes new units with only zeros as incoming weights. Returns how many remain in each layer."""
        inputs, stay = self.own.new_ones(self.hidden[0].in_features), []
        for number, layer in enumerate(self.hidden):
            units = layer.weight[:, inputs].bool().any(1) | ~corner(layer.bias, self.new_units)
            stay.append(int(units[-self.new_units :].sum()))
            layer.keep(units, inputs)
            self.born[number] = nn.Parameter(self.born[number][units], False)
            self.until[number] = nn.Parameter(self.until[number][units], False)
            inputs = units
        self.head.keep(torch.ones_like(self.own), inputs)
        return stay

    @torch.no_grad()
    def drift(self, old: Sequence[Old]) -> list[Tensor]:
        """The distance of the weights into each old unit from their old values, (old units,) for each layer; 0 for
        units that only earlier tasks use."""
        return [
            (layer.weight[: len(weight), : weight.shape[1]] - weight).norm(dim=1)
            for layer, (weight, _) in zip(self.hidden, old, strict=True)
        ]

    @torch.no_grad()
    def split(self, moved: Sequence[Tensor], old: Sequence[Old]) -> list[int]:
        """Adds a copy of each moved unit, which replaces it from this task on. The unit itself gets its old weights
        again, into it and out of it. moved: bool (units before the task,) for each layer."""
        copied = torch.zeros(0, dtype=torch.int64, device=self.device)  # units of the layer below
        for number, (layer, units, (weight, bias)) in enumerate(zip(self.hidden, moved, old, strict=True)):
            before, inputs = weight.shape
            layer.add_inputs(layer.weight[:, copied])
            layer.weight[before:, copied] = 0.0  # a new unit uses only the copy
            layer.weight[:before, copied] = weight[:, copied]
            mine = units.nonzero().squeeze(1)
            layer.add_units(layer.weight[mine], layer.bias[mine])
            layer.weight[-len(mine) or len(layer.weight) :, copied] = 0.0
            layer.weight[mine, :inputs], layer.weight[mine, inputs:] = weight[mine], 0.0
            layer.bias[mine] = bias[mine]
            self.until[number][mine] = self.index
            self.add_stamps(number, len(mine))
            copied = mine
        head = self.head
        head.add_inputs(head.weight[:, copied])
        head.weight[self.own.nonzero(), copied] = 0.0
        return [int(units.sum()) for units in moved]

    def add_stamps(self, number: int, n: int) -> None:
        """Adds the timestamps of n units that are added to a hidden layer for the current task and later ones."""
        for stamps, task in ((self.born, self.index), (self.until, self.problem.n_tasks)):
            stamps[number] = nn.Parameter(torch.cat([stamps[number], stamps[number].new_full((n,), task)]), False)

    def capacity(self, selected: Sequence[Tensor]) -> Capacity:
        """The number of units of each layer that are new with this task, and of older units that it selected."""
        total = [len(born) for born in self.born]
        first = sum(int((born == 0).sum()) for born in self.born)
        return Capacity(
            layers=[f"layer {i}" for i in range(1, 1 + len(total))],
            of="units",
            total=total,
            new=[int((born == self.index).sum()) for born in self.born],
            reused=[int(units.sum()) if self.index else 0 for units in selected],
            reserved=total,
            free=[0 for _ in total],
            size=sum(total),
            size_worst=first * (self.index + 1),
            parameters=self.n_parameters,
        )


def corner(tensor: Tensor, rows: int, columns: int = 0) -> Tensor:
    """A bool mask of the tensor's shape: True in the last rows and in the last columns.

    >>> corner(torch.zeros(3, 2), 1, 1).int().tolist()
    [[0, 1], [0, 1], [1, 1]]
    """
    found = torch.zeros_like(tensor, dtype=torch.bool)
    found[len(tensor) - rows :] = True
    if columns:
        found[:, -columns:] = True
    return found


def check_memory(widths: Sequence[int], new_units: int) -> None:
    """Raises InputError if the network, after it has grown once, needs more memory than this machine has.

    widths: inputs of the network, units of each hidden layer, outputs.
    """
    memory = machine_memory()

    def needed(new: int) -> int:
        grown = [widths[0], *(width + new for width in widths[1:-1]), widths[-1]]
        return 4 * 4 * sum(below * above for below, above in pairwise(grown))  # weights, gradients, moments of Adam

    if needed(new_units) > memory:
        fitting = max(1, most_that_fits(new_units, needed, memory))
        raise InputError(
            f"method.new_units={new_units}: needs {needed(new_units) / 2**30:,.0f} GB of memory to train, and this "
            f"machine has {memory / 2**30:,.0f} GB; choose at most {fitting}"
        )
