"""Small, quick configurations for the tests: bundled digits, narrow networks, one thread."""

from __future__ import annotations

import copy
import gc
import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar

import pytest
import quick_hydra
import torch
import yaml
from lightning_fabric.utilities import registry

from cl_bench.config.compose import compose
from cl_bench.config.errors import nearest
from cl_bench.config.names import CONF
from cl_bench.config.plugins import conf_folders
from cl_bench.data.batches import Batch, Data, Step
from cl_bench.data.problem import Task
from cl_bench.data.tasks import Scenario
from cl_bench.evaluation import judge
from cl_bench.methods.base import Fit as FitProtocol
from cl_bench.methods.base import Learner, Method
from cl_bench.record import Phase, to_json
from cl_bench.runs import recorder
from cl_bench.runs.figures import draw_results
from cl_bench.runs.fit import Fit
from cl_bench.runs.folder import RunFolder
from cl_bench.runs.loggers import CSVLog
from cl_bench.runs.setup import prepare

judge.STEPS = 3  # a judge that has learned something costs 2 s in every output folder
ALWAYS = pytest.MonkeyPatch()
# each Trainer reads those of every installed package: a third of a small run
ALWAYS.setattr(registry, "entry_points", cache(entry_points))
# a disk takes 10 ms for each, a quarter of a small run; no test cuts the power, which is what it is for
ALWAYS.setattr(os, "fsync", lambda file: None)
# figures are made of results.json at the end, take longer than a small run, and have tests of their own
ALWAYS.setattr(recorder, "draw_results", lambda results, folder: None)
quick_hydra.install(ALWAYS)
SMALL = [
    "network.hidden=[32]",
    "trainer.epochs=2",
    "trainer.batch_size=128",
    "trainer.chunk=3",
    "trainer.threads=1",
    "trainer.accelerator=cpu",
]
SMALL_OF = {  # what makes a method quick: overrides of tests/small/METHOD.yaml, by method
    file.stem: [f"{key}={value}" for key, value in yaml.safe_load(file.read_text()).items()]
    for file in (Path(__file__).parent / "small").glob("*.yaml")
}
T = TypeVar("T")
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


def pytest_collection_finish() -> None:
    gc.freeze()  # modules and tests stay: to look for garbage among them, again and again, takes 4 % of the suite


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # so that the interpreter can take everything down


def there(value: T | None) -> T:
    """A value that isn't None."""
    assert value is not None
    return value


def without_clocks(results: Any) -> Any:
    """All of a run's results but times, memory and places, as JSON holds them."""
    results = to_json(results)
    if isinstance(results, dict):
        return {key: without_clocks(value) for key, value in results.items() if key not in CLOCKS + PLACES}
    if isinstance(results, list):
        return [without_clocks(value) for value in results]
    return results


def train(module: Learner, batches: Iterable[Batch], step: Step | None = None) -> None:
    """The steps of a phase on these mini-batches, without Lightning."""
    optimizers: Any = module.configure_optimizers()
    for module.step_index, batch in enumerate(batches):
        (step or module.train_step)(batch, optimizers)


def one_pass(module: Learner, data: Data, *, phase: str, step: Step | None = None, **_: Any) -> Phase:
    """A `Fit` for what a method does beside it: each image once, in order, 32 at a time."""
    train(module, data.batches(32), step)
    return Phase(phase, math.ceil(len(data) / 32), [], 0.0, {}, [])


@dataclass
class Call:
    """One phase that a method asked for; more: for how long."""

    module: Learner
    phase: str
    data: Data
    step: Step | None
    more: dict[str, Any]


class Recorder:
    """A `Fit` that notes what it is given, and makes some steps on random mini-batches of it.

    look: called before the first step and after the last one.
    """

    def __init__(self, steps: int = 0, look: Callable[[Call], None] = lambda call: None) -> None:
        self.steps, self.look = steps, look
        self.calls: list[Call] = []

    def __call__(self, module: Learner, data: Data, *, phase: str, step: Step | None = None, **more: Any) -> Phase:
        call = Call(module, phase, data, step, more)
        self.calls.append(call)
        self.look(call)
        if self.steps:
            train(module, (data.batch(torch.randperm(len(data))[:32]) for _ in range(self.steps)), step)
        self.look(call)
        return Phase(phase, self.steps, [], 0.0, {}, [])

    def __getitem__(self, phase: str) -> Call:
        """The last phase of this name."""
        return next(call for call in reversed(self.calls) if call.phase == phase)


