"""What a report says of runs that were measured while they learned, and which lines it draws."""

from __future__ import annotations

import html
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from example_records import task_record
from runs_on_disk import write

from cl_bench.evaluation.statistics import Estimate
from cl_bench.network_record import Evaluation, Phase
from cl_bench.record import TaskRecord
from cl_bench.report.__main__ import main
from cl_bench.report.benchmarks import Benchmark, benchmarks, mixtures
from cl_bench.report.charts import Series
from cl_bench.report.looks import Look
from cl_bench.report.plots import BY_NAME, Plots, near
from cl_bench.report.runs import read
from cl_bench.report.tables import best_of


def evaluated(task: int, on: str = "test images", drop: float = 0.0) -> TaskRecord:
    """Of a task of ten steps after a phase of five that was not measured."""
    points = [(step, [0.9 - drop] * task + [step / 10]) for step in (5, 10)]
    phases = [Phase("gan", 5, [5], 1.0, {}, []), Phase("train", 10, [10], 1.0, {}, [])]
    evaluation = Evaluation(on, [*range(task + 1)], [(step, [*values]) for step, values in points])
    return task_record(task, phases=[phases[0], Phase(**{**vars(phases[1]), "evaluation": evaluation})])


def found_in(folder: Path) -> list[Benchmark]:
    return benchmarks(read([folder])[0])


def test_curves_are_over_the_steps_of_the_run_and_averaged_over_the_seeds_that_have_them(tmp_path: Path) -> None:
    write(tmp_path, "er", 0, record=evaluated, evaluate_every=5)
    write(tmp_path, "er", 1, record=lambda task: evaluated(task, drop=0.2), evaluate_every=5)
    write(tmp_path, "er", 2)
    [benchmark] = found_in(tmp_path)
    [configuration] = benchmark.configurations  # that it was measured meanwhile is no other protocol
    assert configuration.seeds == [0, 1, 2]
    curve = configuration.while_learning("test images")
    assert [step for step, _ in curve] == [10, 15, 25, 30, 40, 45]
    assert [value.mean for _, value in curve][:3] == pytest.approx([0.5, 1.0, ((0.9 + 0.5) + (0.7 + 0.5)) / 4])
    assert {value.n for _, value in curve} == {2}
    assert configuration.while_learning("validation images") == []


def test_seeds_that_were_measured_at_other_moments_are_in_no_average(tmp_path: Path) -> None:
    write(tmp_path, "er", 0, record=evaluated, evaluate_every=5)
    write(tmp_path, "er", 1, record=lambda task: evaluated(task, drop=0.2), evaluate_every=5)
    later = Evaluation("test images", [0], [(7, [0.1])])
    phase = Phase("train", 10, [10], 1.0, {}, [], evaluation=later)
    write(tmp_path, "er", 2, record=lambda task: task_record(task, phases=[phase]), evaluate_every=7)
    [benchmark] = found_in(tmp_path)
    [configuration] = benchmark.configurations
    curve = configuration.while_learning("test images")
    assert [step for step, _ in curve] == [10, 15, 25, 30, 40, 45]
    assert {value.n for _, value in curve} == {2}


def test_a_moment_that_a_seed_lacks_is_left_out(tmp_path: Path) -> None:
    """A phase that ended early: the second task of the seeds is not measured at the same steps of the run."""

    def short(task: int) -> TaskRecord:
        on = Evaluation("test images", [*range(task + 1)], [(5, [0.4] * (task + 1))])
        phases = [Phase("gan", 5, [5], 1.0, {}, []), Phase("train", 6, [6], 1.0, {}, [], evaluation=on)]
        return task_record(task, phases=phases)

    write(tmp_path, "er", 0, record=evaluated, evaluate_every=5)
    write(tmp_path, "er", 1, record=short, evaluate_every=5)
    [benchmark] = found_in(tmp_path)
    [configuration] = benchmark.configurations
    curve = configuration.while_learning("test images")
    assert [step for step, _ in curve] == [10, (25 + 21) / 2, (40 + 32) / 2]
    assert [value.mean for _, value in curve][:2] == pytest.approx([0.45, ((0.9 + 0.5) / 2 + 0.4) / 2])


