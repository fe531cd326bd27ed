"""Records come back from their files as they were, and a file of another schema is named in one line and kept."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Compose
from example_records import capacity, generated, plastic_record, results, task_record

from cl_bench.config import InputError
from cl_bench.config.names import folder_of
from cl_bench.files import sealed
from cl_bench.record import (
    PLASTICITY,
    SCHEMA,
    Damaged,
    Diagnostics,
    MemoryUse,
    Outdated,
    Phase,
    Results,
    TaskRecord,
    from_json,
    load_results,
    to_json,
)
from cl_bench.report.__main__ import main as report
from cl_bench.runs.folder import RunFolder
from cl_bench.runs.loop import run
from cl_bench.sweep.jobs import finished

WHOLE = results(
    [[0.5, None], [0.25, 1.0]],
    reason="why",
    R_task_masked=[[0.75, 0.5], [0.5, 1.0]],
    provenance={"date": "2026-01-01", "continued": [{"date": "2026-01-02"}]},
    memory=MemoryUse(images=3, bytes=192, generator_bytes=192, raw_bytes_uint8=640, raw_bytes_float32=2560),
    peak_gpu_memory_mb=10.5,
    tasks=[
        task_record(0, phases=[Phase("train", 20, [20, 10], 0.5, {"loss": 0.25}, [(10, 0.5), (20, 0.75)])]),
        task_record(
            1,
            diagnostics=Diagnostics(
                capacity(parameters=7, weights=[1, 2]), 80, [0, 3], 0.25, [(0.5, 0.1)], {"mine": [1, {"a": "b"}]}
            ),
            generated=generated([50.0, None], [0.5, None]),
            memory=MemoryUse(images=3, bytes=192),
        ),
    ],
)


def test_results_come_back_from_their_file(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", "key")
    with folder.opened():
        folder.write_results(WHOLE)
    assert load_results(folder.path) == WHOLE
    assert isinstance(load_results(folder.path).tasks[1].diagnostics.capacity, type(capacity()))


def test_records_are_plain_values_in_a_checkpoint() -> None:
    for record in WHOLE.tasks:
        assert from_json(TaskRecord, json.loads(json.dumps(to_json(record)))) == record


def test_a_record_says_what_is_wrong_with_it() -> None:
    content = to_json(WHOLE)
    content["tasks"][1]["diagnostics"]["capacity"]["free"] = [1, -1]
    with pytest.raises(Damaged, match=r"^tasks\.1\.diagnostics\.capacity\.free\.1: .*greater than or equal to 0$"):
        from_json(Results, content)


@pytest.mark.parametrize(
    ("schema", "age"), [(None, "an older"), (1, "an older"), (0, "an older"), (SCHEMA + 1, "a newer")]
)
@pytest.mark.parametrize("seal", [sealed, dict])
def test_another_schema_is_named_in_one_line(
    seal: Any, schema: int | None, age: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = {name: value for name, value in to_json(WHOLE).items() if name != "schema"}
    content["from a time"] = "when there were other fields"
    (tmp_path / "results.json").write_text(
        json.dumps(seal(content if schema is None else content | {"schema": schema}))
    )
    line = f"results.json was written by {age} cl_bench; run it again"
    with pytest.raises(Outdated, match=f"^{line}$"):
        load_results(tmp_path)
    assert report([str(tmp_path)]) == 0
    assert capsys.readouterr().err == f"not read: {tmp_path}: {line}\n"


@pytest.mark.parametrize("schema", ["2", 2.5, True, None, [], -1e300])
def test_a_schema_that_is_no_number_is_damage(schema: Any, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(to_json(WHOLE) | {"schema": schema}))
    with pytest.raises(Damaged, match=r"^results\.json is damaged \(schema: ") as error:
        load_results(tmp_path)
    assert not isinstance(error.value, Outdated)


def test_a_run_of_another_schema_is_set_aside_and_made_again(
    small: Compose, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = small("method=finetune", "trainer.epochs=1", "trainer.progress=false")
    first = run(settings)
    file = folder_of(settings) / "results.json"
    content = {name: value for name, value in json.loads(file.read_text()).items() if name not in ("schema", "sha256")}
    file.write_text(json.dumps(content))
    assert finished(settings) is None
    old = "results.json was written by an older cl_bench; run it again"
    assert capsys.readouterr().err == f"not read: {file.parent}: {old}\n"
    assert run(settings).R == first.R
    aside = file.parent.with_name(f"{file.parent.name}.old1")
    assert json.loads((aside / "results.json").read_text()) == content
    assert capsys.readouterr().out == f"the older result is now in {aside}\n"
    assert finished(settings)


def test_what_a_method_notes_is_kept_by_its_name() -> None:
    noted = {"capacity": capacity(), "replay_histogram": [1, 2], "rounds": (1, 2), "mean": math.nan}
    found = Diagnostics.of(noted)
    assert (found.capacity, found.replay_histogram) == (capacity(), [1, 2])
    assert found.more == {"rounds": [1, 2], "mean": None}
    assert Diagnostics.of({}) == Diagnostics()
    assert to_json(Diagnostics()) == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mine", np.ones(2)),
        ("generator_bytes", -1),
        ("capacity", {"free": []}),
        ("capacity", to_json(capacity()) | {"free": [1]}),  # of two layers; its picture can't be drawn
        ("plasticity", [[0.5]]),
    ],
)
def test_what_no_file_can_hold_is_refused(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=r"^notes of the method: .*; use plain Python values$") as error:
        Diagnostics.of({name: value})
    assert name in str(error.value) or "ndarray" in str(error.value)


def test_late_plasticity_is_the_mean_over_the_last_ten_tasks() -> None:
    records = [plastic_record(task, dead=task % 5, online=task / 100) for task in range(12)]
    found = results([[0.5]], tasks=records).late_plasticity
    assert found["late_online_accuracy"] == pytest.approx(0.065)  # of tasks 2 to 11
    assert found["late_dead_units"] == pytest.approx(20 / 16 / 10)
    assert set(found) == {f"late_{name}" for name in PLASTICITY}


def test_late_plasticity_has_only_what_each_of_the_last_tasks_has() -> None:
    unknown = plastic_record(1, online=None)
    assert "late_online_accuracy" not in results([[0.5]], tasks=[plastic_record(0), unknown]).late_plasticity
    assert "late_dead_units" in results([[0.5]], tasks=[plastic_record(0), unknown]).late_plasticity
    assert results([[0.5]], tasks=[]).late_plasticity == {}


def test_what_learn_returns_is_a_dictionary() -> None:
    """Not what a phase returned, for one."""
    phase: Any = Phase("train", 1, [1], 1.0, {}, [])
    with pytest.raises(InputError, match=r"^notes of the method: learn returns a Phase; return a dictionary$"):
        Diagnostics.of(phase)
