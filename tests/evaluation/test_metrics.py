"""Worked examples, definitions written out as loops, and what torchmetrics promises."""

from __future__ import annotations

import functools
import io
import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from cl_bench.config import KnownError
from cl_bench.evaluation import metrics as M
from cl_bench.evaluation.or_nan import OrNaN

pytestmark = pytest.mark.filterwarnings("error")

NAN = float("nan")
EXAMPLES = settings(max_examples=50, deadline=None)


def matrix(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


# The worked example, by hand
R3 = matrix([0.90, 0.15, 0.10], [0.94, 0.88, 0.20], [0.72, 0.80, 0.92])
B3 = torch.tensor([0.10, 0.12, 0.08], dtype=torch.float64)
N3 = torch.tensor([2000, 1000, 1000])
REFERENCE3 = torch.tensor([0.91, 0.90, 0.95], dtype=torch.float64)

R4 = matrix([0.90, 0.12, 0.10, 0.08], [0.92, 0.95, 0.20, 0.11], [0.94, 0.80, 0.96, 0.30], [0.96, 0.70, 0.85, 0.97])
B4 = torch.full((4,), 0.10, dtype=torch.float64)

METRICS = {  # every number of a matrix, with the baseline, sizes and reference it may need
    "ACC": lambda R, b, n, reference: M.average_accuracy(R),
    "BWT": lambda R, b, n, reference: M.backward_transfer(R),
    "FWT": lambda R, b, n, reference: M.forward_transfer(R, b),
    "forgetting": lambda R, b, n, reference: M.forgetting(R),
    "first_forgetting": lambda R, b, n, reference: M.first_forgetting(R),
    "LA": lambda R, b, n, reference: M.learning_accuracy(R),
    "AAA": lambda R, b, n, reference: M.average_incremental_accuracy(R),
    "weighted_ACC": lambda R, b, n, reference: M.weighted_accuracy(R, n),
    "weighted_AAA": lambda R, b, n, reference: M.weighted_incremental_accuracy(R, n),
    "later_AAA": lambda R, b, n, reference: M.later_incremental_accuracy(R, n),
    "intransigence": lambda R, b, n, reference: M.intransigence(R, reference),
}

GOLDEN3 = {
    "ACC": (0.72 + 0.80 + 0.92) / 3,
    "BWT": -0.13,
    "FWT": 0.075,
    "forgetting": 0.15,
    "first_forgetting": 0.13,
    "LA": 0.90,
    "AAA": 0.874444,
    "weighted_ACC": 0.79,
    "weighted_AAA": (0.90 + 0.92 + 0.79) / 3,
    "later_AAA": (0.92 + 0.79) / 2,
    "intransigence": 0.02,
}


def values(R: Tensor, b: Tensor, n: Tensor, reference: Tensor) -> dict[str, float]:
    return {name: float(metric(R, b, n, reference)) for name, metric in METRICS.items()}


def count(metric: Metric | MetricCollection, R: Tensor, b: Tensor, n: Tensor, rows: range | None = None) -> None:
    """Feed predictions that realise the accuracies of these rows (-1: b); NaN is not measured."""
    for i in range(-1, len(R)) if rows is None else rows:
        for j, accuracy in enumerate((b if i < 0 else R[i]).tolist()):
            if not math.isnan(accuracy):
                target = torch.full((int(n[j]),), j)
                preds = target + (torch.arange(len(target)) >= round(accuracy * len(target)))
                metric.update(i, j, preds, target)


def computed(metrics: MetricCollection) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.compute().items()}


def collection3() -> MetricCollection:
    return M.continual_metrics(3, [2, 3, 5], REFERENCE3.tolist())


# --- numbers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GOLDEN3)
def test_worked_example(name):
    assert values(R3, B3, N3, REFERENCE3)[name] == pytest.approx(GOLDEN3[name], abs=1e-6)


def test_worked_example_after_each_task():
    assert [float(M.accuracy_after(R3, t)) for t in (1, 2, 3)] == pytest.approx([0.90, 0.91, 0.813333], abs=1e-6)
    unfinished = R3.clone()
    unfinished[2] = NAN
    assert float(M.forgetting(unfinished)) == pytest.approx(0.90 - 0.94)


def test_class_incremental_forward_transfer_is_minus_the_baseline():
    assert float(M.forward_transfer(R3.tril(), B3)) == pytest.approx(-0.10)


