"""Records as a run makes them, without a run: what a test doesn't say is of no interest to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cl_bench.network_record import Evaluation
from cl_bench.record import (
    ByClass,
    Capacity,
    Diagnostics,
    Generated,
    Masks,
    MemoryUse,
    Phase,
    Plasticity,
    Results,
    TaskRecord,
)


def task_record(task: int, **known: Any) -> TaskRecord:
    """`task_record(1, seconds=2.0)`"""
    fields: dict[str, Any] = {"phases": [], "seconds": 1.5, "bytes_kept": 0, "diagnostics": Diagnostics()}
    return TaskRecord(task=task, **{**fields, "generated": None, "memory": None, **known})


def generated(FID: Sequence[float | None], score: Sequence[float | None], **known: Any) -> Generated:
    """`generated([50.0, None], [0.5, None], FID_mean=50.0)`: FID and MeRGAN score of each output."""
    means: dict[str, Any] = {"FID_mean": 50.0, "MeRGAN_score_mean": 0.5, "judge_accuracy": 0.9, "seconds": 0.0, **known}
    return Generated(n=10, images=[10] * len(FID), FID=[*FID], features="judge", MeRGAN_score=[*score], **means)


def capacity(**known: Any) -> Capacity:
    """`capacity(free=[3, 4])`: of two layers."""
    lists = {name: [10, 5] for name in ("total", "new", "reused", "reserved", "free")}
    return Capacity(**{"layers": ["a", "b"], "of": "units", "size": 15, "size_worst": 30, **lists, **known})


def plastic_record(task: int, dead: int = 3, online: float | None = 0.5) -> TaskRecord:
    """`plastic_record(1, dead=2)`: of a network of 10 and 6 hidden units, `dead` of the first ones."""
    before = Plasticity(
        images=100, units=[10, 6], dead=[dead, 0], effective_rank=[4.0, 2.0], weight_magnitude=0.03 + task / 1000
    )
    phase = Phase("train", 10, [10], 1.0, {}, [], online)
    return task_record(task, plasticity=before, phases=[phase])


def full_record(task: int) -> TaskRecord:
    """A task of three, of which everything is known that a record can hold."""
    points = [(step, [0.5] * (task + 1)) for step in (5, 10)]
    phase = Phase(
        phase="train",
        steps=10,
        optimizer_steps=[10],
        seconds=1.0,
        losses={"loss": 0.5},
        validation=[(5, 0.5), (10, 0.75)],
        online_accuracy=0.5,
        stream=[(100 * task + 50, 0.4), (100 * task + 100, None)],
        evaluation=Evaluation("test images", [*range(task + 1)], points),
    )
    noted = Diagnostics(
        capacity=capacity(parameters=9, weights=[4, 4], weights_used=[1, 1], weights_free=[3, 3]),
        generator_bytes=80,
        replay_histogram=[1] * 6,
        disagreement=0.1,
        plasticity=[(0.1, 0.2), (0.5, 0.1)],
        more={"replaced": 3},
    )
    return task_record(
        task,
        phases=[phase],
        diagnostics=noted,
        generated=generated([50.0] * 6, [0.5] * 6),
        memory=MemoryUse(images=20, bytes=300, generator_bytes=80, raw_bytes_uint8=640, raw_bytes_float32=640),
        answer_bytes=1000,
        plasticity=Plasticity(images=9, units=[10, 6], dead=[3, 0], effective_rank=[4.0, None], weight_magnitude=0.1),
        top5=0.9,
        by_class=ByClass([0.5, None] * 3, [[1] * 6 for _ in range(6)]),
    )


def results(R: Sequence[Sequence[float | None]], **known: Any) -> Results:
    """`results([[0.9, 0.1], [0.6, 0.8]], metrics={"ACC": 0.7})`: of a finished run with this accuracy matrix."""
    T = len(R)
    choices = {"method": "er", "dataset": "digits", "scenario": "class_incremental"}
    fields: dict[str, Any] = {
        "key": "0123abcd",
        "name": "digits-class_incremental-er-seed0",
        "status": "finished",
        "seed": 0,
        "config": {"seed": 0, "choices": choices, "method": {}, "scenario": {}},
        "versions": {"cl_bench": "0.1.0", "torch": "2"},
        "provenance": {},
        "kind": "class",
        "masks": Masks("seen", "seen", "all"),
        "measured_on": "test images",
        "classes": [[str(2 * task), str(2 * task + 1)] for task in range(T)],
        "class_names": [str(output) for output in range(2 * T)],
        "b": [0.1] * T,
        "R_task_masked": None,
        "n_test": [100] * T,
        "metrics": {"ACC": 0.8},
        "memory": None,
        "tasks": [task_record(task) for task in range(T)],
        "parameters": 1000,
        "bytes_kept": 4000,
        "seconds": 1.5 * T,
        "peak_memory_mb": 512.5,
        "peak_gpu_memory_mb": None,
        "device": "cpu",
    }
    return Results(R=[[*row] for row in R], **{**fields, **known})
