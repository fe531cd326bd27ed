"""Whoever of a sweep is killed, at the end every run is there, once, with the numbers that it has alone."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from sweep_commands import LAUNCHERS, LONG, TINY, installed, kept, launchers, numbers, start, trains

from cl_bench.config.compose import compose
from cl_bench.config.names import folder_of
from cl_bench.runs.loop import run

pytestmark = pytest.mark.faults

SEEDS = (0, 1, 2)


def processes_in(folder: Path) -> list[int]:
    """Everybody whose working folder is this one."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == folder.resolve():
                found.append(int(process.name))
        except OSError:
            continue
    return found


def each_is_there_once(said: str, tmp_path: Path) -> None:
    assert f"{len(SEEDS)} runs in " in said
    folders = list(tmp_path.glob("outputs/*/seed*"))
    assert len(folders) == len(SEEDS)
    for seed in SEEDS:
        settings = compose(*TINY, *LONG, f"seed={seed}", f"output_root={tmp_path / 'outputs'}")
        there = kept(folder_of(settings))
        assert there.status == "finished"
        assert [record.task for record in there.tasks] == list(range(5))
        assert numbers(there) == numbers(run(settings | {"output_root": str(tmp_path / "alone")}))
        log = (folder_of(settings) / "log.csv").read_text().splitlines()
        places = [tuple(row.split(",")[:4]) for row in log]
        assert len(places) == len(set(places))  # nothing is counted twice


HERE = pytest.mark.parametrize("launcher", [one for one in launchers() if "ray" not in one.values])


@HERE
def test_a_sweep_goes_on_after_power_cuts(launcher: str, tmp_path: Path) -> None:
    """Everything is killed at once, three times: the sweep, its workers and the runs that train."""
    chance = random.Random(launcher)
    command = [*LAUNCHERS[launcher], *LONG, f"seed={','.join(map(str, SEEDS))}"]
    for task in (0, 2, 3):
        process = begun(command, tmp_path, task)
        time.sleep(chance.uniform(0, 1))
        killed(processes_in(tmp_path))
        process.communicate()
    process = start(*command, cwd=tmp_path)
    said, complaints = process.communicate()
    assert (process.returncode, complaints) == (0, "")
    each_is_there_once(said, tmp_path)


@HERE
def test_workers_without_their_sweep_lose_no_run(launcher: str, tmp_path: Path) -> None:
    """Only the process that a person sees is killed; its workers end, and what they did is kept."""
    command = [*LAUNCHERS[launcher], *LONG, f"seed={','.join(map(str, SEEDS))}"]
    begun(command, tmp_path, 0).kill()
    process = start(*command, cwd=tmp_path)  # at once, and once
    said, _ = process.communicate()
    assert process.returncode == 0
    each_is_there_once(said, tmp_path)


def begun(command: list[str], folder: Path, task: int) -> subprocess.Popen[str]:
    """A sweep, one run of which has learned this task."""
    process = start(*command, cwd=folder)
    until = time.time() + 300
    while not list(folder.glob(f"outputs/*/seed*/checkpoints/task{task}.pt")):
        assert process.poll() is None, process.communicate()
        assert time.time() < until
        time.sleep(0.05)
    return process


def killed(processes: list[int]) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


class Refuses(BaseHTTPRequestHandler):
    """A W&B that knows nobody."""

    def do_POST(self) -> None:
        self.send_response(401)
        self.end_headers()

    do_GET = do_POST

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def refusing() -> Iterator[str]:
    server = HTTPServer(("localhost", 0), Refuses)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://localhost:{server.server_port}"
    server.shutdown()


@pytest.mark.parametrize("wandb", ["unreachable", "refusing"])
def test_wandb_out_of_reach_loses_no_run(
    wandb: str, refusing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", refusing if wandb == "refusing" else "http://localhost:9")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_MODE", "online")
    launcher = LAUNCHERS["joblib"] if installed("joblib") else []
    process = start(*launcher, *LONG, "logger=wandb", f"seed={','.join(map(str, SEEDS))}", cwd=tmp_path)
    said, _ = process.communicate()
    assert process.returncode == 0
    assert f"{len(SEEDS)} finished" in said
    each_is_there_once(said, tmp_path)


@pytest.mark.skipif(not installed("ray"), reason="pip install -e '.[ray]'")
def test_a_ray_node_that_is_lost_loses_no_run(tmp_path: Path) -> None:
    """Two machines of a cluster, which are processes here; one is gone while it works."""
    from ray.cluster_utils import Cluster  # type: ignore[import-not-found]

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        command = ["hydra/launcher=ray", f"hydra.launcher.ray.init.address={cluster.address}", *LONG]
        process = start(*command, f"seed={','.join(map(str, SEEDS))}", cwd=tmp_path)
        trainer = trains("seed=0", tmp_path)
        parents = [trainer]
        while parents[-1] > 1:
            fields = Path(f"/proc/{parents[-1]}/stat").read_text().rpartition(")")[2].split()
            parents.append(int(fields[1]))
        raylets = [one.process.pid for node in nodes for one in node.all_processes["raylet"]]
        (lost,) = set(raylets) & set(parents)
        os.kill(lost, signal.SIGKILL)
        said, complaints = process.communicate()
        assert process.returncode == 0, complaints
        each_is_there_once(said, tmp_path)
    finally:
        cluster.shutdown()
