"""Where a result comes from, and that equal runs are equal in all else."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Compose, Killed
from example_records import results

from cl_bench.config.names import folder_of
from cl_bench.record import Results, load_results, to_json
from cl_bench.runs.folder import RunFolder
from cl_bench.runs.loop import run
from cl_bench.runs.provenance import continued, provenance


def kept(settings: dict[str, Any]) -> Results:
    return load_results(folder_of(settings))


def test_what_results_say_of_where_they_come_from(small: Compose) -> None:
    settings = small("method=finetune", "trainer.epochs=1")
    run(settings)
    run_before = kept(settings)
    found = run_before.provenance
    assert abs(datetime.now(UTC) - datetime.fromisoformat(found["date"])) < timedelta(minutes=5)
    assert found["command"]
    assert found["overrides"] is None  # from Python
    assert found["commit"] is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", found["commit"])
    assert found["machine"]["cpu"]
    assert found["machine"]["cpus"] >= 1
    assert found["machine"]["gpu"] is None
    assert found["continued"] == []
    assert run_before.versions["numpy"] == np.__version__
    assert run_before.versions["torch"] == str(torch.__version__)
    assert {"torchmetrics", "pytorch_lightning", "python", "cl_bench"} <= run_before.versions.keys()


def test_a_run_that_goes_on_keeps_when_it_began(small: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, dates = small("method=finetune", "trainer.epochs=1"), iter("abcdef")
    monkeypatch.setattr("cl_bench.runs.recorder.provenance", lambda *_: {"date": next(dates), "continued": []})
    save = RunFolder.save_task

    def dying(folder: RunFolder, index: int, state: dict[str, Any]) -> None:
        save(folder, index, state)
        if index < 2:
            raise Killed

    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(RunFolder, "save_task", dying)
            with pytest.raises(Killed):
                run(settings)
    run(settings)
    assert kept(settings).provenance == {"date": "a", "continued": [{"date": "b"}, {"date": "c"}]}


@pytest.mark.parametrize("earlier", [None, {}, {"continued": "x"}])
def test_a_beginning_that_is_lost(earlier: dict[str, Any] | None) -> None:
    now = provenance(torch.device("cpu"), {})
    found = continued(None if earlier is None else results([[0.5]], provenance=earlier), now)
    assert found in (now, (earlier or {}) | {"continued": [{key: now[key] for key in now if key != "continued"}]})


def test_equal_runs_are_equal_but_for_their_provenance_and_costs(small: Compose) -> None:
    runs = []
    for root in ("one", "other"):
        settings = small("method=finetune", "trainer.epochs=1", root=root)
        run(settings)
        runs.append(to_json(kept(settings)))
    differ = {key for key in runs[0] if runs[0][key] != runs[1][key]}
    assert differ <= {"provenance", "seconds", "peak_memory_mb", "tasks", "config"}  # config: output_root
