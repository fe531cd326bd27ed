"""Values that a run picks up by itself: how long a benchmark trains, and what was found good for a method."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from cl_bench.config.names import file_of, options_of
from cl_bench.config.training import at

TUNED_ON = "tuned_on"  # a label of how the values were chosen; it is no value
MAY_SET = {
    "benchmark": ("trainer",),
    "tuned": ("method", "optimizer", TUNED_ON),
    "tuned/scenario": ("method", "optimizer", TUNED_ON),
}
"""What a file of each group may set: how long is trained is the same for all methods of a benchmark."""


def picked_up(settings: Mapping[Any, Any], choices: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What came from files of conf/benchmark and conf/tuned: by file, each dotted key with its value.

    A key that the command line or an experiment has set to something else isn't there.

    Args:
        settings: the whole configuration, plain.
        choices: Hydra's, the name that was chosen for each group.

    Raises ValueError for a file that sets what it may not: a tuned file that sets how long is trained, or on what,
    would make a comparison of methods unequal.
    """
    found = {}
    for group, may_set in MAY_SET.items():
        name = f"{group}/{choices.get(group)}"
        values = dict(leaves(_loaded(name)))
        for key in values:
            if key.partition(".")[0] not in may_set:
                raise ValueError(f"conf/{name}.yaml: {key}: such a file may set only {', '.join(may_set)}")
        found[name] = {key: value for key, value in values.items() if at(settings, key) == value}
    return found


def by_files(group: str, choice: Any, choices: Mapping[str, Any]) -> dict[str, Any]:
    """A group of a run that sets nothing itself: its choice's file, and what is picked up. choices: Hydra's."""
    found = file_of(group, choice) if choice in options_of(group) else {}
    for name in MAY_SET:
        found |= at(_loaded(f"{name}/{choices.get(name)}"), group) or {}
    return found


def described(picked: Mapping[str, Mapping[str, Any]]) -> str:
    """What was picked up, in one line; nothing where nothing was.

    >>> described({"tuned/ewc-digits": {"method.strength": 10.0, "tuned_on": "all_tasks"}})
    'method.strength=10.0 (conf/tuned/ewc-digits.yaml, chosen on validation images of all_tasks)'
    """
    parts = []
    for name, values in picked.items():
        keys = " ".join(f"{key}={json.dumps(value)}" for key, value in values.items() if key != TUNED_ON)
        chosen = f", chosen on validation images of {values[TUNED_ON]}" if TUNED_ON in values else ""
        parts.append(f"{keys} (conf/{name}.yaml{chosen})")
    return "; ".join(parts)


def _loaded(name: str) -> Any:
    """The content of the first file of that name on Hydra's search path, {} where there is none."""
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    for source in GlobalHydra.instance().config_loader().get_sources():
        if source.available() and source.is_config(name):
            return OmegaConf.to_container(source.load_config(name).config)
    return {}


def leaves(node: Mapping[Any, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Each dotted key below a node, with its value."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value
