"""The same command more than once at the same time: one runs, the others leave; a lock dies with its owner."""

from __future__ import annotations

import fcntl
import json
import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from processes import Attempt, arguments_of, attempt
from test_kills import done, outcome, same

from cl_bench.runs.folder import Busy, RunFolder

COMMAND = arguments_of("dgr", "trainer.epochs=8", "trainer.chunk=2", "checkpoint_every=0")
WAITS = "another process works in outputs/"


def at_once(n: int, arguments: list[str], folder: Path) -> list[Attempt]:
    """n processes with the same command line and the same folder for what they make."""
    for i in range(n):
        (folder / str(i)).mkdir()
        (folder / str(i) / "outputs").symlink_to(folder / "outputs")
    (folder / "outputs").mkdir()
    with ThreadPoolExecutor(n) as threads:
        return list(threads.map(lambda i: attempt(arguments, folder / str(i)), range(n)))


@pytest.mark.faults
@pytest.mark.parametrize("n", [2, 4])
def test_one_runs_and_the_others_wait_for_it(n: int, tmp_path: Path) -> None:
    together, alone = tmp_path / "together", tmp_path / "alone"
    for folder in (together, alone):
        folder.mkdir()
    attempts = at_once(n, COMMAND, together)
    assert attempt(COMMAND, alone).exit_code == 0
    (worker,) = (one for one in attempts if done(one.events))
    for one in attempts:
        assert one.exit_code == 0
        assert "accuracy on each task" in one.said
        if one is not worker:
            what_runs, waits = one.said.splitlines()[:2]
            assert "kept in outputs/" in what_runs
            assert waits.startswith(WAITS)
            assert waits.endswith("; waiting for it")
            assert one.said.count(WAITS) == 1
    a, b = outcome(together), outcome(alone)
    assert a[:2] == b[:2]
    assert same(a[2], b[2])


@pytest.mark.faults
def test_two_sweeps_at_once_do_each_run_once(tmp_path: Path) -> None:
    command = ["-m", *COMMAND, "seed=0,1"]
    attempts = at_once(2, command, tmp_path)
    runs = [json.loads(file.read_text()) for file in tmp_path.glob("outputs/*/*/results.json")]
    assert len(runs) == 2
    phases = [phase for run in runs for task in run["tasks"] for phase in task["phases"]]
    chunks = [event for one in attempts for event in one.events if event.what == "chunk"]
    assert len(chunks) == sum(math.ceil(phase["steps"] / 2) for phase in phases)  # of each run, once
    assert any(WAITS in one.said for one in attempts)
    assert [one.exit_code for one in attempts] == [0, 0]
    again = attempt(command, tmp_path)
    assert again.exit_code == 0
    assert "2 runs in 0:00:00: 2 there" in again.said


@pytest.mark.faults
@pytest.mark.parametrize("logger", ["csv", "wandb"])  # W&B has a helper process, which outlives the run for a while
def test_a_lock_dies_with_its_owner(logger: str, tmp_path: Path) -> None:
    command = [*COMMAND, f"logger={logger}", *["logger.mode=offline"] * (logger == "wandb")]
    killed = attempt(command, tmp_path, when=lambda event: 0 if event[:2] == ("chunk", 1) else None)
    assert killed.exit_code == -9
    end = attempt(command, tmp_path)
    assert end.exit_code == 0, end.said


def test_the_lock_of_a_folder_that_was_set_aside_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between opening the lock's file and locking it another process may have moved the folder away."""
    folder = RunFolder(tmp_path / "run", "key")
    flock = fcntl.flock

    def meanwhile(*args: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        with RunFolder(folder.path, "key", say=lambda _: None).opened(anew=True):
            pass
        flock(*args)

    with folder.opened():
        pass
    monkeypatch.setattr(fcntl, "flock", meanwhile)
    with pytest.raises(Busy, match="another process works in"), folder.opened():
        pass
    assert os.path.exists(tmp_path / "run.old1")
    with folder.opened():  # and then it can be had
        pass