def test_the_page_has_a_figure_for_each_kind_of_images(tmp_path: Path) -> None:
    write(tmp_path, "er", record=evaluated, evaluate_every=5)
    write(tmp_path, "ewc", record=lambda task: evaluated(task, "validation images"), evaluate_every=5)
    write(tmp_path, "lwf")
    assert main([str(tmp_path)]) == 0
    text = (tmp_path / "report" / "index.html").read_text()
    for on in ("test images", "validation images"):
        assert f"<strong>Accuracy while learning, on {on}.</strong>" in text
    assert "protocols" not in text


def with_lines(folder: Path, **lines: Any) -> None:
    file = folder / "results.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | lines))


@pytest.mark.parametrize(
    ("method", "acc", "chance", "lines", "told"),
    [
        ("er", 0.4, [0.5, 0.25, 0.2], ["chance", "joint"], ""),
        ("cumulative", 0.4, [0.5, 0.25, 0.2], ["chance"], ""),
        ("er", 0.97, [0.5, 0.25, 0.2], ["joint"], "Chance: 20.0% in the end, beyond the axis."),
        ("er", 0.4, None, ["joint"], ""),
    ],
)
def test_accuracies_are_held_against_chance_and_joint_training(
    method: str, acc: float, chance: list[float] | None, lines: list[str], told: str, tmp_path: Path
) -> None:
    folder = write(tmp_path, method, acc=acc)
    with_lines(folder, joint=[None, 0.95, 0.9], **({"chance": chance} if chance else {}))
    write(tmp_path, "lwf", acc=acc)
    assert main([str(tmp_path)]) == 0
    text = (tmp_path / "report" / "index.html").read_text()
    chart = text.partition("Accuracy against task.</strong>")[2].partition("</figure>")[0]
    assert [name for name in ("chance", "joint") if f">{name}</text>" in chart] == lines
    assert told in chart
    assert chart.count('<path class="reference"') == len(lines)


def test_each_protocol_has_its_own_chance(tmp_path: Path) -> None:
    with_lines(write(tmp_path, "er", acc=0.4), chance=[0.5, 0.4, 0.3])
    with_lines(write(tmp_path, "er", acc=0.5, dataset__classes=[0, 1, 2]), chance=[0.6, 0.5, 0.4])
    [benchmark] = found_in(tmp_path)
    looks = {"er": Look("rehearsal", 0)}
    styles = {row: looks["er"].style() for row in benchmark.configurations}
    plots = Plots(benchmark.configurations, dict.fromkeys(styles, "0"), styles, looks, 3)
    assert plots.references() == {"chance of er · P2": [0.6, 0.5, 0.4], "chance of er · P1": [0.5, 0.4, 0.3]} or (
        plots.references() == {"chance of er · P1": [0.5, 0.4, 0.3], "chance of er · P2": [0.6, 0.5, 0.4]}
    )


def test_each_reference_has_a_line_of_its_own_and_two_are_never_averaged(tmp_path: Path) -> None:
    lines = {"joint": [0.9, 0.8, 0.7], "cumulative": [0.99, 0.95, 0.9]}
    for seed, mixed in enumerate(lines):
        for method, memory, reference in (("er", 100, "joint"), ("er", 200, "cumulative"), ("gem", 0, mixed)):
            place = f"outputs/digits-class_incremental-{reference}/seed{seed}-0"
            folder = write(tmp_path, method, seed, acc=0.4 + memory / 1000, memory__images=memory, reference=place)
            with_lines(folder, joint=lines[reference])
    [benchmark] = found_in(tmp_path)
    found = Plots(benchmark.configurations, {}, {}, {}, 3).references()
    assert found == {"joint of er memory=100": lines["joint"], "joint of er memory=200": lines["cumulative"]}


