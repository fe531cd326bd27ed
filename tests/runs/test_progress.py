"""What a person sees of a run: how long it is said to be, what a terminal shows, and what it is like afterwards."""

from __future__ import annotations

import logging
import os
import pty
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from conftest import Compose, there
from rich.console import Console
from rich.live import Live

from cl_bench.config import Stopped
from cl_bench.config.names import folder_of
from cl_bench.methods.ewc import EWC
from cl_bench.runs.loop import run
from cl_bench.runs.progress import Plan, RunProgress, first_line

SIZES = [1000, 400, 700]  # 10, 4 and 7 mini-batches of 100


def train(plan: Plan, index: int, *lengths: int, speed: float = 1.0, **more: Any) -> None:
    """A task from its begin to its end, with phases of so many mini-batches at so many seconds each."""
    plan.begin_task(index)
    for length in lengths:
        phase = plan.begin_phase(length, **more)
        phase.done, phase.seconds = length, length * speed


def test_of_one_network_all_is_known_at_once() -> None:
    plan = Plan(SIZES, 1, 100)
    assert plan.total is None
    plan.begin_task(0)
    phase = plan.begin_phase(20)  # two passes
    assert (plan.done, plan.total, plan.certain, plan.seconds_left) == (0, 42, False, None)
    phase.done, phase.seconds = 5, 10.0
    assert (plan.done, plan.total, plan.seconds_left) == (5, 42, 74.0)
    train(plan, 1, 8)
    assert plan.total == 5 + 8 + 14  # what was not done of an earlier task is not to come
    train(plan, 2, 13)
    assert plan.certain
    assert plan.total == plan.done == 26
    assert plan.seconds_left == 0


def test_of_two_networks_it_is_known_when_the_second_begins() -> None:
    plan = Plan(SIZES, 2, 100)
    train(plan, 0, 20)
    assert plan.total is None
    assert plan.seconds_left is None
    phase = plan.begin_phase(300, fixed=True)
    assert plan.total == 20 + 8 + 14 + 3 * 300
    assert plan.seconds_left is None  # how long a step of the second takes isn't known
    phase.done, phase.seconds = 100, 1000.0
    assert plan.seconds_left == (8 + 14) * 1.0 + 800 * 10.0
    phase.done, phase.seconds = 300, 3000.0
    plan.begin_task(1)
    assert plan.total == 942  # before any of its phases


@pytest.mark.parametrize("n_tasks", [3, 10])
def test_what_grows_with_each_task_is_expected_to_go_on_growing(n_tasks: int) -> None:
    plan = Plan([1000] * n_tasks, 1, 100)
    train(plan, 0, 10)
    train(plan, 1, 20)
    assert plan.total == sum(10 * task for task in range(1, n_tasks + 1))


def test_what_grew_once_is_not_expected_to_fall() -> None:
    plan = Plan([1000] * 5, 1, 100)
    for index, length in enumerate((10, 12, 12)):
        train(plan, index, length)
    assert plan.total == 10 + 4 * 12
    shrinks = Plan([1000] * 5, 1, 100)
    for index, length in enumerate((30, 10)):
        train(shrinks, index, length)
    assert shrinks.total == 40  # never below nothing


