"""What generated images are worth: against a reference, at the ends of the scale, and with or without the cache."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from conftest import Compose, there
from example_records import generated, task_record
from torch import Tensor, nn

from cl_bench.config.compose import compose
from cl_bench.config.names import folder_of
from cl_bench.data.tasks import Scenario
from cl_bench.evaluation import judge
from cl_bench.evaluation.judge import Judge, frechet_distance, generated_metrics, grid
from cl_bench.methods.base import Method
from cl_bench.record import Generated, Results, TaskRecord
from cl_bench.runs.loop import run
from cl_bench.runs.setup import prepare


class Generator(Method):
    """Generates what it is given."""

    def __init__(self, scenario: Scenario, images: Tensor, labels: Tensor) -> None:
        super().__init__(scenario.problem)
        self.images, self.labels = images, labels

    def generate(self, n: int) -> tuple[Tensor, Tensor]:
        return self.images, self.labels


def measured(judge: Judge, generator: Generator, after: int) -> tuple[Generated, Tensor]:
    found = judge.measure(generator, after)
    assert found
    return found


def scenario_of(*overrides: str) -> Scenario:
    return prepare(compose("method=finetune", *overrides))[0]


def images_of(scenario: Scenario) -> tuple[Tensor, Tensor]:
    batches = [batch for test in scenario.test_dataloader() for batch in test]
    return torch.cat([batch.x for batch in batches]), torch.cat([batch.y for batch in batches])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    """One that has learned, unlike those of the other tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        patch.setattr(judge, "STEPS", 1500)
        one = Judge(scenario_of(), tmp_path_factory.mktemp("judge"))
        assert one.accuracy > 0.96
        return one


@pytest.mark.parametrize(("n", "m"), [(500, 700), (40, 60)])
def test_fid_equals_a_reference(n: int, m: int) -> None:
    rng = np.random.default_rng(0)
    real = rng.normal(size=(n, 16)) @ rng.normal(size=(16, 16))
    generated = rng.normal(size=(m, 16)) @ rng.normal(size=(16, 16)) + rng.normal(size=16)
    a, b = np.cov(real, rowvar=False), np.cov(generated, rowvar=False)
    means = np.square(real.mean(0) - generated.mean(0)).sum()
    reference = means + np.trace(a + b - 2 * np.real(scipy.linalg.sqrtm(a @ b)))
    assert frechet_distance(torch.tensor(real), torch.tensor(generated)) == pytest.approx(reference, rel=1e-6)
    assert frechet_distance(torch.tensor(real), torch.tensor(real)) == pytest.approx(0, abs=1e-4 * reference)


def test_real_images_pass_and_noise_does_not(trained: Judge) -> None:
    scenario = trained.scenario
    images, labels = images_of(scenario)
    real, _ = measured(trained, Generator(scenario, images, labels), after=4)
    assert real.MeRGAN_score_mean == pytest.approx(trained.accuracy, abs=0.01)
    assert real.judge_accuracy == trained.accuracy
    assert (real.features, real.n) == ("judge", 146)
    noise, _ = measured(trained, Generator(scenario, torch.rand_like(images), labels), after=4)
    assert noise.MeRGAN_score_mean == pytest.approx(0.1, abs=0.05)
    assert all(10 * there(a) < there(b) for a, b in zip(real.FID, noise.FID, strict=True))


def test_a_class_without_images_has_no_numbers(trained: Judge) -> None:
    images, labels = images_of(trained.scenario)
    rows = torch.cat([(labels == 0).nonzero().squeeze(1), (labels == 1).nonzero()[0]])
    generator = Generator(trained.scenario, images[rows], labels[rows])
    record, samples = measured(trained, generator, after=1)  # two tasks, outputs 0 to 3
    assert [value is None for value in record.FID] == [False] + 9 * [True]  # one image has no covariance
    assert [value is None for value in record.MeRGAN_score] == [False, False] + 8 * [True]
    assert record.images == [36, 1] + 8 * [0]
    assert record.FID_mean == record.FID[0]
    assert record.MeRGAN_score_mean == pytest.approx(sum(map(there, record.MeRGAN_score[:2])) / 4)
    assert samples.shape == (4, 8, 1, 8, 8)
    assert torch.equal(samples[0], images[labels == 0][:8])
    assert samples[1, 0].any()
    assert not samples[1, 1:].any()
    nothing = Generator(trained.scenario, images[:0], labels[:0])
    record, _ = measured(trained, nothing, after=1)
    assert record.FID_mean is None
    assert record.MeRGAN_score_mean == 0


