"""examples/plugin as a stranger has it: built, installed from its wheel, run from the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import cl_bench

ROOT = Path(cl_bench.__file__).parents[1]
QUICK = ["trainer.iterations=4", "trainer.batch_size=8", "trainer.threads=1", "trainer.accelerator=cpu"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed plugin."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("plugin")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT / "examples" / "plugin", check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(folder / "site")]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    return folder / "site"


def python(site: Path, cwd: Path, *arguments: str) -> str:
    """What `python ARGUMENTS` prints where the plugin is installed."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])}
    ended = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def kept(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted(folder.glob("outputs/*/*/results.json"))]


def test_its_experiment_has_its_method_network_data_and_scenario(site: Path, tmp_path: Path) -> None:
    python(site, tmp_path, "-m", "cl_bench", "experiment=inverted_stripes", *QUICK)
    (results,) = kept(tmp_path)
    assert results["name"] == "stripes-inverted-mean_imm-seed0"
    assert results["classes"] == [["thin, across", "thin, down", "wide, across", "wide, down"]] * 2
    assert results["config"]["network"]["_target_"] == "cl_bench_example.networks.TorchvisionResNet"
    plugin = results["provenance"]["plugins"]["cl_bench_example"]
    assert plugin["version"] == "0.1.0"
    assert plugin["digest"]


def test_its_names_in_a_sweep_of_processes(site: Path, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    line = ["-m", "hydra/launcher=joblib", "method=mean_imm,finetune", "dataset=stripes", "scenario=inverted"]
    said = python(site, tmp_path, "-m", "cl_bench", *line, "network=mlp", *QUICK)
    assert "2 runs in" in said
    assert "2 finished" in said
    assert {results["status"] for results in kept(tmp_path)} == {"finished"}
    assert len(kept(tmp_path)) == 2


def test_our_contract_holds_its_method(site: Path) -> None:
    contract = ["-m", "pytest", "tests/test_contract.py", "--plugin", "cl_bench_example", "-p", "no:cacheprovider"]
    said = python(site, ROOT, *contract, "-vv", "-k", "learns or all_it_remembers")
    assert "test_it_learns_in_each_kind_it_declares[mean_imm-class] PASSED" in said
    assert "test_its_state_is_all_it_remembers[mean_imm] PASSED" in said
    assert "[er" not in said
