"""The step that grows over the phases, what an interruption leaves, and what a W&B dashboard would show."""

from __future__ import annotations

import inspect
import json
import logging
import re
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import wandb
import yaml
from conftest import Compose
from logged_run import CONFIG, PHASES, RESULTS, STEPS, R, complete, learn, record, said
from omegaconf import OmegaConf
from pytorch_lightning import LightningModule, Trainer
from wandb.proto import wandb_internal_pb2
from wandb.sdk.wandb_summary import Summary

from cl_bench.config import Stopped
from cl_bench.config.names import CONF, folder_of
from cl_bench.config.schema import build, check
from cl_bench.data.problem import Task
from cl_bench.methods.ewc import EWC
from cl_bench.report.dashboard import LOSSES, Place, specification, workspace
from cl_bench.runs.figures import accuracy_matrix
from cl_bench.runs.loggers import MEASURED, STREAM, CSVLog, Row, RunLogger, read
from cl_bench.runs.loop import run
from cl_bench.runs.mlflow_log import MLflowLog
from cl_bench.runs.tensorboard_log import TensorBoardLog
from cl_bench.runs.trackers import TrackedLog, without_paths
from cl_bench.runs.wandb_log import WandbLog

Record: Any = vars(wandb_internal_pb2)["Record"]  # made while it is imported, which no type checker sees
KEY = "0123456789abcdef" * 2 + "01234567"  # in the form of one


@pytest.fixture(autouse=True)
def no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whoever runs the tests: no key, no mode, no file outside the test's folder."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a run, with the pictures that the runner draws."""
    for picture in ("figures/accuracy_matrix.png", "samples/task1.png"):
        accuracy_matrix(R, ["0", "1"], tmp_path / "run" / picture)
    return tmp_path / "run"


def wandb_log(**given: Any) -> RunLogger:
    return TrackedLog([WandbLog(**given)])


def records(path: Path) -> Iterator[Any]:
    """What W&B wrote to a `.wandb` file: protocol buffers in the framing of a LevelDB log."""
    data, i, parts = path.read_bytes(), 7, []
    while i + 7 <= len(data):
        if 32768 - i % 32768 < 7:
            i += 32768 - i % 32768
            continue
        _, size, kind = struct.unpack_from("<IHB", data, i)
        if kind == 0:
            break
        parts.append(data[i + 7 : i + 7 + size])
        i += 7 + size
        if kind in (1, 4):  # a whole record, or the end of one
            one = Record()
            one.ParseFromString(b"".join(parts))
            yield one
            parts = []


