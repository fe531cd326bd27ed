"""Searches of a few seconds: what they look at, what they leave behind, and what stops them."""

from __future__ import annotations

import functools
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import SMALL

from cl_bench.config import InputError, KnownError
from cl_bench.config.compose import compose
from cl_bench.config.names import CONF, folder_of
from cl_bench.data import datasets
from cl_bench.data.problem import Task
from cl_bench.report.runs import run_folders
from cl_bench.runs.loop import run
from cl_bench.runs.recorder import Recorder

pytest.importorskip("optuna")
import optuna

from cl_bench.sweep import search as searching
from cl_bench.sweep.search import distributions, proposed, search

RUN = [*SMALL, "trainer.epochs=1", "method=ewc", "scenario=task_incremental", "scenario.n_tasks=2"]

Search = Callable[..., dict[str, Any]]


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    for draw in ("search_history", "search_importance"):
        monkeypatch.setattr(searching, draw, lambda *_: None)


@pytest.fixture
def small_search(tmp_path: Path) -> Search:
    """`small_search("hparams_search.first_tasks=1", root="here")`: two trials of a strength of EWC."""

    def searched(*more: str, root: str = "outputs") -> dict[str, Any]:
        strength = ["hparams_search=strength", "hparams_search.trials=2"]
        return search([*RUN, *strength, f"output_root={tmp_path / root}", *more])

    return searched


def study_of(root: Path) -> optuna.Study:
    (database,) = root.glob("*/search-*/study.db")
    return optuna.load_study(study_name=None, storage=f"sqlite:///{database}")


def trials_of(root: Path) -> list[tuple[dict[str, Any], float | None, str]]:
    return [(trial.params, trial.value, trial.state.name) for trial in study_of(root).trials]


def runs_of(root: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in root.glob("*/search-*/.trials/*/*/results.json")]


