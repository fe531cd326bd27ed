"""What TensorBoard and MLflow have of a run, once each, and that none of them ends it; several at once."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from conftest import Compose
from logged_run import R, complete, learn, said
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cl_bench.config import InputError
from cl_bench.config.checks import check_settings
from cl_bench.config.compose import compose
from cl_bench.config.names import folder_of, key_of
from cl_bench.runs import trackers
from cl_bench.runs.figures import accuracy_matrix
from cl_bench.runs.loggers import CSVLog, read
from cl_bench.runs.loop import run
from cl_bench.runs.mlflow_log import MLflowLog
from cl_bench.runs.tensorboard_log import TensorBoardLog
from cl_bench.runs.trackers import TrackedLog, Tracker, sent_before


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a run, with the pictures that the runner draws."""
    for picture in ("figures/accuracy_matrix.png", "samples/task1.png"):
        accuracy_matrix(R, ["0", "1"], tmp_path / "class" / "run" / picture)
    return tmp_path / "class" / "run"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """MLflow's simplest store, that needs no database."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return (tmp_path / "store").as_uri()


def events(folder: Path) -> EventAccumulator:
    """All event files of a run, as TensorBoard shows them."""
    found = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    return found.Reload()


def curve(found: EventAccumulator, name: str) -> list[tuple[int, Any]]:
    return [(event.step, pytest.approx(event.value)) for event in found.Scalars(name)]


def of_mlflow(store: str) -> tuple[Any, list[Any]]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("cl_bench")
    assert experiment is not None
    return client, client.search_runs([experiment.experiment_id])


def test_tensorboard_holds_a_run_once_that_was_continued(folder: Path) -> None:
    first = TrackedLog([TensorBoardLog()])
    learn(first, folder, stop=95)
    first.close(failed=True)
    second = TrackedLog([TensorBoardLog()])
    learn(second, folder, start=75)
    complete(second)

    found = events(folder)
    rows = [row for row in read(folder / "log.csv") if row.phase != "task"]
    assert len(rows) == 16
    for phase in ("solver", "generator"):
        assert curve(found, f"{phase}/loss") == [(row.step, row.value) for row in rows if row.phase == phase]
    assert curve(found, "task/ACC") == [(0, 0.5), (1, 0.7)]
    assert curve(found, "task/accuracy/0") == [(0, 0.9), (1, 0.6)]
    [samples] = found.Images("task/samples")
    [matrix] = found.Images("figures/accuracy_matrix")
    with Image.open(folder / "figures" / "accuracy_matrix.png") as drawn:
        assert (samples.step, matrix.width, matrix.height) == (1, drawn.width, drawn.height)
    assert curve(found, "ACC") == [(0, 0.7)]  # among the hyper-parameters
    texts = b"".join(file.read_bytes() for file in (folder / "tensorboard").iterdir())
    assert b"somewhere" not in texts  # data_dir


def test_mlflow_holds_a_run_once_that_was_continued(folder: Path, store: str) -> None:
    first = TrackedLog([MLflowLog(uri=store)])
    learn(first, folder, stop=95)
    client, [one] = of_mlflow(store)
    assert one.info.status == "RUNNING"
    first.close(failed=True)
    assert of_mlflow(store)[1][0].info.status == "FAILED"
    second = TrackedLog([MLflowLog(uri=store)])
    learn(second, folder, start=75)
    complete(second)

    client, [one] = of_mlflow(store)
    assert (one.info.status, one.info.run_name) == ("FINISHED", "digits-class-dgr-seed0")
    rows = [row for row in read(folder / "log.csv") if row.phase == "solver"]
    history = client.get_metric_history(one.info.run_id, "solver/loss")
    assert [(metric.step, metric.value) for metric in history] == [(row.step, row.value) for row in rows]
    history = client.get_metric_history(one.info.run_id, "task/ACC")
    assert [(metric.step, metric.value) for metric in history] == [(0, 0.5), (1, 0.7)]
    assert (one.data.metrics["ACC"], one.data.metrics["bytes_kept"]) == (0.7, 100)
    assert one.data.params["choices/method"] == "dgr"
    assert not {"data_dir", "output_root"} & set(one.data.params)
    assert [file.path for file in client.list_artifacts(one.info.run_id, "figures")] == ["figures/accuracy_matrix.png"]
    assert [file.path for file in client.list_artifacts(one.info.run_id, "samples")] == ["samples/task1.png"]


def test_a_run_that_was_cut_twice_is_sent_once(folder: Path, store: str) -> None:
    """After the second cut log.csv ends before what the first one had sent."""
    for start, stop in ((0, 125), (45, 65), (45, 4 * 40)):
        logger = TrackedLog([TensorBoardLog(), MLflowLog(uri=store)])
        learn(logger, folder, start=start, stop=stop)
        assert (folder / "sent.json").exists() == bool(start)
        logger.close(failed=stop < 160)
    losses = [row.step for row in read(folder / "log.csv") if (row.phase, row.name) == ("solver", "loss")]
    client, [one] = of_mlflow(store)
    for name, steps in (("solver/loss", losses), ("task/ACC", [0, 1])):
        assert [step for step, _ in curve(events(folder), name)] == steps
        assert [metric.step for metric in client.get_metric_history(one.info.run_id, name)] == steps


def test_a_damaged_note_of_what_was_sent_costs_nothing_else(folder: Path) -> None:
    learn(TrackedLog([]), folder, stop=65)
    for content in ("{", "[1]", '{"step": 3}'):
        (folder / "sent.json").write_text(content)
        assert sent_before(folder) == (60, [])


def test_a_run_killed_before_its_first_point_is_one_run_of_mlflow(folder: Path, store: str) -> None:
    learn(TrackedLog([MLflowLog(uri=store)]), folder, stop=0)
    logger = TrackedLog([MLflowLog(uri=store)])
    learn(logger, folder)
    complete(logger)
    assert [one.info.status for one in of_mlflow(store)[1]] == ["FINISHED"]
    learn(TrackedLog([MLflowLog(uri=store)]), folder.parent / "anew")  # as resume=false moves the old folder away
    assert len(of_mlflow(store)[1]) == 2


@pytest.mark.slow
def test_mlflow_makes_a_database_of_its_own(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.tracking import MlflowClient

    (tmp_path / "o?x=1").mkdir()
    folder = folder.parent.rename(tmp_path / "o?x=1" / "class") / "run"
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    logger = TrackedLog([MLflowLog()])
    learn(logger, folder)
    complete(logger)
    assert (folder.parents[1] / "mlflow.db").is_file()
    client = MlflowClient(f"sqlite:///{tmp_path / 'o%3Fx=1' / 'mlflow.db'}")
    [one] = client.search_runs(["1"])
    assert (one.info.status, one.data.metrics["ACC"]) == ("FINISHED", 0.7)
    assert [*(folder.parents[1] / "mlruns").rglob("accuracy_matrix.png")]


CALLS = [
    *[(TensorBoardLog, name) for name in ("open", "send", "send_picture", "end", "stop")],
    *[(MLflowLog, name) for name in ("open", "send")],
]


@pytest.mark.parametrize(("kind", "broken"), CALLS, ids=[f"{kind.title}.{name}" for kind, name in CALLS])
def test_one_that_breaks_costs_one_warning_and_nothing_else(
    folder: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[Tracker],
    broken: str,
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("the disk\nis full")

    class Other(TensorBoardLog):
        """One that works."""

    monkeypatch.setattr(kind, broken, fail)
    for name in ("open", "send", "send_picture", "end", "stop"):
        monkeypatch.setattr(Other, name, lambda *args, name=name, **given: calls.append(name))
    calls: list[str] = []
    caplog.set_level(logging.WARNING, "cl_bench")
    logger = TrackedLog([kind(), Other()])
    learn(logger, folder)
    complete(logger)
    why = "off for the rest of this run; log.csv is still written (RuntimeError: the disk is full)"
    assert said(caplog) == [f"{kind.title} is {why}"]
    plain = CSVLog()
    learn(plain, tmp_path / "plain")
    assert read(folder / "log.csv") == read(tmp_path / "plain" / "log.csv")
    assert calls.count("send") == 16 + 2
    assert calls[-3:] == ["end", "send_picture", "stop"]


@pytest.mark.parametrize("kind", [TensorBoardLog, MLflowLog])
def test_a_package_that_is_missing_is_one_line(kind: type[Tracker], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    line = rf"^logger={kind.package}: needs the package {kind.package}, .*: pip install 'cl_bench\[{kind.package}\]'$"
    with pytest.raises(InputError, match=line):
        kind()


def test_several_loggers_are_named_or_given(small: Compose, store: str) -> None:
    node = f"{{_target_: cl_bench.runs.mlflow_log.MLflowLog, uri: '{store}'}}"
    settings = small("method=finetune", "logger=many", f"logger.loggers=[tensorboard,{node}]")
    assert key_of(settings) == key_of(small("method=finetune"))
    results = run(settings)
    found = events(folder_of(settings))
    rows = read(folder_of(settings) / "log.csv")
    losses = [(row.step, row.value) for row in rows if row.phase == "train"]
    assert curve(found, "train/loss") == losses
    client, [one] = of_mlflow(store)
    history = client.get_metric_history(one.info.run_id, "train/loss")
    assert [(metric.step, metric.value) for metric in history] == losses
    assert one.data.metrics["ACC"] == results.metrics["ACC"]


def test_a_stream_is_drawn_over_its_images(small: Compose) -> None:
    settings = small("method=finetune", "scenario=blurry", "scenario.measure_every=200", "logger=tensorboard")
    results = run(settings)
    found = events(folder_of(settings))
    assert curve(found, "accuracy_on_stream/accuracy") == results.stream
    steps = sum(phase.steps for record in results.tasks for phase in record.phases)
    assert curve(found, "stream/loss")[-1][0] == steps


@pytest.mark.parametrize(
    ("loggers", "line"),
    [
        ("[tensorbord]", r"there is no logger 'tensorbord' to add; did you mean 'tensorboard'\?"),
        ("[csv]", r"there is no logger 'csv' to add; choose from mlflow, tensorboard, wandb"),
        ("[wandb,wandb]", r"names a logger twice; choose from mlflow, tensorboard, wandb"),
        ("[]", r"names none; choose from mlflow, tensorboard, wandb"),
        ("[{project: p}]", r"logger.loggers\[0\]={\"project\":\"p\"}: must be {_target_: PACKAGE.MODULE.CLASS, "),
        ("[wandb,7]", r"logger.loggers\[1\]=7: must be {_target_: PACKAGE.MODULE.CLASS, KEY: VALUE}"),
        ("[7]", r"logger.loggers=\[7\]: each must be {_target_: PACKAGE.MODULE.CLASS, KEY: VALUE}"),
        ("wandb", r"logger.loggers=wandb: "),
        (
            "[{_target_: cl_bench.runs.wandb_log.WandbLog, projekt: p}]",
            r"logger.loggers\[0\].projekt: no such key; did",
        ),
        ("[{_target_: other.Log}]", r"logger.loggers\[0\]._target_=other.Log: not a part of cl_bench"),
    ],
)
def test_what_is_no_list_of_loggers_is_one_line(loggers: str, line: str) -> None:
    with pytest.raises(InputError, match=line):
        check_settings(compose("logger=many", f"logger.loggers={loggers}"))


def test_what_is_no_tracker_is_one_line(small: Compose) -> None:
    settings = small("logger=many", "logger.loggers=[{_target_: cl_bench.runs.loggers.CSVLog}]")
    with pytest.raises(
        InputError, match=r"^logger.loggers\[0\]._target_=cl_bench.runs.loggers.CSVLog: is not of type Tracker$"
    ):
        run(settings)


def test_the_tags_of_a_run_are_the_names_that_were_chosen(small: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    class Enough(Exception):
        pass

    def start(self: CSVLog, *given: Any) -> None:
        raise Enough(given[5])

    monkeypatch.setattr(CSVLog, "start", start)
    settings = small("method=finetune")
    settings["choices"]["picked_up"] = {"benchmark/digits": {"trainer.epochs": 30}}  # W&B has room for 64 letters
    with pytest.raises(Enough) as given:
        run(settings)
    assert given.value.args[0] == ["finetune", "digits", "class_incremental"]
