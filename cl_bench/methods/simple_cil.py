"""SimpleCIL (Zhou et al., 2023): the class means are the weights of a cosine head over frozen features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_bench.methods.parts.frozen_features import FrozenFeatures


class SimpleCIL(FrozenFeatures):
    """Predicts the class whose mean has the nearest direction: argmax_c cos(phi(x), mu_c).

    Args:
        first_task: see `FrozenFeatures`.
    """

    def worked_out(self) -> tuple[Tensor, ...]:
        return F.normalize(self.means, dim=1), torch.zeros_like(self.counts)

    def scores(self, features: Tensor) -> Tensor:
        return super().scores(F.normalize(features, dim=1))
