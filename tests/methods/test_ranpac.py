"""RanPAC without projections is ridge regression, and its ridge is that of generalized cross-validation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import made, one_pass
from sklearn.linear_model import Ridge
from test_slda import images

from cl_bench.methods.ranpac import RIDGES, RanPAC


def ranpac(*overrides: str) -> RanPAC:
    return made("ranpac", "network=linear", *overrides)[1]


def test_without_projections_it_is_ridge_regression() -> None:
    x, y = images()
    method = ranpac("method.projections=null", "method.ridge=7")
    method.add(x, y)
    theirs = Ridge(alpha=7.0, fit_intercept=False).fit(x.numpy(), F.one_hot(y).numpy())
    torch.testing.assert_close(
        method.scores(x)[:, :3], torch.from_numpy(theirs.predict(x.numpy())), rtol=1e-8, atol=1e-9
    )


def test_projections_are_rectified_and_fixed() -> None:
    x, y = images()
    method = ranpac("method.projections=90", "method.ridge=7")
    hidden = (x.float() @ method.projection).relu().double()
    method.add(x, y)
    theirs = Ridge(alpha=7.0, fit_intercept=False).fit(hidden.numpy(), F.one_hot(y).numpy())
    torch.testing.assert_close(
        method.scores(x)[:, :3], torch.from_numpy(theirs.predict(hidden.numpy())), rtol=1e-8, atol=1e-9
    )
    assert torch.equal(method.projection, ranpac("method.projections=90").projection)


@pytest.mark.parametrize("n", [60, 200])  # fewer images than features, and more
def test_the_ridge_has_the_least_error_of_generalized_cross_validation(n: int) -> None:
    x, y = images(n)
    method = ranpac("method.projections=null")
    method.add(x, y)
    Y = F.one_hot(y).double()

    def error(ridge: float) -> float:
        H = x @ torch.linalg.solve(x.T @ x + ridge * torch.eye(x.shape[1], dtype=torch.float64), x.T)
        free = 1 - H.trace() / n
        return float((Y - H @ Y).square().sum() / n / free**2) if free > 1e-3 else float("inf")

    assert method.diagnostics() == {"ridge": min(RIDGES.tolist(), key=error)}


def test_the_answer_counts_the_projection(small: Any) -> None:
    scenario, method = made("ranpac", "network.hidden=[32]", "method.projections=50")
    method.learn_task(scenario.tasks[0], one_pass)
    network, head = 4 * (64 * 32 + 32), 8 * (10 * 50 + 10 + 1)
    assert method.answer_bytes == network + head + 4 * 32 * 50


def test_a_tiny_ridge_is_not_lost_in_a_stream() -> None:
    x, y = images(200)
    method = ranpac("scenario.passes=online", "method.projections=90", "method.ridge=1e-8")
    H, Y = method.hidden(x), F.one_hot(y, 10).double()
    for rows in torch.arange(200).split(7):
        if rows[0] > 90:
            G = H[: rows[0]].T @ H[: rows[0]] + 1e-8 * torch.eye(90, dtype=torch.float64)
            expected = H[rows] @ torch.linalg.solve(G, H[: rows[0]].T @ Y[: rows[0]])
            torch.testing.assert_close(method.online_scores(x[rows]), expected, rtol=1e-5, atol=1e-6)
        method.add(x[rows], y[rows])


@pytest.mark.parametrize("ridge", ["0.5", "null"])
def test_a_stream_is_answered_by_all_that_came_and_solved_anew_when_it_has_doubled(
    ridge: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = images(200)
    method = ranpac("scenario.passes=online", "method.projections=90", f"method.ridge={ridge}")
    solved, at = method.solved, []
    monkeypatch.setattr(method, "solved", lambda rows: (at.append(int(method.counts.sum())), solved(rows))[1])
    ridges = []
    for rows in torch.arange(200).split(4):
        if len(at):
            H, Y = method.hidden(x[: rows[0]]), F.one_hot(y[: rows[0]], 10).double()
            weight = torch.linalg.solve(H.T @ H + ridges[-1] * torch.eye(90, dtype=torch.float64), H.T @ Y)
            expected = method.hidden(x[rows]) @ weight
            torch.testing.assert_close(method.online_scores(x[rows]), expected, rtol=1e-5, atol=1e-6)
        method.add(x[rows], y[rows])
        if int(method.counts.sum()) in (4, 8, 16, 32, 64, 128):
            ridges.append(float(solved(method.targets)[1]))
    assert at == [4, 8, 16, 32, 64, 128]
