"""A results.json with anything wrong in it is named and left out; the other runs are shown, and no page is lost."""

from __future__ import annotations

import copy
import errno
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from example_records import full_record
from runs_on_disk import results, write

from cl_bench.config import InputError
from cl_bench.record import Damaged, load_results
from cl_bench.report.__main__ import main
from cl_bench.report.published import Cell, row_of
from cl_bench.runs.continued import check_goes_on
from cl_bench.runs.folder import read_results
from cl_bench.sweep.jobs import share
from cl_bench.verify import key_on_any_machine

WHOLE = results("er", 0, acc=0.7, record=full_record) | {
    "peak_memory_mb": 3.5,
    "R_task_masked": [[0.5] * 3] * 3,
    "provenance": {"date": "2026-01-01", "machine": {"cpu": "x"}, "overrides": ["seed=0"]},
    "measured_on": "test images",
    "memory": {"images": 200, "bytes": 14800},
    "chance": [0.5, 0.25, 0.2],
    "joint": [0.9, 0.8, None],
}
WHOLE["config"] |= {
    "came_from": {"dataset": "npz.0a", "key": "0a", "tasks": 1, "digest": "0a"},
    "weights": {"features": "0a"},
    "features": {"weights": None},
    "scheduler": {"gamma": 0.1},
    "plugins": [],
}
WRONG: tuple[Any, ...] = (
    None, 1e300, -1e300, -1, 10**40, 2**70, "x", "", True, [], {}, [[]], [None], {"a": {"b": [1, "c"]}}, "\ud800", 0.5,
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where there is a value in a nested one; of a list its ends."""
    items = value if isinstance(value, dict) else {0: None, len(value) - 1: None} if isinstance(value, list) else {}
    for key in items if value else ():
        yield (*path, key)
        yield from places(value[key], (*path, key))


def changed(path: tuple[Any, ...], value: Any, gone: bool = False) -> dict[str, Any]:
    found: Any = copy.deepcopy(WHOLE)
    node = found
    for key in path[:-1]:
        node = node[key]
    if gone:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return found


@pytest.mark.parametrize("every", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_any_field_may_be_wrong(every: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each field (by default every ninth) made wrong in each way, or gone: a run that can be used, or one line."""
    run, number = tmp_path / "run", 0
    run.mkdir()
    write(tmp_path / "usable", "ewc", acc=0.3)
    for place in list(places(WHOLE))[::every]:
        for value in (*WRONG, "gone"):
            content = changed(place, value, gone=value == "gone")
            (run / "results.json").write_text(json.dumps(content))
            said: list[str] = []
            found = read_results(run, said.append)
            if found is None:
                assert ["\n" in line for line in said] == [False]
                continue
            assert share(run) == 0.0
            assert isinstance(key_on_any_machine(found.config), str), place
            assert row_of(Cell(experiment="x"), found, "").seed == found.seed
            with suppress(InputError):
                check_goes_on({**WHOLE["config"], "reference": None, "optimizer": {"keep_state": True}}, found, "")
            number += 1
            if content["seed"] == 0:  # else they are copies of one run
                content["seed"] = content["config"]["seed"] = number
            (tmp_path / "usable" / f"{number}").mkdir()
            (tmp_path / "usable" / f"{number}" / "results.json").write_text(json.dumps(content))
    assert main([str(tmp_path / "usable")]) == 0
    assert not capsys.readouterr().err
    assert ">ewc" in (tmp_path / "usable" / "report" / "index.html").read_text()


NOT_WHOLE = {
    "half": json.dumps(WHOLE)[:500],
    "NaN": json.dumps(WHOLE | {"seconds": float("nan")}),
    "infinity": json.dumps(WHOLE).replace('"seconds": 1.5', '"seconds": 1e999'),
    "ragged": json.dumps(changed(("R", 1), [0.5, 0.5])),
    "too few rows": json.dumps(WHOLE | {"R": WHOLE["R"][:2]}),
    "another length": json.dumps(WHOLE | {"b": [0.1]}),
    "a share of 2": json.dumps(changed(("R", 0, 0), 2)),
    "a mean of 2": json.dumps(changed(("metrics", "ACC"), 2)),
    "finished half way": json.dumps(WHOLE | {"tasks": WHOLE["tasks"][:1]}),
    "deep": "[" * 100_000,
    "a number without end": '{"seed": ' + "9" * 5000 + "}",
    "list": "[1]",
    "empty": "",
}


@pytest.mark.parametrize("text", NOT_WHOLE.values(), ids=NOT_WHOLE)
def test_what_is_not_whole_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(Damaged, match=r"^results\.json is damaged \(.+\)$") as error:
        load_results(tmp_path)
    assert "\n" not in str(error.value)
    assert read_results(tmp_path) is None


@pytest.mark.parametrize("kind", ["pipe", "folder", "link to nothing", "UTF-16"])
def test_what_is_no_file_is_not_waited_for(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "ewc")
    file = write(tmp_path, "er") / "results.json"
    file.unlink()
    {
        "pipe": lambda: os.mkfifo(file),
        "folder": file.mkdir,
        "link to nothing": lambda: file.symlink_to("nowhere"),
        "UTF-16": lambda: file.write_bytes(json.dumps(WHOLE).encode("utf-16")[1:]),
    }[kind]()
    (file.parent / "checkpoints").mkdir()
    assert main([str(tmp_path)]) == 0
    assert "1 finished runs of 1 configurations" in capsys.readouterr().out


def test_a_report_that_fails_leaves_the_old_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, "er")
    assert main([str(tmp_path)]) == 0
    files = sorted((tmp_path / "report").iterdir())
    before = [file.read_bytes() for file in files]
    assert [file.name for file in files] == ["index.html", "results.csv", "table.md", "table.tex"]
    write(tmp_path, "ewc")
    monkeypatch.setattr("cl_bench.report.__main__.latex", lambda found, columns: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main([str(tmp_path)])
    monkeypatch.undo()
    monkeypatch.setattr(
        Path, "write_bytes", lambda path, data: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left"))
    )
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().err.endswith("report: cannot be written (No space left); set --out\n")
    assert sorted((tmp_path / "report").iterdir()) == files
    assert [file.read_bytes() for file in files] == before


def test_folders_may_have_any_bytes_in_their_names(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    write(folder, "er")
    write(folder, "ewc", status="failed")
    assert main([str(folder)]) == 0


def test_the_page_of_hundreds_of_tasks_is_bounded(tmp_path: Path) -> None:
    for method in ("er", "ewc", "si"):
        write(tmp_path, method, tasks=200)
    assert main([str(tmp_path)]) == 0
    page = (tmp_path / "report" / "index.html").read_text()
    assert len(page) < 500_000
    assert "20 of 200 tasks are shown." in page
    assert page.count("<td") < 3 * 20 * 20 + 3 * 40 + 200
