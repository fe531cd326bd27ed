"""Fine-tuning: each task is learned with nothing done against forgetting; the lower bound."""

from __future__ import annotations

from typing import ClassVar

from cl_bench.methods.base import Classifier


class Finetune(Classifier):
    """Objective at task t: the cross-entropy on its own images, from the weights that task t-1 left."""

    family = "reference"
    grows = True
    needs_borders: ClassVar[bool] = False
