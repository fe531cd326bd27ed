"""Sweeps from the command line, each launcher for real, and what is said of them."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cl_bench import sweep
from cl_bench.__main__ import main
from cl_bench.config import InputError, compose, folder_of
from cl_bench.record import load_results
from cl_bench.run import run
from cl_bench.sweep import Job, View, interval, least_used_gpu

TINY = [
    "method=finetune",
    "network.hidden=[16]",
    "trainer.iterations=2",
    "trainer.threads=1",
    "trainer.accelerator=cpu",
]
LONG = ["trainer.iterations=300", "trainer.chunk=3", "checkpoint_every=0"]  # long enough to be killed in the middle
LAUNCHERS = {
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "submitit_local": ["hydra/launcher=submitit_local"],
    "ray": ["hydra/launcher=ray", "hydra.launcher.ray.init.num_cpus=2"],
}


def installed(launcher: str) -> bool:
    package = launcher.partition("_")[0]
    try:
        return importlib.util.find_spec(f"hydra_plugins.hydra_{package}_launcher") is not None
    except ModuleNotFoundError:
        return False


def launchers(*slow: str) -> list[Any]:
    """Each launcher as a parameter, left out with its reason where its extra isn't installed."""
    return [
        pytest.param(
            name,
            marks=[
                pytest.mark.skipif(not installed(name), reason=f"pip install -e '.[{name.partition('_')[0]}]'"),
                *([pytest.mark.slow] if name in slow else []),
            ],
        )
        for name in LAUNCHERS
    ]


def start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cl_bench", "-m", *TINY, *arguments]
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=cwd, env=environment, stdout=pipe, stderr=pipe, text=True)


def numbers(results: dict[str, Any]) -> str:
    text = json.dumps([results["R"], results["b"], results["metrics"], results["bytes_kept"]])
    return text.replace("NaN", "null")


def kept(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


@pytest.mark.parametrize("launcher", launchers("ray", "submitit_local"))
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
    assert kept(folder_of(bad))["status"] == "failed"
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


def trains(override: str, cwd: Path) -> int:
    """The process that trains the run with this override, as soon as it has something to lose."""
    until = time.time() + 300
    while not list(cwd.glob(f"outputs/*/{override.replace('=', '')}-*/checkpoints/task0.pt")):
        assert time.time() < until
        time.sleep(0.05)
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (folder / "cmdline").read_text().split("\0")
            here = (folder / "cwd").resolve() == cwd.resolve()
        except OSError:
            continue
        if here and override in arguments:
            return int(folder.name)
    raise AssertionError("there is no such process")


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


def test_the_view_follows_the_board_and_the_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [Job([f"seed={seed}"], f"seed={seed}", "", tmp_path / str(seed)) for seed in range(5)]
    jobs[0].state = "there"
    view = View(jobs, jobs[1:], tmp_path, quiet=False)
    view.began -= 100

    def text() -> str:
        console = Console(width=200)
        with console.capture() as captured:
            console.print(view())
        return captured.get()

    assert "1 of 5 done · 0 running · 4 left\n" in text()
    (tmp_path / "0").write_text('{"reason": null}')
    (tmp_path / "1").write_text('{"reason": "no luck"}')
    (tmp_path / "2").write_text('{"began": 0}')
    jobs[3].folder.with_name("two").mkdir()
    jobs[3].folder = tmp_path / "two"
    results = {"status": "running", "config": {}, "tasks": [{}], "classes": [[0], [1], [2], [3]]}
    (jobs[3].folder / "results.json").write_text(json.dumps(results))
    seen = text()
    # 2.25 runs in 100 s, 1.75 to go
    assert "2 of 5 done · 1 running · 1 left · 1 failed · 0:01:18 to go" in seen
    assert "  seed=3, 25%" in seen
    assert capsys.readouterr().err == "error: no luck (in seed=2)\n"


def test_gpus_are_shared_out_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep.tempfile, "gettempdir", lambda: str(tmp_path))
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
    assert interval([0.5, None]) == "0.500"
    assert interval([None, float("nan")]) == "·"


def test_searches_are_no_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", "hparams_search=strength", "method=ewc", "seed=0,1"]) == 1
    assert capsys.readouterr().err.startswith("error: hparams_search with -m: search first")


@pytest.mark.parametrize("harm", [{"R": None}, {"b": [0.1]}, {"metrics": {"ACC": 1e300}}], ids=str)
def test_a_result_that_is_not_whole_is_named_and_made_again(
    harm: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    no_pictures: None,
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = compose(*TINY, "output_root=outputs")
    whole = run(settings)
    file = folder_of(settings) / "results.json"
    assert sweep.finished(settings)
    file.write_text(json.dumps(load_results(file.parent) | harm))  # without a checksum
    assert sweep.finished(settings) is None
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith(f"not read: {file.parent}: results.json is damaged ({next(iter(harm))}")
    sweep.summary([Job(TINY, "one", "", file.parent, state="there")], 1.0)
    assert "results.json is damaged" in " ".join(capsys.readouterr().out.split())
    assert run(settings)["R"] == whole["R"]  # from its checkpoints
    assert sweep.finished(settings)
