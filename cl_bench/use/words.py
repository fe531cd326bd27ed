"""What stands behind these commands: the folder of a run, files, and KEY=VALUE. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from cl_bench.config import InputError
from cl_bench.config.schema import build, check

T = TypeVar("T")


def options(kind: type[T], words: Sequence[str]) -> T:
    """A dataclass made of words KEY=VALUE, each value as YAML.

    Raises InputError for an unknown key or a wrong value, and for a key that is there twice.
    """
    values: dict[str, Any] = {}
    for word in words:
        key, _, value = word.partition("=")
        if key in values:
            raise InputError(f"{word}: {key} appears twice")
        try:
            values[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise InputError(f"{word}: is not KEY=VALUE") from None
        if not value:
            raise InputError(f"{word}: needs a value")
    return build(check(values, "", kind))


def sorted_out(words: Sequence[str], usage: str) -> tuple[Path, list[str], list[str]]:
    """The folder, the other words without a key, and those KEY=VALUE; what lies on the disk is a file, whatever its
    name."""
    for word in words:
        if word.startswith("-"):
            raise InputError(f"{word}: no such flag; see --help")
    files = [word for word in words if "=" not in word or Path(word).exists()]
    if not files:
        raise InputError(f"which run? {usage}")
    return Path(files[0]), files[1:], [word for word in words if word not in files]
