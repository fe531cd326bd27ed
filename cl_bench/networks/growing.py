"""Modules whose parts change their size from task to task, and take it from the state that they load."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Growing(nn.Module):
    """Its own tensors take their shapes, and its lists their lengths, from the state that is loaded. What has these
    already stays the same object: an optimizer may be at work on it."""

    def new_part(self, name: str, index: int, state: Mapping[str, Tensor]) -> nn.Module:
        """Part `index` of the module list `name` as it was when `state` was saved; its weights are then loaded.

        Args:
            state: tensors of the whole module, by their names in it.
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
                with torch.device("meta"):  # weights that are about to be overwritten must not draw random numbers
                    new = [self.new_part(name, index, state) for index in range(len(known))]
                if not alike(parts, nn.ModuleList(new)):
                    setattr(self, name, _allocated(nn.ModuleList(new), device))
        super()._load_from_state_dict(state_dict, prefix, *args)


def alike(parts: nn.Module, others: nn.Module) -> bool:
    """Whether both have the same modules, with tensors of the same names and shapes, of which the same are trained.

    >>> alike(nn.Linear(2, 3), nn.Linear(2, 3)), alike(nn.Linear(2, 3), nn.Linear(2, 3).requires_grad_(False))
    (True, False)
    """

    def form(module: nn.Module) -> list[Any]:
        tensors = [*module.named_parameters(), *module.named_buffers()]
        kinds = [(name, type(part)) for name, part in module.named_modules()]
        return [*kinds, *((name, own.shape, own.dtype, own.requires_grad) for name, own in tensors)]

    return form(parts) == form(others)


def _allocated(parts: nn.ModuleList, device: torch.device) -> nn.ModuleList:
    """The parts on the device, with room for weights that have none; what has values keeps them: no state holds those
    that follow from the data set."""
    for part in parts.modules():
        if any(own.is_meta for own in [*part.parameters(recurse=False), *part.buffers(recurse=False)]):
            part.to_empty(device=device, recurse=False)
    return parts.to(device)
