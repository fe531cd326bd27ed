"""The Python API: the same settings, folders and numbers as the command line."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

import cl_bench
from cl_bench.config import InputError, NotApplicable
from cl_bench.config.compose import compose
from cl_bench.config.names import folder_of
from cl_bench.data.datasets import Dataset, digits
from cl_bench.methods.er import ER
from cl_bench.runs.asked import by_itself, node_of
from cl_bench.runs.loggers import CSVLog, Row
from cl_bench.runs.loop import run as carry_out
from cl_bench.runs.trained import as_images

QUICK = (
    "trainer.epochs=5",
    "trainer.threads=1",
    "trainer.accelerator=cpu",
    "trainer.progress=false",
    "network.hidden=[32]",
    "optimizer.lr=0.01",
)
STREAM = ("scenario.passes=online", "scenario.batch_size=50", "trainer.accelerator=cpu", "network.hidden=[16]")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("api")


@pytest.fixture(scope="module")
def call(root: Path) -> Callable[..., cl_bench.Run]:
    """`call("method=er", ...)`: a quick run, which other tests of this file find finished."""
    return lambda *overrides: cl_bench.run(*QUICK, f"output_root={root / 'outputs'}", *overrides)


@pytest.fixture(scope="module")
def er(call: Callable[..., cl_bench.Run]) -> cl_bench.Run:
    return call("method=er")


@pytest.fixture(scope="module")
def images() -> Dataset:
    return digits()


# ------------------------------------------------------------------------------------------------ run and load


def test_a_run_is_that_of_the_command_line(er: cl_bench.Run, call: Any, root: Path, tmp_path: Path) -> None:
    settings = compose(*QUICK, f"output_root={root / 'outputs'}", "method=er")
    assert er.folder == folder_of(settings)
    assert (er.status, er.name) == ("finished", "digits-class_incremental-er-seed0")
    written = (er.folder / "results.json").stat().st_mtime_ns
    began = time.perf_counter()
    again = call("method=er")
    assert time.perf_counter() - began < 2
    assert (er.folder / "results.json").stat().st_mtime_ns == written
    np.testing.assert_array_equal(again.R, er.R)
    elsewhere = carry_out(compose(*QUICK, f"output_root={tmp_path}", "method=er"))
    np.testing.assert_array_equal(er.R, np.array(elsewhere.R))


def test_what_it_is_and_how_it_is_shown(er: cl_bench.Run) -> None:
    assert er.R.shape == (5, 5)
    assert er.metrics["ACC"] == pytest.approx(er.R[-1].mean())
    assert er.config["method"]["_target_"] == "cl_bench.methods.er.ER"
    assert er.classes[1] == ["2", "3"]
    assert f"{er.metrics['ACC']:.3f}" in repr(er)
    cells = [f"{value:.3f}" for value in [*er.R.flat, *er.metrics.values()]]
    for shown in (str(er), er._repr_html_()):
        assert all(cell in shown for cell in cells)
        assert "task 5" in shown
    assert er._repr_html_().startswith("<pre>")


def test_what_was_not_measured_is_nan(call: Any) -> None:
    joint = call("method=joint", "trainer.epochs=1")
    assert np.isnan(joint.R[:4]).all()
    assert not np.isnan(joint.R[4]).any()
    assert np.isnan(joint.metrics["BWT"])
    assert cl_bench.evaluate(joint).tolist() == joint.R[4].tolist()
    with pytest.raises(InputError, match="joint has learned nothing until then"):
        joint.model(after=3)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["method=err"], "method=err: no such method; did you mean 'er'?"),
        (["method=er", "method.n_repaly=3"], "did you mean 'method.n_replay'?"),
        (["seed=-1"], "seed=-1"),
        (["seed=0,1"], "several values need a sweep"),
        (["-m", "seed=0,1"], "without flags"),
        ([["method=er"]], "give texts"),
        (["method"], "KEY=VALUE"),
        (["experiment=x"], "no such experiment"),
        (["dataset=npz"], "dataset.path: needs a value"),
        (["dataset=npz", "dataset.path=nowhere.npz"], "nowhere.npz is missing"),
        (["keep_checkpoints=1"], "keep_checkpoints=1"),
    ],
)
def test_an_error_is_one_line(overrides: list[Any], words: str, call: Any) -> None:
    with pytest.raises(InputError) as error:
        call(*overrides)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_method_without_a_meaning_there_is_told_apart(call: Any) -> None:
    with pytest.raises(NotApplicable):
        call("method=hat")


def test_nothing_is_printed_but_progress(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    quiet = [*QUICK, f"output_root={root / 'outputs'}", "method=finetune", "seed=5"]
    cl_bench.run(*quiet)
    assert "".join(capfd.readouterr()) == ""
    cl_bench.run(*quiet, "trainer.progress=true", "seed=6")
    out, err = capfd.readouterr()
    assert [line.partition(":")[0] for line in out.splitlines()] == [f"task {i} of 5" for i in range(1, 6)]
    assert err == ""


def test_folders_without_a_run_are_named(er: cl_bench.Run, root: Path, tmp_path: Path) -> None:
    assert cl_bench.load(str(er.folder)).metrics == pytest.approx(er.metrics, nan_ok=True)
    for folder, words in [
        (root / "outputs", "is not the folder of one run"),
        (root / "output", "no such folder; did you mean 'outputs'?"),
        (tmp_path, "has no results.json"),
        (tmp_path / "a" / "b", "no such folder"),
    ]:
        with pytest.raises(InputError, match=words):
            cl_bench.load(folder)
    copy = shutil.copytree(er.folder, tmp_path / "copy")
    text = (copy / "results.json").read_text()
    (copy / "results.json").write_text(text[: len(text) // 2])
    with pytest.raises(InputError, match="is damaged"):
        cl_bench.load(copy)


@pytest.mark.slow
def test_a_search_comes_first(root: Path) -> None:
    pytest.importorskip("optuna")
    found = cl_bench.run(
        *QUICK,
        f"output_root={root / 'searched'}",
        "trainer.epochs=1",
        "method=finetune",
        "hparams_search=learning_rate",
        "hparams_search.trials=1",
    )
    assert found.config["tuned_on"] == "all_tasks"
    assert "hparams_search" not in found.config


def test_it_works_in_threads_one_run_at_a_time(call: Any, er: cl_bench.Run, root: Path) -> None:
    found: dict[int, np.ndarray] = {}

    def one(seed: int) -> None:
        found[seed] = cl_bench.run(*QUICK, f"output_root={root / 'threads'}", "method=er", f"seed={seed}").R

    threads = [threading.Thread(target=one, args=(seed,)) for seed in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(found[0], er.R)
    np.testing.assert_array_equal(found[1], call("method=er", "seed=1").R)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_process_that_is_forked_during_a_run_does_not_wait_for_it() -> None:
    code = """
