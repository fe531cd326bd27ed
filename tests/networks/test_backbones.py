"""Frozen features: the networks, their weights, and what a module around them doesn't know of them."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Compose, made
from torchvision import models

from cl_bench.config import InputError
from cl_bench.config.weights import weights_file
from cl_bench.methods.base import frozen
from cl_bench.networks.backbones import Backbone
from cl_bench.networks.base import reset_parameters
from cl_bench.networks.pretrained import Pretrained

LITE0 = "efficientnet_lite0"


def pretrained(**settings: Any) -> Pretrained:
    return Pretrained((3, 8, 8), 10, backbone=LITE0, **{"size": 32, **settings})


def test_its_weights_are_outside_of_everything() -> None:
    network = pretrained()
    assert set(network.state_dict()) == {"head.weight", "head.bias"}
    assert [name for name, _ in network.named_parameters()] == ["head.weight", "head.bias"]
    x = torch.rand(2, 3, 8, 8)
    features = network.features(x)
    assert features.shape == (2, 1280)
    network.train()  # batch normalization doesn't move
    reset_parameters(network)
    assert torch.equal(network.features(x), features)
    other = frozen(network)
    assert torch.equal(other.features(x), features)
    backbones = [copied.features[0] for copied in (network, other, network.fresh())]
    assert len({id(backbone.shared.network) for backbone in backbones}) == 1  # type: ignore[union-attr]
    assert not features.requires_grad


def test_a_method_trains_its_head_alone_and_keeps_no_weight_of_it(small: Compose) -> None:
    scenario, method = made("ewc", "network=pretrained", "network.size=32", "scenario.n_tasks=2")
    assert sum(p.numel() for p in method.parameters() if p.requires_grad) == 1281 * 10
    assert not [name for name in method.state_dict() if "conv" in name or "shared" in name]
    batch = next(scenario.tasks[0].train.batches(4))
    method.index = 0
    method.train_step(batch, method.configure_optimizers())


def test_a_graph_of_it_takes_any_number_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cl_bench.networks.backbones.PIXELS", 2 * 32 * 32)  # two at once
    network = pretrained().eval()
    number = torch.export.Dim("images", min=1)
    graph = torch.export.export(network, (torch.rand(2, 3, 8, 8),), dynamic_shapes=({0: number},)).module()
    x = torch.rand(5, 3, 8, 8)
    torch.testing.assert_close(graph(x), network(x), rtol=1e-4, atol=1e-4)


def test_few_at_once_and_many_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = Backbone("features", LITE0, None, 32)
    x = torch.rand(5, 1, 8, 8)
    expected = backbone(x)
    monkeypatch.setattr("cl_bench.networks.backbones.PIXELS", 2 * 32 * 32)
    torch.testing.assert_close(backbone(x), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(backbone(x.expand(-1, 3, -1, -1)), expected, rtol=1e-4, atol=1e-5)
    assert backbone(x[:0]).shape == (0, 1280)


def damage(change: Callable[[Path], object]) -> Callable[[Path], Path]:
    """A file of the weights of Lite0, changed."""

    def made(folder: Path) -> Path:
        file = folder / "weights.pth"
        file.write_bytes(weights_file("features", LITE0, None).read_bytes())
        change(file)
        return file

    return made


class Harm:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('run')",))


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (lambda file: file.write_bytes(file.read_bytes()[:-1000]), "is damaged or no file of weights"),
    "empty": (lambda file: file.write_bytes(b""), "is damaged or no file of weights"),
    "text": (lambda file: file.write_text("weights"), "is damaged or no file of weights"),
    "code": (lambda file: file.write_bytes(pickle.dumps(Harm(), 2)), "is damaged or no file of weights"),
    "no dictionary": (lambda file: torch.save([torch.zeros(3)], file), "holds no weights by name"),
    "another network": (
        lambda file: torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, file),
        "is of another network than efficientnet_lite0, where _conv_stem.weight is 32x3x3x3; in the file it is missing",
    ),
    "another width": (
        lambda file: torch.save(torch.load(file, weights_only=True) | {"_fc.bias": torch.zeros(9)}, file),
        "is of another network than efficientnet_lite0, where _fc.bias is 1000; in the file it is 9",
    ),
    "no number": (
        lambda file: torch.save(
            torch.load(file, weights_only=True) | {"_fc.bias": torch.full((1000,), torch.inf)}, file
        ),
        "_fc.bias holds numbers that aren't finite",
    ),
    "something more": (
        lambda file: torch.save(torch.load(file, weights_only=True) | {"more": torch.zeros(9)}, file),
        "is of another network than efficientnet_lite0, where more is missing; in the file it is 9",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_holds_other_weights_or_none_is_one_line(name: str, tmp_path: Path) -> None:
    change, line = FILES[name]
    file = damage(change)(tmp_path)
    with pytest.raises(InputError) as caught:
        Backbone("features", LITE0, str(file), 32)
    assert str(caught.value).startswith(f"features.weights={file}: {line}")
    assert "\n" not in str(caught.value)


def test_networks_of_torchvision_and_timm_from_a_file(tmp_path: Path) -> None:
    """Their features are what their own classifier takes."""
    torch.manual_seed(0)
    network = models.mobilenet_v3_small().eval()
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    backbone = Backbone("features", "torchvision/mobilenet_v3_small", str(tmp_path / "weights.pth"), 32)
    x = torch.rand(2, 3, 32, 32)
    seen = (x - torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(
        1, 3, 1, 1
    )
    with torch.no_grad():
        torch.testing.assert_close(network.classifier[3](backbone(x)), network(seen), rtol=1e-3, atol=1e-4)

    import timm
    from safetensors.torch import save_file

    network = timm.create_model("test_resnet", pretrained=False).eval()
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    backbone = Backbone("features", "timm/test_resnet", str(tmp_path / "weights.safetensors"), 32)
    assert backbone(x).shape == (2, backbone.width)
    whole = (tmp_path / "weights.safetensors").read_bytes()
    (tmp_path / "weights.safetensors").write_bytes(whole[:-10])
    with pytest.raises(InputError, match="is damaged or no file of weights"):
        Backbone("features", "timm/test_resnet", str(tmp_path / "weights.safetensors"), 32)
    for name in ("torchvision/mobilenet_v3_smal", "timm/test_resne"):
        for file in (str(tmp_path / "weights.pth"), None):  # not that the weights of no network are missing
            with pytest.raises(InputError, match=rf"has no such network; did you mean '{name}"):
                Backbone("features", name, file, 32)


def test_images_of_more_channels_are_refused() -> None:
    with pytest.raises(InputError, match=r"^network=pretrained: takes grey or colour images, and these have 5"):
        Pretrained((5, 8, 8), 10, backbone=LITE0, size=32)
