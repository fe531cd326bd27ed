"""A head of cosines."""

from __future__ import annotations

import torch

from cl_bench.networks.cosine import CosineHead
from cl_bench.networks.mlp import MLP


def test_logits_are_scaled_cosines_whatever_the_lengths() -> None:
    torch.manual_seed(0)
    head, features = CosineHead(5, 3), torch.randn(4, 5)
    head.scale.data.fill_(7.0)
    for n, f in enumerate(features):
        for c, w in enumerate(head.weight):
            expected = 7 * (f @ w) / (f.norm() * w.norm())
            torch.testing.assert_close(head(features)[n, c], expected)
    before = head(features)
    head.weight.data.mul_(torch.tensor([[0.1], [3.0], [50.0]]))
    torch.testing.assert_close(head(9 * features), before)
    assert sum(p.numel() for p in head.parameters()) == 3 * 5 + 1  # no biases


def test_a_network_takes_another_head_over_the_same_features() -> None:
    network = MLP((1, 8, 8), 10, hidden=[6])
    features, head = network.features, CosineHead(6, 10)
    assert network.with_head(head) is network
    assert network.features is features
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(network(x), head(features(x)))
    fresh = network.fresh()
    assert isinstance(fresh.head, CosineHead)
    assert float(fresh.head.scale.detach()) == 1
    assert not torch.equal(fresh.head.weight, head.weight)
