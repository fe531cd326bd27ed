"""Small, quick configurations for the tests: bundled digits, narrow networks, one thread."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra._internal.hydra import Hydra
from hydra.types import RunMode
from omegaconf import OmegaConf

from cl_bench.config.compose import compose
from cl_bench.config.errors import nearest
from cl_bench.config.names import CONF
from cl_bench.config.plugins import conf_folders
from cl_bench.data.batches import Data
from cl_bench.evaluation import judge
from cl_bench.methods.base import Learner
from cl_bench.runs.folder import without_nan

judge.STEPS = 3  # a judge that has learned something costs 2 s in every output folder
SMALL = [
    "network.hidden=[32]",
    "trainer.epochs=2",
    "trainer.batch_size=128",
    "trainer.chunk=3",
    "trainer.threads=1",
    "trainer.accelerator=cpu",
]
ACGAN = [
    "method.gan.optimizer.lr=0.01",
    "method.gan.generator.hidden=[16]",
    "method.gan.discriminator.network.hidden=[16]",
]
SMALL_OF = {
    # it trains every output: a narrow network that pushes the classes to come down from the start ends with dead units
    "der": ["network.hidden=[200]"],
    "icarl": ["memory=1000"],  # few exemplars of a network that has seen little have poor means
    "ewc": ["method.strength=10"],
    "lwf": ["method.strength=0.3"],
    "mas": ["method.strength=0.01"],
    "si": ["method.strength=0.1"],
    "rwalk": ["method.strength=0.1"],
    "dgm": [
        "method.n_gen=100",
        "method.n_critic=2",
        "method.optimizer.lr=0.01",
        "method.generator.hidden=[16,16]",
    ],
    "mergan": [*ACGAN, "method.n_gen=100", "method.generator_epochs=2"],
    "ewc_gan": [*ACGAN, "method.n_gen=100", "method.generator_epochs=2", "method.fisher_samples=20"],
    "joint_gan": ACGAN,
    "dgr": [
        "method.n_gen=100",
        "method.generator_epochs=2",
        "method.gan.generator.hidden=[16]",
        "method.gan.critic.hidden=[16]",
    ],
}
CLOCKS = ("seconds", "peak_memory_mb", "peak_gpu_memory_mb", "provenance")  # of results, what no two runs share
PLACES = ("output_root", "checkpoint_every", "key", "sha256")  # what says where and how carefully a run was kept
METHODS = sorted(file.stem for file in (CONF / "method").glob("*.yaml"))
"""The methods under test: ours, or with `--plugin` those of an installed plugin."""

Compose = Callable[..., dict[str, Any]]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--plugin", metavar="PACKAGE", help="test the methods of this installed plugin in place of ours")


def pytest_configure(config: pytest.Config) -> None:
    plugin, folders = config.getoption("--plugin"), conf_folders()
    if plugin:
        if plugin not in folders:
            raise pytest.UsageError(f"--plugin={plugin}: no plugin of that name is installed{nearest(plugin, folders)}")
        METHODS[:] = sorted(file.stem for file in (folders[plugin] / "method").glob("*.yaml"))


def without_clocks(results: Any) -> Any:
    """All of a run's results but times, memory and places, as JSON holds them."""
    if isinstance(results, dict):
        return {key: without_clocks(value) for key, value in results.items() if key not in CLOCKS + PLACES}
    if isinstance(results, list | tuple):
        return [without_clocks(value) for value in results]
    return without_nan(results)


def one_pass(module: Learner, data: Data, *, phase: str, **_: Any) -> None:
    """A `Fit` without Lightning, for what a method does beside it: each image once, in order, 32 at a time."""
    optimizer = module.configure_optimizers()
    for batch in data.batches(32):
        module.step(batch, optimizer)


@pytest.fixture(autouse=True)
def _same_machine_everywhere(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    if "gpu" not in request.keywords:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are made of results.json at the end, take longer than a small run, and have tests of their own."""
    monkeypatch.setattr("cl_bench.runs.loop.draw_results", lambda results, folder: None)


@pytest.fixture
def quick_hydra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra in half of its time, for tests of many commands: each file of ours is read once, and a command line is
    composed once; Hydra does it a second time to look for its `hydra.mode`."""
    monkeypatch.setattr(Hydra, "get_mode", lambda *_, **__: RunMode.RUN)
    monkeypatch.setattr(OmegaConf, "load", lambda file: copy.deepcopy(_read(file.name)) if ours(file) else LOAD(file))


LOAD = OmegaConf.load


def ours(file: Any) -> bool:
    return CONF in Path(file.name).parents


@cache
def _read(name: str) -> Any:
    return LOAD(name)


@pytest.fixture
def small(tmp_path: Path) -> Compose:
    """`small("method=ewc", ...)`: the settings of a run of a few seconds, kept under the test's folder."""

    def settings(*overrides: str, root: str = "outputs") -> dict[str, Any]:
        method = next((o.split("=")[1] for o in overrides if o.startswith("method=")), "dgm")
        chosen = [override.split("=")[0] for override in overrides]
        settings = [*SMALL, *SMALL_OF.get(method, [])]
        if "gan@method.gan" in chosen:  # another GAN has other keys
            settings = [one for one in settings if "gan." not in one]
        if "generator@method.generator" in chosen:
            settings = [one for one in settings if "generator.hidden" not in one]
        if "network" in chosen:
            settings = [one for one in settings if "network." not in one]
        return compose(*settings, f"output_root={tmp_path / root}", *overrides)

    return settings