def test_four_tasks():
    assert float(M.backward_transfer(R4)) == pytest.approx(-0.1000)
    assert float(M.forward_transfer(R4, B4)) == pytest.approx(0.32 / 3)
    assert float(M.forgetting(R4)) == pytest.approx(0.34 / 3)  # (.94 - .96) + (.95 - .70) + (.96 - .85)


def test_predictions_that_realise_the_worked_example():
    metrics = collection3()
    count(metrics, R3, B3, N3)
    expected = GOLDEN3 | {"A5": 0.91, "A10": GOLDEN3["ACC"]}
    assert computed(metrics) == pytest.approx(expected, abs=1e-6)

    matrix = M.AccuracyMatrix(3)
    count(matrix, R3, B3, N3)
    torch.testing.assert_close(matrix.compute(), R3)
    torch.testing.assert_close(matrix.b, B3)
    assert matrix.n.tolist() == N3.tolist()


# --- definitions, as loops over tasks counted from 1 ------------------------------------------------------


def mean(xs) -> float:
    xs = list(xs)
    return sum(xs) / len(xs) if xs else NAN


def best(xs) -> float:
    xs = list(xs)
    return NAN if any(map(math.isnan, xs)) else max(xs)


def by_definition(R: Tensor, b: Tensor, n: Tensor, reference: Tensor, T: int) -> dict[str, float]:
    r = {(i + 1, j + 1): float(R[i, j]) for i, j in product(range(T), range(T))}
    tasks, earlier = range(1, T + 1), range(1, T)
    merged = [sum(float(n[j - 1]) * r[t, j] for j in range(1, t + 1)) / float(n[:t].sum()) for t in tasks]
    return {
        "ACC": mean(r[T, j] for j in tasks),
        "BWT": mean(r[T, j] - r[j, j] for j in earlier),
        "FWT": mean(r[j - 1, j] - float(b[j - 1]) for j in tasks if j > 1),
        "forgetting": mean(best(r[i, j] for i in earlier) - r[T, j] for j in earlier),
        "first_forgetting": mean(r[j, j] - r[T, j] for j in earlier),
        "LA": mean(r[j, j] for j in tasks),
        "AAA": mean(mean(r[t, j] for j in range(1, t + 1)) for t in tasks),
        "weighted_ACC": sum(float(n[j - 1]) * r[T, j] for j in tasks) / float(n[:T].sum()) if T else NAN,
        "weighted_AAA": mean(merged),
        "later_AAA": mean(merged[1:]),
        "intransigence": mean(float(reference[j - 1]) - r[j, j] for j in tasks),
    }