import os, threading
from cl_bench.runs.asked import alone
began, ends = threading.Event(), threading.Event()
def work():
    with alone():
        began.set()
        ends.wait()
threading.Thread(target=work).start()
began.wait()
child = os.fork()
if child == 0:
    with alone():
        os._exit(0)
os.waitpid(child, 0)
ends.set()
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=60)


def test_what_a_person_set_of_torch_changes_no_number(er: cl_bench.Run, images: Dataset, tmp_path: Path) -> None:
    """For work of their own, in the same notebook."""
    expected = er.scores(images.x_test.numpy())
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"), torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
            run = cl_bench.run(*QUICK, f"output_root={tmp_path}", "method=er")
            scores, row = run.scores(images.x_test.numpy()), cl_bench.evaluate(run)
            assert (torch.get_default_dtype(), torch.ones(1).device.type) == (torch.float64, "meta")
            assert torch.is_inference_mode_enabled()
            assert torch.is_autocast_enabled("cpu")
    finally:
        torch.set_default_dtype(before)
    np.testing.assert_array_equal(run.R, er.R)
    np.testing.assert_array_equal(row, er.R[-1])
    np.testing.assert_array_equal(scores, expected)


def test_the_number_of_threads_is_of_one_run(call: Any) -> None:
    """Another run in the same process would have it too, and with it other sums."""
    before = torch.get_num_threads()
    call("method=finetune", "trainer.epochs=1", "dataset.classes=[0,1]", "scenario.n_tasks=1", "trainer.threads=3")
    assert torch.get_num_threads() == before


