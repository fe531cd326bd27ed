"""The size of a state in bytes, and the memory of this machine."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
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


def machine_memory() -> int:
    """Bytes of memory that this machine has."""
    import psutil  # unlike `os.sysconf`, it works without POSIX

    return psutil.virtual_memory().total


def most_that_fits(most: int, needed: Callable[[int], int], memory: int) -> int:
    """The largest n from 0 to `most` whose needed(n) bytes fit into `memory`; -1 if there is none. needed: must not
    decrease.

    >>> most_that_fits(10, lambda n: 8 * n, memory=50)
    6
    """
    return bisect_right(range(most + 1), memory, key=needed) - 1