def offline(folder: Path) -> list[list[Any]]:
    """The records of each session of an offline run, once W&B has written them all: `finish` doesn't wait."""
    wandb.teardown()
    return [list(records(path)) for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"))]


def items(entries: Any) -> dict[str, Any]:
    return {entry.key or "/".join(entry.nested_key): json.loads(entry.value_json) for entry in entries}


def history(session: list[Any]) -> list[dict[str, Any]]:
    return [items(one.history.item) for one in session if one.WhichOneof("record_type") == "history"]


def test_csv_steps_grow_over_the_phases(tmp_path: Path) -> None:
    logger = CSVLog()
    learn(logger, tmp_path)
    complete(logger)
    assert (logger.name, logger.version) == ("digits-class-dgr-seed0", "0123abcd")
    rows = read(tmp_path / "log.csv")
    losses = [row for row in rows if row.name == "loss"]
    assert [row.step for row in losses] == list(range(10, 4 * STEPS + 1, 10))
    assert [(row.task, row.phase) for row in losses[::4]] == [(t, p) for t in range(2) for p in PHASES]
    assert all(row.value == 1 / row.step for row in losses)
    first = {row.name: row.value for row in rows if row.task == 0 and row.phase == "task"}
    assert first == {
        "accuracy/0": 0.9, "accuracy/1": 0.1, "ACC": 0.5, "seconds": 1.5, "bytes_kept": 0, "validation": 0.5,
        "facts/replayed": 0, "capacity/total": 15, "capacity/new": 15, "capacity/reused": 15,
        "capacity/reserved": 15, "capacity/free": 7, "capacity/size": 15, "capacity/size_worst": 30,
    }  # fmt: skip
    assert (tmp_path / "log.csv").read_bytes().startswith(b"step,task,phase,name,value\n")


@pytest.mark.parametrize("checkpoint", [5, 35, 40, 75, 80, 90, 120, 155, 160])
@pytest.mark.parametrize("broke_off", [95, 160])
def test_a_continued_run_logs_everything_once(tmp_path: Path, checkpoint: int, broke_off: int) -> None:
    learn(CSVLog(), tmp_path / "whole")
    learn(CSVLog(), tmp_path / "broken", stop=broke_off)
    with (tmp_path / "broken" / "log.csv").open("a") as file:
        file.write("99,1,solver,lo")  # killed while it wrote
    if checkpoint <= broke_off:
        learn(CSVLog(), tmp_path / "broken", start=checkpoint)
        assert read(tmp_path / "broken" / "log.csv") == read(tmp_path / "whole" / "log.csv")


def test_a_new_run_starts_a_new_file(tmp_path: Path) -> None:
    learn(CSVLog(), tmp_path)
    CSVLog().start(tmp_path, "0123abcd", "name", {}, "group", [], 0)
    assert read(tmp_path / "log.csv") == []


def test_a_point_of_lightnings_never_goes_back_and_comes_once(tmp_path: Path) -> None:
    """It counts chunks, and logs when a chunk begins."""
    for checkpoint, done in ((0, 20), (20, 30)):
        logger = CSVLog()
        logger.start(tmp_path, "0123abcd", "name", {}, "group", [], checkpoint)
        logger.phase(0, "train", 0)
        for chunk, step in enumerate(range(checkpoint, done + 1, 10)):
            logger.log_metrics({"lr": 0.1, "epoch": 0}, chunk)
            if step < 30:
                logger.log_points([(step + 10, {"loss": 1.0})])
                logger.log_metrics({"mine": 2.0}, step + 10)
    rows = [(row.step, row.name) for row in read(tmp_path / "log.csv")]
    assert rows == [(0, "lr"), *((at, name) for at in (10, 20, 30) for name in ("loss", "mine", "lr"))]


def test_what_is_measured_after_a_task_stands_at_its_last_step(tmp_path: Path) -> None:
    """A chunk logs its losses first, and then how a stream was measured inside of it."""
    logger = CSVLog()
    logger.start(tmp_path, "0123abcd", "name", {}, "group", [], 0)
    logger.phase(0, "train", 0)
    logger.log_points([(3, {"loss": 1.0})])
    logger.log_points([(2, {"images": 20.0})], STREAM)
    logger.task(replace(RESULTS, tasks=[record(0)]), None)
    assert {row.step for row in read(tmp_path / "log.csv") if row.phase == MEASURED} == {3}


def test_a_run_continued_before_its_first_step_keeps_its_tasks(tmp_path: Path) -> None:
    """Joint training has learned nothing before its last task, and was measured all the same."""
    for _ in range(2):
        logger = CSVLog()
        logger.start(tmp_path, "0123abcd", "name", {}, "group", [], 0)
        rows = read(tmp_path / "log.csv")
        logger.write([Row(0, 0, MEASURED, "seconds", 1.0)])
    assert rows == [Row(0, 0, MEASURED, "seconds", 1.0)]


def test_wandb_offline_holds_what_a_dashboard_shows(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    logger = wandb_log(tags=("ours", "dgr"))
    with caplog.at_level(logging.INFO, "cl_bench"):
        learn(logger, folder)
        complete(logger)
    assert said(caplog) == [f"W&B is offline; to upload the run: wandb sync {folder / 'wandb'}"]
    assert len(read(folder / "log.csv")) == 16 + 14 + 15

    [session] = offline(folder)
    run = next(one.run for one in session if one.WhichOneof("record_type") == "run")
    assert (run.run_id, run.run_group, run.project) == ("0123abcd", "digits-class-dgr", "cl_bench")
    assert (run.display_name, run.job_type, sorted(run.tags)) == ("digits-class-dgr-seed0", "dgr", ["dgr", "ours"])
    config = items(run.config.update)
    assert config["dataset"] == {"name": "digits"}
    assert (config["seed"], config["key"]) == (0, "0123abcd")
    assert not {"data_dir", "output_root"} & set(config)

    points = history(session)
    assert [point["step"] for point in points if "solver/loss" in point] == [
        *range(50, 81, 10),
        *range(130, 161, 10),
    ]
    assert [(point["task"], point["task/ACC"]) for point in points if "task/ACC" in point] == [
        (0, 0.5),
        (1, 0.7),
    ]
    assert [point["solver/step"] for point in points if "solver/loss" in point] == list(range(10, 81, 10))
    assert [point["generator/step"] for point in points if "generator/loss" in point] == list(range(10, 81, 10))
    assert [point["task/accuracy/0"] for point in points if "task/accuracy/0" in point] == [0.9, 0.6]
    [samples] = [point for point in points if "task/samples/_type" in point]
    assert (samples["task"], samples["task/samples/_type"]) == (1, "image-file")
    [matrix] = [point for point in points if "accuracy_matrix/_type" in point]
    assert (matrix["accuracy_matrix/nrows"], matrix["accuracy_matrix/ncols"]) == (2, 3)
    [heat_map] = [point for point in points if "figures/accuracy_matrix/_type" in point]
    for name, point in {"task/samples": samples, "figures/accuracy_matrix": heat_map}.items():
        [file] = folder.glob(f"wandb/offline-run-*/files/{point[f'{name}/path']}")
        drawn = folder / ("samples/task1.png" if name == "task/samples" else f"{name}.png")
        assert file.read_bytes() == drawn.read_bytes()
    [file] = folder.glob(f"wandb/offline-run-*/files/{matrix['accuracy_matrix/path']}")
    content = json.loads(file.read_text())
    assert content["columns"] == ["after task", "task 0", "task 1"]
    assert content["data"] == [[0, 0.9, 0.1], [1, 0.6, 0.8]]

    axes = [one.metric for one in session if one.WhichOneof("record_type") == "metric"]
    assert {one.glob_name: one.step_metric for one in axes if one.glob_name} == {
        "task/*": "task", "generator/*": "generator/step", "solver/*": "solver/step",
    }  # fmt: skip
    summary: dict[str, Any] = {}
    for one in session:
        summary |= items(one.summary.update)
    assert summary["ACC"] == 0.7
    assert (summary["BWT"], summary["parameters"]) == (-0.3, 1000)
    assert (summary["bytes_kept"], summary["seconds"], summary["peak_memory_mb"]) == (100, 3.0, 512.5)
    assert not {"FWT", "peak_gpu_memory_mb"} & set(summary)  # undefined here
    assert next(one.exit.exit_code for one in session if one.WhichOneof("record_type") == "exit") == 0


def test_wandb_has_the_accuracy_on_a_stream_over_its_images(small: Compose) -> None:
    settings = small("method=finetune", "scenario=blurry", "scenario.measure_every=200", "logger=wandb")
    of_run = run(settings)
    [session] = offline(folder_of(settings))
    axes = [one.metric for one in session if one.WhichOneof("record_type") == "metric"]
    assert {one.glob_name: one.step_metric for one in axes if one.glob_name} == {
        "task/*": "task", "stream/*": "stream/step", "accuracy_on_stream/*": "accuracy_on_stream/images",
    }  # fmt: skip
    points = history(session)
    shown = [point for point in points if "accuracy_on_stream/accuracy" in point]
    found = [(point["accuracy_on_stream/images"], point["accuracy_on_stream/accuracy"]) for point in shown]
    assert found == [(images, pytest.approx(accuracy)) for images, accuracy in of_run.stream]
    steps = [point["stream/step"] for point in points if "stream/loss" in point]
    assert steps[-1] == sum(phase.steps for record in of_run.tasks for phase in record.phases)
    assert steps == sorted(set(steps))  # what was measured between them is no step


def test_wandb_has_the_accuracy_while_learning_over_the_steps_of_the_run(small: Compose) -> None:
    overrides = ("scenario.n_tasks=2", "trainer.iterations=6", "evaluate_every=4", "logger=wandb")
    settings = small("method=finetune", *overrides)
    of_run = run(settings)
    [session] = offline(folder_of(settings))
    axes = [one.metric for one in session if one.WhichOneof("record_type") == "metric"]
    assert {one.glob_name: one.step_metric for one in axes if one.glob_name} == {
        "task/*": "task", "train/*": "train/step", "while_learning/*": "step",
    }  # fmt: skip
    points = [point for point in history(session) if "while_learning/test_accuracy/mean" in point]
    assert [point["step"] for point in points] == [4, 6, 10, 12]
    for index, place in ((0, 1), (1, 3)):
        named = [points[place][f"while_learning/test_accuracy/{task}"] for task in range(index + 1)]
        assert named == pytest.approx(of_run.R[index][: index + 1])
    assert "while_learning/test_accuracy/1" not in points[0]
    assert [point["train/step"] for point in history(session) if "train/loss" in point] == [5, 6, 11, 12]


def test_a_continued_wandb_run_sends_nothing_twice(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = wandb_log(mode="offline")
    learn(first, folder, stop=95)
    first.close(failed=True)
    time.sleep(1)  # W&B names the folder of a session by the second
    second = wandb_log(mode="offline")
    learn(second, folder, start=75)
    second.close(failed=False)

    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]
    before, after = offline(folder)
    assert next(one.exit.exit_code for one in before if one.WhichOneof("record_type") == "exit") == 1
    runs = [one.run for one in before + after if one.WhichOneof("record_type") == "run"]
    assert {one.run_id for one in runs} == {"0123abcd"}
    points = [point for point in history(before) + history(after) if {"solver/loss", "generator/loss"} & set(point)]
    assert [point["step"] for point in points] == list(range(10, 161, 10))
    assert [point["solver/step"] for point in points if "solver/loss" in point] == list(range(10, 81, 10))
    assert [point["generator/step"] for point in points if "generator/loss" in point] == list(range(10, 81, 10))
    assert [point["task"] for point in history(before) + history(after) if "task/ACC" in point] == [0, 1]
    assert len(read(folder / "log.csv")) == 16 + 14 + 15


CALLS = [
    *[(wandb, name) for name in ("Settings", "setup", "login", "init")],
    *[(kind, "__init__") for kind in (wandb.Image, wandb.Table)],
    *[(wandb.Run, name) for name in ("define_metric", "log", "offline", "finish")],
    (Summary, "update"),
]


@pytest.mark.parametrize(("owner", "broken"), CALLS, ids=[f"{owner.__name__}.{name}" for owner, name in CALLS])
def test_a_broken_wandb_costs_one_warning(
    folder: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    owner: object,
    broken: str,
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("the server\nis gone")

    monkeypatch.setattr(owner, broken, property(fail) if broken == "offline" else fail)
    caplog.set_level(logging.WARNING, "cl_bench")
    logger = wandb_log()
    learn(logger, folder)
    complete(logger)
    assert said(caplog) == [
        "W&B is off for the rest of this run; log.csv is still written (RuntimeError: the server is gone)"
    ]
    plain = CSVLog()
    learn(plain, tmp_path / "plain")
    assert read(folder / "log.csv") == read(tmp_path / "plain" / "log.csv")
    monkeypatch.undo()
    wandb.teardown()  # what could not be finished would keep its id


def test_a_wandb_that_is_not_there_costs_one_warning(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    logger = wandb_log()
    learn(logger, folder)
    complete(logger)
    assert len(said(caplog)) == 1
    assert len(read(folder / "log.csv")) == 16 + 14 + 15


def test_disabled_leaves_nothing_behind(folder: Path) -> None:
    logger = wandb_log(mode="disabled")
    learn(logger, folder)
    complete(logger)
    assert {path.name for path in folder.iterdir()} == {"log.csv", "figures", "samples"}


def test_paths_of_the_machine_stay_on_it() -> None:
    config = CONFIG | {"scenario": {"datasets": ["mnist", "/home/me/mine.npz"], "class_order": [1, 0]}}
    assert without_paths(config) == {
        "seed": 0,
        "dataset": {"name": "digits"},
        "choices": CONFIG["choices"],
        "scenario": {"datasets": ["mnist", "mine.npz"], "class_order": [1, 0]},
    }


def sweep_metrics() -> list[str]:
    files = (CONF.parent / "sweeps").glob("*.yaml")
    return [yaml.safe_load(file.read_text())["metric"]["name"] for file in files]


def test_a_real_run_continued_is_one_wandb_run_that_knows_nothing_of_the_machine(
    small: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two tasks of images from a person's own file, stopped after the first."""
    images = np.random.default_rng(0).integers(0, 256, (80, 4, 4), dtype=np.uint8)
    labels = np.arange(80) % 4
    np.savez(tmp_path / "mine.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    settings = small(
        "method=ewc", "logger=wandb", "dataset=npz", f"dataset.path={tmp_path / 'mine.npz'}",
        "scenario.n_tasks=2", "scenario.val_fraction=0.2",
    )  # fmt: skip
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb.teardown()  # it reads the environment once
    learn = EWC.learn

    def stopped(self: EWC, task: Task, fit: Any) -> None:
        if task.index:
            raise Stopped(15)
        learn(self, task, fit)

    with monkeypatch.context() as patch:
        patch.setattr(EWC, "learn", stopped)
        with pytest.raises(Stopped):
            run(settings)
    time.sleep(1)  # W&B names the folder of a session by the second
    results = run(settings)

    folder = folder_of(settings)
    sessions = offline(folder)
    records = [one for session in sessions for one in session]
    assert len(sessions) == 2
    runs = [one.run for one in records if one.WhichOneof("record_type") == "run"]
    assert {(one.run_id, one.job_type, one.host) for one in runs} == {(results.key, "ewc", "")}
    points = [point for session in sessions for point in history(session)]
    assert [point["task"] for point in points if "task/ACC" in point] == [0, 1]
    steps = [point["train/step"] for point in points if "train/loss" in point]
    assert steps == sorted(set(steps))
    assert steps[-1] == sum(phase.steps for record in results.tasks for phase in record.phases)
    sent = [(point["step"], point["train/loss"]) for point in points if "train/loss" in point]
    assert sent == [(row.step, row.value) for row in read(folder / "log.csv") if row.phase == "train"]
    summary: dict[str, Any] = {}
    for one in records:
        summary |= items(one.summary.update) | items(one.history.item)
    assert summary["ACC"] == results.metrics["ACC"]
    assert [name for name in summary if re.fullmatch(LOSSES["Loss of the classifier"], name)]
    assert set(sweep_metrics()) <= set(summary)  # what sweeps compare is there to be compared

    private = [str(Path.home()), str(Path.cwd()), str(tmp_path), sys.prefix, KEY]
    # the record of a table says where its file lies, for `wandb sync`; it is no part of what is uploaded
    uploaded = [one.SerializeToString() for one in records if one.WhichOneof("record_type") != "artifact"]
    uploaded += [file.read_bytes() for file in folder.glob("wandb/offline-run-*/files/**/*") if file.is_file()]
    assert len(uploaded) > 20
    for text in private:
        assert not [one for one in uploaded if text.encode() in one], text
    assert not any(KEY.encode() in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


def drawn(panels: Any) -> set[str]:
    """The names of everything that a part of the dashboard's specification draws."""
    if isinstance(panels, list):
        return set().union(*map(drawn, panels))
    config = panels["config"]
    axes = [config[axis].removeprefix("summary:") for axis in ("xAxis", "yAxis") if axis in config]
    return {*axes, *config.get("metrics", []), *config.get("mediaKeys", [])}


def test_a_run_logs_everything_that_the_dashboard_draws(
    small: Compose, pictures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb.teardown()  # it reads the environment once
    settings = small("method=dgm", "logger=wandb", "scenario.n_tasks=2")
    run(settings)
    [session] = offline(folder_of(settings))
    logged = {name.removesuffix("/_type") for point in history(session) for name in point}
    for one in session:
        logged |= set(items(one.summary.update))
    sections = specification(workspace(Place("p")))["section"]["panelBankConfig"]["sections"]
    shown = drawn([panel for section in sections for panel in section["panels"]])
    assert {"task/ACC", "task/FID", "task/samples", "figures/accuracy_matrix", "BWT", "seconds"} <= shown
    of_streams = {f"{STREAM}/images", f"{STREAM}/accuracy"}  # logged by another test above
    assert shown - of_streams <= logged
    assert of_streams <= shown
    assert [name for name in logged if re.fullmatch(LOSSES["Losses of the generator"], name)]
    config: dict[str, Any] = {}
    for one in session:
        config |= items(one.run.config.update)
    assert config["choices"]["method"] == "dgm"  # what the dashboard groups by


LOGGERS = {"csv": CSVLog, "wandb": WandbLog, "tensorboard": TensorBoardLog, "mlflow": MLflowLog}


@pytest.mark.parametrize("name", LOGGERS)
def test_every_yaml_builds(name: str) -> None:
    node = OmegaConf.to_container(OmegaConf.load(CONF / "logger" / f"{name}.yaml"))
    assert isinstance(node, dict)
    logger = build(check({str(key): value for key, value in node.items()}, "logger"))
    assert type(logger) is LOGGERS[name]
    assert set(node) == {"_target_", *inspect.signature(type(logger)).parameters}  # a person sees every key


def test_lightning_drives_it(tmp_path: Path) -> None:
    """Two Trainers of 20 steps each, logging every 10."""

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(2, 1)

        def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
            loss = self.layer(batch[0]).square().mean()
            self.log_dict({"loss": loss, "step": float(self.global_step + 1)})
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    logger = CSVLog()
    logger.start(tmp_path, "0123abcd", "name", {}, "group", [], 0)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(20, 2)))
    for i, phase in enumerate(PHASES):
        logger.phase(0, phase, 20 * i)
        trainer = Trainer(
            max_steps=20, logger=logger, log_every_n_steps=10, accelerator="cpu", enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.fit(Module(), loader)
    rows = read(tmp_path / "log.csv")
    assert [(row.step, row.phase, row.name) for row in rows] == [
        (10, "generator", "loss"), (20, "generator", "loss"), (30, "solver", "loss"), (40, "solver", "loss"),
    ]  # fmt: skip


def test_the_table_of_hundreds_of_tasks_is_bounded() -> None:
    from cl_bench.runs.wandb_log import table

    R: list[list[float | None]] = [[0.5 if j <= i else None for j in range(400)] for i in range(400)]
    made = table(R)
    assert (len(made.columns), len(made.data)) == (41, 40)
    assert (made.columns[1], made.columns[-1]) == ("task 0", "task 399")
    assert made.data[-1] == [399, *[0.5] * 40]
    assert len(table([[0.5] * 5] * 5).columns) == 6


def test_letters_of_another_encoding_in_a_log_cost_that_line_alone(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes(
        b"step,task,phase,name,value\n1,0,train,loss,0.5\n\xff,\xfe\n2,0,train,loss,0.25\n3,"
    )
    assert [row.value for row in read(tmp_path / "log.csv")] == [0.5, 0.25]
