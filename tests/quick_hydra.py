"""Hydra in a fifth of its time: what it makes of files that no test changes, it makes once in a process.

A composition reads some twenty files, half of them Hydra's own, and merges them: 0.14 s, and a thousand tests compose
something. Here the files are found and merged once for each choice of groups; each composition has a copy of that, and
its own values. Compositions with files of one's own, of `--config-dir` or a plugin, are made as ever.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.defaults_list import DefaultsList, Overrides, create_defaults_list
from hydra._internal.hydra import Hydra
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import OmegaConf

from cl_bench.config.names import CONF

FIXED = {str(CONF), f"file://{CONF}", "hydra.conf", "pkg://hydra.conf", "structured://", ""}
"""Where files are looked for that no test changes."""

FOLDERS = tuple(f"{folder}{os.sep}" for folder in (CONF, Path(hydra.__file__).parent / "conf"))
MERGE = ConfigLoaderImpl._compose_config_from_defaults_list
LOAD = OmegaConf.load
FOUND: dict[tuple[Any, ...], DefaultsList] = {}
MERGED: dict[str, Any] = {}
LOADED: dict[str, Any] = {}


def fixed(repo: Any) -> bool:
    return all(source.path in FIXED for source in repo.get_sources())


def find(repo: Any, config_name: str | None, overrides_list: list[Override], **how: bool) -> DefaultsList:
    """`create_defaults_list`: which files are chosen, and the overrides that are values."""
    values = Overrides(repo, overrides_list).config_overrides
    chosen = [override.input_line for override in overrides_list if override not in values]
    key = (config_name, *chosen, *how.items())
    if not fixed(repo) or key not in FOUND:
        found = create_defaults_list(repo=repo, config_name=config_name, overrides_list=overrides_list, **how)
        if not fixed(repo):
            return found
        FOUND[key] = found
    return replace(FOUND[key], config_overrides=values)


def merge(loader: ConfigLoaderImpl, defaults: Sequence[Any], repo: Any) -> Any:
    """`_compose_config_from_defaults_list`: what the chosen files say, one over the other."""
    if not fixed(repo):
        return MERGE(loader, list(defaults), repo)
    key = repr(defaults)
    if key not in MERGED:
        MERGED[key] = MERGE(loader, list(defaults), repo)
    return copy.deepcopy(MERGED[key])


def load(file: Any) -> Any:
    """`OmegaConf.load`: one file."""
    name = str(getattr(file, "name", ""))
    if not name.startswith(FOLDERS):
        return LOAD(file)
    if name not in LOADED:
        LOADED[name] = LOAD(file)
    return copy.deepcopy(LOADED[name])


def install(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(OmegaConf, "load", load)
    patch.setattr(config_loader_impl, "create_defaults_list", find)
    patch.setattr(ConfigLoaderImpl, "_compose_config_from_defaults_list", merge)
    # else each command line is composed once more, to look for its `hydra.mode`
    patch.setattr(Hydra, "get_mode", lambda *_, **__: RunMode.RUN)
