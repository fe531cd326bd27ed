"""The curves of a run: which points there are, that nothing but `log_every` changes them, and what they cost."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from conftest import Compose, Killed, killed_after

from cl_bench.config import InputError
from cl_bench.config.names import folder_of, key_of
from cl_bench.methods.base import Classifier
from cl_bench.methods.finetune import Finetune
from cl_bench.record import Phase, Results
from cl_bench.runs.fit import Fit
from cl_bench.runs.folder import RunFolder
from cl_bench.runs.loggers import MEASURED, CSVLog, Row, read
from cl_bench.runs.loop import run

TWO_NETWORKS = ("method=dgr", "scenario.n_tasks=2", "method.gan.n_critic=3")  # one of which logs in some steps only

EACH: list[tuple[Results, list[Row]]] = []


def curves(settings: dict[str, Any]) -> list[Row]:
    return [row for row in read(folder_of(settings) / "log.csv") if row.phase != MEASURED]


def each_step(small: Compose) -> tuple[Results, list[Row]]:
    """The results of two networks in two tasks, and what each of their steps logged; made once."""
    if not EACH:
        settings = small(*TWO_NETWORKS, "trainer.log_every=1", root="each")
        EACH.append((run(settings), curves(settings)))
    return EACH[0]


def means(single: list[Row], windows: list[int]) -> list[Row]:
    """The points over windows of steps that end at these steps of the run, from the rows of single steps."""
    points = []
    for first, last in zip([0, *windows], windows, strict=False):
        inside = [row for row in single if first < row.step <= last]
        for name in dict.fromkeys(row.name for row in inside):
            values = [row.value for row in inside if row.name == name]
            points.append(Row(last, inside[0].task, inside[0].phase, name, math.fsum(values) / len(values)))
    return points


def windows(results: Results, every: int) -> list[int]:
    """Where each window ends when a new one begins with each phase."""
    ends, before = [], 0
    for phase in (phase for task in results.tasks for phase in task.phases):
        ends += [before + min(first + every, phase.steps) for first in range(0, phase.steps, every)]
        before += phase.steps
    return ends


def test_a_point_is_the_mean_of_log_every_steps_whatever_the_chunk(small: Compose) -> None:
    results, single = each_step(small)
    n_steps = sum(phase.steps for task in results.tasks for phase in task.phases)
    assert list(dict.fromkeys(row.step for row in single)) == list(range(1, n_steps + 1))
    assert len(windows(results, 7)) > n_steps / 7  # the last of a phase is a short one
    for every, chunk in ((1, 1), (2, 3), (5, 2), (7, 1000), (1000, 3)):
        other = small(*TWO_NETWORKS, f"trainer.log_every={every}", f"trainer.chunk={chunk}", root=f"{every} {chunk}")
        assert run(other).R == results.R
        assert key_of(other) == results.key
        assert curves(other) == means(single, windows(results, every)), (every, chunk)


def test_a_task_of_thirty_steps_has_a_curve(small: Compose) -> None:
    """By default; the whole run used to have five points."""
    settings = small("method=finetune", "trainer.iterations=30", "trainer.chunk=32")
    run(settings)
    assert len(curves(settings)) == 5 * 30 / settings["trainer"]["log_every"] == 30


@pytest.mark.parametrize(("after", "then"), [(1, 7), (3, 2), (5, 7), (8, 2)])
def test_every_step_is_in_one_point_after_a_kill_though_log_every_changed(
    after: int, then: int, small: Compose
) -> None:
    """Killed after this many checkpoints, each in the middle of a window of seven."""
    results, single = each_step(small)
    killed = (*TWO_NETWORKS, "checkpoint_every=0")
    with killed_after(after, "save_phase"), pytest.raises(Killed):
        run(small(*killed, "trainer.log_every=7", root="killed"))
    settings = small(*killed, f"trainer.log_every={then}", root="killed")
    assert run(settings).R == results.R
    found = curves(settings)
    ends = list(dict.fromkeys(row.step for row in found))
    assert found == means(single, ends)
    assert len(ends) >= len(windows(results, max(then, 7)))
    if then == 7:
        assert ends == windows(results, 7)


def test_a_phase_returns_the_last_value_of_each_loss(small: Compose) -> None:
    """Of one that is logged in some steps only, too."""
    results, single = each_step(small)
    phases = [(task.task, phase) for task in results.tasks for phase in task.phases]
    last = {(row.task, row.phase, row.name): row.value for row in single}
    assert {(task, phase.phase, name): x for task, phase in phases for name, x in phase.losses.items()} == last
    assert len(last) > len(phases)


def _scheduled(self: Classifier) -> Any:
    optimizer = self.optimizer(self.network.parameters())
    return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]


def _of_another(self: Classifier) -> Any:
    return self.optimizer([*self.network.parameters(), torch.nn.Parameter(torch.zeros(3))])


def _float(self: Classifier, batch: Any, optimizers: Any) -> Any:
    return {"loss": float(Classifier.train_step(self, batch, optimizers)["loss"])}


@pytest.mark.parametrize(
    ("name", "wrong", "why"),
    [
        ("configure_optimizers", _scheduled, r"^method: Finetune\.configure_optimizers returns a scheduler"),
        ("configure_optimizers", _of_another, r"^method: Finetune\.configure_optimizers trains weights that are not"),
        ("train_step", _float, "^task 1, train: a step logs 'loss', which is not a tensor of one number"),
        (
            "train_step",
            lambda *_: {"loss": torch.zeros(3)},
            "^task 1, train: a step logs 'loss', which is not a tensor",
        ),
    ],
)
def test_what_a_phase_cannot_follow_is_refused(
    name: str, wrong: Any, why: str, small: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scheduler would never be stepped, nor the weights be there again after a kill."""
    monkeypatch.setattr(Finetune, name, wrong)
    with pytest.raises(InputError, match=why):
        run(small("method=finetune"))


