"""Every random draw of a run follows from its seed and from what the draw is for; torch computes as it was imported."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch


def derive(seed: int, *purpose: str | int) -> int:
    """A seed of its own for (seed, purpose), so that no two uses of chance influence one another."""
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return int.from_bytes(digest[:7], "little")


@contextmanager
def seeded(seed: int, *purpose: str | int) -> Iterator[None]:
    """Inside, torch draws from (seed, purpose); afterwards it goes on as if nothing had been drawn."""
    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices=devices):
        number = derive(seed, *purpose)
        torch.default_generator.manual_seed(number)  # torch.manual_seed is 3 ms slower where there is no GPU
        if devices:
            torch.cuda.manual_seed_all(number)
        yield


def rng() -> dict[str, Any]:
    """The state of torch's random numbers."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}


def restore_rng(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])


@contextmanager
def usual_torch() -> Iterator[None]:
    """Inside, torch computes as it does after its import, whatever a person set for work of their own: another type of
    numbers, another device or lower precision would give the same run other accuracies. Afterwards all is as it was."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with ExitStack() as usual:
            usual.enter_context(torch.inference_mode(False))  # with gradients, too
            for device in filter(torch.is_autocast_enabled, ("cpu", "cuda")):
                usual.enter_context(torch.autocast(device, enabled=False))
            if torch.get_default_device().type != "cpu":  # it takes time in each call of torch
                usual.enter_context(torch.device("cpu"))
            yield
    finally:
        torch.set_default_dtype(dtype)
