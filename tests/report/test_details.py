"""What an opened row says: the commands that make its runs, and where they lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from runs_on_disk import write

from cl_bench.report.details import commands, link, origin_of, started
from cl_bench.report.runs import Run, read


def run(folder: Path, seed: int, **provenance: Any) -> Run:
    path = write(folder, "er", seed)
    path.joinpath("results.json").write_text(
        json.dumps(json.loads((path / "results.json").read_text()) | {"provenance": provenance})
    )
    (found,) = read([path])[0]
    return found


def test_what_differs_in_its_seed_alone_is_one_sweep(tmp_path: Path) -> None:
    typed = ["method=er", "memory=100", "network.hidden=[400,400]"]
    runs = [run(tmp_path, seed, overrides=[*typed, f"seed={seed}"]) for seed in (0, 1)]
    runs.append(run(tmp_path, 2, overrides=["memory=100", "seed=2"]))
    assert commands(runs) == [
        "python -m cl_bench -m method=er memory=100 'network.hidden=[400,400]' seed=0,1",
        "python -m cl_bench memory=100 seed=2",
    ]


def test_the_seed_that_was_not_typed_and_the_folder_of_the_configuration_are_in_the_command(tmp_path: Path) -> None:
    made = run(tmp_path, 0, overrides=["method=mine"], command="python -m cl_bench --config-dir 'my conf' method=mine")
    assert commands([made]) == ["python -m cl_bench --config-dir 'my conf' method=mine seed=0"]


def test_from_python_there_is_the_command_of_the_process_and_of_an_empty_record_none(tmp_path: Path) -> None:
    assert commands([run(tmp_path, 0, overrides=None, command="python mine.py")]) == ["python mine.py"]
    for number, damaged in enumerate(({}, {"overrides": 3, "command": None, "machine": [], "date": 5, "commit": {}})):
        empty = run(tmp_path, number + 1, **damaged)
        assert commands([empty]) == []
        assert (started(empty)[1:], origin_of(empty)) == ("", ("cl_bench 0.1.0, torch 2", "", "cpu"))


def test_links_are_those_of_the_folder_whatever_its_name(tmp_path: Path) -> None:
    assert link(tmp_path / "a #1%20?", tmp_path / "report") == "../a%20%231%2520%3F"
