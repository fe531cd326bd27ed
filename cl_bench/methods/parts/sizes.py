"""The size of a state in bytes."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def bytes_of(state: Any) -> int:
    """Bytes of all tensors in a state dict, also of the kept state of an optimizer.

    >>> import torch
    >>> bytes_of({"weight": torch.zeros(3), "optimizer": {"state": {0: {"mean": torch.zeros(2)}}}})
    20
    """
    if isinstance(state, Tensor):
        return state.nbytes
    return sum(map(bytes_of, state.values())) if isinstance(state, dict) else 0
