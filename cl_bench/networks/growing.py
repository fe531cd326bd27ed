"""Modules whose parts change their size from task to task. When a state is loaded, they take the sizes from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Growing(nn.Module):
    """When a state is loaded, tensors take their shapes and lists take their lengths from it. A part that already fits
    stays the same object, because an optimizer may have it."""

    def new_part(self, name: str, index: int, state: Mapping[str, Tensor]) -> nn.Module:
        """A part with the shapes of part `index` of the module list `name` in `state`. Its weights are loaded later.

        Args:
            state: tensors of the whole module, by name.
        """
        raise NotImplementedError(f"{type(self).__name__} must say what a part of {name} is")

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        state = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
        for name, own in [*self.named_parameters(recurse=False), *self.named_buffers(recurse=False)]:
            if name in state and state[name].shape != own.shape:
                room = torch.empty_like(state[name], device=own.device)
                setattr(self, name, nn.Parameter(room, own.requires_grad) if isinstance(own, nn.Parameter) else room)
        for name, parts in self.named_children():
            known = {key.split(".")[1] for key in state if key.startswith(f"{name}.")}
            if isinstance(parts, nn.ParameterList):
                kept = [state[f"{name}.{index}"] for index in range(len(known))]
                device = next(self.parameters()).device
                new: list[Any] = [nn.Parameter(torch.empty_like(value, device=device), False) for value in kept]
                if not alike(parts, nn.ParameterList(new)):
                    setattr(self, name, nn.ParameterList(new))
            elif isinstance(parts, nn.ModuleList):
                device = next(self.parameters()).device
                with torch.device("meta"):  # these weights are overwritten, so they must not use random numbers
                    new = [self.new_part(name, index, state) for index in range(len(known))]
                if not alike(parts, nn.ModuleList(new)):
                    setattr(self, name, _allocated(nn.ModuleList(new), device))
        super()._load_from_state_dict(state_dict, prefix, *args)


def alike(parts: nn.Module, others: nn.Module) -> bool:
    """Whether both have the same modules, and tensors of the same names, shapes and types, trained or not trained.

    >>> alike(nn.Linear(2, 3), nn.Linear(2, 3)), alike(nn.Linear(2, 3), nn.Linear(2, 3).requires_grad_(False))
    (True, False)
    """

    def form(module: nn.Module) -> list[Any]:
        tensors = [*module.named_parameters(), *module.named_buffers()]
        kinds = [(name, type(part)) for name, part in module.named_modules()]
        return [*kinds, *((name, own.shape, own.dtype, own.requires_grad) for name, own in tensors)]

    return form(parts) == form(others)


def _allocated(parts: nn.ModuleList, device: torch.device) -> nn.ModuleList:
    """The parts on the device, with memory for weights on the meta device. Other tensors keep their values: some are
    not in the state, because they belong to the data set."""
    for part in parts.modules():
        if any(own.is_meta for own in [*part.parameters(recurse=False), *part.buffers(recurse=False)]):
            part.to_empty(device=device, recurse=False)
    return parts.to(device)
