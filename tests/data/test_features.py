"""Features are worked out once for each image, kept by content, and stand where images do."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import METHODS, Compose, there
from torch import Tensor

import cl_bench
from cl_bench.config import InputError, NotApplicable
from cl_bench.config.names import folder_of
from cl_bench.data.features import Features, as_features, as_seen
from cl_bench.methods.parts.memory import Memory, bytes_per_image
from cl_bench.networks.backbones import Backbone
from cl_bench.runs.loop import run
from cl_bench.runs.setup import prepare

LITE0 = "efficientnet_lite0"
FEATURES = (f"features={LITE0}", "features.size=32", "network=linear")


@pytest.fixture
def worked_out(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Stands for the network: the mean and the extremes of the pixels, and how many images it has seen, by call."""
    seen: list[int] = []

    def forward(self: Backbone, x: Tensor) -> Tensor:
        seen.append(len(x))
        flat = x.flatten(1)
        return torch.stack([flat.mean(1), flat.amin(1), flat.amax(1)], 1).repeat(1, 427)[:, :1280]

    monkeypatch.setattr(Backbone, "forward", forward)
    monkeypatch.setattr(Backbone, "at_once", lambda self, shape, device: 8)
    return seen


def images(n: int, seed: int = 0) -> Tensor:
    return torch.randint(256, (n, 1, 8, 8), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def features(folder: Path) -> Features:
    return Features(folder, backbone=LITE0, size=32)


def test_each_image_once_whatever_its_order_and_its_set(tmp_path: Path, worked_out: list[int]) -> None:
    x = images(20)
    first, second = features(tmp_path).of(x[:12], x[8:20])
    assert sum(worked_out) == 24  # 20 different ones, in eights
    expected = (x / 255).flatten(1)
    torch.testing.assert_close(torch.cat([first, second[4:]])[:, 0], expected.mean(1))
    assert torch.equal(first[8:], second[:4])
    (again,) = features(tmp_path).of(x.flip(0))
    assert sum(worked_out) == 24
    assert torch.equal(again.flip(0), torch.cat([first, second[4:]]))
    features(tmp_path).of(torch.cat([x, images(3, seed=1)]))
    assert sum(worked_out) == 32
    Features(tmp_path, backbone=LITE0, size=16).of(x)  # of another size
    assert sum(worked_out) == 56


def test_the_company_of_an_image_is_nothing_to_its_features(tmp_path: Path) -> None:
    """With the real network, bit for bit."""
    x = images(9)
    (alone,) = features(tmp_path / "alone").of(x[:1])
    (together,) = features(tmp_path / "together").of(x)
    assert torch.equal(alone[0], together[0])


def damaged(file: Path, how: str) -> None:
    whole = file.read_bytes()
    if how == "cut":
        file.write_bytes(whole[: len(whole) // 2])
    elif how == "a bit":
        file.write_bytes(whole[:-1000] + bytes([whole[-1000] ^ 1]) + whole[-999:])
    elif how == "empty":
        file.write_bytes(b"")
    else:
        with np.load(file) as content:
            names = content["names"]
        np.savez(file, names=names, features=np.zeros((len(names), 7), np.float32))


@pytest.mark.parametrize("how", ["cut", "a bit", "empty", "another width"])
def test_a_damaged_cache_is_made_anew(
    how: str, tmp_path: Path, worked_out: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    x = images(16)
    (before,) = features(tmp_path).of(x)
    (file,) = features(tmp_path).folder.glob("*.npz")
    damaged(file, how)
    (after,) = features(tmp_path).of(x)
    assert torch.equal(after, before)
    assert sum(worked_out) == 32
    assert f"{file} is damaged" in caplog.text
    features(tmp_path).of(x)
    assert sum(worked_out) == 32


def test_what_was_done_before_a_kill_is_there(
    tmp_path: Path, worked_out: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cl_bench.data.features.AT_ONCE", 8)
    write = cl_bench.data.features.write

    def dying(file: Path, make: Any) -> None:
        if len(list(file.parent.glob("*.npz"))) == 2:
            raise KeyboardInterrupt
        write(file, make)

    with monkeypatch.context() as patch:
        patch.setattr("cl_bench.data.features.write", dying)
        with pytest.raises(KeyboardInterrupt):
            features(tmp_path).of(images(32))
    worked_out.clear()
    features(tmp_path).of(images(32))
    assert sum(worked_out) == 16


def test_two_at_once_work_one_after_the_other(
    tmp_path: Path, worked_out: list[int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The second begins while the first is at work, waits, and finds all of it there."""
    caplog.set_level("INFO")
    x, found = images(16), []
    first, second = features(tmp_path), features(tmp_path)
    thread = threading.Thread(target=lambda: found.append(second.of(x)[0]))
    write = cl_bench.data.features.write

    def slowly(file: Path, make: Any) -> None:
        if not thread.is_alive():
            thread.start()
            for _ in range(1000):
                if "another run works on" in caplog.text:
                    break
                time.sleep(0.01)
        write(file, make)

    monkeypatch.setattr("cl_bench.data.features.write", slowly)
    found += first.of(x)
    thread.join()
    assert "another run works on" in caplog.text
    assert torch.equal(*found)
    assert sum(worked_out) == 16


def test_a_cache_that_cannot_be_written(tmp_path: Path, worked_out: list[int]) -> None:
    (tmp_path / ".cache").touch()
    with pytest.raises(InputError, match=r"^data_dir: can't write features to "):
        features(tmp_path).of(images(2))


# ------------------------------------------------------------------------------------------- in scenarios


def test_a_scenario_of_features(tmp_path: Path, worked_out: list[int], small: Compose) -> None:
    """Turned images have features of their own; everything else stays."""
    scenario, _ = prepare(small("method=er", "scenario=rotated", "scenario.n_tasks=2", "scenario.val_fraction=0.2"))
    made = as_features(scenario, features(tmp_path), "cpu")
    assert made.problem.image_shape == (1280, 1, 1)
    assert made.problem.outputs == scenario.problem.outputs
    for before, after in zip(scenario.tasks, made.tasks, strict=True):
        for old, new in ((before.train, after.train), (before.val, after.val)):
            assert torch.equal(old.labels, new.labels)
            assert new.view is None
            batch = new.batch(torch.arange(5))
            assert batch.x.dtype == torch.float32
            seen = (old.batch(torch.arange(5)).x * 255).round() / 255
            torch.testing.assert_close(batch.x[:, 0, 0, 0], seen.flatten(1).mean(1))
    assert not torch.equal(made.tests[0].images, made.tests[1].images)
    assert as_seen(scenario.tests[1]).dtype == torch.uint8
    assert as_seen(scenario.tasks[1].val[torch.arange(0)]).shape == (0, 1, 8, 8)  # none to choose by, as by default


def test_rehearsal_counts_the_bytes_of_features(tmp_path: Path, worked_out: list[int], small: Compose) -> None:
    settings = small("method=er", *FEATURES, "memory.bytes=100000", f"data_dir={tmp_path}")
    results = run(settings)
    kept = there(results.memory)
    one = 4 * 1280 + 8 + 2
    assert bytes_per_image(prepare(settings)[0].problem) == one
    assert kept.images == 100000 // one
    assert kept.bytes == kept.images * one
    memory = prepare(settings)[1].memory
    assert isinstance(memory, Memory)
    assert memory.images.dtype == torch.float32


LEARNERS = ("der", "icarl", "hat")
MORE = ("ewc", "agem", "wa", "lwf", "mir", "gss", "bic", "cumulative", "supsup", "pnn")


@pytest.mark.parametrize("name", [*LEARNERS, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)])
def test_other_methods_learn_from_features(name: str, tmp_path: Path, worked_out: list[int], small: Compose) -> None:
    assert name in METHODS
    kind = "task" if name in ("hat", "pnn", "supsup") else "class"
    network = ("network=mlp", "network.hidden=[32]") if kind == "task" else ("network=linear",)
    settings = small(
        f"method={name}",
        *FEATURES[:2],
        *network,
        f"scenario={kind}_incremental",
        f"data_dir={tmp_path}",
        "scenario.n_tasks=2",
        "scenario.max_train=80",
        "memory=20",
        "trainer.epochs=1",
    )
    assert run(settings).status == "finished"


def test_a_generator_on_features_is_not_applicable_in_a_sweep(tmp_path: Path, small: Compose) -> None:
    with pytest.raises(NotApplicable, match=r"^method=dgr: generates images"):
        prepare(small("method=dgr", *FEATURES, f"data_dir={tmp_path}"))


def test_what_cannot_be_is_one_line(tmp_path: Path, worked_out: list[int], small: Compose) -> None:
    where = f"data_dir={tmp_path}"
    for overrides, line in [
        (("method=er", *FEATURES[:2], "network=cnn"), "network._target_=cl_bench.networks.cnn.CNN: has convolutions"),
        (("method=er", *FEATURES[:2], "network=pretrained"), "network=pretrained: needs gray or color images"),
        (
            ("method=er", *FEATURES, "dataset=mnist", "dataset.normalize=true"),
            "dataset.normalize=true: with features=... the",
        ),
    ]:
        with pytest.raises(InputError) as caught:
            prepare(small(*overrides, where))
        assert str(caught.value).startswith(line)
    scenario, _ = prepare(small("method=er"))
    augmented = type(scenario)(replace(scenario.problem, augment=torch.zeros_like), scenario.tasks, scenario.tests)
    with pytest.raises(InputError, match=r"^dataset.augment=true: features are computed once for each image"):
        as_features(augmented, features(tmp_path), "cpu")


def test_a_run_on_features_answers_for_images_and_says_whose_weights(tmp_path: Path, small: Compose) -> None:
    """With the real network: predictions from the images are those that were measured."""
    settings = small("method=slda", *FEATURES, "scenario.max_train=40", "scenario.n_tasks=2", f"data_dir={tmp_path}")
    results = run(settings)
    assert there(results.metrics["ACC"]) > 0.3
    weights = json.loads((folder_of(settings) / "results.json").read_text())["provenance"]["weights"]["features"]
    assert weights["digest"] == settings["weights"]["features"]
    assert weights["bytes"] > 18_000_000 > results.bytes_kept
    again = cl_bench.load(folder_of(settings))
    assert cl_bench.evaluate(again).tolist() == there(results.R)[1]
    scenario, _ = prepare({key: value for key, value in settings.items() if key not in ("features", "weights")})
    test = scenario.tests[0]
    right = again.predict(test.images) == np.array(scenario.problem.class_names)[test.labels.numpy()]
    assert right.mean() == pytest.approx(there(results.R)[1][0])
    with pytest.raises(InputError, match=r"^export: this run learned from features"):
        again.export(tmp_path / "model.pt2")
    with pytest.raises(InputError, match=r"^keep_models=last: the network that computes the features"):
        run(small("method=er", *FEATURES, "keep_models=last", f"data_dir={tmp_path}"))