def test_what_a_search_chooses_and_leaves_behind(
    small_search: Search, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = small_search()
    trials, runs = trials_of(tmp_path / "outputs"), runs_of(tmp_path / "outputs")
    best = max(trials, key=lambda trial: trial[1] or 0)
    assert len({trial[0]["method.strength"] for trial in trials}) == len(runs) == 2
    assert sorted(value for _, value, _ in trials) == sorted(one["metrics"]["ACC"] for one in runs)  # type: ignore[type-var]
    for one in runs:
        assert one["measured_on"] == "validation images"
        assert one["n_test"] == [72, 71]  # a tenth of each class of 1,438 training images
        assert one["config"]["trial"] == {"first_tasks": None}

    own = f"method.strength={best[0]['method.strength']}", "tuned_on=all_tasks"
    assert settings == compose(*RUN, f"output_root={tmp_path / 'outputs'}", *own)
    assert settings["scenario"]["val_fraction"] == 0  # what was chosen is trained with all training images

    (folder,) = (tmp_path / "outputs").glob("*/search-*")
    for figure in ("history.png", "importance.png"):
        assert (folder / figure).read_bytes().startswith(b"\x89PNG")
    tuned = (folder / "ewc-digits-task_incremental.yaml").read_text()
    assert tuned.startswith("# @package _global_\n")
    assert yaml.safe_load(tuned) == {"method": {"strength": best[0]["method.strength"]}, "tuned_on": "all_tasks"}
    said = capsys.readouterr().out
    assert tuned in said
    assert f"{own[0]} {own[1]}\n" in said

    # again, also with another value for what is searched (as from a file in tuned/), nothing is run
    monkeypatch.setattr(searching, "run", None)
    assert small_search("method.strength=5", "tuned_on=first_2_tasks") == settings
    assert trials_of(tmp_path / "outputs") == trials


@pytest.mark.usefixtures("no_figures")
def test_keys_of_training_are_searched_and_stay_out_of_tuned_files(
    small_search: Search, capsys: pytest.CaptureFixture[str]
) -> None:
    space = {
        "scheduler.warmup": "{low: 0.1, high: 0.5}",
        "trainer.patience": "{low: 1, high: 2}",
        "label_smoothing": "{choices: [0.1, 0.2]}",
    }
    added = (f"hparams_search.space.{key}={values}" for key, values in space.items())
    settings = small_search(
        "~hparams_search.space.method",
        *added,
        "hparams_search.trials=1",
        "scheduler=cosine",
        "scenario.val_fraction=0.2",
        "trainer.epochs=2",
    )
    said = capsys.readouterr().out
    assert 0.1 <= settings["scheduler"]["warmup"] <= 0.5
    assert settings["trainer"]["patience"] in (1, 2)
    assert settings["label_smoothing"] in (0.1, 0.2)
    assert settings["scenario"]["val_fraction"] == 0.2
    assert "used automatically" not in said
    assert "not a file for conf/tuned, which may set only the method and its optimizer, not " in said


@pytest.mark.usefixtures("no_figures")
def test_no_test_image_has_a_say(small_search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_search(root="clean")
    clean = run(compose(*RUN, f"output_root={tmp_path / 'clean'}"))
    original = datasets.digits

    @functools.wraps(original)
    def poisoned(**more: Any) -> datasets.Dataset:
        whole = original(**more)
        return replace(whole, x_test=255 - whole.x_test, y_test=whole.y_test.flip(0))

    monkeypatch.setattr(datasets, "digits", poisoned)
    small_search(root="poisoned")
    assert trials_of(tmp_path / "poisoned") == trials_of(tmp_path / "clean")
    assert clean.R != run(compose(*RUN, f"output_root={tmp_path / 'poisoned'}")).R  # poison it was


@pytest.mark.usefixtures("no_figures")
def test_a_killed_search_goes_on_where_it_was(
    small_search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small_search(root="whole")
    learned, record = [], Recorder.record

    def killed(self: Recorder, task: Task, *known: Any) -> None:
        record(self, task, *known)
        learned.append(task.index)
        if len(learned) == 3:  # the second trial, after its first task
            raise KeyboardInterrupt

    monkeypatch.setattr(Recorder, "record", killed)
    with pytest.raises(KeyboardInterrupt):
        small_search()
    assert [state for *_, state in trials_of(tmp_path / "outputs")] == ["COMPLETE", "RUNNING"]
    capsys.readouterr()
    small_search("hparams_search.trials=1")  # fewer of them: the one that was cut is none
    assert "best of 1 trials (0 failed)" in capsys.readouterr().out
    small_search()
    assert learned == [0, 1, 0, 1]  # nothing twice
    assert trials_of(tmp_path / "outputs") == trials_of(tmp_path / "whole")
    small_search("hparams_search.trials=3")  # more of them
    assert trials_of(tmp_path / "outputs")[:2] == trials_of(tmp_path / "whole")
    assert len(trials_of(tmp_path / "outputs")) == 3
    for n in (1, 3):
        considered = trials_of(tmp_path / "outputs")[:n]
        best = max(considered, key=lambda trial: trial[1] or 0)
        assert small_search(f"hparams_search.trials={n}")["method"]["strength"] == best[0]["method.strength"]


@pytest.mark.usefixtures("no_figures")
def test_a_database_lies_in_its_folder_and_is_one_line_when_damaged(small_search: Search, tmp_path: Path) -> None:
    small_search("hparams_search.trials=1", root="o?x")
    (database,) = (tmp_path / "o?x").glob("*/search-*/study.db")
    database.write_bytes(database.read_bytes()[:10_000])
    with pytest.raises(InputError, match=r"study.db: can't be used \(.*malformed\); delete it to start"):
        small_search("hparams_search.trials=1", root="o?x")


def test_proposals_follow_from_the_trials_so_far() -> None:
    """Beyond the first ten, which are drawn at random, too."""
    space = dict(
        distributions(
            {"lr": {"low": 1e-4, "high": 1.0, "log": True}, "n": {"low": 1, "high": 9}}, {"lr": 1, "n": 2}, ""
        )
    )

    def after(accuracy: Callable[[float], float], n: int = 15) -> dict[str, Any]:
        study = optuna.create_study(direction="maximize")
        for number in range(n):
            params = proposed(study, space, seed=number)
            value = accuracy(params["lr"])
            study.add_trial(optuna.create_trial(params=params, distributions=space, value=value))
        return proposed(study, space, seed=n)

    assert after(lambda lr: lr) == after(lambda lr: lr)
    assert after(lambda lr: lr) != after(lambda lr: -lr)
    assert after(lambda lr: lr)["lr"] > after(lambda lr: -lr)["lr"]  # it does look for more
    assert isinstance(after(lambda lr: lr)["n"], int)


@pytest.mark.usefixtures("no_figures")
def test_chosen_on_the_first_tasks_alone(small_search: Search, tmp_path: Path) -> None:
    legal = small_search("hparams_search.first_tasks=1")
    assert legal["tuned_on"] == "first_1_tasks"
    for one, (_, value, _) in zip(
        sorted(runs_of(tmp_path / "outputs"), key=lambda run: run["metrics"]["ACC"]),
        sorted(trials_of(tmp_path / "outputs"), key=lambda trial: trial[1] or 0),
        strict=True,
    ):
        assert one["config"]["trial"] == {"first_tasks": 1}
        assert len(one["tasks"]) == len(one["n_test"]) == 1  # learned no other, measured on no other
        assert one["R"] == [[value]]
        assert one["status"] == "finished"
    results = run(legal)
    assert len(results.tasks) == 2
    assert results.config["tuned_on"] == "first_1_tasks"
    assert results.measured_on == "test images"
    # with the other protocol it is another result, even if the values are the same
    by_hand = {key: value for key, value in legal.items() if key != "tuned_on"}
    assert (
        len({folder_of(by_hand), *(folder_of(by_hand | {"tuned_on": one}) for one in ("all_tasks", "first_1_tasks"))})
        == 3
    )
    assert [path.name for path in run_folders(tmp_path / "outputs")] == [folder_of(legal).name]  # what a report sees
    assert len(list((tmp_path / "outputs").glob("*/search-*"))) == 1
    small_search()
    assert len(list((tmp_path / "outputs").glob("*/search-*"))) == 2


@pytest.mark.usefixtures("no_figures")
def test_a_trial_that_fails_says_why_and_the_search_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rates = [*RUN, "hparams_search=learning_rate", f"output_root={tmp_path}"]
    settings = search([*rates, "hparams_search.trials=4", "hparams_search.space.optimizer.lr.high=1e30"])
    states = [state for *_, state in trials_of(tmp_path)]
    assert len(states) == 4
    assert set(states) == {"COMPLETE", "FAIL"}
    assert settings["optimizer"]["lr"] < 1e20
    said = capsys.readouterr().out
    assert said.count(": failed: task 1, train, step") == states.count("FAIL")
    assert f"best of {states.count('COMPLETE')} trials ({states.count('FAIL')} failed)" in said
    ends = [f"hparams_search.space.optimizer.lr.{end}" for end in ("low=1e29", "high=1e30")]
    with pytest.raises(KnownError, match=r"no trial was finished; optimizer.lr=\S+: failed: task 1, train"):
        search([*rates, "hparams_search.trials=1", *ends])


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("scenario.val_fraction=0", "scenario.val_fraction=0: sets no validation images aside"),
        ("scenario.val_fraction=0.9999", "scenario.val_fraction=0.9999: leaves no training image"),
        ("hparams_search.first_tasks=3", "hparams_search.first_tasks=3: there are 2 tasks"),
        ("hparams_search.first_tasks=0", "hparams_search.first_tasks=0: input should be greater than 0"),
        ("hparams_search.trials=0", "hparams_search.trials=0: input should be greater than 0"),
        ("~hparams_search.space.method", "name at least one key"),
        ("hparams_search.space=5", "hparams_search.space=5: "),
        ("hparams_search.space.method.strength.low=1e9", "hparams_search.space.method.strength: .*low.*high"),
        ("hparams_search.space.method.strength.low=0", "hparams_search.space.method.strength: .*log"),
        ("hparams_search.space.method.strength.low=abc", "hparams_search.space.method.strength.low=abc"),
        ("hparams_search.space.method.strength=5", "hparams_search.space.method.strength=5: needs low and high"),
        ("hparams_search.space.method=5", "hparams_search.space.method=5: has several keys"),
        ("method=finetune", "hparams_search.space.method.strength: there is no method.strength to search"),
        ("hparams_search=n_gen", "hparams_search.space.method.n_gen: there is no method.n_gen to search"),
        (
            "+hparams_search.space.scheduler={choices: [none]}",
            r"space.scheduler: scheduler cannot be searched",
        ),
        ("hparams_search.space={method: {choices: [ewc]}}", "space.method: method cannot be searched"),
        ("hparams_search.space.choices.method={choices: [ewc]}", "space.choices: cannot be searched"),
        ("hparams_search.space.hparams_search.trials={low: 1, high: 2}", "space.hparams_search: cannot be searched"),
        ("hparams_search.space.trainer.chunk={low: 1, high: 2}", "space.trainer.chunk: changes no accuracy"),
        ("hparams_search.space.keep_models={choices: [last]}", "space.keep_models: changes no accuracy"),
        ("hparams_search.space.evaluate_every={low: 1, high: 2}", "space.evaluate_every: changes no accuracy"),
        ("hparams_search.space.scenario.n_tasks={low: 1, high: 2}", "space.scenario: changes what is learned"),
        ("hparams_search.space.seed={low: 1, high: 2}", "space.seed: changes what is learned"),
        ("seed=-1", "seed=-1"),
        ("trainer.patience=1", "trainer.patience=1: needs validation images"),  # which the last run lacks
        ("scheduler=plateau", "scheduler.monitor=val_accuracy: needs validation images"),
    ],
)
def test_one_line_says_what_can_not_be_searched(override: str, line: str, small_search: Search, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=line) as error:
        small_search(override)
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "outputs").exists()  # nothing was begun


