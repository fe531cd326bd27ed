"""Hundreds of tasks: rows of R that are not measured, and what is written how often."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Compose, there, without_clocks

from cl_bench.config import Stopped
from cl_bench.config.names import folder_of, key_of
from cl_bench.methods.base import Method
from cl_bench.methods.finetune import Finetune
from cl_bench.record import Results, load_results
from cl_bench.runs.console import show
from cl_bench.runs.curves import read
from cl_bench.runs.folder import RunFolder
from cl_bench.runs.loop import run
from cl_bench.runs.recorder import Recorder

FEW = ("scenario.max_train=40", "trainer.epochs=1", "trainer.batch_size=20")


def permuted(
    small: Compose, n_tasks: int, *more: str, length: tuple[str, ...] = FEW, root: str = "outputs"
) -> dict[str, Any]:
    return small("method=finetune", "scenario=permuted", *length, f"scenario.n_tasks={n_tasks}", *more, root=root)


def test_rows_that_are_skipped_change_nothing_else(small: Compose) -> None:
    every, third = permuted(small, 8), permuted(small, 8, "measure_every=3")
    whole, found = run(every), run(third)
    measured = [i for i, row in enumerate(found.R) if None not in row]
    assert measured == [2, 5, 7]  # after every third one, and after the last
    assert [found.R[i] for i in measured] == [whole.R[i] for i in measured]
    assert all(set(row) == {None} for i, row in enumerate(found.R) if i not in measured)
    assert found.b == whole.b
    assert found.metrics["ACC"] == whole.metrics["ACC"]
    assert found.metrics["BWT"] is None
    skipped = [
        record if record.task in measured else replace(record, top5=None, by_class=None) for record in whole.tasks
    ]
    assert without_clocks(found.tasks) == without_clocks(skipped)


def test_only_another_measure_every_is_another_run(small: Compose) -> None:
    settings = permuted(small, 8)
    older = {key: value for key, value in settings.items() if key != "measure_every"}
    older["scenario"] = {key: value for key, value in settings["scenario"].items() if key != "max_train"}
    plain = settings | {"scenario": settings["scenario"] | {"max_train": None}}
    assert settings["measure_every"] == 1
    assert key_of(plain) == key_of(older)  # of before there were these keys
    assert len({key_of(settings), key_of(plain), key_of(settings | {"measure_every": 2})}) == 3


def test_a_run_with_skipped_rows_goes_on_after_a_signal(small: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(permuted(small, 8, "measure_every=5", root="whole"))
    settings = permuted(small, 8, "measure_every=5", root="stopped")
    with stopped_in(3, monkeypatch), pytest.raises(Stopped):
        run(settings)
    assert without_clocks(run(settings)) == without_clocks(whole)


def test_a_signal_while_results_are_written_stops_a_sweep_too(small: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = permuted(small, 2)
    finish = Recorder.finish

    def signaled(recorder: Recorder) -> Results:
        signal.raise_signal(signal.SIGTERM)
        return finish(recorder)

    monkeypatch.setattr(Recorder, "finish", signaled)
    with pytest.raises(Stopped):
        run(settings)
    assert load_results(folder_of(settings)).status == "finished"


@contextmanager
def stopped_in(index: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The process gets SIGTERM when it begins to learn this task."""
    learn = Finetune.learn

    def and_stop(method: Finetune, task: Any, fit: Any) -> None:
        if task.index == index:
            signal.raise_signal(signal.SIGTERM)
        learn(method, task, fit)

    with monkeypatch.context() as patch:
        patch.setattr(Finetune, "learn", and_stop)
        yield


def test_results_of_many_tasks_are_not_written_after_each(small: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are as large as R. What is known after each task is appended to log.csv, and whoever stops has it all."""
    written: list[int] = []
    write = RunFolder.write_results

    def counted(folder: RunFolder, results: Results) -> None:
        written.append(len(results.tasks))
        write(folder, results)

    monkeypatch.setattr(RunFolder, "write_results", counted)
    settings = permuted(small, 90, "measure_every=45")
    with stopped_in(50, monkeypatch), pytest.raises(Stopped):
        run(settings)
    folder = folder_of(settings)
    assert len(load_results(folder).tasks) == 50
    assert len(written) <= 2 + 40 * 50 // 90 + 1
    logged = {row.task for row in read(folder / "log.csv") if row.name == "online_accuracy"}
    assert logged == set(range(50))
    written.clear()
    results = run(settings)
    assert len(results.tasks) == 90
    assert written[-1] == 90
    assert len(written) <= 22


def test_the_console_shows_rows_that_were_measured(small: Compose, capsys: Any) -> None:
    settings = permuted(small, 42, "measure_every=20", "trainer.progress=false")
    show(run(settings), Path())
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[1] for line in lines if line[:1] == ["task"]] == ["20", "40", "42"]


@pytest.mark.slow
def test_300_tasks_take_little_more_than_300_times_one(
    small: Compose, pictures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tasks of 500 mini-batches, in time of the processor, with figures; and the page of the report opens."""
    long = (
        "trainer.iterations=500",
        "trainer.batch_size=64",
        "network.hidden=[256,256]",
        "trainer.chunk=32",
    )
    spent: list[float] = []
    learn = Method.learn_task

    def timed(method: Method, task: Any, fit: Any) -> dict[str, Any]:
        began = time.process_time()
        noted = learn(method, task, fit)
        spent.append(time.process_time() - began)
        return noted

    with monkeypatch.context() as patch:
        patch.setattr(Method, "learn_task", timed)
        for seed in range(6):
            run(permuted(small, 1, f"seed={seed}", length=long, root="single"))
    single = sorted(spent[1:])[2]  # the first one warms up
    began = time.process_time()
    settings = permuted(small, 300, "measure_every=300", length=long)
    results = run(settings)
    taken = time.process_time() - began
    assert there(results.metrics["ACC"]) > 0
    assert taken < 1.3 * 300 * single, (taken, 300 * single)
    from cl_bench.report.__main__ import main

    page = folder_of(settings).parents[1]
    assert main([str(page), "--out", str(page / "report")]) == 0
    assert 10_000 < (page / "report" / "index.html").stat().st_size < 2_000_000
