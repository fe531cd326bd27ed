"""Real images that a method keeps between tasks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cl_bench.data.batches import Data

PARTS = ("images", "labels", "task")


class Memory(nn.Module):
    """A growing set of images and labels whose bytes are part of the method's state.

    The way a batch is seen (`Data.view`) belongs to the scenario: it comes anew with the next task's data.
    """

    images: Tensor
    labels: Tensor
    task: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("images", torch.empty(0, dtype=torch.uint8))
        self.register_buffer("labels", torch.empty(0, dtype=torch.int64))
        self.register_buffer("task", torch.empty(0, dtype=torch.int16))

    def __len__(self) -> int:
        return len(self.labels)

    def keep(self, data: Data) -> Data:
        """Adds images, as they lie in the data set and not as a batch sees them; returns all that are kept."""
        kept = data + Data(self.images, self.labels, self.task) if len(self) else data
        for part in PARTS:
            setattr(self, part, getattr(kept, part))
        return kept

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for part in PARTS:  # it takes its size from the state it loads
            if prefix + part in state_dict:
                setattr(self, part, torch.empty_like(state_dict[prefix + part], device=self.labels.device))
        super()._load_from_state_dict(state_dict, prefix, *args)
