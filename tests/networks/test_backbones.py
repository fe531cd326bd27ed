"""Frozen features: the networks, their weights, and what a module around them doesn't know of them."""

from __future__ import annotations

import inspect
import pickle
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Compose, made
from torch import nn
from torchvision import models

from cl_bench.config import InputError
from cl_bench.config.weights import TRANSFORMED, digest_of, weights_file
from cl_bench.methods.base import frozen
from cl_bench.networks.backbones import Backbone
from cl_bench.networks.base import Normalize, reset_parameters
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
    "truncated": (lambda file: file.write_bytes(file.read_bytes()[:-1000]), "is damaged or not a file of weights"),
    "empty": (lambda file: file.write_bytes(b""), "is damaged or not a file of weights"),
    "text": (lambda file: file.write_text("weights"), "is damaged or not a file of weights"),
    "code": (lambda file: file.write_bytes(pickle.dumps(Harm(), 2)), "is damaged or not a file of weights"),
    "no dictionary": (lambda file: torch.save([torch.zeros(3)], file), "has no named weights"),
    "another network": (
        lambda file: torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, file),
        "belongs to another network than efficientnet_lite0, where _conv_stem.weight is 32x3x3x3; "
        "in the file it is missing",
    ),
    "another width": (
        lambda file: torch.save(torch.load(file, weights_only=True) | {"_fc.bias": torch.zeros(9)}, file),
        "belongs to another network than efficientnet_lite0, where _fc.bias is 1000; in the file it is 9",
    ),
    "no number": (
        lambda file: torch.save(
            torch.load(file, weights_only=True) | {"_fc.bias": torch.full((1000,), torch.inf)}, file
        ),
        "_fc.bias has numbers that are not finite",
    ),
    "something more": (
        lambda file: torch.save(torch.load(file, weights_only=True) | {"more": torch.zeros(9)}, file),
        "belongs to another network than efficientnet_lite0, where more is missing; in the file it is 9",
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
    assert backbone(x).shape == (2, backbone.try_out((3, 32, 32)))
    whole = (tmp_path / "weights.safetensors").read_bytes()
    (tmp_path / "weights.safetensors").write_bytes(whole[:-10])
    with pytest.raises(InputError, match="is damaged or not a file of weights"):
        Backbone("features", "timm/test_resnet", str(tmp_path / "weights.safetensors"), 32)
    for name in ("torchvision/mobilenet_v3_smal", "timm/test_resne"):
        for file in (str(tmp_path / "weights.pth"), None):  # not that the weights of no network are missing
            with pytest.raises(InputError, match=rf"has no such network; did you mean '{name}"):
                Backbone("features", name, file, 32)


def saved(network: nn.Module, folder: Path) -> str:
    """A file of the network's weights."""
    torch.save(network.state_dict(), folder / "weights.pth")
    return str(folder / "weights.pth")


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_images_are_scaled_as_torchvision_scales_them_for_its_weights(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network: Any = models.get_model(name, weights=None, init_weights=False).eval()
    file = saved(network, tmp_path)
    weights = models.get_model_weights(name).DEFAULT  # type: ignore[attr-defined]
    monkeypatch.setattr(type(weights), "get_state_dict", lambda *_, **__: network.state_dict())
    theirs: Any = models.get_model(name, weights=weights).eval()
    assert theirs.transform_input
    theirs.fc = nn.Identity()
    x = torch.rand(2, 3, 80, 80)
    with torch.no_grad():
        expected = theirs(Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))(x))
    backbone = Backbone("features", f"torchvision/{name}", file, 80)
    torch.testing.assert_close(backbone(x), expected, rtol=1e-3, atol=1e-4)
    other = digest_of("features", "torchvision/resnet18", Path(file), str(tmp_path))
    assert digest_of("features", f"torchvision/{name}", Path(file), str(tmp_path)) == f"{other}-transformed"


