"""Continual backpropagation: the least useful units are replaced, so that a network stays able to learn."""

from __future__ import annotations

from collections import deque
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from cl_bench.config import Decay, InputError, Positive, Share
from cl_bench.data.batches import Batch
from cl_bench.data.problem import Problem, Task
from cl_bench.methods.base import Classifier, Fit
from cl_bench.methods.parts.entry_adam import EntryAdam
from cl_bench.networks.base import Network, Normalize
from cl_bench.networks.optimizers import Adam, AdamW, Optimizer
from cl_bench.networks.plain import Weighted, in_order

TINY = torch.finfo(torch.float32).tiny
Utility = Literal["adaptable_contribution", "contribution"]


class ContinualBackprop(Classifier):
    """Objective: the cross-entropy on the mini-batch. After each step, in each hidden layer:

    1. u <- eta u + (1 - eta) c, the utility of each unit. The contribution is c = mean |h| mean_k |w_out,k|. The
       adaptable contribution is c = mean |h - h^| mean_k |w_out,k| / mean_j |w_in,j|. h is the output of the unit for
       the mini-batch, and h^ is its running mean, also with eta. Both are corrected for their start: u / (1 - eta^age).
    2. Of the units older than `maturity` steps the share `replacement_rate` is replaced; fractions are summed up. The
       units with the least utility are replaced: new random incoming weights, bias 0, outgoing weights 0. The mean
       contribution w_out h^ of the unit is added to the biases of the next layer. Its age, utility, running mean and
       the optimizer's state for its weights are reset.

    (Dohare et al., 2021 and 2024.) It keeps a network plastic. It does nothing to avoid forgetting.

    Args:
        replacement_rate: rho, of the units older than `maturity` at each step; a higher value keeps more plasticity and
            forgets more.
        maturity: m, steps before a new unit can be replaced; a higher value gives it more time to become useful.
        decay: eta, of utilities and means; a higher value averages over more steps.
        utility: which contribution.
    """

    family = "optimization"
    needs_borders: ClassVar[bool] = False

    def __init__(
        self,
        problem: Problem,
        network: Network,
        optimizer: Optimizer,
        *,
        replacement_rate: Share,
        maturity: Positive,
        decay: Decay,
        utility: Utility,
    ) -> None:
        super().__init__(problem, network, optimizer)
        self.rate = replacement_rate
        self.layers = plain_sequence(network)
        weighted = [layer for layer in self.layers if isinstance(layer, Weighted)]
        pairs = zip(weighted, [*weighted[1:], network.head], strict=True)
        self.hidden = nn.ModuleList(Units(below, above, maturity, decay, utility) for below, above in pairs)

    def learn(self, task: Task, fit: Fit) -> dict[str, Any]:
        before = sum(units.replaced for units in self.units)
        super().learn(task, fit)
        return {"replaced": sum(units.replaced for units in self.units) - before}

    @property
    def units(self) -> list[Units]:
        """The units of each hidden layer."""
        return [cast(Units, units) for units in self.hidden]

    def train_step(self, batch: Batch, optimizers: torch.optim.Optimizer) -> dict[str, Tensor]:
        logits, activations = self.through(batch.x)
        loss = self.cross_entropy(self.active(logits, batch.y), batch.y)
        optimizers.zero_grad()
        loss.backward()
        optimizers.step()
        for units, h in zip(self.units, activations, strict=True):
            units.after_step(h, self.rate, optimizers)
        return {"loss": loss.detach()}

    def through(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits (B, n_outputs), and the outputs of each hidden layer, (B, units) or (B, channels, H, W)."""
        activations = []
        for layer in self.layers:
            x = layer(x)
            if isinstance(layer, nn.ReLU | nn.LeakyReLU):
                activations.append(x.detach())
        return self.network.head(x), activations

    def configure_optimizers(self) -> torch.optim.Optimizer:
        if not isinstance(self.optimizer, Adam | AdamW):
            return super().configure_optimizers()
        how = self.optimizer
        made = EntryAdam(self.network.parameters(), how.lr, how.betas, how.weight_decay, isinstance(how, AdamW))
        return self.optimizer_state.handed_to(made) if self.optimizer_state else made


class Units(nn.Module):
    """The units of a hidden layer (the channels of a convolution), their utility, and the choice of units to replace.

    The number of units to replace depends only on ages, so it is counted here, and no step waits for a GPU.

    Args:
        below, above: the layers before and after the units: rows of weights of `below`, columns of weights of `above`.
        maturity, decay, utility: see `ContinualBackprop`.
    """

    utility: Tensor
    mean: Tensor
    age: Tensor

    def __init__(self, below: Weighted, above: Weighted, maturity: int, decay: float, utility: Utility) -> None:
        super().__init__()
        self.layers = (below, above)  # a tuple, so that they are not submodules: the network has their weights
        self.maturity, self.decay, self.kind = maturity, decay, utility
        self.n = len(below.weight)
        for name in ("utility", "mean", "age"):  # running means from 0, not yet divided by `started`
            self.register_buffer(name, torch.zeros(self.n))
        self.step_index, self.replaced, self.due = 0, 0, 0.0
        self.born: deque[tuple[int, int]] = deque([(0, self.n)])  # units that aren't mature: step, how many

    @property
    def mature(self) -> int:
        """Units older than `maturity`."""
        return self.n - sum(n for _, n in self.born)

    @property
    def started(self) -> Tensor:
        """1 - eta^age: what a running mean of ones would be."""
        return 1 - self.decay**self.age

    @property
    def outgoing(self) -> Tensor:
        """The outgoing weights of each unit, (outputs, units, n)."""
        weight = self.layers[1].weight
        return weight.view(len(weight), self.n, -1)

    @torch.no_grad()
    def after_step(self, h: Tensor, rate: float, optimizer: torch.optim.Optimizer) -> None:
        """Updates the utilities with the outputs h of the units, and replaces units that are due.

        Args:
            h: (B, units), or (B, channels, H, W), where each position counts as an image.
            rate: the replacement rate.
            optimizer: its state for the weights of replaced units is set to 0.
        """
        h = h.to(self.mean.dtype)
        h = h if h.dim() == 2 else h.transpose(0, 1).flatten(1).T
        self.age += 1
        self.mean.lerp_(h.mean(0), 1 - self.decay)
        self.utility.lerp_(self.contribution(h), 1 - self.decay)
        self.step_index += 1
        while self.born and self.step_index - self.born[0][0] > self.maturity:
            self.born.popleft()
        self.due += rate * self.mature
        if self.due >= 1:
            n = int(self.due)
            self.due -= n
            self.replace(self.least_useful(n), optimizer)
            self.replaced += n
            self.born.append((self.step_index, n))

    def contribution(self, h: Tensor) -> Tensor:
        """c of each unit, (units,). h: (B, units)."""
        outgoing = self.outgoing.abs().mean((0, 2))
        if self.kind == "contribution":
            return h.abs().mean(0) * outgoing
        incoming = self.layers[0].weight.flatten(1).abs().mean(1)
        return (h - self.mean / self.started).abs().mean(0) * outgoing / incoming.clamp(min=TINY)

    def least_useful(self, n: int) -> Tensor:
        """The n mature units of least utility, int64 (n,)."""
        utility = torch.where(self.age > self.maturity, self.utility / self.started, torch.inf)
        return utility.topk(n, largest=False).indices

    def replace(self, rows: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Replaces units: random incoming weights, outgoing weights 0. Their mean contribution goes to the next biases.

        rows: int64 (n,).
        """
        below, above = self.layers
        assert below.bias is not None
        assert above.bias is not None
        above.bias.add_(self.outgoing[:, rows].sum(2) @ (self.mean / self.started)[rows])
        bound = below.weight[0].numel() ** -0.5  # as torch initializes a layer
        below.weight[rows] = torch.empty_like(below.weight[rows]).uniform_(-bound, bound)
        below.bias[rows] = 0.0
        self.outgoing[:, rows] = 0.0
        for values in (self.utility, self.mean, self.age):
            values[rows] = 0.0
        for state, parameter in ((optimizer.state.get(p, {}), p) for p in (below.weight, below.bias, above.weight)):
            for value in state.values():
                if torch.is_tensor(value) and value.shape == parameter.shape:
                    if parameter is above.weight:
                        value.view(len(value), self.n, -1)[:, rows] = 0.0
                    else:
                        value[rows] = 0.0

    def get_extra_state(self) -> dict[str, Any]:
        return {"step": self.step_index, "replaced": self.replaced, "due": self.due, "born": list(self.born)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.step_index, self.replaced, self.due = state["step"], state["replaced"], state["due"]
        self.born = deque(tuple(entry) for entry in state["born"])


def plain_sequence(network: Network) -> list[nn.Module]:
    """The layers of a network's features, in order. Raises InputError if they are not layers with biases and ReLU in
    turn."""
    layers = in_order(network.features)
    hidden = [layer for layer in layers if not isinstance(layer, nn.Flatten | Normalize)]
    weighted, activations = hidden[::2], hidden[1::2]
    if (
        not hidden
        or len(weighted) != len(activations)
        or not all(isinstance(layer, Weighted) and layer.bias is not None for layer in weighted)
        or not all(isinstance(layer, nn.ReLU | nn.LeakyReLU) for layer in activations)
    ):
        raise InputError(
            "network: method=continual_backprop replaces hidden units of a plain sequence of linear layers or "
            f"convolutions with biases, each followed by ReLU; {type(network).__name__} is none; choose network=mlp or "
            "network=cnn"
        )
    return layers
