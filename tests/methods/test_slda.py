"""SLDA is scikit-learn's discriminant analysis, and the paper's update by the count of the class."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from conftest import made
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor


def images(n: int = 200, width: int = 64) -> tuple[Tensor, Tensor]:
    """Three unequal classes of features that are correlated, with unit variance within them in the mean."""
    generator = torch.Generator().manual_seed(1)
    mixed = torch.randn(width, width, generator=generator, dtype=torch.float64)
    y = torch.arange(n) % 7 % 3
    x = torch.randn(n, width, generator=generator, dtype=torch.float64) @ mixed + y[:, None]
    within = torch.stack([(x[y == c] - x[y == c].mean(0)).square().sum(0) for c in range(3)]).sum() / n / width
    return x / within.sqrt(), y


def slda(shrinkage: float = 0.3) -> Any:
    return made("slda", "network=linear", f"method.shrinkage={shrinkage}")[1]


def test_it_is_the_one_of_scikit_learn() -> None:
    """But for the logarithm of how often a class came, which is added there. Its identity has the mean variance: 1."""
    x, y = images()
    method = slda()
    method.add(x, y)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.3).fit(x.numpy(), y.numpy())
    expected = theirs.decision_function(x.numpy()) - np.log(theirs.priors_)
    torch.testing.assert_close(method.scores(x)[:, :3], torch.from_numpy(expected), rtol=1e-9, atol=1e-9)


def test_the_update_of_the_paper_counts_the_samples_of_the_class() -> None:
    """One after another: by the count of all samples, as in the paper's code, S is another matrix."""
    x, y = images()
    method = slda()
    method.add(x, y)

    def updated(*, of_class: bool) -> Tensor:
        means, counts = torch.zeros(3, x.shape[1], dtype=torch.float64), [0, 0, 0]
        S = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64)
        for n, (sample, label) in enumerate(zip(x, y.tolist(), strict=True)):
            away, count = sample - means[label], counts[label] if of_class else n
            S = (n * S + count / (count + 1) * torch.outer(away, away)) / (n + 1)
            counts[label] += 1
            means[label] += away / counts[label]
        return S

    torch.testing.assert_close(method.covariance, updated(of_class=True), rtol=1e-9, atol=1e-9)
    apart = (method.covariance - updated(of_class=False)).norm() / method.covariance.norm()
    assert apart > 0.001


def test_much_shrinkage_makes_the_nearest_mean_of_it() -> None:
    x, y = images()
    method = slda(1.0)
    method.add(x, y)
    assert torch.equal(method.scores(x)[:, :3].argmax(1), torch.cdist(x, method.means[:3]).argmin(1))
