"""The cross-entropy of labels, which may be smoothed."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(
    logits: Tensor, y: Tensor, smoothing: float = 0.0, reduction: Literal["mean", "sum", "none"] = "mean"
) -> Tensor:
    """- sum_c q_c log p_c, with q the label in the share 1 - smoothing and all outputs that take part, the label's too,
    in equal parts in the rest (Szegedy et al., 2016).

    torch's `label_smoothing` would have the outputs that are masked take part.

    Args:
        logits: (B, n_outputs), the lowest finite number where an output takes no part, see `data.problem.masked`.
        y: labels, int64 (B,).
        smoothing: in [0, 1).
        reduction: over the images; `none` gives (B,).

    >>> logits = torch.tensor([[0.0, 0.0, torch.finfo(torch.float32).min]])
    >>> round(cross_entropy(logits, torch.tensor([1]), smoothing=0.2).item(), 4)  # log 2
    0.6931
    """
    if not smoothing:
        return F.cross_entropy(logits, y, reduction=reduction)
    takes_part = logits > torch.finfo(logits.dtype).min
    log_p = logits.log_softmax(1).masked_fill(~takes_part, 0.0)
    spread = log_p.sum(1) / takes_part.sum(1)
    losses = -torch.lerp(log_p.gather(1, y.unsqueeze(1)).squeeze(1), spread, smoothing)
    return losses if reduction == "none" else losses.mean() if reduction == "mean" else losses.sum()
