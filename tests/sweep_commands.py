"""Sweeps as command lines, for the tests that start them."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cl_bench.record import Results, load_results

TINY = [
    "method=finetune",
    "network.hidden=[16]",
    "trainer.iterations=2",
    "trainer.threads=1",
    "trainer.accelerator=cpu",
]


LONG = ["trainer.iterations=300", "trainer.chunk=3", "checkpoint_every=0"]  # long enough to be killed in the middle


LAUNCHERS = {
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "submitit_local": ["hydra/launcher=submitit_local"],
    "ray": ["hydra/launcher=ray", "hydra.launcher.ray.init.num_cpus=2"],
}


def installed(launcher: str) -> bool:
    package = launcher.partition("_")[0]
    try:
        return importlib.util.find_spec(f"hydra_plugins.hydra_{package}_launcher") is not None
    except ModuleNotFoundError:
        return False


def launchers() -> list[Any]:
    """Each launcher as a parameter, left out with its reason where its extra isn't installed."""
    return [
        pytest.param(
            name,
            marks=pytest.mark.skipif(not installed(name), reason=f"pip install -e '.[{name.partition('_')[0]}]'"),
        )
        for name in LAUNCHERS
    ]


def start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cl_bench", "-m", *TINY, *arguments]
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=cwd, env=environment, stdout=pipe, stderr=pipe, text=True)


def numbers(results: Results) -> str:
    return json.dumps([results.R, results.b, results.metrics, results.bytes_kept])


def kept(folder: Path) -> Results:
    return load_results(folder)


def trains(override: str, cwd: Path) -> int:
    """The process that trains the run with this override, as soon as it has something to lose."""
    until = time.time() + 300
    while not list(cwd.glob(f"outputs/*/{override.replace('=', '')}-*/checkpoints/task0.pt")):
        assert time.time() < until
        time.sleep(0.05)
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (folder / "cmdline").read_text().split("\0")
            here = (folder / "cwd").resolve() == cwd.resolve()
        except OSError:
            continue
        if here and override in arguments:
            return int(folder.name)
    raise AssertionError("there is no such process")
