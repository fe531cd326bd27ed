"""FeCAM's covariances, powers and distances."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import Compose, made, one_pass

from cl_bench.config import InputError
from cl_bench.runs.loop import run


def test_the_nearest_class_by_its_own_covariance() -> None:
    """With numpy, from the images of two digits."""
    scenario, method = made("fecam", "network=linear", "method.alpha_1=2", "method.alpha_2=0.5")
    task = scenario.tasks[0]
    method.learn_task(task, one_pass)
    test = next(scenario.tests[0].batches()).x
    u = np.sqrt(test.flatten(1).double().numpy())
    expected = []
    for label in (0, 1):
        own = np.sqrt((task.train.images[task.train.labels == label].flatten(1) / 255).double().numpy())
        S = np.cov(own.T)
        off = ~np.eye(64, dtype=bool)
        S = S + 2 * S.diagonal().mean() * np.eye(64) + 0.5 * S[off].mean() * off
        scale = np.sqrt(S.diagonal())
        N = S / np.outer(scale, scale)
        mean = own.mean(0)
        away = u / np.linalg.norm(u, axis=1, keepdims=True) - mean / np.linalg.norm(mean)
        expected.append(-np.einsum("bi,ij,bj->b", away, np.linalg.inv(N), away))
    found = method(test)[:, :2]
    torch.testing.assert_close(found.double(), torch.from_numpy(np.stack(expected, 1)), rtol=1e-4, atol=1e-4)


def test_a_feature_that_never_varies_and_a_single_image() -> None:
    scenario, method = made("fecam", "network=linear", "method.alpha_1=0", "method.alpha_2=0")
    method.learn_task(scenario.tasks[0], one_pass)
    alone = scenario.tasks[1].train[torch.arange(1)]
    method.take_in(next(alone.batches()), None)
    assert method(next(scenario.tests[0].batches()).x).isfinite().all()


@pytest.mark.parametrize("times", [1, 3])
def test_a_class_of_a_single_image_is_at_its_euclidean_distance(times: int) -> None:
    """Not at distance 0 from every image, which made it the answer to all of them."""
    scenario, method = made("fecam", "network=linear")
    method.learn_task(scenario.tasks[0], one_pass)
    test = next(scenario.tests[0].batches())
    alone = scenario.tasks[1].train[torch.zeros(times, dtype=torch.int64)]
    method.take_in(next(alone.batches()), None)
    answers = method(test.x)
    units = F.normalize(test.x.flatten(1) ** 0.5)
    image = F.normalize((alone.images[:1].flatten(1) / 255) ** 0.5)
    torch.testing.assert_close(answers[:, int(alone.labels[0])], -(units - image).square().sum(1), rtol=1e-4, atol=1e-5)
    assert (answers.argmax(1) == test.y).all()


def test_negative_features_have_no_power(small: Compose) -> None:
    with pytest.raises(InputError, match=r"^method.tukey=0.5: some features are negative"):
        run(small("method=fecam", "network=resnet32", "network.width=2", "network.signed=true", "scenario.n_tasks=2"))


def test_covariances_that_no_memory_holds(small: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"^method=fecam: 10 covariances of 400000 features"):
        run(small("method=fecam", "network.hidden=[400000]"))


def test_a_stream_works_out_anew_what_came_alone() -> None:
    """Answered after each mini-batch, the last answers are those of all images at once."""
    scenario, method = made("fecam", "network=linear")
    train, test = scenario.tasks[0].train, next(scenario.tests[0].batches()).x
    zeros, ones = ((train.labels == label).nonzero().squeeze(1) for label in (0, 1))
    for rows, label in ((zeros, 0), (ones[:9], 1), (ones[9:], 1)):
        kept = dict(method._metrics)
        method.take_in(train.batch(rows), None)
        answers = method(test)
        assert all(method._metrics[other] is kept[other] for other in kept if other != label)
    whole = made("fecam", "network=linear")[1]
    whole.take_in(train.batch(torch.cat((ones, zeros))), None)
    torch.testing.assert_close(answers, whole(test), rtol=1e-6, atol=1e-6)
