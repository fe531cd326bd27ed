"""Masked generators: every task reserves a part of them, and then they grow by this part (Ostapenko et al., 2019)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from annotated_types import MinLen
from torch import Tensor, nn

from cl_bench.config import Positive
from cl_bench.networks.gan import halvings, with_class
from cl_bench.networks.growing import Growing
from cl_bench.networks.masks import Frozen, gate

Mask = Literal["activations", "weights"]
Position = Literal["after", "before"]


class Counts(NamedTuple):
    """Numbers of units (or weights) of a layer when a task ends, before the layer grows.

    new: reserved by this task. reused: of past tasks, and used by this task too. reserved: by any task.
    """

    total: int
    new: int
    reused: int
    reserved: int


class MaskedLayer(Growing):
    """A hidden layer of which each task t uses a part: h = m_t * relu(norm_t(W x)), or relu(norm_t((m_t * W) x)).

    Every task has its own mask m_t and batch normalization, and uses the layer with the width that it had then. W has
    shape (inputs, units), or (inputs, units, kernel, kernel) for a transposed convolution. It has no bias, because
    norm_t has one.

    A mask is on the `activations` or on the `weights`. On activations it is `after` normalization and ReLU, or `before`
    them. Then a unit with mask 0 has the output relu(bias of norm_t), not 0, so later tasks can change it.

    Args:
        inputs, units: numbers of units, or of channels.
        kernel, stride, padding: of the transposed convolution; kernel 0 makes a linear layer.
    """

    reserved: Tensor

    def __init__(self, inputs: int, units: int, kernel: int = 0, stride: int = 1, padding: int = 0) -> None:
        super().__init__()
        self.kernel, self.stride, self.padding = kernel, stride, padding
        self.mask: Mask = "activations"
        self.position: Position = "after"
        self.weight = nn.Parameter(self._fresh(inputs, units))
        self.embedding = nn.Parameter(torch.zeros(0))  # e of the current task
        self.norms = nn.ModuleList()
        self.masks = nn.ParameterList()  # bool, of finished tasks
        self.register_buffer("reserved", torch.zeros(0, dtype=torch.bool))

    def mask_by(self, mask: Mask, position: Position) -> None:
        """Sets what the masks are on. It must be called before the first task begins."""
        self.mask, self.position = mask, position

    @property
    def units(self) -> int:
        return self.weight.shape[1]

    @property
    def size(self) -> int:
        """The length of a mask: the number of units, or of weights."""
        return self.weight.numel() if self.mask == "weights" else self.units

    @property
    def free(self) -> int:
        """The number of units, or weights, that no task has reserved."""
        return self.size - int(self.reserved.sum())

    def begin(self) -> None:
        """Adds a mask and a normalization for a new task. Embeddings start at 0, so all masks are 1/2."""
        masked = self.weight.detach() if self.mask == "weights" else self.weight.detach().new_empty(self.units)
        self.embedding = nn.Parameter(torch.zeros_like(masked))
        if not self.norms:
            self.reserved = torch.zeros_like(masked, dtype=torch.bool)
        norm = nn.BatchNorm2d(self.units) if self.kernel else nn.BatchNorm1d(self.units)
        self.norms.append(norm.to(masked.device))

    def forward(self, x: Tensor, task: int, s: float) -> Tensor:
        """x: output of the layer below for the same task, (B, inputs, ...). s: scale of the current task's mask."""
        norm = cast(nn.BatchNorm2d, self.norms[task])
        mask = self.masks[task].to(x.dtype) if task < len(self.masks) else self.gate(s)
        # with the size that it had then, and contiguous, so that the same kernels give the same bits
        weight = self.weight[: x.shape[1], : norm.num_features].contiguous()
        if self.mask == "weights":
            return self._normalized(self._sum(x, weight * mask), task).relu()
        mask = mask.view(-1, 1, 1) if self.kernel else mask
        if self.position == "before":
            return self._normalized(self._sum(x, weight) * mask, task).relu()
        return self._normalized(self._sum(x, weight), task).relu() * mask

    def gate(self, s: float) -> Tensor:
        """The mask of the current task, in [0, 1]."""
        return gate(self.embedding, s, slope=s)

    def used(self, below: Tensor | None) -> Tensor:
        """The weights that past tasks use, bool of W's shape: those between a reserved input and a reserved unit.

        below: the inputs reserved by any task, bool (inputs,); None if every task uses all of them.
        """
        if self.mask == "weights":
            return self.reserved
        used = self.reserved if below is None else below[:, None] & self.reserved
        return used.view(*used.shape, *[1] * (self.weight.dim() - 2)).expand_as(self.weight)

    @torch.no_grad()
    def end(self) -> Counts:
        """Makes the task's mask binary (1 where sigmoid(s e) >= 1/2) and reserves units or weights with mask 1."""
        mask = self.embedding >= 0
        new, reused = mask & ~self.reserved, mask & self.reserved
        self.reserved = self.reserved | mask
        self.masks.append(nn.Parameter(mask, requires_grad=False))
        self.norms[-1].requires_grad_(False)
        self.embedding = nn.Parameter(self.embedding.new_zeros(0))
        return Counts(mask.numel(), *(int(part.sum()) for part in (new, reused, self.reserved)))

    @torch.no_grad()
    def grow(self, inputs: int, units: int) -> None:
        """Grows to this size. Old weights keep their positions. New weights are random and free."""
        old, reserved = self.weight, self.reserved
        self.weight = nn.Parameter(self._fresh(inputs, units).to(old.device))
        self.weight[: old.shape[0], : old.shape[1]] = old
        like = self.weight if self.mask == "weights" else self.weight.new_empty(units)
        self.reserved = torch.zeros_like(like, dtype=torch.bool)
        self.reserved[tuple(slice(n) for n in reserved.shape)] = reserved

    def _normalized(self, x: Tensor, task: int) -> Tensor:
        norm = cast(nn.BatchNorm2d, self.norms[task])
        # `train()` must not change the statistics of a past task, and a single image has no statistics
        if task < len(self.masks) or len(x) == 1:
            return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        return norm(x)

    def _sum(self, x: Tensor, weight: Tensor) -> Tensor:
        if not self.kernel:
            return x @ weight
        return F.conv_transpose2d(x, weight, stride=self.stride, padding=self.padding)

    def _fresh(self, inputs: int, units: int) -> Tensor:
        """Xavier-uniform weights with the gain of a ReLU (Glorot and Bengio, 2010)."""
        shape = (inputs, units, self.kernel, self.kernel) if self.kernel else (inputs, units)
        return nn.init.xavier_uniform_(torch.empty(shape), gain=math.sqrt(2))

    def new_part(self, name: str, index: int, state: Mapping[str, Tensor]) -> nn.Module:
        """The normalization of a task. It is not trained if the task has ended."""
        learned = sum(key.startswith("masks.") for key in state)
        norm = nn.BatchNorm2d if self.kernel else nn.BatchNorm1d
        return norm(len(state[f"norms.{index}.weight"])).requires_grad_(index >= learned)


