"""What the report says first: who leads, mean ranks, published numbers beside ours."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import there
from runs_on_disk import write

from cl_bench.report.answers import leaders, mean_ranks, published_beside
from cl_bench.report.benchmarks import Benchmark, benchmarks
from cl_bench.report.overview import overview
from cl_bench.report.page import render
from cl_bench.report.rank_chart import rank_chart
from cl_bench.report.runs import read


def found_in(folder: Path) -> list[Benchmark]:
    return benchmarks(read([folder])[0])


def seeds(folder: Path, method: str, accuracies: list[float], **changes: Any) -> None:
    for seed, accuracy in enumerate(accuracies):
        write(folder, method, seed, acc=accuracy, **changes)


def test_the_one_that_leads_is_named(tmp_path: Path) -> None:
    seeds(tmp_path, "joint", [0.99, 0.98, 0.99])
    seeds(tmp_path, "gem", [0.90, 0.91, 0.92])
    seeds(tmp_path, "er", [0.70, 0.712, 0.721])
    (benchmark,) = found_in(tmp_path)
    (answer,) = leaders(benchmark)
    assert answer.startswith("gem leads (ACC 91.00 ± 2.48): it is significantly better than every other but joint")
    assert [row.method for row in benchmark.configurations] == ["joint", "gem", "er"]  # by ACC


def test_those_that_are_not_told_apart_lead_together(tmp_path: Path) -> None:
    seeds(tmp_path, "gem", [0.90, 0.91, 0.95])
    seeds(tmp_path, "icarl", [0.91, 0.90, 0.93])
    seeds(tmp_path, "er", [0.50, 0.512, 0.549])
    (benchmark,) = found_in(tmp_path)
    assert leaders(benchmark) == ["gem and icarl lead (ACC 92.00 ± 6.57); the tests find no difference."]


def test_one_seed_says_nothing_of_chance(tmp_path: Path) -> None:
    seeds(tmp_path, "gem", [0.90])
    seeds(tmp_path, "er", [0.50])
    (benchmark,) = found_in(tmp_path)
    assert leaders(benchmark) == ["gem is highest (ACC 90.00), with one seed, so it may be by chance."]


def test_one_seed_is_never_preferred_to_several(tmp_path: Path) -> None:
    seeds(tmp_path, "gem", [0.95])
    seeds(tmp_path, "gem", [0.60, 0.61], method__strength=2)
    seeds(tmp_path, "er", [0.80, 0.811, 0.82])
    seeds(tmp_path, "mas", [0.30])
    seeds(tmp_path, "mas", [0.40], method__strength=2)
    (benchmark,) = found_in(tmp_path)
    (answer,) = leaders(benchmark)
    assert answer.startswith("er is highest of those with several seeds (ACC 81.03 ± 2.49). Not tested against gem")
    ((_, er), (_, gem), (_, mas)) = overview([benchmark], ["er", "gem", "mas"])
    assert [cell.text for (cell,) in (er, gem, mas)] == ["81.03 ± 2.49", "60.50 ± 6.35", "40.00"]  # one seed: its best
    seeds(tmp_path, "si", [0.79, 0.78, 0.85])
    (answer,) = leaders(found_in(tmp_path)[0])
    assert "lead those with several seeds (ACC 81.03 ± 2.49)" in answer


def test_what_no_test_was_made_of_isn_t_called_a_tie(tmp_path: Path) -> None:
    """One seed, no shared seed, the same difference on each; and who is highest by seeds that the other lacks."""
    seeds(tmp_path, "gem", [0.90, 0.91, 0.92])
    write(tmp_path, "er", 0, acc=0.2)
    write(tmp_path, "si", 7, acc=0.3)
    seeds(tmp_path, "mas", [0.40, 0.41, 0.42])
    (answer,) = leaders(found_in(tmp_path)[0])
    others = "mas, si and er: a test needs two shared seeds, and differences that are not all the same."
    assert answer == f"gem is highest (ACC 91.00 ± 2.48). Not tested against {others}"
    seeds(tmp_path, "lwf", [0.8, 0.801, 0.81])
    assert leaders(found_in(tmp_path)[0]) == [answer]  # is tested, and below
    seeds(tmp_path, "rwalk", [0.90, 0.91, 0.92])
    (answer,) = leaders(found_in(tmp_path)[0])
    assert answer.startswith("gem and rwalk lead (ACC 91.00 ± 2.48); the tests find no difference. Not tested")


def test_the_highest_doesn_t_lead_where_it_loses_on_shared_seeds(tmp_path: Path) -> None:
    seeds(tmp_path, "gem", [0.50, 0.51, 0.52, *[0.99] * 7])
    seeds(tmp_path, "er", [0.80, 0.811, 0.82])
    (answer,) = leaders(found_in(tmp_path)[0])
    assert answer.startswith("gem is highest (ACC 84.60 ± 16.59), but on shared seeds er is significantly better.")


def test_nothing_is_said_of_tests_that_no_pair_of_seeds_allows(tmp_path: Path) -> None:
    """One shared seed with the same ACC, as where runs end at one over the number of tasks, is no tie."""
    seeds(tmp_path, "er", [0.1, 0.1])
    write(tmp_path, "gss", 1, acc=0.1)
    (answer,) = leaders(found_in(tmp_path)[0])
    assert answer.startswith("er is highest (ACC 10.00 ± 0.00). Not tested against gss")


def test_the_best_of_a_protocol_is_said_of_that_protocol(tmp_path: Path) -> None:
    seeds(tmp_path, "er", [0.30, 0.32])
    seeds(tmp_path, "gem", [0.20, 0.22])
    seeds(tmp_path, "er", [0.80, 0.81], trainer__epochs=99)
    ((_, er), _) = overview(found_in(tmp_path), ["er", "gem"])
    assert [(cell.text, cell.note) for cell in er] == [("31.00 ± 12.71", "P1")]


def test_each_protocol_has_its_own_answer_and_one_rival_has_none(tmp_path: Path) -> None:
    seeds(tmp_path, "gem", [0.90, 0.91])
    seeds(tmp_path, "er", [0.50, 0.52])
    seeds(tmp_path, "si", [0.99], trainer__epochs=99)
    (benchmark,) = found_in(tmp_path)
    (answer,) = leaders(benchmark)
    assert answer.startswith("P1: gem")


def test_mean_ranks_by_hand() -> None:
    """Demsar (2006), table 5 (b): q is 2.343 for three methods at 5%."""
    scores = [{"a": 0.9, "b": 0.8, "c": 0.7, "d": 1.0}, {"a": 0.6, "b": 0.9, "c": 0.1}, {"a": 0.9, "b": 0.9, "c": 0.1}]
    found = there(mean_ranks(scores))  # d is not in all of them
    assert found.ranks == pytest.approx({"a": 4.5 / 3, "b": 4.5 / 3, "c": 3.0})
    assert found.critical == pytest.approx(2.343 * (3 * 4 / (6 * 3)) ** 0.5, abs=1e-3)
    assert found.groups == [("a", "c")]
    assert mean_ranks(scores[:1]) is None
    assert mean_ranks([{"a": 1.0, "b": 0.5}] * 3) is None
    assert mean_ranks([]) is None


def test_a_chart_of_ranks_names_each_method_once() -> None:
    drawn = rank_chart(there(mean_ranks([{name: float(place) for place, name in enumerate("abcdefg")}] * 30)))
    for name in "abcdefg":
        assert drawn.count(f">{name} ") == 1
    assert drawn.count('class="bar"') >= 2  # that of the critical difference, and a group
    long = rank_chart(there(mean_ranks([{f"{'long' * 9}{place}": float(place) for place in range(12)}] * 30)))
    assert all(len(label) <= 23 for label in re.findall(r">([^<]* \d+\.\d\d)<", long) if "…" in label)
    assert long.count("…") == 12


def as_published(path: Path, method: str, overrides: list[str] | None, dataset: str = "mnist") -> None:
    """Makes a results.json one of experiment=mnist_360."""
    found = json.loads(path.read_text())
    choices = {"method": method, "dataset": dataset, "scenario": "rotating_pairs", "experiment": "mnist_360/er"}
    found["config"]["choices"] = choices
    path.write_text(json.dumps(found | {"provenance": {"overrides": overrides}}))


def test_published_numbers_stand_beside_runs_of_their_seeds_and_data_alone(tmp_path: Path) -> None:
    words = ["experiment=mnist_360/er", "memory=500"]
    for seed, acc in ((0, 0.6), (1, 0.7), (11, 0.1)):
        as_published(write(tmp_path, "er", seed, acc=acc) / "results.json", "er", [*words, f"seed={seed}"])
    as_published(write(tmp_path / "other", "er", acc=0.9) / "results.json", "er", words, dataset="digits")
    ((_, line),) = [found for benchmark in found_in(tmp_path) for found in published_beside(benchmark)]
    assert line[4:6] == [".650 ± .635", "2 of 3"]


def test_a_published_protocol_has_its_number_beside_ours(tmp_path: Path) -> None:
    words = ["experiment=mnist_360/er", "memory=500", "seed=0", "data_dir=/x", "trainer.threads=1"]
    for method, overrides in (("er", words), ("der", [*words, "method.n_replay=3"]), ("gem", None)):
        path = write(tmp_path, method, acc=0.8) / "results.json"
        as_published(path, method, overrides)
    (benchmark,) = found_in(tmp_path)
    ((row, line),) = published_beside(benchmark)
    assert row.method == "er"
    assert line[:5] == ["mnist_360/er memory=500", "ACC", ".650", ".620 to .680", ".800"]
    page = render([benchmark], benchmark.runs, [], 0, tmp_path)
    assert "Published numbers and our numbers" in page
    assert "<td>.650</td>" in page
