"""What is averaged with what, what is told apart, and what is said of it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from itertools import product
from pathlib import Path
from time import process_time
from typing import Any

import pytest
from conftest import Compose
from example_records import task_record
from runs_on_disk import results, write

from cl_bench.config import InputError
from cl_bench.network_record import Phase
from cl_bench.record import TaskRecord
from cl_bench.report.__main__ import main
from cl_bench.report.benchmarks import Benchmark, benchmarks, mixtures
from cl_bench.report.runs import MEMORY, read, select
from cl_bench.report.sweeps import sweeps
from cl_bench.report.tables import columns_of


def found_in(folder: Path) -> list[Benchmark]:
    return benchmarks(read([folder])[0])


def test_seeds_are_averaged(tmp_path: Path) -> None:
    for seed, acc in enumerate((0.7, 0.8, 0.9)):
        write(tmp_path, "er", seed, acc=acc)
    ((one,),) = [benchmark.configurations for benchmark in found_in(tmp_path)]
    value = one.estimate("ACC")
    assert one.seeds == [0, 1, 2]
    assert value
    assert value.mean == pytest.approx(0.8)
    assert value.half == pytest.approx(4.30265 * 0.1 / 3**0.5, rel=1e-4)
    assert [a and round(a.mean, 3) for a in one.accuracies()] == [0.98, 0.89, 0.8]
    assert one.matrix()[2] == pytest.approx([0.8, 0.8, 0.8])


def test_the_end_of_a_stream_is_averaged_with_the_ends_alone(tmp_path: Path) -> None:
    """A seed whose last mini-batch reaches both the last thousand and the end has a point less."""

    def of_stream(*points: tuple[int, float | None]) -> Callable[[int], TaskRecord]:
        return lambda task: task_record(task, phases=[Phase("train", 9, [9], 1.0, {}, [], None, [*points])])

    write(tmp_path, "er", 0, tasks=1, record=of_stream((50, 0.9), (101, 0.2), (105, 0.6)))
    write(tmp_path, "er", 1, tasks=1, record=of_stream((50, 0.7), (105, 0.4)))
    [one] = found_in(tmp_path)[0].configurations
    assert [(at, round(value.mean, 3), value.n) for at, value in one.on_stream()] == [(50, 0.8, 2), (105, 0.5, 2)]


@pytest.mark.parametrize(
    "other",
    [
        {"train_mask": "current"},
        {"memory__images": 200},
        {"trainer__epochs": 20},
        {"network__hidden": [64]},
        {"tasks": 5},
        {"scenario": "task_incremental"},
    ],
    ids=str,
)
def test_nothing_but_the_seed_may_differ_in_an_average(tmp_path: Path, other: dict[str, Any]) -> None:
    write(tmp_path, "er", 0, memory__images=100)
    changes: dict[str, Any] = {"memory__images": 100} | other
    write(tmp_path, "er", 1, **changes)
    configurations = [one for benchmark in found_in(tmp_path) for one in benchmark.configurations]
    assert [len(one.runs) for one in configurations] == [1, 1]


def test_a_value_is_the_same_however_it_is_written(tmp_path: Path) -> None:
    write(tmp_path, "ewc", 0, method__strength=100, trainer__threads=1)
    write(tmp_path, "ewc", 1, method__strength=100.0, trainer__threads=4)
    (benchmark,) = found_in(tmp_path)
    assert [one.seeds for one in benchmark.configurations] == [[0, 1]]


def test_a_mixture_of_protocols_is_named(tmp_path: Path) -> None:
    for seed in range(2):
        write(tmp_path, "er", seed)
    write(tmp_path, "er", 0, train_mask="current")
    (benchmark,) = found_in(tmp_path)
    assert benchmark.protocols == {"P1": {"scenario.train_mask": "seen"}, "P2": {"scenario.train_mask": "current"}}
    assert [one.label for one in benchmark.configurations] == ["er · P1", "er · P2"]


def test_labels_tell_what_differs_and_no_more(tmp_path: Path) -> None:
    write(tmp_path, "finetune")
    for budget in (200, 100):
        write(tmp_path, "er", memory__images=budget, memory__per="class")
    (benchmark,) = found_in(tmp_path)
    assert [one.label for one in benchmark.configurations] == ["er memory=100", "er memory=200", "finetune"]
    assert benchmark.protocols == {"P1": {}}


def test_how_a_methods_values_were_chosen_is_no_protocol(tmp_path: Path) -> None:
    write(tmp_path, "er")
    write(tmp_path, "ewc", tuned_on="all_tasks", method__strength=100)
    (benchmark,) = found_in(tmp_path)
    assert benchmark.protocols == {"P1": {}}


def test_memories_and_generators_are_compared_by_what_they_keep(tmp_path: Path) -> None:
    """In images: of a generator as many as its bytes would hold; a method that keeps nothing has no such number."""
    for method, memory in (("er", {"images": 200, "bytes": 14800}), ("dgr", {"images": 1351, "bytes": 100000})):
        path = write(tmp_path, method)
        kept = json.loads((path / "results.json").read_text()) | {"memory": memory}
        (path / "results.json").write_text(json.dumps(kept))
    write(tmp_path, "ewc")
    (benchmark,) = found_in(tmp_path)
    numbers = {one.method: [one.runs[0].number(name) for name in MEMORY] for one in benchmark.configurations}
    assert numbers == {"er": [200, 14800], "dgr": [1351, 100000], "ewc": [None, None]}
    assert "memory_images" in [column.name for column in columns_of(benchmark.configurations)]


def test_long_labels_are_shortened_but_stay_unique(tmp_path: Path) -> None:
    for i in range(3):
        write(tmp_path, "er", method__a=i, method__b=i, method__c=i, method__d=i)
    (benchmark,) = found_in(tmp_path)
    assert [one.label for one in benchmark.configurations] == ["er a=0 …", "er a=1 …", "er a=2 …"]
    assert benchmark.configurations[1].full_label == "er a=1 b=1 c=1 d=1"


def test_what_hinders_a_comparison_is_said(tmp_path: Path) -> None:
    write(tmp_path, "er", 0, memory__images=100, memory__per="class")
    write(tmp_path, "icarl", 0, memory__images=20, memory__per="class")
    path = write(tmp_path, "icarl", 1, memory__images=20, memory__per="class")
    changed = json.loads((path / "results.json").read_text()) | {"device": "cuda:0", "versions": {"cl_bench": "9"}}
    (path / "results.json").write_text(json.dumps(changed))
    (benchmark,) = found_in(tmp_path)
    said = " ".join(mixtures(benchmark))
    for part in (
        "memory=100 memory.per=class (er)",
        "memory=20 memory.per=class (icarl)",
        "different seeds",
        "version",
        "cuda:0",
    ):
        assert part in said


def test_classes_of_one_name_from_two_packages_are_told_apart(tmp_path: Path) -> None:
    write(tmp_path, "er")
    write(tmp_path, "gss", network={"_target_": "other.nets.MLP", "hidden": [32]})
    (benchmark,) = found_in(tmp_path)
    values = {differs["network._target_"] for differs in benchmark.protocols.values()}
    assert values == {"cl_bench.networks.mlp.MLP", "other.nets.MLP"}


def test_benchmarks_have_titles_of_their_own(tmp_path: Path) -> None:
    write(tmp_path, "er")
    trial = write(tmp_path / "trial", "er") / "results.json"
    trial.write_text(trial.read_text().replace('"test images"', '"validation images"'))
    shared = write(tmp_path / "shared", "er") / "results.json"
    found = json.loads(shared.read_text())
    shared.write_text(json.dumps(found | {"R": [row[:1] for row in found["R"]], "b": [0.1], "n_test": [100]}))
    titles = [benchmark.title for benchmark in found_in(tmp_path)]
    assert len(titles) == len(set(titles)) == 3
    assert any(title.endswith(", on validation images") for title in titles)


def test_alike_runs_need_no_warning(tmp_path: Path) -> None:
    for method in ("er", "icarl"):
        for seed in range(2):
            write(tmp_path, method, seed, memory__images=100)
    (benchmark,) = found_in(tmp_path)
    assert mixtures(benchmark) == []


def test_a_copy_is_counted_once_and_a_finished_run_wins(tmp_path: Path) -> None:
    write(tmp_path, "er", 0, acc=0.9)
    write(tmp_path, "er", 0, acc=0.1, status="running", folder="copy/seed0-x.old1")
    found, _, copies = read([tmp_path, tmp_path])
    assert copies == 1
    assert [run.number("ACC") for run in found] == [0.9]


def test_runs_are_found_beside_other_checkpoints_and_behind_links(tmp_path: Path) -> None:
    (tmp_path / "mine" / "checkpoints").mkdir(parents=True)
    write(tmp_path / "mine" / "outputs", "er", 0)
    write(tmp_path / "disk", "er", 1)
    (tmp_path / "mine" / "outputs" / "linked").symlink_to(tmp_path / "disk")
    (tmp_path / "mine" / "outputs" / "again").symlink_to(tmp_path / "mine")
    found, unread, copies = read([tmp_path / "mine"])
    assert (sorted(run.seed for run in found), len(unread), copies) == ([0, 1], 1, 0)


def test_equal_keys_are_one_configuration(tmp_path: Path) -> None:
    """Weights lie elsewhere; milestones were keys of SGD before there was a scheduler."""
    sgd, steps = {"_target_": "cl_bench.networks.optimizers.SGD", "lr": 0.1}, {"milestones": [0.5], "gamma": 0.2}
    multistep = {"_target_": "cl_bench.networks.schedules.MultiStep", "warmup": 0.0} | steps
    both: list[dict[str, Any]] = [{"optimizer": sgd | steps}, {"optimizer": sgd, "scheduler": multistep}]
    for seed, keys in enumerate(both):
        keys |= {"features": {"backbone": "b", "weights": f"/{seed}/w.pth"}, "weights": {"features": "0123"}}
        write(tmp_path, "er", seed, **keys)
    ((one,),) = [benchmark.configurations for benchmark in found_in(tmp_path)]
    assert one.seeds == [0, 1]


def test_of_two_runs_with_other_numbers_the_older_is_named(tmp_path: Path) -> None:
    newer = write(tmp_path, "er", 0, acc=0.9, trainer__accelerator="cpu")
    for acc, accelerator in ((0.6, "gpu"), (0.9, "mps")):
        older = write(tmp_path, "er", 0, acc=acc, trainer__accelerator=accelerator)
        os.utime(older / "results.json", (1, 1))
    found, unread, copies = read([tmp_path])
    assert ([run.folder for run in found], copies) == ([newer], 1)
    assert [f"{newer} which is newer" in one.reason.replace(",", "") for one in unread if one.damaged] == [True]


def test_runs_that_are_not_finished_are_in_no_average(tmp_path: Path) -> None:
    write(tmp_path, "er", 0, acc=0.9)
    write(tmp_path, "er", 1, acc=0.1, status="failed")
    (tmp_path / "digits-class_incremental-er" / "seed2-00000000" / "checkpoints").mkdir(parents=True)
    damaged = write(tmp_path, "er", 3)
    (damaged / "results.json").write_text('{"status": "fin')
    found, unread, _ = read([tmp_path])
    assert [one.seeds for benchmark in benchmarks(found) for one in benchmark.configurations] == [[0]]
    assert {one.folder.name[:5]: one.reason.split()[0] for one in unread} == {
        "seed2": "stopped",
        "seed3": "results.json",
    }


def test_a_parameter_varied_by_itself(tmp_path: Path) -> None:
    for method in ("dgr", "dgm"):
        for n_gen in (12000, 1200):
            write(tmp_path, method, method__n_gen=n_gen, method__other=1)
    write(tmp_path, "dgr", method__n_gen=5, method__other=2)  # differs in two keys: on no line
    (benchmark,) = found_in(tmp_path)
    (curves,) = [curves for key, curves in sweeps(benchmark.configurations).items() if key == "method.n_gen"]
    assert [(label, sorted(value for value, _ in points)) for label, points in curves] == [
        ("dgm", [1200, 12000]),
        ("dgr", [1200, 12000]),
    ]


def test_the_training_mask_can_be_varied_by_itself(tmp_path: Path) -> None:
    for mask in ("seen", "current"):
        write(tmp_path, "finetune", train_mask=mask)
    (benchmark,) = found_in(tmp_path)
    assert list(sweeps(benchmark.configurations)) == ["scenario.train_mask"]


@pytest.mark.parametrize(
    ("where", "left"),
    [
        (["method=er,ewc"], 3),
        (["method=er", "seed=1"], 1),
        (["trainer.epochs=10.0"], 4),
        (["network.hidden=[32]"], 4),
        (["method.strength=1e2"], 1),
        (["experiment=null"], 4),
        (["memory=100"], 1),
    ],
    ids=str,
)
def test_where(tmp_path: Path, where: list[str], left: int) -> None:
    write(tmp_path, "er", 0)
    write(tmp_path, "er", 1)
    write(tmp_path, "ewc", method__strength=100)
    write(tmp_path, "si", memory__images=100)
    assert len(select(read([tmp_path])[0], where)) == left


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("method", "type KEY=VALUE"),
        ("methd=er", "no run has a key 'methd'; did you mean 'method'?"),
        ("images=1", "did you mean 'memory.images'?"),
        ("method=err", "no run has method=err; did you mean 'er'?"),
        ("memory.images=7", "no run has memory.images=7; choose from 100"),
    ],
)
def test_bad_conditions(tmp_path: Path, where: str, message: str) -> None:
    write(tmp_path, "er", memory__images=100)
    with pytest.raises(InputError) as error:
        select(read([tmp_path])[0], [where])
    assert where in str(error.value)
    assert message in str(error.value)


def test_a_real_run_can_be_read(small: Compose, tmp_path: Path) -> None:
    from cl_bench.runs.loop import run

    results = run(small("method=er", "trainer.epochs=1", "scenario.n_tasks=2"))
    ((one,),) = [benchmark.configurations for benchmark in found_in(tmp_path / "outputs")]
    assert (one.label, one.n_tasks, one.protocol) == ("er", 2, "P1")
    assert one.by_seed("ACC") == {0: results.metrics["ACC"]}
    last = one.accuracies()[-1]
    assert last
    assert last.mean == pytest.approx(results.metrics["ACC"])


@pytest.mark.slow
def test_five_thousand_runs_are_reported_in_twenty_seconds(tmp_path: Path) -> None:
    """30 methods with 6 settings, 7 seeds, on 4 data sets; seconds of the processor, as a machine may be busy."""
    scenarios = ("class_incremental", "task_incremental", "domain_incremental", "permuted")
    for n, (place, scenario, setting, seed) in enumerate(product(range(30), scenarios, range(6), range(7))):
        acc = 0.9 - 0.02 * place - 0.01 * setting + 0.003 * ((seed * place) % 5)
        run = results(f"m{place}", seed, acc=acc, scenario=scenario, method__strength=setting)
        path = tmp_path / f"{scenario}-{place}" / f"seed{seed}-{n:08x}"
        path.mkdir(parents=True)
        (path / "results.json").write_text(json.dumps(run))
    start = process_time()
    assert main([str(tmp_path)]) == 0
    assert process_time() - start < 20
