"""What comes from a disk runs no code, and what goes to it tells nothing about the machine or its owner."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Compose, there
from sweep_commands import LAUNCHERS, TINY, launchers

import cl_bench
from cl_bench.__main__ import main
from cl_bench.config.names import folder_of
from cl_bench.runs.loop import run

SAFELY = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}
UNSAFE = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


class Malicious:
    """Leaves a file where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("executed"),)


def dotted(node: ast.expr) -> str:
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def test_nothing_in_the_package_can_unpickle_an_object() -> None:
    loads = 0
    for file in Path(cl_bench.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [str(node.module)]
                if file.name == "reading.py":  # its unpickler looks nothing up, see tests/data/test_core50.py
                    assert "pickle.load" not in file.read_text()
                    names.remove("pickle") if "pickle" in names else None
                assert not UNSAFE & {name.partition(".")[0] for name in names}, file
            if isinstance(node, ast.Call):
                assert dotted(node.func) not in ("eval", "exec", "torch.hub.load", "os.system"), file
                if dotted(node.func) in SAFELY:
                    name, value = SAFELY[dotted(node.func)]
                    given = {
                        keyword.arg: ast.literal_eval(keyword.value) for keyword in node.keywords if keyword.arg == name
                    }
                    assert given == {name: value}, (file, node.lineno)
                    loads += 1
    assert loads >= 2  # torch's archives, arrays


@pytest.mark.parametrize("which", ["x_train", "y_test"])
def test_arrays_run_no_code(
    which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    images, labels = np.zeros((8, 4, 4), np.uint8), np.arange(8) % 4
    arrays = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}
    poison = np.empty(8, object)
    poison[:] = Malicious()
    np.savez("my.npz", **arrays | {which: poison}, allow_pickle=True)
    assert main(["dataset=npz", "dataset.path=my.npz", "scenario.n_tasks=2"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "my.npz" in said
    assert said.count("\n") == 1
    assert not Path("executed").exists()


def test_a_judge_runs_no_code(small: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = small("method=dgr", "scenario.n_tasks=2", "trainer.epochs=1")
    generated = [there(task.generated).MeRGAN_score for task in run(settings).tasks]
    (judge,) = (Path(settings["output_root"]) / ".judge").glob("*.pt")
    torch.save({"network": Malicious(), "accuracy": 1.0}, judge)
    again = run(settings | {"resume": False})
    assert [there(task.generated).MeRGAN_score for task in again.tasks] == generated  # another one was trained
    assert not Path("executed").exists()
    assert folder_of(settings).is_dir()


def told(folder: Path, secrets: list[str]) -> list[tuple[str, Path]]:
    """The secrets that can be read in any file, or name of a file, below the folder."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert files
    return [
        (secret, file)
        for file in files
        for secret in secrets
        if secret.encode() in file.read_bytes() or secret in str(file.relative_to(folder))
    ]


def renamed(host: str) -> list[str]:
    """The beginning of a command line that runs the rest on a machine of this name; nothing where that can't be."""
    command = ["unshare", "-ru", "sh", "-ec", 'echo "$1" > /proc/sys/kernel/hostname; shift; exec "$@"', "sh", host]
    try:
        seen = subprocess.run([*command, "uname", "-n"], capture_output=True, text=True, check=False).stdout
    except OSError:
        seen = ""
    return command if seen == f"{host}\n" else []


@pytest.mark.faults
@pytest.mark.parametrize(
    "more",
    [
        pytest.param([], id="csv"),
        pytest.param(["logger=wandb"], id="wandb"),
        *(
            pytest.param(["-m", "seed=0,1", *LAUNCHERS[str(name)]], id=str(name), marks=one.marks)
            for one in launchers()
            for name in one.values
        ),
    ],
)
def test_no_key_and_no_host_name_is_kept(more: list[str], tmp_path: Path) -> None:
    """As somebody with a key, on a machine whose name is found nowhere else."""
    key, host, user = "0123456789abcdef" * 2 + "01234567", "machine-of-the-test", "owner-of-the-test"
    environment = os.environ | {"WANDB_API_KEY": key, "WANDB_MODE": "offline", "TOKEN": key[::-1], "LOGNAME": user}
    command = [*renamed(host), sys.executable, "-m", "cl_bench", *TINY, *more]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert told(tmp_path / "outputs", [key, key[::-1], host, user]) == []
