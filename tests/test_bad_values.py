"""Every key of every YAML file at values that make no sense: each is refused in one line, or is no harm.

What is tried follows from the files and the constructors' signatures, so a new file is covered by being there.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from hydra._internal.hydra import Hydra
from hydra.types import RunMode
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from cl_bench import run as running
from cl_bench.__main__ import main
from cl_bench.config import CONF, GROUPS, InputError, Top, check, check_top, compose, options_of, target
from cl_bench.data import datasets
from cl_bench.run import prepare

NAN = math.nan
TRIED = (-1, -0.5, 0, 0.5, 10**9, 10**12, 1e30, 1e300, NAN, math.inf, "text", None, True, [], [-1], [NAN], {"a": 1})
LOCAL = ("digits", "npz", "image_folder", "none")  # data sets that nothing is downloaded for
FILES = [
    (group, name)
    for group in (*GROUPS, "gan", "generator")
    for name in options_of(group)
    if (group, name) != ("dataset", "none")
]


@cache
def loaded(group: str, name: str) -> dict[str, Any]:
    """A group's file as it is, with the parts that it asks for; nothing is resolved."""
    node: Any = OmegaConf.to_container(OmegaConf.load(CONF / group / f"{name}.yaml"))
    for default in node.pop("defaults", []):
        if isinstance(default, dict):
            part, choice = next(iter(default.items()))
            if not part.startswith("override"):
                node[part.lstrip("/")] = loaded(part.lstrip("/"), choice)
    return node


def keys(node: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The path of every key of a node and of the nodes in it, with its type hint."""
    constructor = target(node, "node")
    hints = get_type_hints(constructor.__init__ if isinstance(constructor, type) else constructor, include_extras=True)
    for key, value in node.items():
        if isinstance(value, dict) and "_target_" in value:
            yield from keys(value, (*path, key))
        elif key != "_target_":
            yield (*path, key), hints[key]


def kinds(hint: Any) -> set[Any]:
    """The plain types that a hint is made of."""
    return set().union(*map(kinds, get_args(hint))) if get_args(hint) else {hint}


def numeric(hint: Any) -> bool:
    return bool({int, float} & kinds(hint))


def changed(node: Mapping[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """A copy with one value in it replaced."""
    key, *rest = path
    return {**node, key: changed(node[key], tuple(rest), value) if rest else value}


def place_of(group: str) -> str:
    """Where a group's values are found: a GAN's and a generator's, in those of a method."""
    return group if group in GROUPS else f"method.{group}"


@cache
def default() -> dict[str, Any]:
    return compose("network.hidden=[8]")


def around(group: str, name: str, node: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run with this node in its place, and a method and a kind of scenario that it goes with."""
    chosen = dict(default())
    if group == "gan":
        method = "joint_gan" if "acgan" in name else "dgr"
        node, group, name = loaded("method", method) | {"gan": node}, "method", method
    elif group == "generator":
        node, group, name = loaded("method", "dgm") | {"generator": node}, "method", "dgm"
    elif group != "method":
        chosen["method"] = loaded("method", "finetune")
    chosen[group] = node
    if group == "method" and (kinds_ := target(node, "method").kinds) and "class" not in kinds_:
        chosen["scenario"] = loaded("scenario", f"{kinds_[0]}_incremental")
    needs_a_side = [part for part in (node, node.get("gan"), node.get("generator")) if "DC" in json.dumps(part, default=str)]
    if needs_a_side or "ResNet" in json.dumps(node, default=str):
        chosen["dataset"] = loaded("dataset", "digits") | {"size": 8}
    return chosen


def said(doing: Callable[[], Any]) -> str | None:
    """The one line with which something is refused, None when it isn't."""
    try:
        doing()
    except InputError as error:
        line = str(error)
        assert "\n" not in line
        return line
    return None


@pytest.mark.parametrize(("group", "name"), FILES, ids=lambda one: str(one))
def test_numbers_out_of_their_range(group: str, name: str, tmp_path: Path) -> None:
    node, where = loaded(group, name), place_of(group)
    for path, hint in keys(node):
        if not numeric(hint):
            continue
        for value in TRIED:
            wrong, key = changed(node, path, value), ".".join((where, *path))
            line = said(lambda wrong=wrong: check(wrong, where))
            if line is not None:
                assert line.startswith(f"{key}="), line
                assert ": " in line
                continue
            numbers = value if isinstance(value, list) else [value]
            for number in numbers:
                assert number is None or isinstance(number, int | float), (key, value)
                assert number is None or (math.isfinite(number) and 0 <= number <= 1e30), (key, value)
            if group != "dataset" or name in LOCAL[:1]:
                print(key, value, said(lambda: prepare(around(group, name, wrong))))