def test_the_nearest_key_is_named() -> None:
    given = compose("method=ewc")
    for space, line in [
        ({"method": {"strenght": {"low": 1, "high": 2}}}, "did you mean 'space.method.strength'"),
        ({"method": {"strength": {"low": 1, "hihg": 2}}}, "did you mean 'space.method.strength.high'"),
        ({"method": {"online": {"choices": []}}}, "space.method.online"),
        ({"method": {"strength": {"low": 1}}}, "space.method.strength.high: needs a value"),
    ]:
        with pytest.raises(InputError, match=line):
            dict(distributions(space, given, "space."))


def test_a_range_out_of_what_is_legal_is_told_before_any_trial(tmp_path: Path) -> None:
    low = "hparams_search.space.optimizer.lr.low=-1", "hparams_search.space.optimizer.lr.log=false"
    with pytest.raises(InputError, match=r"optimizer\.lr=-1\.0: input should be greater than 0"):
        search([*RUN, "hparams_search=learning_rate", f"output_root={tmp_path / 'outputs'}", *low])
    assert not (tmp_path / "outputs").exists()


def test_choices_are_what_a_person_types() -> None:
    online = {"low": 1, "high": 2, "log": True, "choices": [True, False]}  # beside the range of a file
    space = {"network": {"hidden": {"choices": [[16], [16, 16]]}}, "method": {"online": online}}
    found = dict(distributions(space, compose("method=ewc"), ""))
    assert {key: one.choices for key, one in found.items()} == {  # type: ignore[attr-defined]
        "network.hidden": ("[16]", "[16,16]"),
        "method.online": ("true", "false"),
    }
    assert compose("method=ewc", "network.hidden=[16,16]")["network"]["hidden"] == [16, 16]