def learn(
    method: Method,
    scenario: Scenario,
    index: int,
    folder: Path,
    how: Callable[[Method, Task, FitProtocol], Any] = lambda method, task, fit: method.learn_task(task, fit),
    validate_current: Callable[[Learner], float | None] = lambda module: None,
    **trainer: Any,
) -> Any:
    """A task, by the `Fit` of runs; returns what `how` does, the diagnostics.

    validate_current: see `Fit.task`. trainer: settings of the fit.
    """
    given = {key: value for key, value in small_settings()["trainer"].items() if key != "_target_"} | trainer
    fit = Fit(RunFolder(folder, "test"), CSVLog(), 0, 1e9, **given)
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    fit.logger.start(folder, "test", "test", {}, "", [], 0)
    with fit.task(index, validate_current=validate_current):
        return how(method, scenario.tasks[index], fit)


@pytest.fixture(autouse=True)
def _same_machine_everywhere(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    if "gpu" not in request.keywords:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs draw their figures."""
    monkeypatch.setattr(recorder, "draw_results", draw_results)


def small_settings(*overrides: str) -> dict[str, Any]:
    """The settings of a run of a few seconds. overrides: as typed, such as `method=ewc`."""
    return copy.deepcopy(_small_settings(*overrides))


@cache
def _small_settings(*overrides: str) -> dict[str, Any]:
    """Composed once: it takes as long as the run."""
    method = next((o.split("=")[1] for o in overrides if o.startswith("method=")), "dgm")
    chosen = [override.split("=")[0] for override in overrides]
    settings = [*SMALL, *SMALL_OF.get(method, [])]
    if "gan@method.gan" in chosen:  # another GAN has other keys
        settings = [override for override in settings if "gan." not in override]
    if "generator@method.generator" in chosen:
        settings = [override for override in settings if "generator.hidden" not in override]
    if {"scenario.passes=online", "scenario=blurry", "scenario=rotating_pairs"} & {*overrides}:  # a stream comes once
        settings = [override for override in settings if not override.startswith(("trainer.epochs", "trainer.batch"))]
    if "trainer.iterations" in chosen or "experiment" in chosen:  # beside them epochs have no effect
        settings = [override for override in settings if not override.startswith("trainer.epochs")]
    if "network" in chosen:
        settings = [override for override in settings if "network." not in override]
    return compose(*settings, *overrides)


class Killed(BaseException):
    """Nothing catches it: like kill -9, but inside the test's process."""


@contextmanager
def killed_after(n: int, *saves: str) -> Iterator[None]:
    """A run inside dies right after its n-th checkpoint. saves: which of them count, all by default."""
    count = 0

    def dying(save: Callable[..., None]) -> Callable[..., None]:
        def wrapped(*arguments: Any) -> None:
            nonlocal count
            save(*arguments)
            count += 1
            if count == n:
                raise Killed

        return wrapped

    with pytest.MonkeyPatch.context() as patch:
        for name in saves or ("save_phase", "save_task"):
            patch.setattr(RunFolder, name, dying(getattr(RunFolder, name)))
        yield


def made(method: str, *overrides: str) -> tuple[Scenario, Any]:
    """The small digits, and the untrained method, with what its YAML says but for the overrides."""
    torch.manual_seed(0)
    return prepare(small_settings(f"method={method}", *overrides))


@pytest.fixture
def small(tmp_path: Path) -> Compose:
    """`small("method=ewc", ...)`: the settings of a run of a few seconds, kept under the test's folder."""

    def settings(*overrides: str, root: str = "outputs") -> dict[str, Any]:
        return small_settings(*overrides) | {"output_root": str(tmp_path / root)}

    return settings
