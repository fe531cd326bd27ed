"""The provenance of a result: date, command, code and machine."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, entry_points, packages_distributions, version
from pathlib import Path
from typing import Any

import torch

import cl_bench
from cl_bench.config.content import digest
from cl_bench.config.plugins import ENTRY_POINTS, PACKAGE, folders
from cl_bench.config.tuned import leaves
from cl_bench.config.weights import weights_file
from cl_bench.record import Results

PACKAGES = ("torch", "torchvision", "pytorch-lightning", "torchmetrics", "numpy", "scipy", "hydra-core", "omegaconf")
"""What numbers may depend on."""


def provenance(device: torch.device, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The provenance in results.json, below one key, so that equal runs differ only there.

    date: the start, ISO 8601 in UTC. command: of this process, which a sweep shares. overrides: of this run, None when
    it was started from Python. commit: of the code, with -dirty where it was changed; None without git. plugins: by
    package of somebody else, its version, None where it is not installed, its commit, and a digest of its files.
    weights: by group, the file of pre-trained weights, its digest, and its bytes; these are in no state.
    """
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sound(shlex.join([Path(sys.orig_argv[0]).name, *sys.orig_argv[1:]])),
        "overrides": overrides(),
        "commit": commit(Path(cl_bench.__file__)),
        "plugins": plugins(settings),
        "weights": weights(settings),
        "machine": machine(device),
        "continued": [],
    }


def continued(earlier: Results | None, now: dict[str, Any]) -> dict[str, Any]:
    """The provenance of a run that continues: that of its start, with later ones in `continued`.

    earlier: its results so far. Without them its start is not known any more.
    """
    if earlier is None:
        return now
    before = earlier.provenance.get("continued")
    later = {key: value for key, value in now.items() if key != "continued"}
    return earlier.provenance | {"continued": [*(before if isinstance(before, list) else []), later]}


def overrides() -> list[str] | None:
    from hydra.core.hydra_config import HydraConfig

    return (
        [sound(str(override)) for override in HydraConfig.get().overrides.task] if HydraConfig.initialized() else None
    )


def weights(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The files of pre-trained weights that the settings name, by group."""
    found = {}
    for group, known in (settings.get("weights") or {}).items():
        file = weights_file(group, settings[group]["backbone"], settings[group]["weights"])
        found[group] = {"file": file.name, "digest": known, "bytes": file.stat().st_size}
    return found


def sound(text: str) -> str:
    """The text with valid UTF-8: a command line may hold any bytes."""
    return text.encode(errors="replace").decode()


def plugins(settings: Mapping[str, Any]) -> dict[str, dict[str, str | None]]:
    """The packages of other people whose code the settings name, after they are imported; see `provenance`."""
    targets = {str(value) for key, value in leaves(settings) if key.endswith("_target_")}
    found = {}
    for target in sorted(targets):
        package, module = target.partition(".")[0], sys.modules.get(target.rpartition(".")[0])
        if package == PACKAGE or module is None or module.__file__ is None:
            continue
        whole = next(iter(folders(package)), None) or module.__file__
        found[package] = {
            "version": version_of(package),
            "commit": commit(Path(module.__file__)),
            "digest": digest(str(whole), settings["output_root"]),
        }
    return found


def version_of(package: str) -> str | None:
    """The version of the installed distribution that declares this plugin or contains this package."""
    declared = [entry.dist for entry in entry_points(group=ENTRY_POINTS) if entry.module.partition(".")[0] == package]
    names = [dist.name for dist in declared if dist] or packages_distributions().get(package, [])
    return version(names[0]) if names else None


@cache
def commit(here: Path) -> str | None:
    """The commit of the code in this file; None if it is not in its own git repository."""
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}

    def git(*words: str) -> str | None:
        command = ["git", "-C", str(here.parent), *words]
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=10, check=False, errors="replace"
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if not git("ls-files", "--error-unmatch", here.name):  # installed inside somebody's project
        return None
    return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def machine(device: torch.device) -> dict[str, Any]:
    """The type of the hardware, without names of users or places."""
    cuda = device.type == "cuda"
    return {
        "system": platform.platform(),
        "cpu": processor(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpu": torch.cuda.get_device_name(device) if cuda else None,
        "cuda": torch.version.cuda if cuda else None,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
    }


@cache
def processor() -> str:
    """The name of the CPU, if the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


@cache
def versions() -> dict[str, str]:
    """Of this package, of Python, and of what numbers may depend on."""
    found = {"cl_bench": cl_bench.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package.replace("-", "_")] = version(package)
        except PackageNotFoundError:  # vendored
            continue
    return found | {"torch": str(torch.__version__)}  # with what it was built for
