"""Pretrained networks, as frozen features of an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_bench.config import InputError
from cl_bench.config.errors import nearest, out_of_memory, typed
from cl_bench.config.weights import TRANSFORMED, weights_file
from cl_bench.networks.base import Normalize
from cl_bench.networks.efficientnet import MEAN, STD, EfficientNetLite0
from cl_bench.seeding import seeded

PIXELS = 2**17
"""Pixels in one forward pass on a CPU, where small batches are fastest: 32 images of 64x64."""

ON_GPU = 64
"""Factor of `PIXELS` on a GPU."""


class Loaded(NamedTuple):
    """A network with its weights: images -> features. The images must be normalized with `mean` and `std`."""

    network: nn.Module
    mean: Sequence[float]
    std: Sequence[float]


class Shared:
    """Holds a network that is not a submodule. Deep copies of the holder share the same network."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network.eval().requires_grad_(False)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


class Backbone(nn.Module):
    """Images in [0, 1], (B, C, H, W) with C 1 or 3 -> features (B, width), always in evaluation mode.

    The pretrained network is not a submodule: its weights are not in the state, the optimizer or the number of
    parameters, and copies share them. They come from a file, whose digest is in the key of a run.

    Args:
        where: the key in the settings, for messages.
        backbone, weights: see `weights_file`.
        size: side in pixels to which images are resized (bilinear); None: they are not resized.

    Raises InputError for weights that are missing, damaged, or of another network.
    """

    def __init__(self, where: str, backbone: str, weights: str | None, size: int | None) -> None:
        super().__init__()
        self.where, self.backbone, self.size = where, backbone, size
        with torch.device("cpu"):  # also inside a context of the meta device: the weights are needed
            loaded = load(where, backbone, weights)
            self.normalize = Normalize(loaded.mean, loaded.std)
        self.shared = Shared(loaded.network.to(memory_format=torch.channels_last))

    def at_once(self, shape: Sequence[int], device: torch.device) -> int:
        """The number of images of this shape (C, H, W) in one forward pass."""
        height, width = (self.size, self.size) if self.size else shape[1:]
        return max(1, PIXELS * (ON_GPU if device.type == "cuda" else 1) // (height * width))

    def try_out(self, shape: Sequence[int]) -> int:
        """The number of features for images of this shape (C, H, W), from a forward pass of one black image.

        Raises InputError for a size that the network does not accept.
        """
        height, width = (self.size, self.size) if self.size else shape[1:]
        device = self.normalize.mean.device
        try:
            with torch.no_grad(), torch.device(device):
                return self._features(torch.zeros(1, *shape)).shape[1]
        except Exception as error:  # networks of other libraries raise exceptions of any class
            if out_of_memory(error):
                raise
            why = (str(error) or type(error).__name__).splitlines()[0]
            raise InputError(
                f"{self.where}.size={typed(self.size)}: {self.backbone} can't take images of {height}x{width} pixels; "
                f"choose another size or another backbone ({why})"
            ) from error

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():  # an exported graph takes any number of images, so it cannot split them
            return self._features(x)
        with torch.no_grad():
            parts = [self._features(part) for part in x.split(self.at_once(x.shape[1:], x.device))]
        return torch.cat(parts)

    def _features(self, x: Tensor) -> Tensor:
        x = x.expand(-1, 3, -1, -1)
        if self.size and tuple(x.shape[2:]) != (self.size, self.size):
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True)
        return self.shared.network(self.normalize(x).contiguous(memory_format=torch.channels_last)).flatten(1)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Moves the network to another device. Its type does not change, and it never goes to the meta device."""
        moved = fn(torch.empty(0))
        if moved.device.type != "meta":
            self.shared.network.to(moved.device)
        return super()._apply(fn, recurse)


def load(where: str, backbone: str, weights: str | None) -> Loaded:
    """The network `backbone` with its weights. Raises InputError, see `Backbone`."""
    library, _, name = backbone.partition("/")
    if library == "torchvision":
        return of_torchvision(where, backbone, name, weights)
    if library == "timm":
        return of_timm(where, backbone, name, weights)
    file = weights_file(where, backbone, weights)
    network = filled(EfficientNetLite0, where, backbone, file)
    network.set_submodule("_fc", nn.Identity())
    return Loaded(network, MEAN, STD)


def of_torchvision(where: str, backbone: str, name: str, weights: str | None) -> Loaded:
    """A network of torchvision without its last linear layer."""
    from torchvision import models

    if name not in models.list_models(module=models):
        near = nearest(name, models.list_models(module=models), "torchvision/")
        raise InputError(f"{where}.backbone={backbone}: torchvision has no such network{near}")
    file = weights_file(where, backbone, weights)
    # torchvision builds these networks like this for its pretrained weights
    more = {"transform_input": True, "init_weights": False} if backbone in TRANSFORMED else {}
    network = filled(lambda: models.get_model(name, weights=None, **more), where, backbone, file)
    linear = [called for called, part in network.named_modules() if isinstance(part, nn.Linear)]
    if not linear:
        why = "has no last linear layer, before which features are taken"
        raise InputError(f"{where}.backbone={backbone}: {why}; choose another, such as torchvision/resnet18")
    network.set_submodule(linear[-1], nn.Identity())
    seen = models.get_model_weights(name).DEFAULT.transforms()  # type: ignore[attr-defined]
    return Loaded(network, seen.mean, seen.std)


def of_timm(where: str, backbone: str, name: str, weights: str | None) -> Loaded:
    """A network of timm without its classifier."""
    try:
        import timm
    except ImportError:
        raise InputError(f"{where}.backbone={backbone}: needs timm; pip install 'cl_bench[pretrained]'") from None
    plain = name.partition(".")[0]
    if not timm.is_model(plain):
        near = nearest(name, timm.list_models(), "timm/")
        raise InputError(f"{where}.backbone={backbone}: timm has no such network{near}")
    try:
        timm.models.get_pretrained_cfg(name)
    except RuntimeError:
        near = nearest(name, [plain, *timm.list_pretrained(f"{plain}.*")], "timm/")
        raise InputError(f"{where}.backbone={backbone}: timm knows no such weights of {plain}{near}") from None
    file = weights_file(where, backbone, weights)
    network = filled(lambda: timm.create_model(name, pretrained=False), where, backbone, file)
    if not hasattr(network, "reset_classifier"):
        why = "has no classifier, before which features are taken"
        raise InputError(f"{where}.backbone={backbone}: {why}; choose another, such as timm/resnet18")
    network.reset_classifier(0)  # type: ignore[operator]
    config: dict[str, Any] = network.pretrained_cfg  # type: ignore[assignment]
    return Loaded(network, config["mean"], config["std"])


def filled(make: Callable[[], nn.Module], where: str, backbone: str, file: Path) -> nn.Module:
    """The network that `make` makes, with the weights in a file."""
    network = without_numbers(make)
    fill(network, where, backbone, file)
    return network


def without_numbers(make: Callable[[], nn.Module]) -> nn.Module:
    """A network on the meta device, where random weights cost no time. It is on the CPU if it has buffers that no file
    has, or if it cannot be built without numbers."""
    try:
        with torch.device("meta"):
            network = make()
        if network.state_dict().keys() >= dict(network.named_buffers()).keys():
            return network
    except NotImplementedError:  # it reads a value of a meta tensor, which has none
        pass
    with seeded(0, "backbone"):
        return make()


def fill(network: nn.Module, where: str, backbone: str, file: Path) -> None:
    """Loads the weights in a file, in the precision of the network. Raises InputError unless they are exactly those of
    the network, and finite."""
    key = f"{where}.weights={file}"
    state = read(key, file)
    own = network.state_dict()
    wrong = next((name for name in own if name not in state or state[name].shape != own[name].shape), None)
    wrong = wrong or next((name for name in state if name not in own), None)
    if wrong is not None:
        raise InputError(
            f"{key}: belongs to another network than {backbone}, where {wrong} is "
            f"{shape(own, wrong)}; in the file it is "
            f"{shape(state, wrong)}"
        )
    if odd := next((name for name, value in state.items() if not value.isfinite().all()), None):
        raise InputError(f"{key}: {odd} has numbers that are not finite; use another file of {backbone}")
    network.load_state_dict({name: value.to(own[name].dtype) for name, value in state.items()}, assign=True)


def read(key: str, file: Path) -> dict[str, Tensor]:
    """The tensors in a file of safetensors or torch, without running its code. Raises InputError for other files."""
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and pickle raise exceptions of any class for a damaged file
        raise InputError(
            f"{key}: is damaged or not a file of weights (safetensors, or a state dict that torch saved)"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{key}: has no named weights; it must be the state dict of a network")
    return state


def shape(state: dict[str, Tensor], name: str) -> str:
    return "x".join(map(str, state[name].shape)) or "a number" if name in state else "missing"