def test_tasks_that_train_nothing_and_phases_left_out() -> None:
    joint = Plan(SIZES, 1, 100)
    for index in range(2):
        train(joint, index)
        assert joint.total is None
    train(joint, 2, 42)
    assert joint.total == 42
    pruned = Plan(SIZES, 2, 100)  # where nothing is pruned, nothing is trained again
    train(pruned, 0, 10)
    pruned.begin_task(1)
    assert pruned.total == 10 + 4 + 7


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch, columns: int = 100) -> Iterator[list[str]]:
    """Standard output is a terminal; afterwards what was written there."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = pty.openpty()
    parts: list[bytes] = []

    def listen() -> None:
        while True:
            try:
                parts.append(os.read(ours, 65536))
            except OSError:
                return

    listener = threading.Thread(target=listen)
    listener.start()
    seen: list[str] = []
    with os.fdopen(theirs, "w") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        yield seen
    listener.join()
    os.close(ours)
    seen.append(b"".join(parts).decode())


@pytest.fixture
def every_view(monkeypatch: pytest.MonkeyPatch) -> None:
    """After each chunk of mini-batches training waits until the bar was drawn, however fast this machine is."""
    monkeypatch.setattr("cl_bench.runs.progress.PER_SECOND", 100)
    drawn, refresh, step = threading.Event(), Live.refresh, RunProgress.step

    def refreshed(live: Live) -> None:
        refresh(live)
        drawn.set()

    def stepped(progress: RunProgress, *args: Any) -> None:
        step(progress, *args)
        for _ in range(2):  # the first drawing may have begun before this step
            drawn.clear()
            assert drawn.wait(timeout=60)

    monkeypatch.setattr(Live, "refresh", refreshed)
    monkeypatch.setattr(RunProgress, "step", stepped)


@pytest.mark.usefixtures("every_view")
def test_a_terminal_shows_one_bar_for_the_whole_run(small: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch) as seen:
        results = run(small("method=dgr", "scenario.n_tasks=2", "trainer.iterations=100"))
    n_steps = sum(phase.steps for task in results.tasks for phase in task.phases)
    assert re.search(r"task 1/2 solver .* \d+/\? ", seen[0])
    assert re.search(r"task 1/2 generator .* \d+/~\d+ .*\d:\d\d:\d\d to go", seen[0])
    assert re.search(rf"task 2/2 generator .* \d+/{n_steps} .*\d:\d\d:\d\d to go .*wasserstein -?\d", seen[0])
    lines = [line for line in re.split("[\r\n]+", seen[0]) if "accuracy" in line]
    expected = [results.R[0][0], results.R[1][1], sum(map(there, results.R[1])) / 2]
    assert [f"accuracy {expected[0]:.3f}, of all so far {expected[0]:.3f}" in line for line in lines] == [True, False]
    assert f"task 2 of 2: accuracy {expected[1]:.3f}, of all so far {expected[2]:.3f}; " in lines[1]
    assert seen[0].rindex("\x1b[?25h") > seen[0].rindex("\x1b[?25l")  # the cursor is there again


@pytest.mark.parametrize("columns", [20, 40, 60, 80, 200])
def test_the_bar_is_one_line_in_every_terminal(columns: int) -> None:
    progress = RunProgress(shown=False)
    progress.console = Console(width=columns, file=StringIO())
    with progress.live(Plan([10**6] * 100, 1, 10)):
        progress.begin_task(0)
        progress.begin_phase("generator", 10**6)
        progress.step(1000, 10.0, [("wasserstein", 1.2345678)])
        with progress.console.capture() as capture:
            progress.console.print(progress.view())
    (line,) = capture.get().splitlines()
    assert len(line) <= columns
    assert line.startswith("task 1/100 gen")
    assert ("1,000/~100,000,000" in line) == (columns >= 60)
    assert ("wasserstein 1.23" in line) == (columns == 200)


def test_a_run_that_is_stopped_leaves_the_terminal_as_it_was(small: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(self: EWC, task: Any, fit: Any) -> None:
        time.sleep(0.1)  # until the bar is there
        logging.getLogger("cl_bench").warning("a line of its own")
        fit.progress.stopping()
        raise Stopped(2)

    monkeypatch.setattr(EWC, "learn", stopped)
    monkeypatch.setattr("cl_bench.runs.progress.PER_SECOND", 100)
    with terminal(monkeypatch) as seen:
        handler = logging.StreamHandler(sys.stdout)  # as Hydra makes one
        monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
        with pytest.raises(Stopped):
            run(small("method=ewc"))
        assert handler.stream is sys.stdout
    assert re.search(r"\x1b\[2K(\x1b\[0m)?a line of its own *\r?\n", seen[0])
    assert seen[0].count("\x1b[?25h") == 2  # at once, for a second Ctrl-C ends all; and when the bar goes
    assert seen[0].endswith("\x1b[2K")  # nothing of it is left


def test_without_a_terminal_there_is_a_line_per_task(small: Compose, capsys: pytest.CaptureFixture[str]) -> None:
    run(small("method=joint", "scenario.n_tasks=2"))
    first, second = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"task 1 of 2: not measured yet; \d+\.\d s", first)
    assert re.fullmatch(r"task 2 of 2: accuracy \d\.\d{3}, of all so far \d\.\d{3}; \d+\.\d s", second)
    run(small("method=ewc", "scenario.n_tasks=2", "trainer.progress=false"))
    assert capsys.readouterr().out == ""


def test_nobody_needs_to_listen(small: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with monkeypatch.context() as patch:
        stream = os.fdopen(writer, "w")
        patch.setattr(sys, "stdout", stream)
        assert run(small("method=ewc", "scenario.n_tasks=2")).status == "finished"
    with pytest.raises(BrokenPipeError):
        stream.close()


def test_the_first_line_comes_before_torch(tmp_path: Path, small: Compose) -> None:
    code = """
import sys
from cl_bench.__main__ import main

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise KeyboardInterrupt

sys.meta_path.insert(0, NoTorch())
sys.exit(main(sys.argv[1:]))
"""
    arguments = ["method=ewc", "seed=3", "trainer.epochs=1"]
    command = [sys.executable, "-c", code, *arguments]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    folder = "outputs/digits-class_incremental-ewc/seed3-[0-9a-f]{8}"
    assert re.fullmatch(rf"digits-class_incremental-ewc, seed 3: kept in {folder}(; picked up .*)?\n", ended.stdout)
    settings = small("method=ewc", "method.strength=7")
    settings["choices"]["picked_up"] = {}
    assert first_line(settings) == f"digits-class_incremental-ewc, seed 0: kept in {folder_of(settings)}"
    settings["choices"]["picked_up"] = {"tuned/ewc-digits": {"method.strength": 7, "tuned_on": "first_2_tasks"}}
    how = "method.strength=7 (conf/tuned/ewc-digits.yaml, chosen on validation images of first_2_tasks)"
    assert first_line(settings).endswith(f"; picked up {how}")
