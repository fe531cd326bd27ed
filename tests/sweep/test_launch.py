"""Sweeps from the command line, each launcher for real, and what is said of them."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from omegaconf import OmegaConf
from rich.console import Console
from sweep_commands import LAUNCHERS, LONG, TINY, kept, launchers, numbers, start, trains

from cl_bench.__main__ import main, parsed
from cl_bench.config import InputError
from cl_bench.config.compose import compose
from cl_bench.config.names import CONF, folder_of
from cl_bench.record import load_results, to_json
from cl_bench.runs.folder import RunFolder
from cl_bench.runs.loop import run
from cl_bench.sweep import launch as sweep
from cl_bench.sweep import workers
from cl_bench.sweep.jobs import Job, finished
from cl_bench.sweep.view import View, interval, summary
from cl_bench.sweep.workers import least_used_gpu


@pytest.mark.slow  # the sweep of tests/test_example_plugin.py goes through joblib, too
@pytest.mark.parametrize("launcher", launchers())
def test_a_launcher_runs_a_sweep_and_reports_the_run_that_failed(launcher: str, tmp_path: Path) -> None:
    process = start(*LAUNCHERS[launcher], "optimizer.lr=1e30,0.01", "seed=3", cwd=tmp_path)
    said, complaints = process.communicate()
    assert process.returncode == 1
    good = compose(*TINY, "seed=3", "optimizer.lr=0.01", f"output_root={tmp_path / 'outputs'}")
    bad = compose(*TINY, "seed=3", "optimizer.lr=1e30", f"output_root={tmp_path / 'outputs'}")
    assert "1 finished, 1 failed" in said
    assert f"finished  optimizer.lr=0.01: kept in {folder_of(good).relative_to(tmp_path)}\n" in said
    assert "failed    optimizer.lr=1e+30: task 1, " in said
    assert f", in {folder_of(bad).relative_to(tmp_path)}\n" in said
    assert "error: task 1, " in complaints
    assert kept(folder_of(bad)).status == "failed"
    there = numbers(kept(folder_of(good)))
    assert there == numbers(run(good | {"output_root": str(tmp_path / "here")}))  # the same without a launcher
    assert not list((tmp_path / "outputs" / ".sweep").glob("board*"))


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize("launcher", launchers())
def test_a_run_that_is_killed_is_reported_and_the_others_go_on(launcher: str, tmp_path: Path) -> None:
    process = start(*LAUNCHERS[launcher], *LONG, "seed=0,1", cwd=tmp_path)
    os.kill(trains("seed=0", tmp_path), signal.SIGKILL)
    said, _ = process.communicate()
    assert process.returncode == 1
    assert "1 finished, 1 failed" in said
    assert "failed    seed=0: killed by SIGKILL" in said

    again = start(*LONG, "seed=0,1", cwd=tmp_path)
    said, complaints = again.communicate()
    assert (again.returncode, complaints) == (0, "")
    assert "1 continued, 1 there" in said
    settings = compose(*TINY, *LONG, f"output_root={tmp_path / 'outputs'}")
    assert numbers(kept(folder_of(settings))) == numbers(run(settings | {"output_root": str(tmp_path / "whole")}))


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize("launcher", launchers())
def test_a_worker_that_is_killed_loses_no_run(launcher: str, tmp_path: Path) -> None:
    process = start(*LAUNCHERS[launcher], *LONG, "seed=0,1", cwd=tmp_path)
    trainer = trains("seed=0", tmp_path)
    status = Path(f"/proc/{trainer}/status").read_text()
    worker = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("PPid:"))
    if launcher != "submitit_local":  # it starts all of them at once
        cores = 1 if launcher == "ray" else max(pytest.importorskip("joblib").cpu_count() // 2, 1)
        assert f"OMP_NUM_THREADS={cores}" in Path(f"/proc/{trainer}/environ").read_text().split("\0")
    os.kill(worker, signal.SIGKILL)
    said, _ = process.communicate()
    assert not Path(f"/proc/{trainer}").exists()
    if launcher == "submitit_local":  # nobody starts a cluster's job for the second time
        assert process.returncode == 1
        assert "1 finished, 1 lost" in said
    else:
        assert process.returncode == 0
        assert said.count(": kept in ") == 2


@pytest.mark.filterwarnings("ignore:\\s*.hydra/launcher/")  # pytest puts aside the package's own
@pytest.mark.parametrize("extra", ["joblib", "ray", "submitit"])
def test_a_launcher_that_is_not_installed_is_one_line(
    extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: Any) -> None:
        raise RuntimeError("Unknown plugin class")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweep.Plugins, "instantiate_launcher", unknown)
    name = {"submitit": "submitit_slurm"}.get(extra, extra)
    with pytest.raises(InputError, match=rf"hydra/launcher={name}: needs pip install -e '\.\[{extra}\]'"):
        sweep.sweep([*TINY, f"hydra/launcher={name}"], lambda config: None)


def test_only_what_is_missing_is_launched_and_each_run_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    attempted = []

    def attempt(config: Any) -> str | None:
        attempted.append(config.seed)
        return "no luck" if config.seed == 2 else None

    run(compose(*TINY, "seed=1"))
    assert not sweep.sweep([*TINY, "seed=0,1,2,0"], attempt)
    assert attempted == [0, 2]
    said = capsys.readouterr().out
    assert "3 runs in 0:00:0" in said
    assert "1 finished, 1 there, 1 failed" in said
    assert "  failed    seed=2: no luck\n" in said
    (row,) = (line for line in said.splitlines() if line.startswith("  digits-class_incremental-finetune "))
    assert row.split()[1] == "1"  # seed 0 was only said to be done: no results, no number


def seen(view: View) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(view())
    return captured.get()


def learned(folder: Path, tasks: int, of: int) -> None:
    """A run that is at work, as far as its folder tells."""
    folder.mkdir()
    results = {"status": "running", "config": {}, "tasks": [{}] * tasks, "classes": [[task] for task in range(of)]}
    (folder / "results.json").write_text(json.dumps(results))


def test_the_view_follows_the_board_and_the_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [Job([f"seed={seed}"], f"seed={seed}", "", tmp_path / f"run{seed}") for seed in range(5)]
    jobs[0].state = "there"
    view = View(jobs, jobs[1:], tmp_path, quiet=False)
    assert "1 of 5 done · 0 running · 4 left\n" in seen(view)
    now = time.time()
    (tmp_path / "0").write_text('{"began": 100, "ended": 140, "reason": null}')
    (tmp_path / "1").write_text('{"began": 140, "ended": 141, "reason": "no luck"}')
    (tmp_path / "2").write_text(json.dumps({"began": now - 30}))
    learned(jobs[3].folder, 1, of=4)
    # 30 s for a quarter, so 90 s for the rest; 40 s and 120 s for a whole one, so 80 s for the one that is left
    assert "2 of 5 done · 1 running · 1 left · 1 failed · 0:02:50 to go" in seen(view)
    assert "  seed=3, 25%" in seen(view)
    assert capsys.readouterr().err == "error: no luck (in seed=2)\n"


def test_the_time_to_go_is_told_by_runs_of_the_same_configuration(tmp_path: Path) -> None:
    """A minute of one method says nothing about another."""
    jobs = [
        Job([], f"{method} {seed}", method, tmp_path / f"{method}{seed}")
        for method in ("method=finetune", "method=dgr")
        for seed in (0, 1)
    ]
    view = View(jobs, jobs, tmp_path, quiet=False)
    (tmp_path / "0").write_text(json.dumps({"began": time.time() - 10}))
    assert "4 left" not in seen(view)
    assert "remaining time not known yet" in seen(view)
    (tmp_path / "0").write_text('{"began": 100, "ended": 110, "reason": null}')
    (tmp_path / "1").write_text(json.dumps({"began": time.time()}))
    assert "more than 0:00:10 to go" in seen(view)
    (tmp_path / "1").write_text('{"began": 110, "ended": 120, "reason": null}')
    (tmp_path / "2").write_text(json.dumps({"began": time.time() - 100}))
    assert "remaining time not known yet" in seen(view)
    learned(jobs[2].folder, 1, of=5)
    assert "0:15:00 to go" in seen(view)  # 400 s, and 500 s for the other seed
    assert "more than" not in seen(view)


def test_gpus_are_shared_out_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,GPU-b")
    with least_used_gpu() as first, least_used_gpu() as second, least_used_gpu() as third:
        assert [one["CUDA_VISIBLE_DEVICES"] for one in (first, second, third)] == ["0", "GPU-b", "0"]
        with least_used_gpu() as fourth:
            assert fourth["CUDA_VISIBLE_DEVICES"] == "GPU-b"
        with least_used_gpu() as fifth:  # its place is free again
            assert fifth["CUDA_VISIBLE_DEVICES"] == "GPU-b"
    for alone in ("0", "", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", alone)
        with least_used_gpu() as only:
            assert only == {}


def test_the_interval_is_students() -> None:
    assert interval([0.9, 0.8, 0.7]) == "0.800 ± 0.248"
    assert interval([0.5, None]) == "0.500 (1 of 2)"
    assert interval([None, None]) == "·"


def test_searches_are_no_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", "hparams_search=strength", "method=ewc", "seed=0,1"]) == 1
    assert capsys.readouterr().err.startswith("error: hparams_search with -m: search first")


@pytest.mark.parametrize("harm", [{"R": None}, {"b": [0.1]}, {"metrics": {"ACC": 1e300}}], ids=str)
def test_a_result_that_is_not_whole_is_named_and_made_again(
    harm: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = compose(*TINY, "output_root=outputs")
    whole = run(settings)
    file = folder_of(settings) / "results.json"
    assert finished(settings)
    file.write_text(json.dumps(to_json(load_results(file.parent)) | harm))  # without a checksum
    assert finished(settings) is None
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith(f"not read: {file.parent}: results.json is damaged ({next(iter(harm))}")
    summary([Job(TINY, "one", "", file.parent, state="there")], 1.0)
    assert "results.json is damaged" in " ".join(capsys.readouterr().out.split())
    assert run(settings).R == whole.R  # from its checkpoints
    assert finished(settings)


def test_what_has_no_meaning_is_left_out_of_a_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line for a method, whatever its seeds and scenarios; alone it is an error."""
    monkeypatch.chdir(tmp_path)
    attempted = []

    def attempt(config: Any) -> None:
        attempted.append((config.method._target_.rpartition(".")[2], config.scenario.kind))

    scenarios = "scenario=class_incremental,domain_incremental,task_incremental"
    assert sweep.sweep(["method=packnet,finetune,hat", scenarios, "seed=0,1"], attempt)
    assert len(attempted) == 10
    assert {kind for method, kind in attempted if method == "PackNet"} == {"task"}
    said, complaints = capsys.readouterr()
    assert complaints == ""
    assert "18 runs in " in said
    assert ": 10 finished, 8 not applicable\n" in said
    lines = [line for line in said.splitlines() if "does not work" in line]
    assert len(lines) == 2
    for line, method in zip(lines, ("packnet", "hat"), strict=True):
        assert line.startswith(f"  not applicable method={method}: does not work in scenario=class_incremental")
        assert "scenario=domain_incremental" in line
        assert line.endswith(" (4 runs)")
    assert main(["method=packnet"]) == 1
    assert capsys.readouterr().err.startswith("error: method=packnet: does not work in scenario=class_incremental")


