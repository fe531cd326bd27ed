"""Every random draw of a run follows from its seed and from what the draw is for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive(seed: int, *purpose: str | int) -> int:
    """A seed of its own for (seed, purpose), so that no two uses of chance influence one another."""
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return int.from_bytes(digest[:7], "little")


@contextmanager
def seeded(seed: int, *purpose: str | int) -> Iterator[None]:
    """Inside, torch draws from (seed, purpose); afterwards it goes on as if nothing had been drawn."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(derive(seed, *purpose))
        yield