class MaskedGenerator(Growing):
    """Hidden masked layers, and an output layer for each task: noise, class and task -> images in [0, 1].

    A task begins with `begin` and ends with `end`. After that the images of this task for given noise never change.
    """

    def __init__(self, n_outputs: int, z_dim: int, layers: Sequence[MaskedLayer]) -> None:
        super().__init__()
        self.n_outputs, self.z_dim, self.s = n_outputs, z_dim, 1.0
        self.layers, self.outputs = nn.Sequential(*layers), nn.ModuleList()
        self._frozen = Frozen({})  # weights that past tasks use

    def new_output(self, units: int) -> nn.Module:
        """The layer from the last hidden layer to images, without a mask. units: of the last hidden layer."""
        raise NotImplementedError(f"{type(self).__name__} must say what its output layer is")

    @property
    def hidden(self) -> list[MaskedLayer]:
        return [cast(MaskedLayer, layer) for layer in self.layers]

    @property
    def n_weights(self) -> int:
        """Weights of the layers that tasks share."""
        return sum(layer.weight.numel() for layer in self.hidden)

    def forward(self, z: Tensor, y: Tensor, task: int) -> Tensor:
        x = with_class(z, y, self.n_outputs)
        if self.hidden[0].kernel:
            x = x[:, :, None, None]
        for layer in self.hidden:
            x = layer(x, task, self.s)
        return self.outputs[task](x)

    @property
    def size(self) -> int:
        """The number of units, or weights, that have masks."""
        return sum(layer.size for layer in self.hidden)

    def mask_by(self, mask: Mask, position: Position) -> None:
        """Sets what the masks are on. It must be called before the first task begins."""
        for layer in self.hidden:
            layer.mask_by(mask, position)
        self.size_at_start = self.size

    def anneal(self, s: float) -> None:
        """Sets the scale s of the current task's masks. With a higher value they are nearer to 0 and 1."""
        self.s = s

    def begin(self) -> None:
        """Adds masks, normalizations and an output layer for a new task. Freezes the weights that past tasks use."""
        below: Tensor | None = None
        used = {}
        for layer in self.hidden:
            layer.begin()
            used[layer.weight] = layer.used(below)
            below = layer.reserved
        self._frozen = Frozen(used)
        self.outputs.append(self.new_output(self.hidden[-1].units).to(self.hidden[0].weight.device))

    def restore_frozen(self) -> None:
        """Sets weights that past tasks use back after a step of the optimizer."""
        self._frozen.restore()

    def sparsity(self) -> Tensor:
        """sum m (1 - M) / sum (1 - M) over all layers, in [0, 1] (equation 6). M is 1 where past tasks reserved."""
        free = [~layer.reserved for layer in self.hidden]
        opened = [(layer.gate(self.s) * part).sum() for layer, part in zip(self.hidden, free, strict=True)]
        none = torch.zeros((), device=opened[0].device)
        return sum(opened, none) / sum((part.sum() for part in free), none)

    def masks(self) -> Tensor:
        """All mask values of the current task, in one vector."""
        return torch.cat([layer.gate(self.s).flatten() for layer in self.hidden])

    def end(self) -> list[Counts]:
        """Reserves what the task uses, and grows by the same number: the free capacity of each layer stays constant."""
        self.outputs.requires_grad_(False)
        counts = [layer.end() for layer in self.hidden]
        inputs = self.hidden[0].weight.shape[0]
        for layer, count in zip(self.hidden, counts, strict=True):
            units = layer.units + count.new
            if layer.mask == "weights":  # the growth of the layer below has added some weights already
                area = layer.weight[0, 0].numel()
                missing = count.new - (inputs - layer.weight.shape[0]) * layer.units * area
                units = layer.units + max(0, math.ceil(missing / (inputs * area)))
            layer.grow(inputs, units)
            inputs = units
        return counts

    def new_part(self, name: str, index: int, state: Mapping[str, Tensor]) -> nn.Module:
        """The output layer of a task. It is not trained if the task has ended."""
        learned = sum(key.startswith("layers.0.masks.") for key in state)
        weight = next(value for key, value in state.items() if key.startswith(f"outputs.{index}.") and value.dim() > 1)
        return self.new_output(weight.shape[0 if self.hidden[0].kernel else 1]).requires_grad_(index >= learned)