@pytest.mark.parametrize(
    ("name", "method"),
    [
        *(("strength", method) for method in ("ewc", "mas", "si", "rwalk")),
        *(("n_gen", method) for method in ("dgr", "dgm", "mergan", "ewc_gan")),
        ("learning_rate", "finetune"),
    ],
)
def test_every_space_is_one_of_what_it_is_for(name: str, method: str) -> None:
    settings = compose(f"hparams_search={name}", f"method={method}")
    assert settings["scenario"]["val_fraction"] > 0
    (distribution,) = dict(distributions(settings["hparams_search"]["space"], settings, "")).values()
    assert distribution.low < distribution.high  # type: ignore[attr-defined]


def test_every_space_is_tested() -> None:
    assert {file.stem for file in (CONF / "hparams_search").iterdir()} == {"strength", "n_gen", "learning_rate"}


def test_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The best values are run on all tasks and shown."""
    from cl_bench.__main__ import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["cl_bench"])
    assert main([*RUN, "hparams_search=strength", "hparams_search.trials=1"]) == 0
    (results,) = Path("outputs").glob("*/seed*/results.json")
    assert json.loads(results.read_text())["config"]["tuned_on"] == "all_tasks"
    assert f"kept in {results.parent}" in capsys.readouterr().out
    assert main([*RUN, "hparams_search=strenth"]) == 1
    assert capsys.readouterr().err.startswith("error: hparams_search=strenth: no such hparams_search; did you mean")


@pytest.mark.usefixtures("no_figures")
def test_a_space_of_ones_own_is_found_by_what_was_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from cl_bench.__main__ import main

    (tmp_path / "my conf" / "hparams_search").mkdir(parents=True)
    plan = (CONF / "hparams_search" / "strength.yaml").read_text()
    (tmp_path / "my conf" / "hparams_search" / "mine.yaml").write_text(plan)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["cl_bench"])
    words = [*RUN, "hparams_search=mine", "hparams_search.trials=1"]
    for more in ("--config-dir=my conf", f"hydra.searchpath=['file://{tmp_path}/my conf']"):
        assert main([more, *words]) == 0, capsys.readouterr().err
        said = capsys.readouterr().out
        commands = [line.partition("python -m cl_bench ")[2] for line in said.splitlines() if "-m cl_bench" in line]
        assert len(commands) == 2  # the next one, and that in the head of the file
        assert all(more in shlex.split(command) for command in commands)


@pytest.mark.slow
@pytest.mark.usefixtures("no_figures")
def test_killed_for_good_and_run_again(tmp_path: Path) -> None:
    """kill -9 in the middle of the second trial, from the command line."""
    long = [*RUN, "hparams_search=strength", "hparams_search.trials=3", "trainer.epochs=20", "checkpoint_every=0"]
    search([*long, f"output_root={tmp_path / 'whole'}"])
    command = [sys.executable, "-m", "cl_bench", *long]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
    while process.poll() is None and len(list(tmp_path.glob("outputs/*/search-*/.trials/*/*/checkpoints"))) < 2:
        time.sleep(0.01)
    time.sleep(0.2)
    assert process.poll() is None
    process.kill()
    process.wait()
    assert [state for *_, state in trials_of(tmp_path / "outputs")] == ["COMPLETE", "RUNNING"]
    search([*long, f"output_root={tmp_path / 'outputs'}"])
    assert trials_of(tmp_path / "outputs") == trials_of(tmp_path / "whole")
