"""Runs on a stream: what the learner is told, and where it is measured."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from conftest import Compose, one_pass, there, without_clocks

import cl_bench
from cl_bench.config import InputError, NotApplicable
from cl_bench.config.checks import check_settings
from cl_bench.config.names import folder_of
from cl_bench.evaluation.scores import Score
from cl_bench.methods.base import Classifier
from cl_bench.runs.loggers import STREAM, read
from cl_bench.runs.loop import run
from cl_bench.runs.setup import prepare

ONLINE = ("scenario.passes=online",)


@pytest.mark.parametrize("optimizer", [("optimizer=adam",), ("optimizer=sgd", "optimizer.momentum=0.9")])
def test_a_learner_is_not_told_where_a_task_ends(optimizer: tuple[str, ...], small: Compose) -> None:
    """Cut into five, a stream is learned as by one loop over all of it: one optimizer, no beginning anew."""
    settings = small("method=finetune", *ONLINE, *optimizer, "optimizer.lr=0.01")
    run(settings)
    scenario, method = prepare(settings)
    assert isinstance(method, Classifier)
    stepper, came = method.optimizer(method.network.parameters()), torch.zeros(10, dtype=torch.bool)
    for task in scenario.tasks:
        assert task.train.order is not None
        rows = list(task.train.order.split(10))
        if len(rows[-1]) == 1:
            rows[-2:] = [torch.cat(rows[-2:])]
        for batch in map(task.train.batch, rows):
            came[batch.y] = True
            loss = F.cross_entropy(method.network(batch.x).masked_fill(~came, -1e30), batch.y)
            stepper.zero_grad()
            loss.backward()
            stepper.step()
    weights = torch.load(folder_of(settings) / "checkpoints" / "task4.pt", weights_only=True)["method"]
    for name, weight in method.network.state_dict().items():
        assert torch.allclose(weights[f"network.{name}"], weight, atol=1e-6), name


def test_what_needs_borders_is_refused_with_what_does_not(small: Compose) -> None:
    with pytest.raises(NotApplicable) as refused:
        check_settings(small("method=icarl", *ONLINE))
    line = str(refused.value)
    assert line.startswith(
        "method=icarl: must know where a task ends, which is unknown in a stream (scenario.passes=online)"
    )
    named = line.partition("try method=")[2].split(", ")
    assert {"finetune", "er", "der"} <= set(named)
    assert not {"icarl", "joint", "packnet", "dgr"} & set(named)
    with pytest.raises(InputError, match=r"^method\.selection=random: .*scenario\.passes=online"):
        prepare(small("method=er", *ONLINE, "method.selection=random"))


@pytest.mark.parametrize("kind", ["domain", "task"])
def test_each_test_image_counts_once_however_often_its_task_comes(kind: str, small: Compose) -> None:
    """In the middle of the second visit of the first task all five have begun, and none twice."""
    settings = small("method=finetune", f"scenario={kind}_incremental", *ONLINE, "scenario.repeat=true")
    scenario, method = prepare(settings)
    method.learn_task(scenario.tasks[0], one_pass)
    score, none = Score(scenario), torch.zeros(scenario.problem.n_outputs, dtype=torch.bool)
    right = given = 0
    for test in scenario.tests[:5]:
        logits = method(test.images / 255, index=int(test.task_ids[0])) if kind == "task" else method(test.images / 255)
        allowed = scenario.problem.mask(scenario.problem.rules["evaluation"], after=5)[int(test.task_ids[0])]
        right += int((logits.masked_fill(~allowed, -1e30).argmax(1) == test.labels).sum())
        given += len(test)
    assert score.on_stream(method, 5, none) == pytest.approx(right / given)
    moved = Score(scenario.to("cpu"))  # where each test set is another object
    assert moved.on_stream(method, 5, none) == pytest.approx(right / given)


def test_no_image_of_a_ring_has_a_task_whose_outputs_could_be_told(small: Compose) -> None:
    scenario, _ = prepare(small("method=finetune", "scenario=rotating_pairs"))
    assert Score(scenario).results().R_task_masked is None


def test_a_stream_is_measured_at_its_points_and_learns_the_same(small: Compose) -> None:
    looked = run(small("method=er", "scenario=blurry", "scenario.measure_every=70", "memory=50"))
    plain = run(small("method=er", "scenario=blurry", "memory=50", root="plain"))
    assert looked.R == plain.R
    points = [point for record in looked.tasks for phase in record.phases for point in phase.stream or ()]
    seen = [n for n, _ in points]
    sizes = [len(task.train) for task in prepare(small("method=er", "scenario=blurry"))[0].tasks]
    assert seen[-1] == sum(sizes)
    assert all(0 <= n % 70 < 10 or n == sum(sizes) for n in seen if n < sizes[0])  # a mini-batch has 10 images
    assert len(seen) in (sum(sizes) // 70, 1 + sum(sizes) // 70)
    assert there(points[-1][1]) == pytest.approx(there(looked.metrics["weighted_ACC"]))
    assert plain.metrics["A_AUC"] is None
    assert [phase.stream for record in plain.tasks for phase in record.phases] == [None] * 5


def test_the_points_are_in_the_log(small: Compose) -> None:
    settings = small("method=finetune", *ONLINE, "scenario.measure_every=300")
    results = run(settings)
    points = [point for record in results.tasks for phase in record.phases for point in phase.stream or ()]
    rows = [row for row in read(folder_of(settings) / "log.csv") if row.phase == STREAM]
    assert [row.value for row in rows if row.name == "images"] == [float(n) for n, _ in points]
    assert [row.value for row in rows if row.name == "accuracy"] == [value for _, value in points]


def test_the_same_command_finds_its_stream_again(small: Compose) -> None:
    settings = small("method=finetune", *ONLINE)
    results = run(settings)
    again = cl_bench.load(folder_of(settings))
    assert cl_bench.evaluate(again).tolist() == results.R[4]
    assert without_clocks(run(settings)) == without_clocks(results)


def test_keys_of_a_stream_are_refused_elsewhere(small: Compose) -> None:
    for key in ("batch_size=5", "measure_every=7", "updates_per_batch=2", "repeat=true"):
        with pytest.raises(InputError, match=f"^scenario.{key}: has an effect only in a stream"):
            small("method=finetune", f"scenario.{key}")
    assert folder_of(small("method=finetune", *ONLINE)) != folder_of(small("method=finetune"))