class MaskedMLP(MaskedGenerator):
    """Linear layers with masks, and a sigmoid at the end. It is fast, and good enough for digits.

    Args:
        image_shape: (C, H, W).
        n_outputs: number of classes.
        z_dim: noise dimensions.
        hidden: units of each hidden layer in the first task, and free units in every later task.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_outputs: int,
        *,
        z_dim: Positive = 64,
        hidden: Annotated[Sequence[Positive], MinLen(1)] = (64, 64),
    ) -> None:
        self.image_shape = image_shape
        super().__init__(n_outputs, z_dim, [MaskedLayer(n, m) for n, m in pairwise([z_dim + n_outputs, *hidden])])

    def new_output(self, units: int) -> nn.Module:
        pixels = math.prod(self.image_shape)
        return nn.Sequential(nn.Linear(units, pixels), nn.Sigmoid(), nn.Unflatten(1, self.image_shape))


class MaskedDCGenerator(MaskedGenerator):
    """Transposed convolutions with masks. The first one makes 4x4 (up to 7x7) from the noise (Radford et al., 2016).

    Args:
        image_shape: (C, H, W), H = W = 4, 5, 6 or 7, doubled one or several times.
        n_outputs: number of classes.
        z_dim: noise dimensions.
        width: channels of the last hidden layer in the first task, with twice as many in each layer before.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_outputs: int,
        *,
        z_dim: Positive = 100,
        width: Positive = 16,
    ) -> None:
        self.image_shape = image_shape
        size, times = halvings(image_shape)
        layers = [MaskedLayer(z_dim + n_outputs, width * 2 ** (times - 1), kernel=size)]
        layers += [MaskedLayer(width * 2 ** (n + 1), width * 2**n, 4, 2, 1) for n in reversed(range(times - 1))]
        super().__init__(n_outputs, z_dim, layers)

    def new_output(self, units: int) -> nn.Module:
        return nn.Sequential(nn.ConvTranspose2d(units, self.image_shape[0], 4, stride=2, padding=1), nn.Sigmoid())