@pytest.mark.parametrize("where", ["in the second phase", "after the last chunk of the first"])
def test_a_phase_returns_the_same_record_after_a_kill(
    where: str, small: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A method that decides by a loss decides the same."""
    whole = each_step(small)[0].tasks[1].phases[0]
    returned: list[Phase] = []

    def telling(*args: Any, original: Any = Fit.__call__, **options: Any) -> Phase:
        returned.append(original(*args, **options))
        return returned[-1]

    def dying(self: RunFolder, state: Any, original: Any = RunFolder.save_phase) -> None:
        original(self, state)
        trained = len(state["phases"]) + (state["running"]["step"] == whole.steps)
        if state["task"] == 1 and trained and len(state["phases"]) == (where == "in the second phase"):
            raise Killed

    settings = small(*TWO_NETWORKS, "checkpoint_every=0", root="killed")
    monkeypatch.setattr(Fit, "__call__", telling)
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save_phase", dying)
        with pytest.raises(Killed):
            run(settings)
    before = returned.copy()
    run(settings)
    again = returned[len(before)]
    assert (again.phase, again.losses) == (whole.phase, whole.losses)
    assert len(before) == (3 if where == "in the second phase" else 2)
    assert again in before or where == "after the last chunk of the first"


def test_a_chunk_is_read_and_written_once(small: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many steps it has: nothing waits for a GPU, and no file is opened, for each of them."""

    def calls(iterations: int) -> Counter[str]:
        count: Counter[str] = Counter()

        def counting(owner: Any, name: str) -> None:
            original = getattr(owner, name)

            def counted(*args: Any, **kwargs: Any) -> Any:
                count[name] += 1
                return original(*args, **kwargs)

            patch.setattr(owner, name, counted)

        with monkeypatch.context() as patch:
            for name in ("item", "tolist", "cpu", "numpy", "__float__", "__int__", "__bool__"):
                counting(torch.Tensor, name)
            counting(CSVLog, "write")
            overrides = [f"trainer.iterations={iterations}", "trainer.chunk=1000", "trainer.log_every=1"]
            run(small("method=finetune", "scenario.n_tasks=2", *overrides, root=str(iterations)))
        return count

    few, many = calls(20), calls(60)
    assert few["write"] == many["write"] == 4  # a chunk and a task, twice
    assert few["tolist"] > 0
    assert few == many
