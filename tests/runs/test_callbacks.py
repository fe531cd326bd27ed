"""A person's own Lightning callbacks: what they see, and that a run with them goes on as if it had not been cut."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Compose
from pytorch_lightning import Callback, callbacks

from cl_bench.config import InputError, Stopped
from cl_bench.config.names import folder_of, key_of
from cl_bench.runs.callbacks import NOT_HERE, restore
from cl_bench.runs.loggers import read
from cl_bench.runs.loop import run

PACKAGE = '''
"""Callbacks that touch all that a run is made of."""

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from cl_bench.config import Stopped

STOP_AFTER = None  # chunks
SEEN = []


class Noise(Callback):
    """Adds noise to the weights when a phase starts and after each chunk, and counts."""

    def __init__(self, size: float = 0.01) -> None:
        self.size, self.chunks, self.phases, self.total = size, 0, 0, torch.zeros(2)

    def add(self, module: LightningModule) -> None:
        for weight in module.parameters():
            weight.data += self.size * torch.randn_like(weight)
        self.total += torch.rand(2)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.add(module)
        SEEN.append("start")

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs, batch, batch_idx: int) -> None:
        self.add(module)
        self.chunks += 1
        SEEN.append(len(batch))
        if self.chunks == STOP_AFTER:
            raise Stopped(9)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.phases += 1
        SEEN.append("end")

    def state_dict(self) -> dict:
        return {"chunks": self.chunks, "phases": self.phases, "total": self.total.clone()}

    def load_state_dict(self, state: dict) -> None:
        self.chunks, self.phases, self.total = state["chunks"], state["phases"], state["total"].clone()


class Stops(Callback):
    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs, batch, batch_idx: int) -> None:
        trainer.should_stop = True


class Names(Callback):
    def state_dict(self) -> dict:
        return {"names": ["one"]}

    def load_state_dict(self, state: dict) -> None:
        SEEN.append(state["names"])


class Odd(Callback):
    def state_dict(self) -> dict:
        return {"seen": [1, {"all"}]}
'''


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A package of a person's own."""
    (tmp_path / "code" / "mine").mkdir(parents=True)
    (tmp_path / "code" / "mine" / "__init__.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(tmp_path / "code")
    yield import_module("mine")
    del sys.modules["mine"]


def with_callbacks(small: Compose, callbacks: str, *more: str) -> dict[str, Any]:
    return small(
        "plugins=[mine]",
        f"trainer.callbacks={callbacks}",
        "trainer.chunk=4",
        "trainer.iterations=14",
        "checkpoint_every=0",
        *more,
    )


def end_of(settings: dict[str, Any]) -> dict[str, Any]:
    """The last checkpoint of a run."""
    return torch.load(max((folder_of(settings) / "checkpoints").glob("task*.pt")), weights_only=True)


KEPT = ("method=finetune", "optimizer=sgd", "optimizer.momentum=0.9", "optimizer.keep_state=true")
PARTS = ("method=pnn", "scenario=task_incremental")  # new parts in each task


@pytest.mark.parametrize(
    "how", [("method=ewc",), KEPT, PARTS, pytest.param(("method=dgr",), marks=pytest.mark.slow)], ids="-".join
)
def test_a_run_with_callbacks_goes_on_bit_for_bit(
    small: Compose, mine: Any, tmp_path: Path, how: tuple[str, ...]
) -> None:
    node, task = "[{_target_: mine.Noise, size: 0.02}]", ("scenario.n_tasks=2", *how)
    whole = with_callbacks(small, node, *task)
    results, state = run(whole), None
    n_chunks = end_of(whole)["callbacks"][0]["chunks"]
    cut = with_callbacks(small, node, *task) | {"output_root": str(tmp_path / "cut")}
    assert n_chunks > 5
    for mine.STOP_AFTER in (1, 2, n_chunks // 2, n_chunks // 2 + 1, n_chunks - 1, n_chunks):
        with pytest.raises(Stopped):
            run(cut)
    mine.STOP_AFTER = None
    again, state, wanted = run(cut), end_of(cut), end_of(whole)
    assert (again.R, again.b) == (results.R, results.b)
    for name, value in wanted["method"].items():
        assert not torch.is_tensor(value) or value.equal(state["method"][name]), name
    [found], [kept] = state["callbacks"], wanted["callbacks"]
    assert (found["chunks"], found["phases"]) == (kept["chunks"], kept["phases"])
    assert found["total"].equal(kept["total"])


def test_a_run_that_goes_on_with_another_one_begins_with_its_own(small: Compose, mine: Any) -> None:
    task = ("method=finetune", "scenario=domain_incremental", "scenario.n_tasks=2")
    before = with_callbacks(small, "[{_target_: mine.Noise}]", *task)
    run(before)
    mine.SEEN.clear()
    after = with_callbacks(small, "[{_target_: mine.Names}]", *task, f"continue_from={folder_of(before)}")
    assert (run(after).status, mine.SEEN) == ("finished", [])


def test_a_callback_sees_a_phase_as_an_epoch_of_chunks(small: Compose, mine: Any) -> None:
    settings = with_callbacks(small, "[{_target_: mine.Noise}]", "method=finetune", "scenario.n_tasks=2")
    results = run(settings)
    steps = [record.phases[0].steps for record in results.tasks]
    phases = [["start", *[4] * (n // 4), *([n % 4] if n % 4 else []), "end"] for n in steps]
    assert [*phases[0], *phases[1]] == mine.SEEN
    assert key_of(settings) != key_of(small("method=finetune", "scenario.n_tasks=2"))


def test_one_of_lightnings_own_works(small: Compose) -> None:
    node = "[{_target_: pytorch_lightning.callbacks.LambdaCallback}]"
    settings = small("plugins=[pytorch_lightning]", f"trainer.callbacks={node}", "method=finetune")
    assert run(settings).status == "finished"


def test_the_example_of_the_documentation(
    small: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "callbacks.md").read_text()
    (tmp_path / "mypackage").mkdir()
    (tmp_path / "mypackage" / "watching.py").write_text(page.partition("```python\n")[2].partition("```")[0])
    monkeypatch.syspath_prepend(tmp_path)
    node = page.partition("'trainer.callbacks=")[2].partition("'")[0]
    run(small("plugins=[mypackage]", f"trainer.callbacks={node}", "trainer.chunk=1", "method=finetune"))
    assert "step 5 of " in capsys.readouterr().out


def test_what_has_no_use_here_is_one_line(small: Compose) -> None:
    needed = {
        "EarlyStopping": ", monitor: loss",
        "ModelPruning": ", pruning_fn: l1_unstructured",
        "StochasticWeightAveraging": ", swa_lrs: 0.1",
    }
    for name in (*needed, "ModelCheckpoint", "RichProgressBar", "EMAWeightAveraging", "SpikeDetection", "Timer"):
        given = needed.get(name, "")
        node = f"[{{_target_: pytorch_lightning.callbacks.{name}{given}}}]"
        settings = small("plugins=[pytorch_lightning]", f"trainer.callbacks={node}", "method=finetune")
        with pytest.raises(InputError, match=rf"^trainer.callbacks\[0\]: {name} cannot be used: "):
            run(settings)
        assert not folder_of(settings).exists()


def test_all_but_these_of_lightnings_own_are_refused() -> None:
    refused = tuple(kind for kinds in NOT_HERE for kind in kinds)
    left = {name for name in callbacks.__all__ if not issubclass(getattr(callbacks, name), refused)}
    assert left == {"Callback", "LambdaCallback", "LearningRateMonitor", "DeviceStatsMonitor", "ThroughputMonitor"}


def test_what_lightnings_own_log_stands_at_the_steps_of_the_run(small: Compose) -> None:
    node = "[{_target_: pytorch_lightning.callbacks.LearningRateMonitor}]"
    more = ("method=finetune", "scenario.n_tasks=2", "trainer.chunk=5", "trainer.iterations=12", "optimizer.lr=0.125")
    settings = small("plugins=[pytorch_lightning]", f"trainer.callbacks={node}", *more)
    run(settings)
    rows = read(folder_of(settings) / "log.csv")
    assert [row.step for row in rows] == sorted(row.step for row in rows)
    rates = [(row.step, row.value) for row in rows if row.name.startswith("lr-")]
    assert sorted(set(rates)) == [(step, 0.125) for step in (0, 5, 10, 12, 17, 22)]


def test_what_is_given_back_is_a_copy_each_time() -> None:
    class Keeps(Callback):
        state: dict[str, Any]

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            self.state = state_dict

    one, other, states = Keeps(), Keeps(), [{"seen": [1], "of": {"task": 0}}, {}]
    for _ in range(2):
        restore([one, other], states)
        assert (one.state, other.state) == ({"seen": [1], "of": {"task": 0}}, {})
        one.state["seen"].append(2)
        one.state["of"]["task"] = 1
        other.state["new"] = True


def test_one_that_stops_a_phase_is_one_line(small: Compose, mine: Any) -> None:
    settings = with_callbacks(small, "[{_target_: mine.Stops}]", "method=finetune")
    with pytest.raises(InputError, match=r"^trainer.callbacks: a callback stopped task 1, train after step 4 of \d+; "):
        run(settings)


def test_a_state_that_a_checkpoint_cannot_hold_is_one_line(small: Compose, mine: Any) -> None:
    settings = with_callbacks(small, "[{_target_: mine.Noise},{_target_: mine.Odd}]", "method=finetune")
    with pytest.raises(
        InputError, match=r"callbacks\[1\]: its state_dict\['seen'\]\[1\] is a set; a checkpoint may have"
    ):
        run(settings)


@pytest.mark.parametrize(
    ("callbacks", "line"),
    [
        ("[{_target_: mine.Noise, sise: 1}]", r"trainer.callbacks\[0\].sise: no such key; did you mean '.*size'"),
        ("[{_target_: mine.Noise, size: x}]", r"trainer.callbacks\[0\].size=x: "),
        ("[{_target_: mine.Nois}]", r"trainer.callbacks\[0\]._target_=mine.Nois: does not exist"),
        ("[{_target_: mine.SEEN}]", r"trainer.callbacks\[0\]._target_=mine.SEEN: not a part of mine"),
        ("[{size: 1}]", r"trainer.callbacks\[0\]={\"size\":1}: must be {_target_: PACKAGE.MODULE.CLASS, KEY: VALUE}"),
        ("[Noise]", r"trainer.callbacks=\[\"Noise\"\]: each must be {_target_: PACKAGE.MODULE.CLASS, KEY: VALUE}"),
        ("7", r"trainer.callbacks=7: "),
        ("[{_target_: torch.nn.ReLU}]", r"trainer.callbacks\[0\]._target_=torch.nn.ReLU: not a part of cl_bench"),
        ("[{_target_: cl_bench.networks.mlp.MLP}]", r"trainer.callbacks\[0\].*: is not of type Callback"),
    ],
)
def test_what_is_no_callback_is_one_line(small: Compose, mine: Any, callbacks: str, line: str) -> None:
    with pytest.raises(InputError, match=line):
        run(with_callbacks(small, callbacks, "method=finetune"))
