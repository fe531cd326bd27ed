"""Runs whose tasks share one test set, from training to the report: R has one column, and nothing else is a number."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SMALL, small_settings, there
from core50_on_disk import FRAMES, OBJECTS, TEST, make
from example_records import results

import cl_bench
from cl_bench.config import InputError
from cl_bench.config.compose import compose
from cl_bench.config.names import folder_of, key_of, name_of
from cl_bench.files import Damaged
from cl_bench.record import Results, from_json, load_results, to_json, wrong
from cl_bench.report.__main__ import main as report
from cl_bench.runs.console import show
from cl_bench.runs.figures import accuracy_over_tasks, draw_results, mergan_score_over_tasks
from cl_bench.runs.loop import run
from cl_bench.runs.setup import prepare

UNDEFINED = ("BWT", "FWT", "forgetting", "first_forgetting", "LA", "weighted_AAA", "later_AAA")
N_TEST = len(TEST) * len(OBJECTS) * FRAMES


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("data")).parent


def settings(data: Path, root: Path, *overrides: str) -> dict[str, Any]:
    there = [f"data_dir={data}", f"output_root={root}", "scenario.size=32"]
    return small_settings("scenario=core50", *there, "trainer.epochs=1", *overrides)


def shape(R: Any) -> tuple[int, ...]:
    return np.array(R, dtype=float).shape


@pytest.mark.parametrize("method", ["icarl", "wa", "bic", "lucir", "ss_il"])
def test_exemplars_of_classes_that_come_back(method: str, data: Path, tmp_path: Path) -> None:
    """Most tasks of nic bring no class that is new, and some bring one class alone."""
    short = ("scenario.variant=nic", "memory=72", "trainer.batch_size=8", "network.hidden=[8]")
    found = run(settings(data, tmp_path, f"method={method}", *short))
    assert found.status == "finished"
    assert shape(found.R) == (15, 1)
    assert found.memory is not None
    assert 0 < found.memory.images <= 72
    if method == "wa":
        outputs = prepare(settings(data, tmp_path, f"method={method}", *short))[0].problem.outputs
        known = [set(outputs[task]) <= set(sum(outputs[:task], ())) for task in range(15)]
        ratios = [there(there(task.diagnostics).more)["norm_ratio"] for task in found.tasks]
        assert 0 < sum(known) < 15
        assert [ratio == 1 for ratio in ratios[1:]] == known[1:]  # no vector is made longer twice


def test_a_run_and_its_page(data: Path, tmp_path: Path, pictures: None, capsys: pytest.CaptureFixture[str]) -> None:
    for method in ("er", "finetune"):
        for seed in (0, 1):
            found = run(settings(data, tmp_path, f"method={method}", f"seed={seed}"))
            assert shape(found.R) == shape(found.R_task_masked) == (3, 1)
            assert (len(found.b), found.n_test) == (1, [N_TEST])
            assert found.metrics["ACC"] == found.R[2][0]
            assert found.metrics["AAA"] == pytest.approx(np.mean([row[0] or 0.0 for row in found.R]))
            assert all(found.metrics[name] is None for name in UNDEFINED)
            assert "A5" not in found.metrics
    said = capsys.readouterr().out
    assert re.search(r"task 2 of 3: accuracy 0\.\d{3}; ", said)

    folder = folder_of(settings(data, tmp_path, "method=er"))
    assert folder.parent.name == "core50-core50-er"
    with (folder / "accuracy.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["on"] for row in rows} == {"all"}
    assert {row["n_test"] for row in rows} == {str(N_TEST)}
    assert [row["after"] for row in rows] == ["-1", "0", "1", "2", "0", "1", "2"]
    assert ",task,accuracy/all," in (folder / "log.csv").read_text()
    assert (folder / "figures" / "accuracy_over_tasks.png").is_file()
    assert not (folder / "figures" / "accuracy_matrix.png").exists()

    loaded = cl_bench.load(folder)
    assert loaded.R.shape == (3, 1)
    assert np.isnan(loaded.metrics["BWT"])
    assert "the test set of all tasks" in str(loaded)
    assert cl_bench.evaluate(loaded) == pytest.approx(loaded.R[2])
    with pytest.raises(InputError, match="its own images"):
        cl_bench.evaluate(loaded, "digits")
    assert set(cl_bench.results(tmp_path)["method"]) == {"er", "finetune"}

    assert report([str(tmp_path), "--out", str(tmp_path / "report")]) == 0
    page = (tmp_path / "report" / "index.html").read_text()
    assert "core50, core50, 3 tasks" in page
    assert "On the test set that all tasks share." in page
    assert "future tasks" not in page
    assert page.count('<th scope="col">all</th>') == 2
    assert "NaN" not in re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)


@pytest.mark.parametrize("variant", ["ni scenario.kind=domain", "nc scenario.kind=task", "nicv2_196"])
def test_the_other_kinds(data: Path, tmp_path: Path, variant: str) -> None:
    found = run(settings(data, tmp_path, "method=er", *f"scenario.variant={variant}".split(), "measure_every=2"))
    T = 15 if variant == "nicv2_196" else 3
    assert shape(found.R) == (T, 1)
    assert found.R_task_masked is None
    measured = [row[0] for row in found.R if row[0] is not None]
    assert len(measured) == T // 2 + 1
    assert found.metrics["AAA"] == pytest.approx(np.mean(measured))
    assert all(found.metrics[name] is None for name in UNDEFINED)


def test_a_stream(data: Path, tmp_path: Path) -> None:
    small = [override for override in SMALL if "epochs" not in override and "batch_size" not in override]
    core50 = ["scenario=core50", "scenario.variant=nicv2_79", "scenario.size=32", f"data_dir={data}"]
    stream = ["scenario.passes=online", "scenario.measure_every=20"]
    found = run(compose(*small, *core50, *stream, "method=er", f"output_root={tmp_path}"))
    assert shape(found.R) == (15, 1)
    assert 0 < (found.metrics["A_AUC"] or 0) <= 1


def test_a_trial_is_judged_by_the_validation_images_of_the_tasks_it_learns(data: Path, tmp_path: Path) -> None:
    trial = settings(data, tmp_path, "method=er", "scenario.val_fraction=0.25")
    for first, shape in ((2, (2, 1)), (None, (3, 1)), (1, (1, 1))):
        scenario, _ = prepare(trial | {"trial": {"first_tasks": first}})
        assert (len(scenario.tasks), len(scenario.tests)) == shape
        assert len(scenario.tests[0]) == sum(len(task.val) for task in scenario.tasks)
        assert scenario.problem.n_tasks == 3


def test_a_reference_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^reference=there: the tasks share one test set"):
        run(settings(data, tmp_path, "method=er", "reference=there"))


def test_a_run_is_named_by_its_tables_wherever_they_lie(data: Path, tmp_path: Path) -> None:
    one = settings(data, tmp_path)
    other = settings(make(tmp_path / "other", zipped=False).parent, tmp_path)
    assert one["scenario"]["path"] != other["scenario"]["path"]
    assert key_of(one) == key_of(other)
    assert name_of(one) == name_of(other) == "core50-core50-dgm"
    table = tmp_path / "other" / "core50" / "LUP.pkl"
    table.write_bytes(table.read_bytes() + b"more")
    small_settings.__globals__["_small_settings"].cache_clear()
    assert key_of(settings(tmp_path / "other", tmp_path)) != key_of(one)


# ------------------------------------------------------------------------------------------------ records

SHARED = results([[0.5], [None], [0.25]], b=[0.1], n_test=[40])


def test_a_record_of_one_column_is_whole() -> None:
    assert not wrong(SHARED)
    assert from_json(Results, to_json(SHARED)) == SHARED
    for change, told in (
        ({"R": [[0.5], [0.5]]}, "R: 2 values for 3 tasks"),
        ({"R": [[0.5], [0.5, 0.5], [0.5]]}, "R.1: 2 values for 1 test sets"),
        ({"R": [[0.5] * 3] * 3}, "R.0: 3 values for 1 test sets"),
        ({"n_test": [40, 40]}, "n_test: 2 values"),
        ({"n_test": []}, "n_test: 0 values"),
        ({"b": []}, "b: 0 values"),
        ({"R_task_masked": [[0.5]]}, "R_task_masked: 1 values"),
    ):
        assert wrong(replace(SHARED, **change)).startswith(told), change


def test_a_trial_of_an_earlier_version_is_read() -> None:
    """It had rows of all tasks, learned or not."""
    old = results([[0.5, None], [None, None]], n_test=[40], tasks=[])
    assert wrong(old)
    assert not wrong(replace(old, config=old.config | {"trial": {"first_tasks": 1}}))


def test_damage_is_told(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(to_json(SHARED) | {"b": [0.1, 0.1]}))
    with pytest.raises(Damaged, match=r"^results\.json is damaged \(b: 2 values"):
        load_results(tmp_path)


@pytest.mark.parametrize("T", [3, 391])
def test_figures_and_table_of_one_column(tmp_path: Path, T: int, capsys: pytest.CaptureFixture[str]) -> None:
    R = [[0.5 if i % 10 == 0 else None] for i in range(T)]
    found = results(R, b=[0.1], n_test=[40])
    draw_results(found, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["accuracy_over_tasks.png"]
    labels = [str(task) for task in range(T)]
    accuracy_over_tasks([[None]] * T, labels, tmp_path / "none.png")
    mergan_score_over_tasks(R, [[0.5, None]] * T, [0.5] * T, labels, tmp_path / "score.png")
    show(found, tmp_path)
    said = capsys.readouterr().out
    assert "all tasks" in said
    assert "task 1 " in said