def test_a_failure_beside_what_has_no_meaning_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not sweep.sweep(["method=packnet,finetune", "seed=0,1"], lambda config: "no luck")


def test_combinations_that_are_one_run_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    began: list[Any] = []
    assert sweep.sweep(["method=ewc", "method.decay=0.5,0.7"], lambda config: began.append(config))
    said = capsys.readouterr().out
    assert "method.decay=0.7: is the same run as method.decay=0.5\n" in said
    assert len(began) == 1


def test_a_worker_that_can_note_nothing_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cl_bench.files.write", full)
    assert not sweep.sweep(["method=finetune", "seed=0,1"], lambda config: None)
    said = capsys.readouterr().out
    assert said.count("failed    seed=") == 2
    assert said.count("output_root: can't write to ") == said.count("(No space left on device)") == 2


@pytest.mark.parametrize(
    "fixed",
    [
        ["method=lwf,icarl", "method.temperature=1.5"],
        ["experiment=three_scenarios/lwf,three_scenarios/icarl", "method.temperature=1.5"],
        ["method=dgr,lwf", "++method.temperature=1.5"],
        ["network=resnet18,resnet_gan", "network.width=8"],
        ["method=dgr", "gan@method.gan=dcgan,mlp", "method.n_gen=9", "dataset.size=8"],
    ],
    ids=" ".join,
)
def test_a_fixed_value_beside_a_swept_group_is_a_sweep_of_one(
    fixed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each choice has the key, the default one has not."""
    monkeypatch.chdir(tmp_path)
    key, _, value = fixed[1].lstrip("+").partition("=")
    found = []

    def attempt(config: Any) -> None:
        found.append(OmegaConf.select(config, key) if "@" not in key else value.split(",")[len(found)])

    assert sweep.sweep(fixed, attempt)
    assert [str(one) for one in found] == (value.split(",") if "@" in key else [value] * 2)


def test_a_fixed_value_that_is_none_of_some_is_said_of_these(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["-m", "method=ewc,lwf,finetune", "method.temperature=2", "seed=0,1"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("error: method.temperature: no such key")
    assert lines[0].endswith("(in method=ewc seed=0 and 1 more)")
    assert lines[1].endswith("(in method=finetune seed=0 and 1 more)")
    assert not list(tmp_path.glob("outputs/*"))


def own(folder: Path) -> Path:
    """A folder of configuration of one's own."""
    for name, text in {
        "method/mine": "_target_: cl_bench.methods.finetune.Finetune\n",
        "experiment/late": "# @package _global_\ndefaults:\n  - /method: ewc\n",
        "experiment/short": "# @package _global_\ndefaults:\n  - override /method: mine\ntrainer: {epochs: 1}\n",
    }.items():
        file = folder / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (folder / "other.yaml").write_text((CONF / "config.yaml").read_text().replace("seed: 0 ", "seed: 7 "))
    return folder


@pytest.mark.filterwarnings("ignore:\\s*.hydra/launcher/")  # pytest puts aside the package's own
@pytest.mark.parametrize(
    ("flags", "seed"),
    [
        (["--config-dir", "own"], 0),
        (["-cd=own"], 0),
        (["hydra.searchpath=[own]"], 0),
        (["--config-dir=own", "-cn", "other"], 7),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_files_of_ones_own_in_a_sweep(
    flags: list[str], seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The view, the summary and the launchers know them."""
    own(tmp_path / "own")
    monkeypatch.chdir(tmp_path)
    commands = []

    class Started:
        returncode = 0

        def __init__(self, command: list[str], **_: Any) -> None:
            commands.append(command[3:])

        def communicate(self) -> tuple[str, str]:
            return "", ""

    monkeypatch.setattr(workers.subprocess, "Popen", Started)
    monkeypatch.setattr(sweep.Plugins, "instantiate_launcher", lambda _, *given: Here(*given))
    names = [*flags, "experiment=short", *TINY[1:], "-m", "optimizer.lr=0.1,0.2", "hydra/launcher=joblib"]
    assert main(names) == 0
    assert "2 runs in 0:00:0" in capsys.readouterr().out
    assert len(commands) == 2
    for command in commands:
        given, overrides = parsed(command)
        config = sweep.base(sweep.loader(flags_of(given)), overrides, flags_of(given).config_name or "config")
        assert config.method._target_ == "cl_bench.methods.finetune.Finetune"
        assert config.hydra.runtime.choices.method == "mine"
        assert config.seed == seed
        GlobalHydra.instance().clear()


class Here:
    """A launcher that does all in this process, as others do in theirs."""

    def __init__(self, context: Any, work: Any, config: Any) -> None:
        self.work, self.context, self.config = work, context, config

    def launch(self, lines: list[list[str]], initial_job_idx: int) -> list[JobReturn]:
        for number, line in enumerate(lines):
            config = self.context.config_loader.load_sweep_config(self.config, line)
            config.hydra.job.num = number
            HydraConfig.instance().set_config(config)
            self.work.keywords["owner"] = None
            self.work(config)
        return []


def flags_of(given: list[str]) -> Any:
    return get_args_parser().parse_args(given)


@pytest.mark.parametrize("sweeps", [["-m", "seed=0,1"], []])
def test_an_experiment_of_ones_own_that_fails_late_is_not_called_unknown(
    sweeps: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own(tmp_path / "own")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["cl_bench"])
    assert main(["--config-dir", "own", "experiment=late", *sweeps]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "error: Multiple values for method. To override a value use 'override method: ewc'"
    assert main(["--config-dir", "own", "method=mime", *sweeps]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "error: method=mime: no such method; did you mean 'mine'?"


def test_a_fault_of_ours_beside_an_experiment_of_ones_own_is_not_called_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own(tmp_path / "own")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweep, "launch", lambda: None)
    assert main(["--config-dir", "own", "experiment=short", "-m", "seed=0,1"]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ")
    assert "argument" in line


@pytest.mark.faults
@pytest.mark.parametrize("launcher", [one for one in launchers() if "ray" not in one.values])
def test_workers_die_with_their_sweep_and_the_same_command_waits(launcher: str, tmp_path: Path) -> None:
    command = [*LAUNCHERS[launcher], "trainer.iterations=400", "trainer.chunk=10", "checkpoint_every=1", "seed=0,1"]
    process = start(*command, cwd=tmp_path)
    trainer = trains("seed=0", tmp_path)
    process.kill()
    process.wait()
    until = time.time() + 20
    while Path(f"/proc/{trainer}").exists():
        assert time.time() < until
        time.sleep(0.05)
    with RunFolder(next(tmp_path.glob("outputs/*/seed0-*")), "").opened():
        again = start(*command, cwd=tmp_path)
        assert again.stderr
        line = again.stderr.readline()
        assert line.startswith("another process works in outputs/")
        assert line.endswith("; waiting for it\n")
    said, complaints = again.communicate()
    assert (again.returncode, complaints) == (0, "")
    assert said.count(": kept in ") == 2
