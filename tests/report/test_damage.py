"""A results.json with anything wrong in it is named and left out; the other runs are shown, and no page is lost."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from runs_on_disk import results, write

from cl_bench.record import Damaged, load_results
from cl_bench.report.__main__ import main
from cl_bench.report.runs import read
from cl_bench.runs.folder import read_results
from cl_bench.sweep.jobs import share

WHOLE = results("er", 0, acc=0.7) | {
    "peak_memory_mb": 3.5,
    "R_task_masked": [[0.5] * 3] * 3,
    "provenance": {"date": "2026-01-01", "machine": {"cpu": "x"}, "overrides": ["seed=0"]},
    "measured_on": "test images",
    "memory": {"images": 200, "bytes": 14800},
}
WRONG: tuple[Any, ...] = (
    None, 1e300, -1e300, -1, 10**40, 2**70, "x", "", True, [], {}, [[]], [None], {"a": {"b": [1, "c"]}}, "\ud800", 0.5,
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where there is a value in a nested one."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in items:
        yield (*path, key)
        yield from places(one, (*path, key))


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


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_any_field_may_be_wrong(every: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each field (by default every fifth) made wrong in each way, or gone: a run that can be used, or one line."""
    for place in list(places(WHOLE))[::every]:
        folder = tmp_path / "-".join(map(str, place))
        for seed in range(2):
            write(folder, "ewc", seed, acc=0.3)
        for number, value in enumerate((*WRONG, "gone")):
            run = folder / "er" / f"seed{number}"
            run.mkdir(parents=True)
            text = json.dumps(changed(place, value, gone=value == "gone"))
            (run / "results.json").write_text(text)
            found = read_results(run)
            assert found is None or share(run) == 0.0
        assert main([str(folder)]) == 0, place
        said = capsys.readouterr()
        found, unread, copies = read([folder])
        assert len(found) + len(unread) + copies == 2 + len(WRONG) + 1
        assert len(said.err.splitlines()) == len(unread)
        page = (folder / "report" / "index.html").read_text()
        assert ">ewc" in page
        assert page.count("<td>not read</td>") == len(unread)


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


def test_a_report_that_fails_leaves_the_old_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    monkeypatch.setattr(Path, "write_bytes", lambda path, data: (_ for _ in ()).throw(OSError("No space left")))
    assert main([str(tmp_path)]) == 1
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
