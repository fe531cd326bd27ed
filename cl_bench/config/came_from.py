"""The run that another one continues, as far as its results say by themselves: what it is, and what it found out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from cl_bench.config.names import key_of, name_of, place

SAME = ("method", "network", "memory")
"""What goes on, and so must be as it was."""


def came_from(settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """What names the run in the folder `continue_from`, wherever that lies; it is a part of the key of the new run.

    dataset: its name. key: of its configuration, without the seed, what both runs have in common, and the accuracies of
    a run that it continues itself: they differ by seed, and are among its own. seed: where it is another one than that
    of the new run. tasks: how many. digest: of its accuracies.
    None without such a folder, and for one that can't be read; whoever needs it will say why.
    """
    folder = settings.get("continue_from")
    if not isinstance(folder, str):
        return None
    try:
        results = json.loads((place(folder, "continue_from") / "results.json").read_bytes())
        config = results["config"]
        scenario, method = config["choices"]["scenario"], config["choices"]["method"]
        text = json.dumps([results[name] for name in ("R", "b", "n_test", "classes")])
        kept = {name: value for name, value in config.items() if name not in (*SAME, "seed")}
        if kept.get("came_from"):
            kept["came_from"] = {name: value for name, value in kept["came_from"].items() if name != "digest"}
        found = {
            "dataset": name_of(config).removesuffix(f"-{scenario}-{method}"),
            "key": key_of(kept),
            "tasks": len(results["classes"]),
            "digest": hashlib.sha256(text.encode()).hexdigest()[:16],
        }
        return found if config["seed"] == settings.get("seed") else found | {"seed": config["seed"]}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
