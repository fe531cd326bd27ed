"""Other people's packages: where their YAML is, and whose code a configuration may name. Nothing is imported here."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cl_bench.config.errors import InputError, nearest, typed

PACKAGE = __name__.partition(".")[0]
ENTRY_POINTS = "cl_bench.plugins"
"""The group by which an installed package says that it is a plugin; the value of an entry is the package's name."""


def installed() -> tuple[str, ...]:
    """The packages that declare the entry point."""
    return _installed(tuple(sys.path))


@cache
def _installed(path: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted({entry.module for entry in entry_points(group=ENTRY_POINTS)}))


def conf_folders() -> dict[str, Path]:
    """The folder `conf/` inside each installed plugin that has one."""
    inside = ((package, folder / "conf") for package in installed() for folder in folders(package))
    return {package: conf for package, conf in inside if conf.is_dir()}


def folders(package: str) -> list[Path]:
    """Where the modules of a package lie, several places for a namespace; [] for a single file and where there is
    nothing of that name."""
    root, *inside = package.split(".")
    try:
        spec = find_spec(root)
    except ValueError:  # such as __main__
        spec = None
    return [Path(place, *inside) for place in (spec and spec.submodule_search_locations) or ()]


def allowed(given: Any) -> tuple[str, ...]:
    """The packages whose code a configuration may name: this one, the installed plugins, and those of `plugins=`.

    Raises InputError for what is no list of packages that can be imported.
    """
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise InputError(f"plugins={typed(given)}: must be a list of packages, such as plugins=[mypackage]")
    for name in given:
        root = name.partition(".")[0]
        try:
            found = all(map(str.isidentifier, name.split("."))) and find_spec(root)
        except ValueError:
            found = None
        if not found:
            raise InputError(
                f"plugins={typed(given)}: there is no package {name!r} to import{nearest(name, installed())}"
            )
    return (PACKAGE, *installed(), *given)


def check_path(path: Any, where: str, packages: Sequence[str]) -> str:
    """A `_target_` that may be imported. Raises InputError for one outside these packages."""
    if not isinstance(path, str) or not all(map(str.isidentifier, path.split("."))) or "." not in path:
        raise InputError(f"{where}._target_={typed(path)}: is not PACKAGE.MODULE.NAME")
    if not any(path.startswith(f"{package}.") for package in packages):
        root = path.partition(".")[0]
        raise InputError(
            f"{where}._target_={path}: not a part of {' or '.join(packages)}; plugins=[{root}] allows the code of "
            f"{root}, as does its entry point {ENTRY_POINTS}"
        )
    return path