@st.composite
def runs(draw, missing: bool = False, tasks: int | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """R, b, n and reference of up to five tasks, accuracies in percent; some NaN if `missing`."""
    T = tasks or draw(st.integers(1, 5))
    accuracy = st.integers(0, 100).map(lambda percent: percent / 100)
    accuracies = st.lists(accuracy | st.just(NAN) if missing else accuracy, min_size=T, max_size=T)
    R = draw(st.lists(accuracies, min_size=T, max_size=T))
    b, reference = draw(accuracies), draw(accuracies)
    n = torch.tensor(draw(st.lists(st.sampled_from([100, 200, 300]), min_size=T, max_size=T)))
    return matrix(*R), matrix(b)[0], n, matrix(reference)[0]


@EXAMPLES
@given(runs(missing=True))
def test_definitions(run):
    measured = [t for t, row in enumerate(run[0], start=1) if not row.isnan().all()]
    expected = by_definition(*run, T=max(measured, default=0))
    assert values(*run) == pytest.approx(expected, nan_ok=True)


@EXAMPLES
@given(runs())
def test_invariants(run):
    v, T = values(*run), len(run[0])
    for name in ("ACC", "LA", "AAA", "weighted_ACC", "weighted_AAA"):
        assert 0 <= v[name] <= 1
    if T > 1:
        assert v["first_forgetting"] == -v["BWT"]
        assert v["forgetting"] >= v["first_forgetting"] - 1e-9  # the best includes the first
        assert v["ACC"] - v["LA"] == pytest.approx(v["BWT"] * (T - 1) / T)
    assert float(M.weighted_accuracy(run[0], torch.full((T,), 7))) == pytest.approx(v["ACC"])
    assert float(M.intransigence(run[0], run[0].diagonal())) == 0


@EXAMPLES
@given(runs(), st.data())
def test_an_unfinished_run_is_a_shorter_one(run, data):
    t = data.draw(st.integers(0, len(run[0])))
    R, b, n, reference = run
    R = R.clone()
    R[t:] = NAN
    assert M.measured(R) == t
    shorter = values(R[:t, :t], b[:t], n[:t], reference[:t])
    assert values(R, b, n, reference) == pytest.approx(shorter, nan_ok=True)


# --- what was never measured ------------------------------------------------------------------------------

NEEDED = {  # entries of a 3 x 3 matrix without which there is no such number
    "ACC": {(2, 0), (2, 1), (2, 2)},
    "BWT": {(0, 0), (1, 1), (2, 0), (2, 1)},
    "FWT": {(0, 1), (1, 2)},
    "forgetting": {(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)},
    "first_forgetting": {(0, 0), (1, 1), (2, 0), (2, 1)},
    "LA": {(0, 0), (1, 1), (2, 2)},
    "AAA": {(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)},
    "weighted_ACC": {(2, 0), (2, 1), (2, 2)},
    "weighted_AAA": {(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)},
    "later_AAA": {(1, 0), (1, 1), (2, 0), (2, 1), (2, 2)},
    "intransigence": {(0, 0), (1, 1), (2, 2)},
}


@pytest.mark.parametrize("name", NEEDED)
def test_nan_exactly_where_a_needed_entry_is_missing(name):
    for entry in product(range(3), range(3)):
        R = R3.clone()
        R[entry] = NAN
        assert math.isnan(values(R, B3, N3, REFERENCE3)[name]) == (entry in NEEDED[name]), entry


def test_forgetting_needs_the_rows_before_a_task_was_learned():
    assert math.isnan(M.forgetting(R3.where(torch.ones(3, 3).tril() > 0, NAN)))


def test_joint_training_has_only_a_last_row():
    R = torch.full((3, 3), NAN, dtype=torch.float64)
    R[-1] = R3[-1]
    v = values(R, B3, N3, REFERENCE3)
    assert {name for name in v if not math.isnan(v[name])} == {"ACC", "weighted_ACC"}
    assert v["ACC"] == pytest.approx(GOLDEN3["ACC"])

    metrics = M.continual_metrics(3, [2, 3, 5])
    count(metrics, R, B3, N3)
    v = computed(metrics)
    assert {name for name in v if not math.isnan(v[name])} == {"ACC", "weighted_ACC", "A10"}


def test_one_task():
    v = values(matrix([0.8]), B3[:1], N3[:1], REFERENCE3[:1])
    assert all(math.isnan(v[name]) for name in ("BWT", "FWT", "forgetting", "first_forgetting", "later_AAA"))
    assert [v[name] for name in ("ACC", "LA", "AAA", "weighted_ACC", "weighted_AAA")] == [0.8] * 5


def test_nothing_measured():
    metrics = collection3()
    count(metrics, R3, B3, N3, rows=range(-1, 0))
    assert all(math.isnan(value) for value in computed(metrics).values())


@pytest.mark.parametrize(("k", "tasks"), [(2, 1), (5, 2), (10, 3), (4, 0), (20, 0)])
def test_accuracy_after_k_classes(k, tasks):
    metric = M.AccuracyAfter(k, [2, 3, 5])
    for t in (1, 2, 3):
        count(metric, R3, B3, N3, rows=range(t - 1, t))
        expected = float(M.accuracy_after(R3, tasks)) if 0 < tasks <= t else NAN
        assert float(metric.compute()) == pytest.approx(expected, nan_ok=True)


# --- counting ---------------------------------------------------------------------------------------------


@EXAMPLES
@given(runs(missing=True, tasks=3))
def test_counting_gives_what_the_matrix_gives(run):
    R, b, n, reference = run
    metrics = M.continual_metrics(3, [2, 3, 5], reference.tolist())
    count(metrics, R, b, n)
    if metrics["ACC"].update_called:
        v = computed(metrics)
        assert {name: v[name] for name in METRICS} == pytest.approx(values(*run), nan_ok=True)


@EXAMPLES
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=20), st.data())
def test_order_batches_and_copies_of_the_test_images_change_nothing(answers, data):
    preds, target = torch.tensor(answers).T
    whole, parts, shuffled, twice = (M.AverageAccuracy(1) for _ in range(4))
    whole.update(0, 0, preds, target)
    for batch in torch.arange(len(preds)).split(data.draw(st.integers(1, len(preds)))):
        parts.update(0, 0, preds[batch], target[batch])
    order = torch.tensor(data.draw(st.permutations(range(len(preds)))))
    shuffled.update(0, 0, preds[order], target[order])
    twice.update(0, 0, preds.repeat(2), target.repeat(2))
    assert len({float(metric.compute()) for metric in (whole, parts, shuffled, twice)}) == 1
    assert float(whole.compute()) == pytest.approx(sum(p == t for p, t in answers) / len(answers))