def test_no_other_network_of_torchvision_is_built_in_another_way_for_its_weights() -> None:
    """What its builders set beside weights is of those two alone, or shows in the shapes of weights (so does what they
    always set), or is for random weights and for training."""
    known = {"num_classes", "image_size", "input_size", "groups", "width_per_group", "init_weights", "aux_logits"}
    other: dict[str, set[str]] = {}
    for name in models.list_models(module=models):
        source = inspect.getsource(sys.modules[models.get_model_builder(name).__module__])
        set_too = set(re.findall(r'(?:_ovewrite_named_param\(kwargs, |kwargs\[)"(\w+)"(?:, |\] = )', source)) - known
        other |= {f"torchvision/{name}": set_too} if set_too else {}
    assert other == {name: {"transform_input"} for name in TRANSFORMED}


def test_the_width_is_that_of_what_comes_out(tmp_path: Path) -> None:
    """Some networks of timm are wider behind their pooling."""
    import timm

    torch.manual_seed(0)
    network: Any = timm.create_model("mobilenetv3_small_050", pretrained=False).eval()
    made = Pretrained((1, 8, 8), 5, backbone="timm/mobilenetv3_small_050", weights=saved(network, tmp_path), size=32)
    assert (network.num_features, made.head.in_features, made(torch.rand(2, 1, 8, 8)).shape) == (288, 1024, (2, 5))


def test_a_network_that_works_with_numbers_of_no_file(tmp_path: Path) -> None:
    """timm's windows have places that aren't saved; torchvision computes the widths of a RegNet. Neither draws."""
    import timm

    for name, network in (
        ("timm/test_vit_relpos", timm.create_model("test_vit_relpos", pretrained=False)),
        ("torchvision/regnet_y_400mf", models.regnet_y_400mf()),
    ):
        file, state = saved(network, tmp_path), torch.get_rng_state()
        backbone = Backbone("features", name, file, 160)
        assert torch.equal(torch.get_rng_state(), state)
        assert backbone(torch.rand(1, 3, 8, 8)).isfinite().all()


def test_weights_of_half_precision_are_those_numbers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = models.mobilenet_v3_small().half()
    half = Backbone("features", "torchvision/mobilenet_v3_small", saved(network, tmp_path), 32)
    whole = Backbone("features", "torchvision/mobilenet_v3_small", saved(network.float(), tmp_path), 32)
    x = torch.rand(2, 3, 8, 8)
    assert half(x).dtype == torch.float32
    assert torch.equal(half(x), whole(x))


def test_what_a_network_cannot_take_is_one_line(tmp_path: Path) -> None:
    vit = saved(models.VisionTransformer(224, 16, 1, 2, 768, 8), tmp_path)
    for size, shape, pixels in ((32, (3, 8, 8), "32x32"), (None, (1, 8, 9), "8x9")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(models, "get_model", lambda *_, **__: models.VisionTransformer(224, 16, 1, 2, 768, 8))
            with pytest.raises(InputError) as caught:
                Pretrained(shape, 5, backbone="torchvision/vit_b_16", weights=vit, size=size)
        line = f"network.size={size or 'null'}: torchvision/vit_b_16 can't take images of {pixels} pixels; choose"
        assert str(caught.value).startswith(line)
        assert str(caught.value).endswith("(Wrong image height! Expected 224 but got " + pixels.split("x")[0] + "!)")
    dense = saved(models.densenet121(), tmp_path)
    with pytest.raises(InputError, match=r"^network.size=1: torchvision/densenet121 can't take images of 1x1 pixels"):
        Pretrained((3, 8, 8), 5, backbone="torchvision/densenet121", weights=dense, size=1)
    with pytest.raises(InputError, match=r"^features.backbone=torchvision/squeezenet1_1: has no last linear layer"):
        Backbone("features", "torchvision/squeezenet1_1", saved(models.squeezenet1_1(), tmp_path), 64)


def test_weights_that_timm_does_not_know() -> None:
    pytest.importorskip("timm")
    known = "timm knows no such weights of resnet18; did you mean 'timm/resnet18.a1_in1k'"
    with pytest.raises(InputError, match=rf"^features.backbone=timm/resnet18.a1_in2k: {known}"):
        Backbone("features", "timm/resnet18.a1_in2k", None, 64)


def test_images_of_more_channels_are_refused() -> None:
    with pytest.raises(InputError, match=r"^network=pretrained: needs gray or color images, and these have 5"):
        Pretrained((5, 8, 8), 10, backbone=LITE0, size=32)
