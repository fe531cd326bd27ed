"""Names and places: the groups and files of conf/, and the key, the name and the folder of a run."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

from cl_bench.config.content import by_content
from cl_bench.config.errors import InputError
from cl_bench.config.plugins import PACKAGE, conf_folders
from cl_bench.config.training import without_scheduler
from cl_bench.config.weights import by_weights

CONF = next(
    folder for folder in (Path(__file__).parents[1] / "conf", Path(__file__).parents[2] / "conf") if folder.is_dir()
)
"""The YAML files: inside an installed wheel, else beside the package in a checkout."""

GROUPS = ("method", "dataset", "scenario", "network", "optimizer", "scheduler", "trainer", "logger")
"""The nouns of a command line; each is a folder of YAML files."""

TUNED = {"benchmark": ("dataset",), "tuned": ("method", "dataset"), "tuned/scenario": ("method", "dataset", "scenario")}
"""Groups whose choice follows by itself from those of others, where there is a file of these names."""

WITHOUT_EFFECT = {
    "": (
        "output_root",
        "data_dir",
        "resume",
        "checkpoint_every",
        "keep_checkpoints",
        "keep_models",
        "debug",
        "logger",
        "choices",
        "reference",
        "plugins",  # each _target_ says whose code it is
    ),
    "trainer": ("chunk", "log_every", "progress"),
    "dataset": ("on_disk",),
}
"""Keys that change no number, by group: they are left out of a run's key."""

LATER: dict[str, dict[str, Any]] = {
    "": {
        "continue_from": None,
        "measure_every": 1,
        "label_smoothing": 0.0,
        "scheduler": {},
        "evaluate_every": None,
        "evaluate_unit": "steps",
        "evaluate_on": "test",
    },
    "cl_bench.data.datasets.cifar10": {"classes": None},
    "cl_bench.data.datasets.cifar100": {"classes": None},
    "cl_bench.data.datasets.digits": {"classes": None},
    "cl_bench.data.datasets.fashion_mnist": {"classes": None},
    "cl_bench.data.datasets.image_folder": {"classes": None, "augment": False, "mean": None, "std": None},
    "cl_bench.data.datasets.npz": {"classes": None, "augment": False, "mean": None, "std": None},
    "cl_bench.data.datasets.svhn": {"classes": None},
    "cl_bench.data.scenarios.permuted": {"max_train": None},
    "cl_bench.data.scenarios.split": {"base": None, "max_train": None, "meta_classes": None},
    "cl_bench.data.datasets.mnist": {"classes": None, "normalize": False},
    "cl_bench.methods.ewc.EWC": {"consolidate_every": None, "fisher_rate": 0.9},
    "cl_bench.methods.icarl.ICaRL": {"answer": "mean"},
    "cl_bench.methods.si.SI": {"consolidate_every": None},
    "cl_bench.networks.optimizers.SGD": {"milestones": [], "gamma": 0.1, "nesterov": False},
    "cl_bench.runs.fit.Fit": {"patience": None, "gradient_clip": None, "freeze_batch_norm": False, "callbacks": []},
}
"""By `_target_`, '' outside of all, the keys that came after others had been in use, at the value that changes nothing:
they are then left out of a run's key, and runs from before are found again."""


def check_name(group: str, choice: str) -> None:
    """Raises InputError for a choice that leads out of its group's folder, and for one that two packages have. Folders
    inside it are part of a name."""
    path = PureWindowsPath(choice)  # knows both kinds of slash, and drives
    if ".." in path.parts or path.anchor or choice.startswith("~"):
        raise InputError(f"{group}={choice}: is a path, not a name; --config-dir=FOLDER adds your own files")
    name = f"{group.partition('@')[0]}/{choice}.yaml"
    owners = [package for package, conf in conf_of().items() if (conf / name).is_file()]
    if len(owners) > 1:
        raise InputError(f"{group}={choice}: {' and '.join(owners)} each have conf/{name}; rename one of these files")


def conf_of() -> dict[str, Path]:
    """The folders of YAML files by package: our own, and those of installed plugins."""
    return {PACKAGE: CONF, **conf_folders()}


def options_of(group: str) -> list[str]:
    """What can be chosen for a group: the names of its YAML files, with FOLDER/ before those in a folder of it."""
    tops = [conf / group for conf in conf_of().values()]
    return sorted({file.relative_to(top).with_suffix("").as_posix() for top in tops for file in top.rglob("*.yaml")})


def file_of(group: str, name: str) -> dict[str, Any]:
    """What the YAML file of a choice says, ours or that of an installed plugin; {} of an empty one.

    Raises InputError for a file that holds no keys.
    """
    import yaml

    found = (conf / group / f"{name}.yaml" for conf in conf_of().values())
    file = next(file for file in found if file.is_file())
    try:
        node = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{group}={name}: {file} is not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(node, dict | None):
        raise InputError(f"{group}={name}: {file} must have keys (KEY: VALUE), not a {type(node).__name__}")
    return node or {}


def key_of(config: Mapping[str, Any]) -> str:
    """Eight hex digits that name what a run computes: equal for configurations with equal results."""
    kept = {name: node for name, node in by_weights(by_content(config)).items() if name not in WITHOUT_EFFECT[""]}
    for group, names in WITHOUT_EFFECT.items():
        if group and isinstance(node := kept.get(group), Mapping):
            kept[group] = {name: value for name, value in node.items() if name not in names}
    text = json.dumps(as_ever(without_scheduler(kept)), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def as_ever(node: Any) -> Any:
    """A configuration without what came later and changes nothing, see `LATER`.

    >>> as_ever({"measure_every": 1, "seed": 0}), as_ever({"measure_every": 5})
    ({'seed': 0}, {'measure_every': 5})
    """
    if not isinstance(node, Mapping):
        return node
    later = LATER.get(str(node.get("_target_", "")), {})
    return {key: as_ever(value) for key, value in node.items() if key not in later or value != later[key]}


def name_of(config: Mapping[str, Any]) -> str:
    """DATASET-SCENARIO-METHOD, as chosen on the command line; own data by the beginning of their digest, a set of a
    library by its name there."""
    choices, content = config["choices"], config.get("content")
    several = config["scenario"].get("datasets")
    if isinstance(several, list):
        content = content if isinstance(content, list) else several
        names = [
            Path(str(name)).stem if name == own else f"npz.{str(own)[:8]}"
            for name, own in zip(several, content, strict=False)
        ]
        dataset = "+".join(names)
    elif isinstance(own := config["scenario"].get("path"), str):  # images of its own
        dataset = Path(own).name
    else:
        within = str(content)[:8] if content else (config.get("dataset") or {}).get("name")
        dataset = choices["dataset"] + (f".{re.sub('[^A-Za-z0-9_.-]', '_', str(within))}" if within else "")
    if config.get("came_from"):
        dataset = f"{config['came_from']['dataset']}+{dataset}"
    return f"{dataset}-{choices['scenario']}-{choices['method']}"


def folder_of(config: Mapping[str, Any]) -> Path:
    """Where the run of this configuration lives: the same command finds its own folder again."""
    root = place(config["output_root"], "output_root")
    return root / name_of(config) / f"seed{config['seed']}-{key_of(config)}"


def place(path: str, where: str) -> Path:
    """A path as a person types it, with ~ for a home. Raises InputError for one that can't be."""
    try:
        if path and "\0" not in path:
            return Path(path).expanduser()
    except RuntimeError:  # ~NAME of nobody
        pass
    raise InputError(f"{where}={path!r}: is not a path")
