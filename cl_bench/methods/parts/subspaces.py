"""Spaces to which OGD and GPM keep each step orthogonal: of gradients of logits, and of inputs of layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_bench.config import InputError
from cl_bench.data.batches import Data
from cl_bench.methods.parts.importance import (
    SCRATCH,
    Call,
    eval_mode,
    gradient_of_each,
    is_plain,
    layers_tell_all,
    record,
)
from cl_bench.networks.base import Network
from cl_bench.networks.growing import Growing

Gradients = Literal["all", "average", "true_label"]


class Subspace(Growing):
    """A linear space with an orthonormal basis, in rows. The basis is empty at first and grows.

    Args:
        width: length of the vectors.
    """

    basis: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("basis", torch.empty(0, width))

    def project(self, u: Tensor) -> Tensor:
        """The part of u that is orthogonal to the space, for a vector (width,) or for each of the rows (N, width)."""
        if u.dim() == 1:
            return torch.addmv(u, self.basis.T, self.basis @ u, alpha=-1)
        return torch.addmm(u, u @ self.basis.T, self.basis, alpha=-1)

    def extend(self, vectors: Tensor, energy: float = 1.0) -> None:
        """Adds the fewest directions that leave at most a share 1 - energy of the vectors' squared length outside (Saha
        et al., 2021, equation 9).

        Directions in which the rest of the vectors (N, width) is shorter than 1e-5 of the longest vector are rounding
        and are not added.

        >>> space = Subspace(2)
        >>> space.extend(torch.tensor([[3.0, 0.0], [0.0, 1.0]]), energy=0.9)
        >>> space.project(torch.tensor([5.0, 5.0])).tolist()
        [0.0, 5.0]
        """
        if not vectors.numel():
            return
        Q, R = torch.linalg.qr(self.project(vectors).T)  # the decomposition of the small R takes a third of the time
        _, lengths, directions = torch.linalg.svd(R.T, full_matrices=False)
        outside = lengths.double().square().flip(0).cumsum(0).flip(0)  # without this direction and all later ones
        needed = outside > (1 - energy) * (1 + 1e-6) * vectors.double().square().sum()  # energy 0 must add nothing
        needed &= lengths > 1e-5 * torch.linalg.vector_norm(vectors, dim=1).max()
        new = self.project(directions[needed] @ Q.T)  # again: for a short rest, rounding spoils orthogonality
        self.basis = torch.cat([self.basis, torch.linalg.qr(new.T).Q.T])


class GradientSpace(nn.Module):
    """The space of gradients of logits by parameters, each gradient one vector over all parameters.

    Args:
        network: has the parameters.
        names: of the parameters whose updates are projected.
        gradients: of which logits, see `OGD`.
    """

    def __init__(self, network: Network, names: Sequence[str], gradients: Gradients) -> None:
        super().__init__()
        self.names, self.n_weights = names, count(network, names)
        self.gradients: Gradients = gradients
        self.subspace = Subspace(self.n_weights)

    @property
    def dimensions(self) -> list[int]:
        """Number of directions in the space."""
        return [len(self.subspace.basis)]

    def bytes_for(self, n: int) -> int:
        """Bytes of n directions."""
        return 4 * n * self.n_weights

    def project(self, update: Sequence[Tensor]) -> list[Tensor]:
        """The part of an update that is orthogonal to the space. update: a tensor for each parameter."""
        if not update:
            return []
        u = self.subspace.project(torch.cat([part.flatten() for part in update]))
        parts = u.split([part.numel() for part in update])
        return [new.view(part.shape) for new, part in zip(parts, update, strict=True)]

    def extend(self, network: Network, data: Data, outputs: Tensor) -> None:
        """Adds the gradients for these images. outputs: those that may answer for them, bool (n_outputs,)."""
        for weights in logits_of(self.gradients, data.labels, outputs):
            vectors = self.vectors(network, data, weights)
            self.subspace.extend(F.normalize(vectors))  # a small gradient counts as much as a large one

    def vectors(self, network: Network, data: Data, of_logits: Tensor) -> Tensor:
        """The gradient of a weighted sum of logits for each image, (N, n_weights). of_logits: (N, n_outputs)."""
        if not self.names:
            return of_logits.new_empty(len(data), 0)
        parameters = dict(network.named_parameters())
        shared, gradients = {name: parameters[name].detach() for name in self.names}, gradient_of_each(network)
        vectors, done = [], 0
        for batch in data.batches(max(1, SCRATCH // self.subspace.basis.shape[1])):
            found = gradients(shared, batch.x, of_logits[done : done + len(batch.y)])
            vectors.append(torch.cat([found[name].flatten(1) for name in self.names], 1))
            done += len(batch.y)
        return torch.cat(vectors)


class FactoredSpace(Growing):
    """The space of `GradientSpace` for a network of linear layers, in a hundredth of the memory.

    The gradient of such a layer for one image is an outer product g a^T, of the gradient at its output and its input
    (with a 1 for the bias). Only these factors are kept, in `factors`. Each row of `combinations` has the coefficients
    of the gradients in a vector of an orthonormal basis: L^-1/2 V^T, from the eigendecomposition V L V^T of the matrix
    of inner products of gradients. All numbers are float64, because inner products have squared lengths, and so only
    half of the digits.

    Args:
        network: one for which `layers_are_factors` is true.
        names: of the parameters whose updates are projected.
        gradients: of which logits, see `OGD`.
    """

    factors: Tensor
    combinations: Tensor

    def __init__(self, network: Network, names: Sequence[str], gradients: Gradients) -> None:
        super().__init__()
        self.names, self.n_weights = names, count(network, names)
        self.parts = by_layer(network, names)
        self.gradients: Gradients = gradients
        weights = dict(network.named_parameters())
        shapes = [joined([weights[name] for name in own]).shape for own in self.parts.values()]
        self.widths = [width for shape in shapes for width in shape]  # of the output and the input of each layer
        self.register_buffer("factors", torch.empty(0, sum(self.widths), dtype=torch.double))
        self.register_buffer("combinations", torch.empty(0, 0, dtype=torch.double))

    @property
    def dimensions(self) -> list[int]:
        """Number of directions in the space."""
        return [len(self.combinations)]

    def bytes_for(self, n: int) -> int:
        """Bytes of n directions: factors, combinations, and inner products."""
        return 8 * n * (sum(self.widths) + 2 * n)

    @property
    def of_layers(self) -> list[tuple[Tensor, Tensor]]:
        """g and a of each layer, a row for each gradient."""
        found = self.factors.split(self.widths, 1)
        return [*zip(found[::2], found[1::2], strict=True)]

    def project(self, update: Sequence[Tensor]) -> list[Tensor]:
        """The part of an update that is orthogonal to the space. update: a tensor for each parameter."""
        updates = dict(zip(self.names, update, strict=True))
        layers = [joined([updates[name] for name in own]).double() for own in self.parts.values()]
        products = self.factors.new_zeros(len(self.factors))
        for (g, a), u in zip(self.of_layers, layers, strict=True):
            products += ((g @ u) * a).sum(1)
        shares = (self.combinations.T @ (self.combinations @ products))[:, None]
        for (g, a), u, own in zip(self.of_layers, layers, self.parts.values(), strict=True):
            updates |= apart(torch.addmm(u, (g * shares).T, a, alpha=-1), {name: updates[name] for name in own})
        return list(updates.values())

    def extend(self, network: Network, data: Data, outputs: Tensor) -> None:
        """Adds the gradients for these images. outputs: those that may answer for them, bool (n_outputs,)."""
        for weights in logits_of(self.gradients, data.labels, outputs):
            done = 0
            for batch in data.batches():
                new = self.factors_of(network, batch.x, weights[done : done + len(batch.y)])
                self.factors, done = torch.cat([self.factors, new]), done + len(batch.y)
        products = torch.stack([(g @ g.T) * (a @ a.T) for g, a in self.of_layers]).sum(0)
        squares, directions = torch.linalg.eigh(products)
        kept = squares > 1e-10  # gradients have length 1, and less than 1e-5 is rounding, as in `Subspace`
        self.combinations = (directions[:, kept] / squares[kept].sqrt()).T.contiguous()  # the layout of a loaded state

    def factors_of(self, network: Network, x: Tensor, of_logits: Tensor) -> Tensor:
        """The factors of the gradient of a weighted sum of logits for each image, (N, sum of widths). Gradients have
        length 1, or 0.

        Args:
            x: images (N, C, H, W).
            of_logits: weights of the logits, (N, n_outputs).
        """
        with torch.enable_grad():
            logits, calls = record(network, x)
            at: dict[nn.Module, Call] = {call.layer: call for call in calls}
            calls = [at[network.get_submodule(name)] for name in self.parts]
            found = torch.autograd.grad(logits, [call.z for call in calls], of_logits)
        factors = [(g.double(), inputs_of(call.layer, call.a).double()) for g, call in zip(found, calls, strict=True)]
        squares = torch.stack([g.square().sum(1) * a.square().sum(1) for g, a in factors]).sum(0)
        lengths = squares.sqrt().clamp_min(1e-12)[:, None]
        return torch.cat([part for g, a in factors for part in (g / lengths, a)], 1)


class InputSpace(nn.Module):
    """The space of the inputs of each linear or convolutional layer (GPM; Saha et al., 2021).

    Args:
        network: has the layers.
        names: of the parameters whose updates are projected.
        energy: in the first layer and in the others, in [0, 1], see `OGD`.

    Raises InputError if one of the parameters belongs to another kind of layer.
    """

    def __init__(self, network: Network, names: Sequence[str], energy: tuple[float, float]) -> None:
        super().__init__()
        self.energy = energy
        self.parts = by_layer(network, names)
        if not inputs_tell_all(network, names):
            raise InputError(
                "method.space=inputs: it needs linear and convolutional layers, and this network has others, such "
                "as normalization; choose method.space=gradients, or network=mlp"
            )
        self.names, weights = names, dict(network.named_parameters())
        self.subspaces = nn.ModuleList(
            Subspace(joined([weights[name] for name in own]).shape[1]) for own in self.parts.values()
        )

    @property
    def dimensions(self) -> list[int]:
        """Number of directions in the space of each layer."""
        return [len(subspace.basis) for subspace in self.of_layers]

    @property
    def of_layers(self) -> list[Subspace]:
        return [subspace for subspace in self.subspaces if isinstance(subspace, Subspace)]

    def project(self, update: Sequence[Tensor]) -> list[Tensor]:
        """The part of an update that is orthogonal to the space of each layer. update: a tensor for each parameter."""
        updates = dict(zip(self.names, update, strict=True))
        for subspace, own in zip(self.of_layers, self.parts.values(), strict=True):
            rows = subspace.project(joined([updates[name] for name in own]))
            updates |= apart(rows, {name: updates[name] for name in own})
        return list(updates.values())

    def extend(self, network: Network, data: Data, outputs: Tensor) -> None:
        """Adds the inputs of the layers for these images. outputs: not used here."""
        inputs = self.inputs(network, data)
        for i, (layer, subspace) in enumerate(zip(self.parts, self.of_layers, strict=True)):
            subspace.extend(inputs[layer], self.energy[min(i, 1)])

    def inputs(self, network: Network, data: Data) -> dict[str, Tensor]:
        """For each layer a matrix A (N, width) with the same A^T A as its inputs: the inputs themselves, or, instead of
        many inputs, a triangular matrix."""
        seen: dict[str, Tensor] = {}

        def note(layer: nn.Module, args: tuple[Tensor, ...], name: str) -> None:
            rows = inputs_of(layer, args[0])
            rows = torch.cat([seen[name], rows]) if name in seen else rows
            seen[name] = torch.linalg.qr(rows, mode="r").R if len(rows) > 2 * rows.shape[1] else rows

        layers = dict(network.named_modules())
        hooks = [layers[name].register_forward_pre_hook(partial(note, name=name)) for name in self.parts]
        try:
            for batch in data.batches():
                network(batch.x)
        finally:
            for hook in hooks:
                hook.remove()
        return seen


def logits_of(gradients: Gradients, labels: Tensor, outputs: Tensor) -> list[Tensor]:
    """The sums of logits whose gradients span the space of `OGD`, as weights of logits, each (N, n_outputs).

    Args:
        gradients: see `OGD`.
        labels: int64 (N,).
        outputs: those that may answer, bool (n_outputs,).

    >>> logits_of("average", torch.tensor([1]), torch.tensor([True, True, False]))
    [tensor([[0.5000, 0.5000, 0.0000]])]
    """
    each = torch.eye(len(outputs), device=outputs.device)
    one_hot = each[labels]
    if gradients == "all":
        return [row.expand_as(one_hot) for row in each[outputs]]
    return [one_hot] if gradients == "true_label" else [(outputs / outputs.sum()).expand_as(one_hot)]


def count(network: Network, names: Sequence[str]) -> int:
    """The number of weights in these parameters."""
    return sum(network.get_parameter(name).numel() for name in names)


def by_layer(network: Network, names: Sequence[str]) -> dict[str, list[str]]:
    """The names of these parameters by the name of their layer, without parameters of layers that are not plain."""
    layers = [name for name, layer in network.named_modules() if is_plain(layer)]
    parts = {layer: [name for name in names if name.rpartition(".")[0] == layer] for layer in layers}
    return {layer: own for layer, own in parts.items() if own}


def layers_are_factors(network: Network, names: Sequence[str], image_shape: tuple[int, int, int]) -> bool:
    """Whether all layers with these parameters are linear, so that a gradient for an image is an outer product each."""
    layers = [network.get_submodule(name.rpartition(".")[0]) for name in names]
    if not all(isinstance(layer, nn.Linear) for layer in layers):
        return False
    with eval_mode(network), torch.enable_grad():
        return bool(names) and layers_tell_all(network, *record(network, torch.zeros(1, *image_shape)))


def inputs_tell_all(network: Network, names: Sequence[str]) -> bool:
    """Whether these parameters are those of plain layers alone, and nothing else changes while the network is
    trained."""
    moved_by_every_task = network.state_dict().keys() - dict(network.named_parameters()).keys()
    return sum(map(len, by_layer(network, names).values())) == len(names) and not moved_by_every_task


def joined(parts: Sequence[Tensor]) -> Tensor:
    """The weight and the bias of a layer as one matrix (outputs, width), with the bias in the last column.

    >>> joined([torch.tensor([[1.0, 2.0]]), torch.tensor([3.0])]).tolist()
    [[1.0, 2.0, 3.0]]
    """
    return torch.cat([part.reshape(len(part), -1) for part in parts], 1)


def apart(rows: Tensor, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Splits a matrix from `joined` into tensors with the names, shapes and types of `parts`."""
    found = rows.split([part[0].numel() for part in parts.values()], 1)
    return {name: new.reshape(old.shape).to(old.dtype) for (name, old), new in zip(parts.items(), found, strict=True)}


def inputs_of(layer: nn.Module, x: Tensor) -> Tensor:
    """The vectors (N, width) that a layer multiplies with the rows of its weight, for the input x: one for each image,
    and for each position of a convolution. If the layer has a bias, each vector ends with 1.

    >>> inputs_of(nn.Linear(2, 5), torch.tensor([[3.0, 4.0]])).tolist()
    [[3.0, 4.0, 1.0]]
    """
    if isinstance(layer, nn.Conv2d):
        padding = 0 if layer.padding == "valid" else layer.padding
        patches = F.unfold(x, layer.kernel_size, layer.dilation, padding, layer.stride)  # type: ignore[arg-type]
        rows = patches.transpose(1, 2).flatten(0, 1)
    else:
        rows = x.flatten(0, -2)
    return rows if layer.bias is None else F.pad(rows, (0, 1), value=1.0)