def test_one_update_per_batch(monkeypatch):
    calls = []
    update = M.ContinualMetric.update

    @functools.wraps(update)
    def counted(self, *args, **kwargs):
        calls.append(type(self))
        return update(self, *args, **kwargs)

    monkeypatch.setattr(M.ContinualMetric, "update", counted)
    metrics = collection3()
    for batch in range(1, 4):
        metrics.update(after=0, on=0, preds=torch.tensor([1, 2]), target=torch.tensor([1, 1]))
        metrics.compute()
        assert len(calls) == batch
    assert len({id(metric.count) for metric in metrics.values(copy_state=False)}) == 1


def test_forward_counts_like_update():
    called, updated = collection3(), collection3()
    preds, target = torch.tensor([1, 2]), torch.tensor([1, 1])
    for after, on in product(range(-1, 3), range(3)):
        called(after, on, preds, target)
        updated.update(after, on, preds, target)
    assert computed(called) == pytest.approx(computed(updated))


def test_names_and_directions():
    metrics = M.continual_metrics(4, [3, 3, 3, 3])
    assert set(metrics) == set(METRICS) - {"intransigence"}
    assert set(collection3()) == {*METRICS, "A5", "A10"}
    lower = {name for name, metric in collection3().items() if not metric.higher_is_better}
    assert lower == {"forgetting", "first_forgetting", "intransigence"}
    assert not any(metric.is_differentiable or metric.full_state_update for metric in metrics.values())


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="reference has 1 entries for 2 tasks"):
        M.continual_metrics(2, [1, 1], [0.5])
    with pytest.raises(ValueError, match="classes_per_task has 3 entries for 2 tasks"):
        M.continual_metrics(2, [1, 1, 1])
    for after, on in ((-2, 0), (2, 0), (0, 2), (0, -1)):
        with pytest.raises(IndexError, match=f"after task {after} on task {on} among 2 tasks"):
            M.AverageAccuracy(2).update(after, on, torch.zeros(3), torch.zeros(3))
    with pytest.raises(ValueError, match=r"\(3, 1\) predictions for \(3,\) targets"):
        M.AverageAccuracy(2).update(0, 0, torch.zeros(3, 1), torch.zeros(3))


# --- a run that is killed and continued -------------------------------------------------------------------


