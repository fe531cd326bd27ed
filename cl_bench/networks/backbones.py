"""Networks that others have trained, as frozen features of an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_bench.config import InputError
from cl_bench.config.errors import nearest
from cl_bench.config.weights import LITE0, weights_file
from cl_bench.networks.base import Normalize
from cl_bench.networks.efficientnet import MEAN, STD, EfficientNetLite0

PIXELS = 2**17
"""Of the images that pass through at once on a CPU, where few are fastest: 32 of 64x64."""

ON_GPU = 64
"""Times as many there."""


class Loaded(NamedTuple):
    """A network with its weights: images that are normalized with `mean` and `std` -> (B, width)."""

    network: nn.Module
    width: int
    mean: Sequence[float]
    std: Sequence[float]


class Shared:
    """A network that is the same one in every copy of what holds it, and no part of it."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network.eval().requires_grad_(False)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


class Backbone(nn.Module):
    """Images in [0, 1], (B, C, H, W) with C 1 or 3 -> features (B, width), always in evaluation mode.

    The network in it is not a part of the modules around it: its weights are in no state, no optimizer, no count of
    parameters, and a copy has the same ones. They follow from a file, whose digest is in the key of a run.

    Args:
        where: the key of the node that names it, for messages.
        backbone, weights: see `weights_file`.
        size: side in pixels to which images are brought, bilinearly, whatever their shape; None leaves them.

    Raises InputError for weights that are missing, damaged, or another network's.
    """

    def __init__(self, where: str, backbone: str, weights: str | None, size: int | None) -> None:
        super().__init__()
        self.size = size
        with torch.device("cpu"):  # however large the network on it is, the weights are needed
            loaded = load(where, backbone, weights)
            self.normalize = Normalize(loaded.mean, loaded.std)
        self.width = loaded.width
        self.shared = Shared(loaded.network.to(memory_format=torch.channels_last))

    def at_once(self, shape: Sequence[int], device: torch.device) -> int:
        """How many images (C, H, W) pass through at once."""
        height, width = (self.size, self.size) if self.size else shape[1:]
        return max(1, PIXELS * (ON_GPU if device.type == "cuda" else 1) // (height * width))

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():  # a graph takes any number of images, and can't tell how many parts they are
            return self._features(x)
        with torch.no_grad():
            parts = [self._features(part) for part in x.split(self.at_once(x.shape[1:], x.device))]
        return torch.cat(parts) if parts else x.new_empty(0, self.width)

    def _features(self, x: Tensor) -> Tensor:
        x = x.expand(-1, 3, -1, -1)
        if self.size and tuple(x.shape[2:]) != (self.size, self.size):
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True)
        return self.shared.network(self.normalize(x).contiguous(memory_format=torch.channels_last)).flatten(1)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """To another device, but not to another type or to no device at all: these weights are what they are."""
        moved = fn(torch.empty(0))
        if moved.device.type != "meta":
            self.shared.network.to(moved.device)
        return super()._apply(fn, recurse)


def load(where: str, backbone: str, weights: str | None) -> Loaded:
    """The network `backbone` with its weights. Raises InputError, see `Backbone`."""
    library, _, name = backbone.partition("/")
    if backbone == LITE0 or library not in ("torchvision", "timm"):
        file = weights_file(where, backbone, weights)
        with torch.device("meta"):
            network = EfficientNetLite0()
        fill(network, where, backbone, file)
        network.set_submodule("_fc", nn.Identity())
        return Loaded(network, 1280, MEAN, STD)
    if library == "torchvision":
        from torchvision import models

        if name not in models.list_models(module=models):
            near = nearest(name, models.list_models(module=models), "torchvision/")
            raise InputError(f"{where}.backbone={backbone}: torchvision has no such network{near}")
        file = weights_file(where, backbone, weights)
        with torch.device("meta"):
            network = models.get_model(name, weights=None)
        fill(network, where, backbone, file)
        seen = models.get_model_weights(name).DEFAULT.transforms()  # type: ignore[attr-defined]
        called, head = [(called, part) for called, part in network.named_modules() if isinstance(part, nn.Linear)][-1]
        network.set_submodule(called, nn.Identity())
        return Loaded(network, head.in_features, seen.mean, seen.std)
    try:
        import timm
    except ImportError:
        raise InputError(f"{where}.backbone={backbone}: needs timm; pip install 'cl_bench[pretrained]'") from None
    if not timm.is_model(name.partition(".")[0]):
        near = nearest(name, timm.list_models(), "timm/")
        raise InputError(f"{where}.backbone={backbone}: timm has no such network{near}")
    file = weights_file(where, backbone, weights)
    with torch.device("meta"):
        network = timm.create_model(name, pretrained=False)
    fill(network, where, backbone, file)
    network.reset_classifier(0)  # type: ignore[operator]
    config: dict[str, Any] = network.pretrained_cfg  # type: ignore[assignment]
    return Loaded(network, network.num_features, config["mean"], config["std"])  # type: ignore[arg-type]


def fill(network: nn.Module, where: str, backbone: str, file: Path) -> None:
    """Gives a network on the meta device the weights in a file, all of them and no others."""
    key = f"{where}.weights={file}"
    state = read(key, file)
    own = network.state_dict()
    wrong = next((name for name in own if name not in state or state[name].shape != own[name].shape), None)
    wrong = wrong or next((name for name in state if name not in own), None)
    if wrong is not None:
        raise InputError(
            f"{key}: is of another network than {backbone}, where {wrong} is {shape(own, wrong)}; in the file it is "
            f"{shape(state, wrong)}"
        )
    if odd := next((name for name, value in state.items() if not value.isfinite().all()), None):
        raise InputError(f"{key}: {odd} holds numbers that aren't finite; take a sound file of {backbone}")
    network.load_state_dict(state, assign=True)


def read(key: str, file: Path) -> dict[str, Tensor]:
    """The tensors in a file of safetensors, or of torch, of which nothing is run."""
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and pickle raise anything on a damaged file
        raise InputError(
            f"{key}: is damaged or no file of weights (safetensors, or a state dict that torch saved)"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{key}: holds no weights by name; it must be the state dict of a network")
    return state


def shape(state: dict[str, Tensor], name: str) -> str:
    return "x".join(map(str, state[name].shape)) or "a number" if name in state else "missing"
