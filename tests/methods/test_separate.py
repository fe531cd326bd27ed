"""Each task alone: no task changes what another one gets, and the reference metrics are those of their formulas."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL

from cl_bench.config import InputError
from cl_bench.config.compose import compose
from cl_bench.config.names import folder_of
from cl_bench.record import Results, load_results
from cl_bench.runs.loop import run
from cl_bench.runs.reference import references_of
from cl_bench.runs.setup import prepare


def finished(root: Path, *overrides: str) -> tuple[Results, str]:
    settings = compose(*SMALL, "trainer.epochs=2", f"output_root={root}", *overrides)
    run(settings)
    return load_results(folder_of(settings)), str(folder_of(settings))


def test_a_task_is_learned_as_if_it_were_the_only_one(tmp_path: Path) -> None:
    """No other task has any effect on it, and with the task given it is never forgotten."""
    results, _ = finished(tmp_path, "method=separate", "scenario=task_incremental")
    R = np.array(results.R, dtype=float)
    assert all((R[j:, j] == R[j, j]).all() for j in range(5))
    tasks = "scenario.class_order=[0,1,4,5,2,3,8,9,6,7]"  # the first task as before
    other, _ = finished(tmp_path, "method=separate", "scenario=task_incremental", tasks)
    assert other.R[0][0] == results.R[0][0]
    first, _ = finished(tmp_path, "method=finetune", "scenario=task_incremental")
    assert first.R[0][0] == results.R[0][0]


def test_its_networks_are_kept_where_they_can_answer_alone(tmp_path: Path) -> None:
    given, _ = finished(tmp_path, "method=separate", "scenario=task_incremental")
    alone, _ = finished(tmp_path, "method=separate", "scenario=class_incremental")
    sizes = [record.answer_bytes or 0 for record in given.tasks]
    assert sizes == [sizes[0] * (1 + index) for index in range(5)]
    assert given.metrics["growth_rate"] == 1
    assert {record.answer_bytes for record in alone.tasks} == {sizes[0]}
    assert given.parameters == 5 * alone.parameters
    assert alone.metrics["growth_rate"] == 0


def test_momentum_does_not_go_from_task_to_task(tmp_path: Path) -> None:
    anew, _ = finished(tmp_path, "method=separate", "scenario=task_incremental")
    kept, _ = finished(tmp_path, "method=separate", "scenario=task_incremental", "optimizer.keep_state=true")
    assert anew.R == kept.R


@pytest.mark.parametrize("kind", ["class", "task"])
def test_metrics_against_it(kind: str, tmp_path: Path) -> None:
    """In class-incremental learning with the task given, as no network of one task knows other classes."""
    scenario = f"scenario={kind}_incremental"
    separate, folder = finished(tmp_path, "method=separate", scenario)
    _, joint = finished(tmp_path, "method=joint", scenario)
    results, _ = finished(tmp_path, "method=er", "memory=20", scenario, f"reference=[{joint},{folder}]")
    ours = np.array(results.R_task_masked or results.R, dtype=float)
    alone = np.array(separate.R_task_masked or separate.R, dtype=float).diagonal()
    assert results.metrics["retention"] == pytest.approx((ours[-1] / alone).mean())
    assert results.metrics["plasticity_gap"] == pytest.approx((alone - ours.diagonal()).mean())
    assert results.metrics["transfer"] == pytest.approx(-(alone - ours.diagonal()).mean())
    assert "intransigence" in results.metrics
    both = compose(*SMALL, "method=er", scenario, f"reference=[{folder},{folder}]")
    with pytest.raises(InputError, match=r"reference=.*: names two runs of the same kind, separate"):
        references_of(both, prepare(both)[0])


def test_a_checkpoint_brings_every_network_back() -> None:
    settings = compose(*SMALL, "method=separate", "scenario=task_incremental", "dataset.size=8")
    scenario, method = prepare(settings)
    x = scenario.tasks[0].train.batch(torch.arange(4)).x

    def fit(*_: object, **__: object) -> None:
        with torch.no_grad():
            for parameter in method.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter))

    for task in scenario.tasks[:3]:
        method.learn_task(task, fit)  # type: ignore[arg-type]
    _, other = prepare(settings)
    other.load_state_dict(method.state_dict())
    for index in range(3):
        assert torch.equal(method(x, index=index), other(x, index=index))
    assert not torch.equal(method(x, index=0), method(x, index=2))
