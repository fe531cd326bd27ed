"""Fine-tuning: nothing is done to avoid forgetting; the lower bound."""

from __future__ import annotations

from typing import ClassVar

from cl_bench.methods.base import Classifier


class Finetune(Classifier):
    """Objective at task t: the cross-entropy on its own images, from the weights at the end of task t-1."""

    family = "reference"
    grows = True
    needs_borders: ClassVar[bool] = False