@pytest.mark.parametrize("kind", ["class", "task", "domain"])
def test_real_images_are_those_of_the_tasks_so_far(kind: str, tmp_path: Path) -> None:
    scenario = scenario_of(f"scenario={kind}_incremental")
    one = Judge(scenario, tmp_path)
    one.features = nn.Flatten()
    tasks = [t for t in (0, 1, 2) if 1 in scenario.problem.outputs[t]]
    assert tasks == ([0, 1, 2] if kind == "domain" else [0])
    parts = [next(scenario.tasks[t].train.batches(2000)) for t in tasks]
    expected = torch.cat([part.x[part.y == 1][: -(-one.n // len(tasks))].flatten(1) for part in parts])
    assert torch.equal(one.real(1, after=2), expected[: one.n])


def test_it_measures_classes_of_tasks_that_have_a_name_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each permutation has ten outputs, and one name."""
    monkeypatch.setattr(judge, "STEPS", 1)
    scenario = scenario_of("dataset=digits", "scenario=permuted", "scenario.kind=class", "scenario.n_tasks=2")
    found, _ = measured(Judge(scenario, tmp_path), Generator(scenario, *images_of(scenario)), after=1)
    assert None not in found.MeRGAN_score


def test_inception_sees_color_where_it_is_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Distance(nn.Module):
        def __init__(self, feature: int) -> None:
            super().__init__()
            self.inception = nn.Flatten()

    monkeypatch.setattr(judge, "FrechetInceptionDistance", Distance)
    monkeypatch.setattr(judge, "find_spec", lambda name: name == "torch_fidelity")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    images, labels = np.zeros((10, 3, 8, 8), np.uint8), np.arange(10)
    np.savez(tmp_path / "color.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    in_color = scenario_of("dataset=npz", f"dataset.path={tmp_path / 'color.npz'}")
    gray, slow, without, color = (Judge(one, tmp_path) for one in (scenario_of(), *3 * [in_color]))
    networks = {one: one.network for one in (gray, slow, without)}
    weights = tmp_path / "checkpoints" / judge.INCEPTION
    weights.parent.mkdir()
    weights.touch()
    assert slow.features is networks[slow].features  # there is a CPU only
    monkeypatch.setattr(Judge, "device", torch.device("meta"))
    assert gray.features is networks[gray].features
    weights.unlink()
    assert without.features is networks[without].features
    weights.touch()
    features = color.features(torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1))
    assert torch.equal(features, torch.tensor([[0, 127, 255]], dtype=torch.uint8))


def garble(file: Path, sound: bytes) -> None:
    """One bit is another one, in the middle of the weights: torch reads it without a word."""
    content = bytearray(sound)
    content[len(content) // 2] ^= 64
    file.write_bytes(content)
    assert torch.load(file, weights_only=True)["accuracy"] >= 0


HARMS: dict[str, Callable[[Path, bytes], Any]] = {
    "garbled": garble,
    "cut short": lambda file, sound: file.write_bytes(sound[:1000]),
    "another network": lambda file, sound: torch.save({"network": {}, "accuracy": 1.0}, file),
    "no state": lambda file, sound: torch.save([1.0], file),
}


def test_it_learns_once_for_the_same_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    scenario = scenario_of()
    first = Judge(scenario, tmp_path)
    weights = first.network.state_dict()
    (file,) = tmp_path.iterdir()
    torch.save({"network": weights, "accuracy": 0.125}, file)
    assert Judge(scenario, tmp_path).accuracy == 0.125  # as it is in the file
    torch.save({"network": weights, "accuracy": first.accuracy}, file)
    caplog.clear()
    assert Judge(scenario, tmp_path).accuracy == first.accuracy
    assert not caplog.messages
    sound = file.read_bytes()
    for harm in HARMS.values():
        harm(file, sound)
        caplog.clear()
        again = Judge(scenario, tmp_path)
        assert again.accuracy == first.accuracy
        assert caplog.messages == [f"{file} is damaged; the judge of generated images is trained again"]
        assert all(torch.equal(value, weights[name]) for name, value in again.network.state_dict().items())
        assert torch.load(file, weights_only=True)["accuracy"] == first.accuracy  # repaired
        assert list(tmp_path.iterdir()) == [file]
    same = ["seed=1", "scenario.train_mask=current", "scenario=task_incremental"]
    others = ["scenario=domain_incremental", "scenario.class_order=random", "scenario.val_fraction=0.1"]
    keys = [Judge(scenario_of(override), tmp_path).key for override in (*same, *others)]
    assert keys[:3] == [first.key] * 3
    assert len({first.key, *keys[3:]}) == 4


def test_its_file_is_of_these_images_and_no_others(tmp_path: Path) -> None:
    """One pixel of the last image of the last task, and augmentation, make another judge; a copy makes the same."""
    scenario = scenario_of()
    task, key = scenario.tasks[-1], Judge(scenario, tmp_path).key
    images = task.train.images.clone()
    for name, change in {"copy": {"images": images}, "augmented": {"augment": lambda x: x}}.items():
        tasks = [*scenario.tasks[:-1], replace(task, train=replace(task.train, **change))]
        same = Judge(Scenario(scenario.problem, tasks, scenario.tests), tmp_path).key == key
        assert same == (name == "copy")
    images[-1, 0, 0, 0] += 1
    tasks = [*scenario.tasks[:-1], replace(task, train=replace(task.train, images=images))]
    assert Judge(Scenario(scenario.problem, tasks, scenario.tests), tmp_path).key != key


def single(tmp_path: Path) -> str:
    """The command for images of which two classes have one training image each."""
    labels = np.repeat(np.arange(4), [50, 50, 1, 1])
    images = np.random.default_rng(0).integers(0, 255, (len(labels), 1, 12, 12), np.uint8)
    np.savez(tmp_path / "single.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    return f"dataset.path={tmp_path / 'single.npz'}"


def test_what_cannot_be_measured_is_nan_and_one_warning(
    small: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = small("method=mergan", "dataset=npz", single(tmp_path), "scenario.n_tasks=2", "method.n_gen=20")
    results = run(settings)
    assert results.status == "finished"
    assert [value is None for value in there(results.tasks[-1].generated).FID] == [False, False, True, True]
    assert caplog.messages == [
        "FID can't be measured: NaN (class 2: 1 real and 1 generated images; at least two of each are needed)"
    ]
    kept = json.loads((folder_of(settings) / "results.json").read_text(), parse_constant=pytest.fail)
    assert [value is None for value in kept["tasks"][-1]["generated"]["FID"]] == [False, False, True, True]


@pytest.mark.parametrize("of_judge", ["accuracy_of", "frechet_distance", "in_parts"])
def test_no_measurement_of_images_ends_a_run(
    of_judge: str, small: Compose, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Out of memory, a decomposition that doesn't converge: whatever it is, the run ends with NaN."""

    def fails(*_: Any) -> None:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(judge, of_judge, fails)
    settings = small("method=dgr", "scenario.n_tasks=2", "trainer.epochs=1")
    results = run(settings)
    assert results.status == "finished"
    assert results.metrics["FID"] is None
    assert (results.metrics["MeRGAN_score"] is None) == (of_judge != "frechet_distance")
    assert len(caplog.messages) == len({message.split(" can't")[0] for message in caplog.messages}) > 0
    json.loads((folder_of(settings) / "results.json").read_text(), parse_constant=pytest.fail)


def test_images_that_are_no_numbers_have_no_distance(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And don't kill the process, which eigenvalues of NaN do."""
    scenario = scenario_of()
    images, labels = images_of(scenario)
    record, _ = measured(Judge(scenario, tmp_path), Generator(scenario, images * math.nan, labels), after=0)
    assert record.FID_mean is None
    assert caplog.messages == ["FID can't be measured: NaN (class 0: features of images are not finite)"]


def test_images_are_asked_for_as_memory_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "NUMBERS", 10 * 64 * 70)
    assert Judge(scenario_of(), tmp_path).n == 70
    assert Judge(scenario_of("dataset.size=128"), tmp_path).n == 2


def test_large_images_are_learned_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its mini-batch is the same one, its gradient summed up: the same judge but for rounding."""
    whole, parts = Judge(scenario_of(), tmp_path / "whole"), Judge(scenario_of(), tmp_path / "parts")
    expected, sizes = whole.network.state_dict(), []
    forward = judge.CNN.forward
    monkeypatch.setattr(judge.CNN, "forward", lambda self, x: sizes.append(len(x)) or forward(self, x))
    monkeypatch.setattr("cl_bench.data.batches.at_once", lambda shape, most, **_: 30)
    monkeypatch.setattr(judge, "at_once", lambda shape, most, **_: 30)
    for name, value in parts.network.state_dict().items():
        assert torch.allclose(value, expected[name], atol=1e-5)
    assert max(sizes) == 30


def test_it_draws_nothing_from_the_run(tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    assert Judge(scenario_of(), tmp_path).accuracy > 0
    assert torch.equal(torch.rand(3), expected)


def without_times(results: Results) -> list[Generated]:
    return [replace(task.generated, seconds=0) for task in results.tasks if task.generated]


def test_a_run_keeps_what_its_images_are_worth(small: Compose) -> None:
    settings = small("method=dgr")
    results = run(settings)
    folder = folder_of(settings)
    kept = json.loads((folder / "results.json").read_text(), parse_constant=pytest.fail)  # no NaN in it
    for seen, task in zip((2, 4, 6, 8, 10), kept["tasks"], strict=True):
        made = [count > 0 for count in task["generated"]["images"]]
        assert [value is not None for value in task["generated"]["MeRGAN_score"]] == made
        assert not any(made[seen:])
    last, metrics = kept["tasks"][-1]["generated"], kept["metrics"]
    assert list(metrics)[-3:] == ["MeRGAN_score", "MeRGAN_score_A10", "FID"]
    assert metrics["MeRGAN_score"] == metrics["MeRGAN_score_A10"] == last["MeRGAN_score_mean"]
    assert metrics["FID"] == last["FID_mean"]
    logged = (folder / "log.csv").read_text()
    assert logged.count(",task,MeRGAN_score,") == logged.count(",task,FID,") == 5
    (file,) = (folder.parents[1] / ".judge").iterdir()
    assert file.suffix == ".pt"

    cached = run(small("method=dgr", "resume=false"))
    assert without_times(cached) == without_times(results)
    assert cached.R == results.R
    (folder / "checkpoints" / "task4.pt").unlink()  # as if killed in the last task
    assert without_times(run(settings)) == without_times(results)


def test_nothing_is_kept_of_what_is_not_generated(small: Compose) -> None:
    settings = small("method=finetune")
    results = run(settings)
    assert [(task.generated, task.memory) for task in results.tasks] == 5 * [(None, None)]
    assert not {"MeRGAN_score", "FID"} & set(results.metrics)
    assert not (folder_of(settings).parents[1] / ".judge").exists()


def test_metrics_follow_the_tasks() -> None:
    def record(task: int, score: float, fid: float | None) -> TaskRecord:
        return task_record(task, generated=generated([], [], MeRGAN_score_mean=score, FID_mean=fid))

    assert generated_metrics([task_record(0)], {"A5": 0}) == {}
    found = generated_metrics([record(0, 0.5, 7.0), record(1, 0.25, None)], {"A5": 0, "A10": 3})
    assert (found["MeRGAN_score"], found["MeRGAN_score_A5"]) == (0.25, 0.5)
    assert found["MeRGAN_score_A10"] is None
    assert found["FID"] is None


def test_bytes_of_a_generator_stand_beside_those_of_the_images(small: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    from cl_bench.methods.finetune import Finetune

    learn = Finetune.learn

    def with_generator(self: Finetune, *args: Any) -> dict[str, Any]:
        learn(self, *args)
        return {"generator_bytes": 1000}

    monkeypatch.setattr(Finetune, "learn", with_generator)
    memory = [there(task.memory) for task in run(small("method=finetune")).tasks]
    assert [one.generator_bytes for one in memory] == 5 * [1000]
    assert memory[-1].raw_bytes_uint8 == 1438 * 64
    assert [one.raw_bytes_float32 for one in memory] == [4 * there(one.raw_bytes_uint8) for one in memory]


def test_rows_are_classes() -> None:
    images, labels = torch.arange(4.0).view(4, 1, 1, 1), torch.tensor([2, 0, 2, 2])
    assert grid(images, labels, [0, 2], columns=2).flatten(1).tolist() == [[1, 0], [0, 2]]
