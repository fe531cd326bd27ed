"""The model that a run keeps answers as the run measured, without checkpoints and data; so does its graph."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import METHODS, Compose, Killed, made, small_settings
from PIL import Image
from safetensors.torch import load_file

import cl_bench
from cl_bench.config import InputError
from cl_bench.config.names import folder_of, key_of
from cl_bench.data.datasets import digits
from cl_bench.data.problem import Problem
from cl_bench.files import sealed
from cl_bench.methods.base import Classifier
from cl_bench.methods.er import ER
from cl_bench.runs.folder import RunFolder
from cl_bench.runs.loop import run
from cl_bench.runs.models import Models, answer_state, labels_of, problem_of, put_in
from cl_bench.sweep.jobs import finished
from cl_bench.use import evaluate, export, predict

ER_QUICK = ("method=er", "trainer.epochs=3", "memory=50")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits, with names, as a person's own file."""
    file, images = tmp_path_factory.mktemp("own") / "own.npz", digits()
    parts = {name: getattr(images, name).numpy() for name in ("x_train", "y_train", "x_test", "y_test")}
    np.savez(file, **parts, class_names=np.array([f"digit {name}" for name in range(10)]))
    return file


@pytest.fixture(scope="module")
def er(own: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run with all its models."""
    settings = small_settings(*ER_QUICK, "dataset=npz", f"dataset.path={own}", "keep_models=all")
    settings |= {"output_root": str(tmp_path_factory.mktemp("er"))}
    run(settings)
    return folder_of(settings)


@pytest.fixture
def folder(er: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may spoil."""
    return shutil.copytree(er, tmp_path / "copy")


def said(command: Any, capsys: pytest.CaptureFixture[str], *words: Any) -> tuple[int, str, str]:
    code = command.main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


# ------------------------------------------------------------------------------------------------ what is kept


def test_what_is_kept_is_what_answers_and_what_it_stands_for(er: Path) -> None:
    place = er / "models" / "task4"
    assert sorted(file.name for file in place.iterdir()) == ["labels.json", "model.safetensors"]
    tensors = load_file(place / "model.safetensors")
    state = torch.load(er / "checkpoints" / "task4.pt", weights_only=True)["method"]
    assert set(tensors) == {name for name in state if name.startswith("network.")}  # no image of the memory
    assert all(torch.equal(tensors[name], state[name]) for name in tensors)
    labels = json.loads((place / "labels.json").read_text())
    assert labels["labels"] == [f"digit {name}" for name in range(10)]
    assert labels["outputs"] == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert (labels["kind"], labels["image_shape"], labels["after"]) == ("class", [1, 8, 8], 4)
    assert json.loads((er / "models" / "task1" / "labels.json").read_text())["answering"] == [0, 1, 2, 3]


def test_a_problem_comes_back_from_its_labels() -> None:
    problem = Problem("class", (3, 9, 8), ((0,), (1, 2)), "all", (0.1, 0.2, 0.3), (1.0, 2.0, 3.0), ("a", "b", "c"))
    assert problem_of(json.loads(json.dumps(labels_of(problem, 1)))) == problem


def test_it_is_no_part_of_a_runs_name() -> None:
    keys = {key_of(small_settings(*ER_QUICK, f"keep_models={keep}")) for keep in ("last", "all", "none")}
    assert keys == {key_of(small_settings(*ER_QUICK))}
    with pytest.raises(InputError, match=r"^keep_models=best: .*'last', 'all' or 'none'"):
        run(small_settings("keep_models=best"))


def test_it_answers_without_checkpoints_data_and_this_version(er: Path, folder: Path, monkeypatch: Any) -> None:
    images, whole = digits().x_test, cl_bench.load(er)
    shutil.rmtree(folder / "checkpoints")
    monkeypatch.setattr("cl_bench.__version__", "9.9")
    monkeypatch.setattr("cl_bench.runs.trained.scenario_of", lambda *_: pytest.fail("the data set was read"))
    kept = cl_bench.load(folder)
    for after in (2, 4):
        names = kept.predict(images, after=after)
        right = names == np.array([f"digit {label}" for label in digits().y_test.tolist()])
        shares = [right[digits().y_test.numpy() // 2 == task].mean() for task in range(5)]
        assert shares == pytest.approx(whole.R[after].tolist())
    assert cl_bench.evaluate(kept, _own_of(whole)).tolist() == whole.R[4].tolist()
    assert isinstance(kept.model(), ER)  # without its memory
    monkeypatch.undo()
    whole_model: Any = whole.model()
    assert len(whole_model.memory) == 50


def _own_of(whole: cl_bench.Run) -> str:
    return whole.config["dataset"]["path"]


IN_THEIR_OWN_WAYS = ("bic", "dgm", "hat", "icarl", "joint_gan", "packnet", "supsup")  # others answer by a network


@pytest.mark.parametrize(
    "method",
    [pytest.param(name, marks=[pytest.mark.slow] * (name not in IN_THEIR_OWN_WAYS)) for name in METHODS],
)
def test_the_model_of_each_method_answers_as_it_was_measured(method: str, small: Compose) -> None:
    kind = "task" if method in ("hat", "packnet", "pnn", "den", "clnp") else "class"
    words = (f"method={method}", f"scenario={kind}_incremental", "keep_models=last", "trainer.epochs=1")
    settings = small(*words, "scenario.n_tasks=2", "trainer.progress=false")
    results = run(settings)
    shutil.rmtree(folder_of(settings) / "checkpoints")
    found = cl_bench.evaluate(cl_bench.load(folder_of(settings)))
    np.testing.assert_array_equal(found, np.array(results.R[-1], dtype=float))


def test_a_class_that_answers_in_its_own_way_keeps_all_of_its_state(small: Compose) -> None:
    class Own(Classifier):
        def forward(self, x: torch.Tensor, index: int | None = None) -> torch.Tensor:
            return self.network(x) + self.shift

    class Says(Own):
        answers_by = ("network.", "shift")

    from cl_bench.runs.setup import prepare

    scenario, made = prepare(small("method=finetune"))
    given: tuple[Any, ...] = (scenario.problem, made.network, made.optimizer)
    for kind in (Own, Says):
        method = kind(*given)
        method.register_buffer("shift", torch.ones(10))
        method.register_buffer("images", torch.ones(3))
        assert {"shift", "_extra_state"} <= answer_state(method).keys()
        assert ("images" in answer_state(method)) == (kind is Own)


# ------------------------------------------------------------------------------------------ kills, and later wishes


def test_a_model_that_a_kill_prevented_is_there_in_the_end(small: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = small(*ER_QUICK, "keep_models=all", root="whole")
    run(whole)
    settings = small(*ER_QUICK, "keep_models=all", root="killed")

    def dying(folder: RunFolder, index: int, state: dict[str, Any]) -> None:
        if index == 2 and not (folder.path / "again").exists():  # its model is written, its task isn't done
            (folder.path / "models" / "task2" / "labels.json").unlink()
            (folder.path / "models" / "task2" / "model.safetensors.new").write_bytes(b"half")
            (folder.path / "again").touch()
            raise Killed
        save(folder, index, state)

    save = RunFolder.save_task
    monkeypatch.setattr(RunFolder, "save_task", dying)
    with pytest.raises(Killed):
        run(settings)
    resumed = run(settings)
    np.testing.assert_array_equal(cl_bench.load(folder_of(whole)).R, np.array(resumed.R))
    for task in range(5):
        ours, theirs = (folder_of(of) / "models" / f"task{task}" for of in (settings, whole))
        assert sorted(file.name for file in ours.iterdir()) == ["labels.json", "model.safetensors"]
        for name in ("labels.json", "model.safetensors"):
            assert (ours / name).read_bytes() == (theirs / name).read_bytes()


def test_a_finished_run_makes_the_model_that_is_asked_for_later(small: Compose) -> None:
    settings = small(*ER_QUICK)
    results = run(settings)
    folder = folder_of(settings)
    assert not (folder / "models").exists()
    wishes = [settings | {"keep_models": keep} for keep in ("none", "last", "all")]
    assert [finished(wish) is not None for wish in wishes] == [True, False, False]
    assert run(wishes[1]).R == results.R
    assert finished(wishes[1])
    before = (folder / "results.json").read_bytes()
    with pytest.raises(InputError, match=r"keep_models=all: .* no state after task 0, 1, 2 any more; keep_models=last"):
        run(wishes[2])
    assert (folder / "results.json").read_bytes() == before  # still finished
    shutil.rmtree(folder / "models")
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(InputError, match="no state after task 4 any more; resume=false trains again"):
        run(wishes[1])
    all_states = small(*ER_QUICK, "keep_checkpoints=null", root="all")
    run(all_states)
    assert run(all_states | {"keep_models": "all"}).R == results.R
    assert not Models(folder_of(all_states), key_of(all_states)).lacking(range(5))


def test_the_state_of_another_network_is_one_line() -> None:
    """As after a change of its code, which no key knows of."""
    (_, method), (_, wider), (_, other) = made("er"), made("er", "network.hidden=[9]"), made("finetune")
    for state in (wider.state_dict(), other.state_dict()):
        with pytest.raises(InputError, match=r"^there: belongs to another network \([^\n]+\)$"):
            put_in(method, state, Path("there"), whole=True)


def test_a_method_that_has_learned_nothing_yet_says_so(small: Compose) -> None:
    settings = small("method=joint", "trainer.epochs=1", "keep_models=all")
    run(settings)
    assert [file.name for file in (folder_of(settings) / "models" / "task0").iterdir()] == ["labels.json"]
    assert finished(settings)
    with pytest.raises(InputError, match="after=0: the method has learned nothing until then"):
        cl_bench.load(folder_of(settings)).predict(digits().x_test, after=0)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def turned(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))


def of_another(file: Path) -> None:
    shutil.copy(file.parents[1] / "task3" / file.name, file)


def widened(file: Path) -> None:
    labels = json.loads(file.read_text())
    del labels["sha256"]
    labels |= {"labels": [*labels["labels"], "more"], "outputs": [*labels["outputs"][:-1], [8, 9, 10]]}
    file.write_text(json.dumps(sealed(labels)))


@pytest.mark.parametrize(
    ("name", "spoil", "words"),
    [
        ("model.safetensors", cut, "is damaged, or is not the file"),
        ("model.safetensors", turned, "is damaged, or is not the file"),
        ("model.safetensors", of_another, "is damaged, or is not the file"),
        ("labels.json", cut, "labels.json: labels.json is damaged"),
        ("labels.json", of_another, "labels.json: belongs to another run or task"),
        ("labels.json", lambda file: file.write_text("[]"), "is not a labels.json of cl_bench"),
        ("labels.json", widened, "belongs to another network"),
    ],
)
def test_a_model_that_cannot_be_used_is_one_line(
    name: str, spoil: Callable[[Path], Any], words: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(folder / "models" / "task4" / name)
    code, out, err = said(evaluate, capsys, folder)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert words in err
    assert str(folder / "models" / "task4") in err


# -------------------------------------------------------------------------------------------------- pictures


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Test images as files, a folder for each class, their names in an order of their own."""
    top, images = tmp_path_factory.mktemp("pictures"), digits()
    for row in range(40):
        place = top / f"digit {int(images.y_test[row])}"
        place.mkdir(exist_ok=True)
        Image.fromarray(images.x_test[row, 0].numpy()).save(place / f"{row}.png")
    return top


def test_pictures_are_seen_as_their_arrays(er: Path, pictures: Path) -> None:
    run, images = cl_bench.load(er), digits().x_test[:40]
    rows = [int(file.stem) for file in sorted(pictures.glob("*/*.png"), key=lambda f: (f.parent.name, int(f.stem)))]
    assert run.predict(pictures).tolist() == run.predict(images[rows]).tolist()
    files = [pictures / f"digit {int(digits().y_test[row])}" / f"{row}.png" for row in (3, 1)]
    assert run.predict(files).tolist() == run.predict(images[[3, 1]]).tolist()
    assert run.predict(str(files[0])).shape == (1,)
    right = run.predict(pictures) == np.array([f"digit {int(digits().y_test[row])}" for row in rows])
    assert right.any()


def test_it_is_measured_on_pictures_in_folders(er: Path, pictures: Path) -> None:
    run = cl_bench.load(er)
    found = cl_bench.evaluate(run, pictures)  # a fifth of each class, one at least, are test images
    rows = [min(int(file.stem) for file in folder.iterdir()) for folder in sorted(pictures.iterdir())]
    right = run.predict(digits().x_test[rows]) == np.array([folder.name for folder in sorted(pictures.iterdir())])
    assert found.tolist() == [right[2 * task : 2 * task + 2].mean() for task in range(5)]


def test_it_is_measured_on_a_table_and_on_the_classes_that_it_took(
    own: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of pictures of ten classes it takes those of its own, which its dataset.classes names."""
    taken = ["digit 7", "digit 2", "digit 4", "digit 0"]
    words = [f"dataset.classes=[{','.join(taken)}]", "scenario.n_tasks=2", "keep_models=last"]
    settings = small_settings(*ER_QUICK, "dataset=npz", f"dataset.path={own}", *words)
    settings |= {"output_root": str(tmp_path / "outputs")}
    run(settings)
    files = sorted(pictures.glob("*/*.png"))
    rows = [f"{file},{file.parent.name},{'test' if number % 4 else 'train'}" for number, file in enumerate(files)]
    table = tmp_path / "my.csv"
    table.write_text("\n".join(["path,label,split", *rows]))
    own_run = cl_bench.load(folder_of(settings))
    answers = [(file.parent.name, own_run.predict(file)[0]) for number, file in enumerate(files) if number % 4]
    expected = [[said == true for true, said in answers if true in taken[i : i + 2]] for i in (0, 2)]
    found = cl_bench.evaluate(own_run, table)
    capsys.readouterr()  # what the training said
    np.testing.assert_allclose(found, [np.mean(right) for right in expected])
    code, out, err = said(evaluate, capsys, own_run.folder, f"dataset={table}")
    assert (code, err) == (0, "")
    assert out.startswith(f"{found[0]:.4f}  task 0: digit 7 digit 2")


def test_the_best_classes_and_how_sure_it_is_of_them(er: Path) -> None:
    run, images = cl_bench.load(er), digits().x_test[:20]
    best, scores = run.predict(images, top=3), run.scores(images)
    assert best.shape == (20, 3)
    assert best[:, 0].tolist() == run.predict(images).tolist()
    assert scores.shape == (20, 10)
    np.testing.assert_allclose(scores.sum(1), 1)
    names = np.array(run.class_names)
    assert (names[np.argsort(-scores, axis=1)[:, :3]] == best).all()
    with torch.no_grad():
        logits = run.model()(images / 255).double()
    np.testing.assert_allclose(scores, logits.softmax(1).numpy(), rtol=1e-6)
    after_two = run.scores(images, after=1)
    assert (after_two[:, 4:] == 0).all()
    with pytest.raises(InputError, match="top=5: 4 classes answer; choose 1 to 4"):
        run.predict(images, after=1, top=5)


def test_pictures_from_the_command_line(
    er: Path, pictures: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = next(pictures.glob("*/*.png"))
    code, out, err = said(predict, capsys, er, file, "top=2")
    run = cl_bench.load(er)
    (names,), (scores,) = run.predict(file, top=2).tolist(), np.sort(run.scores(file))[:, ::-1]
    assert (code, err) == (0, "")
    assert out == f"{file}\t{names[0]}\t{scores[0]:.4f}\t{names[1]}\t{scores[1]:.4f}\n"
    whole, names = said(predict, capsys, er, pictures)[1], run.predict(pictures)
    assert len(whole.splitlines()) == 40
    monkeypatch.setattr("cl_bench.runs.trained.rows_at_once", lambda shape: 7)  # of many, some at a time
    assert said(predict, capsys, er, pictures)[1] == whole
    assert run.predict(pictures).tolist() == names.tolist()
    monkeypatch.setattr("cl_bench.runs.trained.read_pictures", lambda *_: bytearray(2**60))
    code, out, err = said(predict, capsys, er, pictures)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("error: out of memory; ")


# ------------------------------------------------------------------------------------------------ the commands


def test_a_run_is_measured_from_the_command_line(er: Path, own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = cl_bench.load(er)
    for words in ((), (f"dataset={own}",), ("dataset=npz", f"dataset.path={own}")):
        code, out, err = said(evaluate, capsys, er, *words)
        assert (code, err) == (0, "")
        lines = out.splitlines()
        assert lines[1] == f"{run.R[4, 1]:.4f}  task 1: digit 2 digit 3"
        assert lines[5].startswith(f"{run.R[4].mean():.4f}  mean of npz.")
    assert said(evaluate, capsys, er, "after=1")[1].startswith(f"{run.R[1, 0]:.4f}  task 0")


@pytest.mark.parametrize(
    ("command", "words", "line"),
    [
        (evaluate, [], "which run? cl-bench evaluate FOLDER"),
        (evaluate, ["RUN", "dataset=digit"], "dataset=digit: no such dataset; did you mean 'digits'?"),
        (
            evaluate,
            ["RUN", "dataset=digits", "dataset.sze=8"],
            "dataset.sze: no such key; did you mean 'dataset.size'?",
        ),
        (evaluate, ["RUN", "dataset=digits", "dataset.size=x"], "dataset.size=x: input should be a valid integer"),
        (evaluate, ["RUN", "dataset=image_folder"], "dataset.path: needs a value"),
        (evaluate, ["RUN", "afer=1"], "afer: no such key; did you mean 'after'?"),
        (evaluate, ["RUN", "after=5"], "after=5: is not a task that was learned; 0 to 4 are"),
        (evaluate, ["RUN", "after=x"], "after=x: "),
        (evaluate, ["RUN", "after=1", "after=2"], "after=2: after appears twice"),
        (evaluate, ["RUN", "RUN"], "one folder at a time"),
        (evaluate, ["RUN", "dataset.size=8"], "dataset.size=8: which data set?"),
        (evaluate, ["RUN", "--fast"], "--fast: no such flag"),
        (evaluate, ["nowhere"], "nowhere: no such folder"),
        (predict, ["RUN"], "which pictures?"),
        (predict, ["RUN", "nowhere.png"], "images: nowhere.png: no such picture or folder"),
        (predict, ["RUN", "EMPTY"], "there is no picture in"),
        (predict, ["RUN", "RUN/results.json"], "results.json: does not have the ending of a picture"),
        (predict, ["RUN", "EMPTY", "top=0"], "top=0: "),
        (predict, ["RUN", "EMPTY", "tsk=0"], "tsk: no such key; did you mean 'task'?"),
        (export, ["RUN", "task=5"], "task=5: there is no such task, 0 to 4"),
        (export, ["RUN", "fil=x"], "fil: no such key; did you mean 'file'?"),
        (export, ["RUN", "file="], "file=: needs a value"),
    ],
)
def test_a_command_that_cannot_be_done_is_one_line(
    command: Any, words: list[str], line: str, er: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put = [word.replace("RUN", str(er)).replace("EMPTY", str(tmp_path)) for word in words]
    code, out, err = said(command, capsys, *put)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert line in err


def test_what_needs_no_model_needs_no_torch(er: Path, tmp_path: Path) -> None:
    code = f"""
import sys
from cl_bench.use import evaluate, export, predict
for command in (evaluate, predict, export):
    assert command.main(["--help"]) == 0
    assert command.main([{str(er)!r}, "afer=1"]) == 1
    assert command.main([{str(er)!r}, "after=9"]) == 1
for words in (["dataset=digit"], ["dataset=digits", "dataset.sze=1"], ["dataset=digits", "dataset.size=x"]):
    assert evaluate.main([{str(er)!r}, *words]) == 1
assert predict.main([{str(er)!r}, "nowhere.png"]) == 1
assert "torch" not in sys.modules
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "torch.export.load" in ended.stdout


# ---------------------------------------------------------------------------------------------------- a graph


def test_a_graph_that_torch_alone_runs(er: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "model.pt2"
    assert said(export, capsys, er, f"file={file}", "after=3") == (0, f"{file}\n", "")
    images = digits().x_test
    torch.save(images / 255, tmp_path / "images.pt")
    code = """
import json, sys, torch
sys.modules["cl_bench"] = None
inside = {"labels.json": ""}
graph = torch.export.load("model.pt2", extra_files=inside).module()
images, names = torch.load("images.pt"), json.loads(inside["labels.json"])["labels"]
print(json.dumps([names[output] for output in graph(images).argmax(1).tolist()]))
assert graph(images[:1]).shape == (1, 10)
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == cl_bench.load(er).predict(images, after=3).tolist()


def test_a_graph_of_one_task(small: Compose) -> None:
    settings = small("method=hat", "scenario=task_incremental", "trainer.epochs=1")
    run(settings)
    own = cl_bench.load(folder_of(settings))
    with pytest.raises(InputError, match=r"^task: this run is task-incremental; .*0 to 4"):
        own.export()
    file = own.export(task=1)
    assert file == folder_of(settings) / "models" / "task4" / "model-of-task1.pt2"
    answers = torch.export.load(file).module()(digits().x_test / 255).argmax(1).tolist()
    assert [own.class_names[output] for output in answers] == own.predict(digits().x_test, task=1).tolist()


def test_a_graph_of_columns(small: Compose) -> None:
    settings = small("method=pnn", "scenario=task_incremental", "trainer.epochs=1", "scenario.n_tasks=2")
    run(settings)
    own = cl_bench.load(folder_of(settings))
    graph = torch.export.load(own.export(task=1)).module()
    images = digits().x_test[:9] / 255
    torch.testing.assert_close(graph(images), own.model()(images, index=1))


@pytest.mark.parametrize("scenario", ["permuted", "rotated"])
def test_a_graph_sees_images_as_their_task_does(scenario: str, small: Compose) -> None:
    settings = small("method=finetune", f"scenario={scenario}", "trainer.epochs=1", "scenario.n_tasks=2")
    run(settings)
    own = cl_bench.load(folder_of(settings))
    images = digits().x_test
    answers = torch.export.load(own.export(task=1)).module()(images / 255).argmax(1).tolist()
    assert [own.class_names[output] for output in answers] == own.predict(images, task=1).tolist()
    assert answers != torch.export.load(own.export()).module()(images / 255).argmax(1).tolist()


def test_what_is_no_graph_is_refused_with_the_reason(small: Compose) -> None:
    settings = small("method=supsup", "trainer.epochs=1", "scenario.n_tasks=2")
    run(settings)
    with pytest.raises(InputError, match=r"^export: method=supsup: cannot be a graph that needs only torch \(.+\)$"):
        cl_bench.load(folder_of(settings)).export()
    assert not (folder_of(settings) / "models").exists()


def test_a_graph_that_torch_cannot_trace_is_one_line(small: Compose, capfd: pytest.CaptureFixture[str]) -> None:
    """fecam looks at its features on the way: torch prints the graph so far, and a warning."""
    settings = small("method=fecam", "scenario.n_tasks=2")
    run(settings)
    capfd.readouterr()
    with pytest.raises(InputError, match=r"^export: method=fecam: cannot be a graph .*data-dependent"):
        cl_bench.load(folder_of(settings)).export()
    assert capfd.readouterr() == ("", "")