def test_what_a_callback_asks_for_in_its_run_is_one_line(er: cl_bench.Run, call: Any) -> None:
    """It would wait for itself."""
    asked = [lambda: call("method=er"), lambda: cl_bench.load(er.folder).model(), lambda: node_of("digits", er.config)]
    with by_itself():
        for ask in asked:
            with pytest.raises(InputError, match=r"^cl_bench: a run is in progress in this thread"):
                ask()
    for ask in asked:
        ask()


def test_a_run_stays_where_it_is_when_the_working_directory_changes(
    er: cl_bench.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(er.folder.parent)
    run = cl_bench.load(er.folder.name)
    monkeypatch.chdir(tmp_path)
    assert run.folder == er.folder
    assert len(run.history()) == len(er.history())
    assert isinstance(run.model(), ER)


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda run, x: cl_bench.load(3), "^folder=3: is not a path"),  # type: ignore[arg-type]
        (lambda run, x: cl_bench.results(3), "^folders=3: is not a path"),  # type: ignore[arg-type]
        (lambda run, x: cl_bench.results(run.folder, where=3), "^where=3: is not a condition"),  # type: ignore[arg-type]
        (lambda run, x: cl_bench.evaluate("FOLDER"), "^run='FOLDER': is not a run; give the result .*cl_bench.load"),  # type: ignore[arg-type]
        (lambda run, x: cl_bench.evaluate(run, 3), "^dataset=3: is not a path"),  # type: ignore[arg-type]
        (lambda run, x: run.export(3), "^file=3: is not a path"),
        (lambda run, x: run.export(task=1), "^task=1: has no effect, because this run is class-incremental"),
        (lambda run, x: run.predict(x, task=0.0), "^task=0.0: there is no such task"),
        (lambda run, x: run.predict(x, task=True), "^task=True: there is no such task"),
        (lambda run, x: run.predict(x, after=4.0), "^after=4.0: is not a task that was learned"),
        (lambda run, x: run.predict(x, top=1.0), "^top=1.0: 10 classes answer"),
        (lambda run, x: run.predict(x, top=True), "^top=True: 10 classes answer"),
    ],
)
def test_what_is_of_another_type_is_one_line(
    ask: Callable[[cl_bench.Run, Any], Any], words: str, er: cl_bench.Run, images: Dataset
) -> None:
    with pytest.raises(InputError, match=words) as error:
        ask(er, images.x_test)
    assert "\n" not in str(error.value)


def test_numbers_of_numpy_and_one_plugin_by_its_name_will_do(er: cl_bench.Run, images: Dataset) -> None:
    given = cl_bench.load(er.folder, "pytorch_lightning")
    assert given.plugins == ["pytorch_lightning"]
    after: Any = np.int64(4)
    assert given.predict(images.x_test, after=after, top=after).shape == (359, 4)


