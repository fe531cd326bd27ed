"""How values and configurations are called, and told apart."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

encode = json.JSONEncoder(separators=(",", ":")).encode  # one for all: `dumps` makes one each time
ABSENT = "absent"  # the value of a key that a configuration doesn't have


def read_value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def as_typed(value: Any) -> str:
    """A value as a person types it; 100000, 100000.0 and 1e5 are one value.

    >>> as_typed(1e5), as_typed(0.001), as_typed([400, 400]), as_typed(None), as_typed("mnist")
    ('100000', '0.001', '[400,400]', 'null', 'mnist')
    """
    if isinstance(value, str):
        return value
    return encode(int(value) if isinstance(value, float) and value.is_integer() else value)


def by_size(value: Any) -> tuple[bool, float, str]:
    """A key to sort values by: numbers by their size, whatever else after them.

    >>> sorted([None, 1000, "a", 200, 0.5], key=by_size)
    [0.5, 200, 1000, 'a', None]
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return not number, float(value) if number else 0.0, as_typed(value)


def differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys whose value isn't the same in all, in the order in which they stand there."""
    keys = dict.fromkeys(key for config in configs for key in config)
    return [key for key in keys if len({as_typed(config.get(key, ABSENT)) for config in configs}) > 1]


def telling(configs: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[str]:
    """Few of the keys that tell the configurations as far apart as all of them do."""

    def apart(chosen: Sequence[str]) -> int:
        return len({tuple(as_typed(config.get(key, ABSENT)) for key in chosen) for config in configs})

    chosen: list[str] = []
    while apart(chosen) < apart(keys):
        chosen.append(max((key for key in keys if key not in chosen), key=lambda key: apart([*chosen, key])))
    return chosen


def short(key: str) -> str:
    """The part of a key that says enough.

    >>> short("method.n_gen"), short("memory.images"), short("memory.bytes")
    ('n_gen', 'memory', 'memory.bytes')
    """
    return "memory" if key == "memory.images" else key.removeprefix("method.").removesuffix("._target_")


def shown(key: str, value: Any) -> str:
    """A value as the page shows it: the class of a target, the name of a file, a large number in its short form.

    >>> shown("network._target_", "cl_bench.networks.mlp.MLP"), shown("dataset.path", "/data/my.npz"), shown("", 1e8)
    ('MLP', 'my.npz', '1e8')
    """
    if isinstance(value, str) and key.endswith("_target_"):
        return value.rpartition(".")[2]
    if isinstance(value, int | float) and not isinstance(value, bool) and float(brief := f"{value:g}") == value:
        return brief.replace("e+0", "e").replace("e-0", "e-")
    return Path(value).name if isinstance(value, str) and "/" in value else as_typed(value)
