"""Accuracies of single classes, confusion, the five first answers and chance: by hand, and bounded."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from conftest import Compose, made, there
from example_records import results, task_record

from cl_bench.config.names import folder_of
from cl_bench.data.problem import masked
from cl_bench.evaluation.by_class import ByClassTally, kept_after
from cl_bench.evaluation.chance import chance
from cl_bench.evaluation.scores import Score
from cl_bench.files import sealed
from cl_bench.methods.base import Method
from cl_bench.record import ByClass, load_results, to_json
from cl_bench.runs.folder import readable
from cl_bench.runs.loop import run


def test_counts_by_hand() -> None:
    tally = ByClassTally(3, torch.ones(1, 3, dtype=torch.bool))
    tally.add(0, torch.zeros(3, 3), torch.tensor([0, 2, 0]), torch.tensor([0, 0, 1]))
    tally.add(1, torch.zeros(1, 3), torch.tensor([1]), torch.tensor([1]))
    assert tally.count() == ByClass([0.5, 0.5, None], [[1, 0, 1], [1, 1, 0], [0, 0, 0]])
    assert tally.count(confusion=False) == ByClass([0.5, 0.5, None])
    assert tally.top5 is None  # three may answer


def test_many_classes_share_rows() -> None:
    n = 1001
    tally = ByClassTally(n, torch.ones(1, n, dtype=torch.bool))
    tally.add(0, torch.zeros(2, n), torch.tensor([4, 1000]), torch.tensor([3, 2]))
    found = tally.count()
    matrix = there(found.confusion)
    assert (found.per_row, len(matrix), len(matrix[0])) == (3, 334, 334)
    assert (matrix[1][1], matrix[0][333], sum(map(sum, matrix))) == (1, 1, 2)
    assert len(found.accuracy) == n


def test_the_five_first_answers_by_hand() -> None:
    """On one test set 2 of 2 images, on the other 0 of 1."""
    logits = torch.arange(7.0).flip(0).repeat(3, 1)  # output 0 first, 6 last
    tally = ByClassTally(7, torch.ones(2, 7, dtype=torch.bool))
    tally.add(0, logits[:2], torch.tensor([0, 0]), torch.tensor([0, 4]))
    tally.add(1, logits[2:], torch.tensor([0]), torch.tensor([5]))
    assert tally.top5 == 0.5
    few = torch.ones(2, 7, dtype=torch.bool)
    few[1, :2] = False
    assert ByClassTally(7, few).asks_first is False  # for the second task five may answer


@pytest.mark.parametrize("kind", ["class", "task", "domain"])
def test_a_run_counts_the_answers_of_its_evaluation(kind: str) -> None:
    """On the images of the tasks so far, by the mask of the scenario, and with R as its mean."""
    scenario, method = made("finetune", f"scenario={kind}_incremental")
    score = Score(scenario)
    method.index = 2
    found = score.measure(method, after=2).count()
    allowed = scenario.problem.mask(scenario.problem.rules["evaluation"], after=2)
    matrix = torch.zeros(scenario.problem.n_outputs, scenario.problem.n_outputs, dtype=torch.int64)
    for task, test in enumerate(scenario.tests[:3]):
        for x, y in zip(test.images / 255, test.labels.tolist(), strict=True):
            matrix[y, masked(method(x[None], index=task), allowed[task]).argmax()] += 1
    assert found.confusion == matrix.tolist()
    right, given = matrix.diagonal().tolist(), matrix.sum(1).tolist()
    assert found.accuracy == [r / n if n else None for r, n in zip(right, given, strict=True)]
    R, n_test = score.results().R[2], score.results().n_test
    assert sum(right) == pytest.approx(sum(there(R[j]) * n_test[j] for j in range(3)))


def test_images_of_a_task_that_comes_round_again_are_counted_once() -> None:
    scenario, method = made("finetune", "scenario.passes=online", "scenario.repeat=true")
    tally = Score(scenario).measure(method, after=6)
    matrix = tally.count().confusion
    assert matrix is not None
    counts = torch.stack([test.labels.bincount(minlength=10) for test in scenario.tests[:5]]).sum(0)
    assert torch.tensor(matrix).sum(1).equal(counts)


def test_a_run_keeps_them_and_says_when_they_come(small: Compose) -> None:
    """After tasks 1 and 2 at most four classes answer; after the last, all ten."""
    settings = small("method=finetune", "measure_every=2")
    found = run(settings)
    assert [record.by_class is None for record in found.tasks] == [True, False, True, False, False]
    assert [record.top5 is None for record in found.tasks] == [True, True, True, False, False]
    assert found.metrics["top5_ACC"] == found.tasks[4].top5
    assert there(found.tasks[4].top5) > there(found.metrics["ACC"])
    assert found.chance == [1 / 2, 1 / 4, 1 / 6, 1 / 8, 1 / 10]
    assert load_results(folder_of(settings)) == found
    assert "top5_ACC" not in run(small("method=finetune", "scenario=task_incremental")).metrics


def test_what_is_kept_is_bounded() -> None:
    """Of 100 tasks of one class each, and of 300 of ten: less than R of 300 tasks takes."""
    for n_tasks, n_outputs in ((100, 100), (300, 3000), (10, 1000)):
        accuracies, matrices = kept_after(range(n_tasks), n_outputs)
        assert n_tasks - 1 in accuracies & matrices
        side = min(n_outputs, 400)
        by_class = [
            ByClass([1 / 3] * n_outputs, [[123] * side] * side if task in matrices else None)
            for task in sorted(accuracies)
        ]
        assert len(readable(to_json(by_class))) < 2_500_000
    assert kept_after(range(5), 10) == ({0, 1, 2, 3, 4},) * 2
    assert kept_after([4], 10) == ({4},) * 2


BASE = ("scenario.n_tasks=null", "scenario.base=4", "scenario.classes_per_task=2")


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ((), [1 / 2, 1 / 4, 1 / 6, 1 / 8, 1 / 10]),
        (BASE, [1 / 4, 1 / 6, 1 / 8, 1 / 10]),
        (("scenario=task_incremental",), [1 / 2] * 5),
        (("scenario=task_incremental", *BASE), [1 / 4, 3 / 8, 5 / 12, 7 / 16]),
        (("scenario=domain_incremental",), [1 / 2] * 5),
        (("scenario=permuted", "scenario.n_tasks=3"), [1 / 10] * 3),
    ],
)
def test_chance(more: tuple[str, ...], expected: list[float]) -> None:
    assert chance(made("finetune", *more)[0]) == pytest.approx(expected)


@pytest.mark.parametrize(("kind", "expected"), [("class", [1 / 5] * 5), ("task", [1 / 2] * 5), ("domain", [1 / 2] * 5)])
def test_chance_on_a_test_set_that_all_share(kind: str, expected: list[float]) -> None:
    """Half of the classes came: half of the images can be guessed, and so on; here all tests are one."""
    scenario = made("finetune", f"scenario={kind}_incremental")[0]
    whole = scenario.tests[0]
    for test in scenario.tests[1:]:
        whole = whole + test
    sizes = [len(test) for test in scenario.tests]
    scenario.tests = [whole]
    if kind == "class":  # share of images whose class came, by the number of classes
        expected = [sum(sizes[: i + 1]) / sum(sizes) / (2 * i + 2) for i in range(5)]
    assert chance(scenario) == pytest.approx(expected)


def test_results_from_before_are_read(tmp_path: Any) -> None:
    content = to_json(results([[0.9, 0.1], [0.6, 0.8]], tasks=[task_record(0), task_record(1)]))
    assert not {"chance", "joint"} & content.keys()
    assert not {"top5", "by_class"} & content["tasks"][0].keys()
    (tmp_path / "results.json").write_text(json.dumps(sealed(content)))
    found = load_results(tmp_path)
    assert (found.chance, found.tasks[0].by_class) == (None, None)


def test_it_costs_no_pass_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario, method = made("finetune")
    calls = 0
    forward = Method.__call__

    def counted(self: Method, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(method), "__call__", counted)
    Score(scenario).measure(method, after=4).count()
    assert calls == len(scenario.tests)
