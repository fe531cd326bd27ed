"""Folders of runs as a sweep leaves them, without training. (No conftest.py: that name is taken.)"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from example_records import task_record

from cl_bench.record import SCHEMA, to_json


def results(method: str, seed: int, *, acc: float = 0.8, tasks: int = 3, **changes: Any) -> dict[str, Any]:
    """A results.json of a class-incremental run on digits whose last row has this mean accuracy.

    changes: `scenario`, `train_mask`, `status`, `record` (makes the record of a task), or keys of the configuration
    with `__` for the dot.
    """
    scenario, status = changes.pop("scenario", "class_incremental"), changes.pop("status", "finished")
    record = changes.pop("record", task_record)
    train_mask = changes.pop("train_mask", "seen")
    config: dict[str, Any] = {
        "seed": seed,
        "output_root": "/somewhere",
        "method": {"_target_": f"cl_bench.methods.{method}.X"},
        "scenario": {"_target_": "cl_bench.data.scenarios.split", "kind": "class", "train_mask": train_mask},
        "trainer": {"_target_": "cl_bench.runs.fit.Fit", "epochs": 10, "chunk": 32},
        "network": {"_target_": "cl_bench.networks.mlp.MLP", "hidden": [32]},
        "choices": {"method": method, "dataset": "digits", "scenario": scenario, "experiment": None},
    }
    for key, value in changes.items():
        group, _, name = key.partition("__")
        if name:
            config.setdefault(group, {})[name] = value
        else:
            config[group] = value
    first = 0.98
    R = [[first if on == after else acc if on < after else 0.0 for on in range(tasks)] for after in range(tasks)]
    R[-1] = [acc] * tasks
    done = tasks if status == "finished" else 1
    return {
        "schema": SCHEMA,
        "key": "",
        "name": f"digits-{scenario}-{method}-seed{seed}",
        "status": status,
        "seed": seed,
        "config": config,
        "versions": {"cl_bench": "0.1.0", "torch": "2"},
        "provenance": {
            "date": "2026-01-02T03:04:05+00:00",
            "command": f"python -m cl_bench -m method={method} seed=0,1,2",
            "overrides": [f"method={method}", f"seed={seed}"],
            "commit": "c0ffee" * 6,
            "machine": {"cpu": "a processor", "gpu": None},
        },
        "kind": "class",
        "masks": {"train": train_mask, "evaluation": "seen", "baseline": "all"},
        "measured_on": "test images",
        "classes": [[str(2 * task), str(2 * task + 1)] for task in range(tasks)],
        "class_names": [str(output) for output in range(2 * tasks)],
        "R": R,
        "b": [0.1] * tasks,
        "R_task_masked": None,
        "n_test": [100] * tasks,
        "metrics": {"ACC": acc, "BWT": acc - first, "FWT": -0.1, "LA": first, "first_forgetting": first - acc},
        "memory": None,
        "tasks": [to_json(record(task)) for task in range(done)],
        "parameters": 1000,
        "bytes_kept": 4000,
        "seconds": 1.5,
        "peak_memory_mb": 512.5,
        "peak_gpu_memory_mb": None,
        "device": "cpu",
    } | ({"reason": "loss is inf"} if status == "failed" else {})


def write(outputs: Path, method: str, seed: int = 0, folder: str = "", **changes: Any) -> Path:
    """`write(outputs, "er", seed=1, acc=0.9, memory__images=100)`: a run's folder, with what `results` says."""
    found: Mapping[str, Any] = results(method, seed, **changes)
    number = len(list(outputs.glob("*/*")))
    path = outputs / (folder or f"{found['name'].rpartition('-')[0]}/seed{seed}-{number:08x}")
    path.mkdir(parents=True)
    (path / "results.json").write_text(json.dumps(found))
    return path