def test_a_configuration_of_ones_own_stays_open(er: cl_bench.Run, call: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("a: 1\n")
    with hydra.initialize_config_dir(str(tmp_path), version_base="1.3"):
        assert call("method=er").folder == er.folder
        assert cl_bench.evaluate(er, "digits").tolist() == er.R[-1].tolist()
        assert hydra.compose("mine").a == 1
    assert not GlobalHydra.instance().is_initialized()


def test_ctrl_c_saves_and_the_same_call_goes_on(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*QUICK, f"output_root={root / 'stopped'}", "method=er", "trainer.epochs=10", "trainer.chunk=2"]
    folder = folder_of(compose(*words))

    def and_interrupt(log: CSVLog, rows: Sequence[Row]) -> None:
        write(log, rows)
        if rows[0].task == 1:  # the first of its points, long before its end
            signal.raise_signal(signal.SIGINT)

    write = CSVLog.write
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(CSVLog, "write", and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        cl_bench.run(*words)
    monkeypatch.setattr(CSVLog, "write", write)
    assert signal.getsignal(signal.SIGINT) is before
    assert (folder / "checkpoints" / "phase.pt").exists()
    assert cl_bench.load(folder).status == "running"
    whole = carry_out(compose(*words, f"output_root={root / 'whole'}"))
    np.testing.assert_array_equal(cl_bench.run(*words).R, np.array(whole.R))


def test_a_second_ctrl_c_ends_the_run_and_no_more(
    root: Path, er: cl_bench.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would take a notebook with it."""

    def and_interrupt_twice(log: CSVLog, rows: Sequence[Row]) -> None:
        write(log, rows)
        for _ in range(2):
            assert signal.getsignal(signal.SIGINT) is not signal.SIG_DFL
            signal.raise_signal(signal.SIGINT)

    words, write = [*QUICK, f"output_root={root / 'twice'}", "method=er"], CSVLog.write
    monkeypatch.setattr(CSVLog, "write", and_interrupt_twice)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs the tests may ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            cl_bench.run(*words)
    finally:
        signal.signal(signal.SIGINT, before)
    monkeypatch.setattr(CSVLog, "write", write)
    np.testing.assert_array_equal(cl_bench.run(*words).R, er.R)


# ---------------------------------------------------------------------------------------------- model, predict


def test_the_model_is_the_trained_method(er: cl_bench.Run, images: Dataset) -> None:
    model = er.model()
    assert isinstance(model, ER)
    assert not model.training
    assert model is er.model(after=4)
    with torch.no_grad():
        answers = model(images.x_test / 255).argmax(1)
    right = [er.R[4, label // 2] for label in range(0, 10, 2)]
    shares = [(answers == images.y_test)[images.y_test // 2 == task].float().mean().item() for task in range(5)]
    assert shares == pytest.approx(right)


def test_predictions_are_those_that_were_measured(er: cl_bench.Run, images: Dataset) -> None:
    for after in (3, 4):
        right = er.predict(images.x_test, after=after).astype(int) == images.y_test.numpy()
        shares = [right[images.y_test.numpy() // 2 == task].mean() for task in range(5)]
        assert shares == pytest.approx(er.R[after].tolist())
    assert set(er.predict(images.x_test, after=3)) <= set("01234567")  # the classes seen so far


def test_images_may_come_in_any_usual_form(er: cl_bench.Run, images: Dataset) -> None:
    x = images.x_test[:50]
    expected = er.predict(x).tolist()
    gray = x.squeeze(1)
    for form in (x.numpy(), gray, gray.numpy(), gray.unsqueeze(3).numpy(), x / 255, (gray / 255).double().numpy()):
        assert er.predict(form).tolist() == expected
    assert er.predict(gray.numpy()[::-1]).tolist() == expected[::-1]
    assert er.predict((x / 255).half()).shape == (50,)
    assert er.predict(x[:0]).tolist() == []
    assert as_images(np.zeros((2, 3, 3, 3), np.uint8), (3, 3, 3)).shape == (2, 3, 3, 3)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((8, 8)), r"have shape \(8, 8\); this run takes \(N, 1, 8, 8\)"),
        (np.zeros((5, 8, 9)), r"\(5, 8, 9\)"),
        (np.zeros((5, 3, 8, 8)), r"\(5, 3, 8, 8\)"),
        (np.zeros(()), "have shape"),
        (np.zeros((5, 64)), r"\(5, 64\)"),
        (np.zeros((5, 8, 8), int), "are int64; give uint8"),
        (np.zeros((5, 8, 8), bool), "are bool; give uint8"),
        (np.zeros((5, 8, 8), ">f4"), "are >f4; give uint8"),
        (np.zeros((5, 8, 8), object), "are object; give uint8"),
        (np.full((5, 8, 8), 255.0), "have values from 255 to 255; floats must be in"),
        (np.full((5, 8, 8), np.nan), "floats must be in"),
        (np.full((5, 8, 8), -0.1), "floats must be in"),
        ([[1], [2, 3]], "are not an array"),
        (torch.zeros(5, 1, 8, 8).to_sparse(), "are a sparse, nested or meta tensor"),
        (torch.zeros(5, 1, 8, 8, device="meta"), "give a dense one"),
        (["a"], "images: a: no such picture or folder"),
        (None, "are not an array"),
    ],
)
def test_other_images_are_one_line(images: Any, words: str, er: cl_bench.Run) -> None:
    with pytest.raises(InputError, match=words) as error:
        er.predict(images)
    assert "\n" not in str(error.value)


def test_a_task_is_asked_for_where_it_counts(call: Any, images: Dataset) -> None:
    given = call("method=finetune", "scenario=task_incremental")
    for task in (None, 5, -1):
        with pytest.raises(InputError, match=r"^task.*0 to 4$"):
            given.predict(images.x_test, task=task)
    third = images.x_test[images.y_test // 2 == 2]
    answers = given.predict(third, task=2).astype(int)
    assert set(answers) <= {4, 5}
    assert (answers == images.y_test[images.y_test // 2 == 2].numpy()).mean() == pytest.approx(given.R[4, 2])


@pytest.mark.parametrize("kind", ["class", "domain"])
def test_a_task_that_would_change_no_answer_is_refused(kind: str, call: Any, images: Dataset) -> None:
    given = call("method=finetune", f"scenario={kind}_incremental")
    with pytest.raises(
        InputError, match=f"^task=1: has no effect, because this run is {kind}-incremental; leave it out$"
    ):
        given.predict(images.x_test, task=1)


def test_images_are_seen_as_their_task_sees_them(call: Any, images: Dataset) -> None:
    permuted = call("method=finetune", "scenario=permuted", "scenario.kind=domain", "scenario.n_tasks=2")
    for task in (0, 1):
        right = permuted.predict(images.x_test, task=task).astype(int) == images.y_test.numpy()
        assert right.mean() == pytest.approx(permuted.R[1, task])
    plain = permuted.predict(images.x_test).astype(int) == images.y_test.numpy()
    assert plain.mean() < permuted.R[1, 1]


def test_a_task_that_comes_round_again_is_seen_as_the_first_time(root: Path, images: Dataset) -> None:
    words = ["method=finetune", "scenario=permuted", "scenario.n_tasks=2", *STREAM, "scenario.repeat=true"]
    again = cl_bench.run(*words, f"output_root={root / 'outputs'}")
    for task in range(4):
        answers = again.predict(images.x_test, task=task)
        assert (answers.astype(int) == images.y_test.numpy()).mean() == pytest.approx(again.R[3, task])
    graph = torch.export.load(again.export(task=3)).module()
    assert graph(images.x_test / 255).argmax(1).tolist() == again.predict(images.x_test, task=3).astype(int).tolist()


def test_other_images_are_measured_by_the_masks_of_the_run(root: Path, images: Dataset, tmp_path: Path) -> None:
    """In a blurry stream the part that an output comes with depends on how many images there are."""
    words = ["method=finetune", "scenario=blurry", "scenario.n_tasks=2", "scenario.disjoint=0", "scenario.stray=0.5"]
    run = cl_bench.run(*words, *STREAM, "optimizer.lr=0.01", f"output_root={root / 'outputs'}")
    assert run.R[0, 1] > 0.1  # classes that have their own part later
    first = [int((images.y_train == label).int().argmax()) for label in range(10)]
    few = {"x_train": images.x_train[first], "y_train": images.y_train[first]}
    np.savez(tmp_path / "few.npz", **few, x_test=images.x_test, y_test=images.y_test)
    np.testing.assert_allclose(cl_bench.evaluate(run, tmp_path / "few.npz", after=0), run.R[0])


def test_a_task_without_a_checkpoint_says_which_there_are(er: cl_bench.Run, call: Any) -> None:
    with pytest.raises(InputError, match=r"no state after task 0, .* tasks 3, 4 are there; .*keep_checkpoints=null"):
        er.model(after=0)
    for after in (5, -1):
        with pytest.raises(InputError, match=f"after={after}: .*0 to 4"):
            er.model(after=after)
    all_kept = call("method=er", "seed=7", "keep_checkpoints=null")
    assert [cl_bench.evaluate(all_kept, after=i).tolist() for i in range(5)] == all_kept.R.tolist()


def test_how_many_are_kept_is_no_part_of_a_run(er: cl_bench.Run, call: Any) -> None:
    assert call("method=er", "keep_checkpoints=3").folder == er.folder
    assert len(list((call("method=er", "seed=8", "keep_checkpoints=3").folder / "checkpoints").iterdir())) == 3


@pytest.mark.parametrize("what", ["damaged", "another configuration", "another version"])
def test_a_checkpoint_that_cannot_be_used_stays_where_it_is(what: str, er: cl_bench.Run, tmp_path: Path) -> None:
    copy = shutil.copytree(er.folder, tmp_path / "copy")
    file = copy / "checkpoints" / "task4.pt"
    state = torch.load(file, weights_only=True)
    torch.save(state | ({"key": "other"} if what == "another configuration" else {"version": "0.0.1"}), file)
    if what == "damaged":
        file.write_bytes(file.read_bytes()[:1000])
    content = file.read_bytes()
    words = {"another version": "was written by cl_bench 0.0.1"}.get(what, what)
    with pytest.raises(InputError, match=f"task4.pt.* {words}"):
        cl_bench.load(copy).model()
    assert file.read_bytes() == content
    assert [path.name for path in file.parent.iterdir() if "unusable" in path.name] == []


def test_a_folder_cannot_name_code(er: cl_bench.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')\n")
    copy = shutil.copytree(er.folder, tmp_path / "copy")
    results = json.loads((copy / "results.json").read_text())
    del results["sha256"]
    for target in ("evil.Method", "os.system", "cl_bench.files.os", "cl_bench.run"):
        results["config"]["method"]["_target_"] = target
        (copy / "results.json").write_text(json.dumps(results))
        run = cl_bench.load(copy)
        with pytest.raises(InputError, match=r"^method"):
            run.model()
    assert "evil" not in sys.modules


# --------------------------------------------------------------------------------------- evaluate, results


def saved(file: Path, images: Dataset, **more: Any) -> Path:
    parts = {name: getattr(images, name).numpy() for name in ("x_train", "y_train", "x_test", "y_test")}
    np.savez(file, **parts | more)
    return file


def test_it_is_evaluated_on_other_images(er: cl_bench.Run, images: Dataset, tmp_path: Path) -> None:
    same = saved(tmp_path / "it's [1], same.npz", images)
    assert cl_bench.evaluate(er, same).tolist() == er.R[-1].tolist()
    assert cl_bench.evaluate(er, "digits", after=3).tolist() == er.R[3].tolist()
    black = saved(tmp_path / "black.npz", images, x_test=np.zeros_like(images.x_test.numpy()))
    assert sorted(cl_bench.evaluate(er, black).round(1).tolist()) == [0, 0, 0, 0, 0.5]


def test_a_set_with_one_training_image_of_a_class_is_measured(root: Path, images: Dataset, tmp_path: Path) -> None:
    """None of its images trains, so none is set aside for validation, as the run did."""
    run = cl_bench.run("method=finetune", "scenario.val_fraction=0.2", *QUICK, f"output_root={root / 'outputs'}")
    first = [int((images.y_train == label).int().argmax()) for label in range(10)]
    few = saved(tmp_path / "few.npz", images, x_train=images.x_train[first], y_train=images.y_train[first])
    assert cl_bench.evaluate(run, few).tolist() == run.R[-1].tolist()


def test_images_that_do_not_fit_are_one_line(er: cl_bench.Run, call: Any, images: Dataset, tmp_path: Path) -> None:
    shapes = {name: (len(getattr(images, name)), 9, 9) for name in ("x_train", "x_test")}
    larger = saved(tmp_path / "larger.npz", images, **{name: np.zeros(shape, "u1") for name, shape in shapes.items()})
    named = saved(tmp_path / "named.npz", images, class_names=np.array(list("abcdefghij")))
    for dataset, words in [
        (larger, "the run has images of shape 1 8 8, this data set 1 9 9"),
        (named, "the run has classes 0 1 2 3 4 5 6 7 8 9, this data set a b c"),
        ("digit", "did you mean 'digits'"),
        ("none", "choose from"),
        ("nowhere.npz", "nowhere.npz is missing"),
    ]:
        with pytest.raises(InputError, match=words):
            cl_bench.evaluate(er, dataset)
    domain = call("method=finetune", "scenario=domain_incremental")
    for classes, words in [
        (
            [3, 7],
            r"^dataset: cannot be split into the tasks of this run; the run has classes 0 1 .* \(scenario.n_tasks=5: 2",
        ),
        ([0, 1, 2, 3, 4, 5, 7, 6, 8, 9], "^dataset: the run has classes 6 7 in task 4, this data set 7 6"),
    ]:
        node = node_of("digits", domain.config, [f"dataset.classes={classes}".replace(" ", "")])
        with pytest.raises(InputError, match=words):
            domain._trained(None).accuracies(node, domain.classes)
    several = call("method=finetune", "scenario=sequence", "scenario.datasets=[digits,digits]", "scenario.kind=domain")
    assert cl_bench.evaluate(several).tolist() == several.R[-1].tolist()
    with pytest.raises(InputError, match="has its own images; leave dataset out"):
        cl_bench.evaluate(several, "digits")


def test_images_that_changed_since_are_not_taken_for_those_of_the_run(
    call: Any, images: Dataset, tmp_path: Path
) -> None:
    file = saved(tmp_path / "mine.npz", images)
    own = call("method=finetune", "trainer.epochs=1", "dataset=npz", f"dataset.path={file}")
    assert cl_bench.evaluate(own).tolist() == own.R[-1].tolist()
    saved(file, images, y_test=images.y_test.numpy()[::-1].copy())
    with pytest.raises(InputError, match="were moved or changed"):
        cl_bench.load(own.folder).model()


def test_runs_are_rows(call: Any, tmp_path: Path, root: Path) -> None:
    pandas = pytest.importorskip("pandas")
    words = [*QUICK, "trainer.epochs=1", f"output_root={tmp_path}"]
    for more in (["method=er", "memory=50"], ["method=er", "memory=100"], ["network.hidden=[16]", "method=finetune"]):
        cl_bench.run(*words, *more)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "results.json").write_text("{")
    with pytest.warns(UserWarning, match="not read: .*damaged"):
        table = cl_bench.results(tmp_path)
    assert list(table.columns[:5]) == ["name", "method", "dataset", "scenario", "seed"]
    assert {"memory.images", "network.hidden", "ACC", "BWT", "folder"} <= set(table.columns)
    assert "trainer.epochs" not in table.columns
    assert "method._target_" not in table.columns
    assert table.sort_values("memory.images")["memory.images"].tolist()[:2] == [50, 100]
    assert table.groupby("network.hidden").size().to_dict() == {"[16]": 1, "[32]": 2}
    for _, row in table.iterrows():
        assert cl_bench.load(row.folder).metrics["ACC"] == row.ACC
    (tmp_path / "damaged" / "results.json").unlink()
    assert len(cl_bench.results([tmp_path], where="method=er")) == 2
    with pytest.raises(InputError, match="did you mean 'er'"):
        cl_bench.results(tmp_path, where=["method=err"])
    with pytest.raises(InputError, match="no such folder"):
        cl_bench.results(tmp_path / "nowhere")
    assert isinstance(table, pandas.DataFrame)


def test_a_history_has_the_rows_of_the_log(er: cl_bench.Run) -> None:
    pytest.importorskip("pandas")
    history = er.history()
    assert list(history.columns) == ["step", "task", "phase", "name", "value"]
    assert len(history) == len((er.folder / "log.csv").read_text().splitlines()) - 1
    assert history.step.is_monotonic_increasing
    measured = history[(history.phase == "task") & (history.name == "accuracy/0")]
    np.testing.assert_array_equal(measured.value.to_numpy(), er.R[:, 0])


def test_a_history_that_is_missing_is_one_line(er: cl_bench.Run, tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    (tmp_path / "results.json").write_bytes((er.folder / "results.json").read_bytes())
    with pytest.raises(InputError, match=r"log.csv: is missing"):
        cl_bench.load(tmp_path).history()


def test_without_pandas_one_line_says_how_to_get_it(er: cl_bench.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    for table in (er.history, lambda: cl_bench.results(er.folder)):
        with pytest.raises(InputError, match=r"pip install 'cl_bench\[pandas\]'"):
            table()


# ------------------------------------------------------------------------------------------------- the package


def test_the_package_itself_imports_nothing(tmp_path: Path) -> None:
    code = """
import sys, time
before = set(sys.modules)
began = time.perf_counter()
import cl_bench
took = time.perf_counter() - began
assert not {"torch", "numpy", "hydra", "cl_bench.api"} & set(sys.modules), sorted(set(sys.modules) - before)
assert {"run", "load", "results", "evaluate", "Run", "__version__"} <= set(dir(cl_bench))
from cl_bench import load, results
assert "torch" not in sys.modules
assert took < 0.3, took
try:
    cl_bench.rum
except AttributeError as error:
    print(error)
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ended.stdout, ended.stderr) == ("module 'cl_bench' has no attribute 'rum'\n", "")


def test_reading_needs_no_torch(er: cl_bench.Run, tmp_path: Path) -> None:
    code = f"""
import sys, cl_bench
run = cl_bench.load({str(er.folder)!r})
print(run)
run._repr_html_(), run.R, run.metrics, run.history(), cl_bench.results({str(er.folder)!r})
assert "torch" not in sys.modules
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.stderr == ""
    assert "task 5" in ended.stdout