def test_more_lines_than_can_be_followed_are_not_drawn_and_it_says_so(tmp_path: Path) -> None:
    for n in range(5):
        folder = write(tmp_path, "er", acc=0.4, dataset__classes=[n, 9])
        with_lines(folder, chance=[0.6 + n / 50, 0.5, 0.4])
    assert main([str(tmp_path)]) == 0
    text = (tmp_path / "report" / "index.html").read_text()
    chart = text.partition("Accuracy against task.</strong>")[2].partition("</figure>")[0]
    assert '<path class="reference"' not in chart
    assert "Chance and joint aren't drawn: they are 5 lines." in html.unescape(chart)


def test_numbers_that_compare_with_other_references_are_not_compared(tmp_path: Path) -> None:
    def write_to(method: str, seed: int, reference: str, value: float) -> None:
        folder = write(tmp_path, method, seed, reference=f"outputs/digits-class_incremental-{reference}/seed{seed}-0")
        metrics = json.loads((folder / "results.json").read_text())["metrics"]
        with_lines(folder, metrics=metrics | {"intransigence": value})

    for seed, value in enumerate((0.1, 0.11, 0.12)):
        write_to("er", seed, "joint", value)
        write_to("gem", seed, "joint", value + 0.2 + seed / 1000)
    column = BY_NAME["intransigence"]
    [benchmark] = found_in(tmp_path)
    assert {row.method for row in best_of(benchmark.configurations, column)} == {"er"}
    write_to("lwf", 0, "joint", 0.1)
    write_to("lwf", 1, "cumulative", 0.3)
    for seed in range(3):
        write_to("si", seed, "cumulative", 0.5 + seed / 100)
    [benchmark] = found_in(tmp_path)
    assert {row.method for row in benchmark.configurations if row.estimate("intransigence")} == {"er", "gem", "si"}
    assert best_of(benchmark.configurations, column) == set()
    notes = " ".join(mixtures(benchmark))
    assert "Their seeds have different references, so intransigence and the like are not averaged: lwf." in notes
    assert "References differ" in notes


def test_a_line_far_from_all_curves_does_not_flatten_them() -> None:
    series = [Series("a", "0", Look("other", 0).style(), [(1.0, Estimate(98, None, 1)), (2.0, Estimate(90, None, 1))])]
    assert near([(1.0, 75.0)], series)
    assert not near([(1.0, 50.0)], series)


WRONG: tuple[Any, ...] = (None, 1e300, -1, 2.5, 10**40, "x", True, [], {}, [[]], [None], [[5, [0.5]]], [[10, []]])
PLACES = (
    ("chance",),
    ("joint",),
    ("chance", 0),
    ("tasks", 1, "top5"),
    ("tasks", 1, "by_class"),
    ("tasks", 1, "by_class", "accuracy"),
    ("tasks", 1, "by_class", "confusion"),
    *(("tasks", 1, "phases", 1, "evaluation", *more) for more in ((), ("on",), ("tasks",), ("points",))),
)


def test_what_was_damaged_is_a_line_and_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each new field made wrong in each way, in a run of its own."""
    write(tmp_path, "ewc", 0)
    for seed, (place, value) in enumerate(itertools.product(PLACES, WRONG)):
        folder = write(tmp_path, "er", seed, record=evaluated, evaluate_every=5)
        content = json.loads((folder / "results.json").read_text()) | {"chance": [0.5] * 3, "joint": [0.5] * 3}
        node = content
        content["tasks"][1] |= {"top5": 0.5, "by_class": {"accuracy": [0.5] * 6, "confusion": None, "per_row": 1}}
        for key in place[:-1]:
            node = node[key]
        node[place[-1]] = value
        (folder / "results.json").write_text(json.dumps(content))
    assert main([str(tmp_path)]) == 0
    found, unread, copies = read([tmp_path])
    assert len(found) + len(unread) == 1 + len(PLACES) * len(WRONG)
    assert copies == 0
    assert len(unread) > len(found) > len(PLACES)
    assert len(capsys.readouterr().err.splitlines()) == len(unread)
    assert ">ewc" in (tmp_path / "report" / "index.html").read_text()