def saved(metrics: MetricCollection) -> dict[str, Tensor]:
    """The state as a checkpoint on disk gives it back."""
    file = io.BytesIO()
    torch.save(metrics.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("killed", [-1, 0, 1, 2, 3])
def test_a_continued_run_equals_an_uninterrupted_one(killed):
    uninterrupted, first, second = collection3(), collection3(), collection3()
    count(uninterrupted, R3, B3, N3)
    count(first, R3, B3, N3, rows=range(-1, killed))
    checkpoint = saved(first)
    second.load_state_dict(checkpoint)
    if killed > -1:
        assert computed(second) == pytest.approx(computed(first), nan_ok=True)  # before any update, no warning
    count(second, R3, B3, N3, rows=range(killed, 3))
    assert computed(second) == pytest.approx(computed(uninterrupted))
    assert all(torch.equal(value, checkpoint[key]) for key, value in saved(first).items()), "not its memory"


def test_loading_replaces_what_was_counted_and_computed():
    half, full = collection3(), collection3()
    count(half, R3, B3, N3, rows=range(-1, 2))
    count(full, R3, B3, N3)
    before = computed(half)
    assert before != pytest.approx(computed(full), nan_ok=True)
    half.load_state_dict(saved(full))
    assert computed(half) == pytest.approx(computed(full))
    assert [float(metric.compute()) for metric in half.values()] == pytest.approx([*computed(full).values()])


def test_loading_another_number_of_tasks_fails():
    with pytest.raises(RuntimeError, match="size"):
        M.AverageAccuracy(3).load_state_dict(M.AverageAccuracy(2).state_dict())


def test_reset_and_clone():
    metrics = collection3()
    count(metrics, R3, B3, N3)
    clone = metrics.clone(prefix="final/")
    metrics.reset()
    count(metrics, R3, B3, N3, rows=range(-1, 1))
    assert float(metrics.compute()["ACC"]) == pytest.approx(0.90)
    assert float(clone.compute()["final/ACC"]) == pytest.approx(GOLDEN3["ACC"])


# --- devices ----------------------------------------------------------------------------------------------


def test_update_never_waits_for_the_device():
    """On `meta` whatever needs a value on the host is an error."""
    metrics = collection3().to("meta")
    preds = torch.zeros(5, dtype=torch.int64, device="meta")
    metrics.update(0, 0, preds, preds)
    metrics.load_state_dict(collection3().state_dict())
    assert {metric.count.device.type for metric in metrics.values(copy_state=False)} == {"meta"}


def test_inference_mode():
    metrics = collection3()
    with torch.inference_mode():
        count(metrics, R3, B3, N3, rows=range(-1, 2))
    count(metrics, R3, B3, N3, rows=range(2, 3))
    assert computed(metrics)["ACC"] == pytest.approx(GOLDEN3["ACC"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda():
    host, device = collection3(), collection3().to("cuda")
    count(host, R3, B3, N3, rows=range(-1, 2))
    device.load_state_dict(host.state_dict())
    for j in range(3):
        target = torch.zeros(10, dtype=torch.int64)
        host.update(2, j, target, target)
        device.update(2, j, target.cuda(), target.cuda())
    assert computed(device) == pytest.approx(computed(host))


def test_what_cannot_be_measured_is_nan_and_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    def fails() -> float:
        raise RuntimeError("the algorithm\nfailed to converge")

    def stops() -> float:
        raise KnownError("stop")

    or_nan = OrNaN()
    assert or_nan("ACC", lambda: torch.tensor(0.5)) == 0.5
    assert all(math.isnan(or_nan(name, fails)) for name in ("FID", "FID", "BWT"))
    assert math.isnan(or_nan("FID", lambda: 1 / 0))
    assert caplog.messages == [
        f"{name} can't be measured: NaN (the algorithm failed to converge)" for name in ("FID", "BWT")
    ]
    with pytest.raises(KnownError, match="stop"):
        or_nan("ACC", stops)


# ---------------------------------------------------------------------------- a test set that all tasks share

COLUMN = matrix([0.5], [NAN], [0.7])


def test_on_a_shared_test_set_what_needs_an_accuracy_on_each_task_is_nan() -> None:
    defined = {"ACC": 0.7, "AAA": 0.6, "weighted_ACC": 0.7}
    for name, metric in METRICS.items():
        value = float(metric(COLUMN, torch.tensor([0.1], dtype=torch.float64), torch.tensor([400]), REFERENCE3))
        assert value == pytest.approx(defined[name]) if name in defined else math.isnan(value), name
        first = float(metric(matrix([0.5], [NAN], [NAN]), B3[:1], torch.tensor([400]), REFERENCE3))
        assert first == 0.5 if name in defined else math.isnan(first), name
    for compare in (M.retention, M.plasticity_gap):
        assert math.isnan(compare(COLUMN, REFERENCE3))


def test_a_shared_test_set_is_counted_in_one_column() -> None:
    metrics = M.continual_metrics(3, [0, 0, 0], n_tests=1)
    right = torch.tensor([1, 1, 1, 1])
    for after, wrong in ((-1, 3), (0, 2), (2, 1)):
        metrics.update(after, 0, right * (torch.arange(4) >= wrong), right)
    found = {name: float(value) for name, value in metrics.compute().items()}
    assert found.pop("ACC") == found.pop("weighted_ACC") == 0.75
    assert found.pop("AAA") == 0.625
    assert all(map(math.isnan, found.values()))
    with pytest.raises(IndexError):
        metrics.update(0, 1, right, right)
