"""Whatever happens to a run's files, one line says so, and the same command ends with the same numbers."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import Attempt, arguments_of, attempt
from test_kills import outcome, same

pytestmark = pytest.mark.faults

COMMAND = arguments_of("dgr", "trainer.epochs=4", "trainer.chunk=2", "checkpoint_every=0")
PHASE, OLDER, NEWEST = "phase.pt", "task1.pt", "task2.pt"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the run has ended undisturbed."""
    folder = tmp_path_factory.mktemp("whole")
    assert attempt(COMMAND, folder).exit_code == 0
    return folder


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where it was killed in the second phase of its fourth task."""
    folder = tmp_path_factory.mktemp("killed")
    one = attempt(COMMAND, folder, when=lambda event: 0 if event[:4] == ("chunk", 3, "generator", 6) else None)
    assert one.exit_code == -9
    return folder


def garble(file: Path) -> None:
    """One bit is another one, in the middle of the numbers."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut(file: Path) -> None:
    os.truncate(file, random.Random(0).randrange(file.stat().st_size))


def change(**values: Any) -> Callable[[Path], None]:
    return lambda file: torch.save(torch.load(file, weights_only=True) | values, file)


HARMS = {
    "cut short": (cut, "is damaged"),
    "garbled": (garble, "is damaged"),
    "of another version": (change(version="0.0.1"), "was written by cl_bench 0.0.1, this is "),
    "of another configuration": (change(key="01234567"), "belongs to another configuration"),
}


def same_outcome(one: Path, other: Path) -> bool:
    a, b = outcome(one), outcome(other)
    return a[:2] == b[:2] and same(a[2], b[2])


def began_with(one: Attempt) -> tuple[int, str]:
    """The task and phase in which it trained first."""
    return next(event[1:3] for event in one.events if event.what == "training")


@pytest.mark.parametrize(
    ("names", "begins"),
    [
        ([PHASE], 3),
        ([NEWEST], 2),
        ([NEWEST, PHASE], 2),
        ([NEWEST, OLDER, PHASE], 0),
    ],
    ids=["phase", "newest", "newest and phase", "all"],
)
@pytest.mark.parametrize("harm", HARMS)
def test_what_is_no_use_is_named_and_kept(
    harm: str, names: list[str], begins: int, killed: Path, whole: Path, tmp_path: Path
) -> None:
    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    (folder,) = tmp_path.glob("outputs/*/*/checkpoints")
    spoil, reason = HARMS[harm]
    for name in names:
        spoil(folder / name)
    spoilt = {name: (folder / name).read_bytes() for name in names}
    again = attempt(COMMAND, tmp_path, when=lambda event: 0 if event[:2] == ("chunk", begins + 1) else None)
    assert again.exit_code == -9
    lines = [line for line in again.said.splitlines() if reason in line]
    assert [line.split()[0].rpartition("/")[2] for line in lines] == names
    assert began_with(again) == (begins, "solver")
    for name in names:
        assert (folder / f"{name}.unusable").read_bytes() == spoilt[name]
    end = attempt(COMMAND, tmp_path)  # what was saved since is not taken for older than what is no use
    assert end.exit_code == 0
    assert reason not in end.said
    assert began_with(end)[0] == begins + 1
    assert same_outcome(tmp_path, whole)


@pytest.mark.parametrize("name", ["results.json", "log.csv", "accuracy.csv"])
def test_a_half_written_result_is_written_again(name: str, killed: Path, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    (file,) = tmp_path.glob(f"outputs/*/*/{name}")
    size = file.stat().st_size
    os.truncate(file, size - 5 if name == "log.csv" else size // 2)
    end = attempt(COMMAND, tmp_path)
    assert end.exit_code == 0
    assert began_with(end) == (3, "generator")
    assert outcome(tmp_path)[0] == outcome(whole)[0]
    if name == "log.csv":  # the one value that was cut is not there, all others are, once
        rows, expected = outcome(tmp_path)[1], outcome(whole)[1]
        assert [row for row in expected if row in rows] == rows
        assert len(rows) == len(expected) - 1
    else:
        assert same_outcome(tmp_path, whole)


def test_moved_to_another_place_it_goes_on_there(killed: Path, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(killed / "outputs", tmp_path / "elsewhere" / "outputs")
    end = attempt(COMMAND, tmp_path / "elsewhere")
    assert end.exit_code == 0
    assert began_with(end) == (3, "generator")
    assert same_outcome(tmp_path / "elsewhere", whole)
    (tmp_path / "elsewhere" / "outputs").rename(tmp_path / "results")
    there = attempt([*COMMAND, "output_root=results"], tmp_path)
    assert there.exit_code == 0
    assert [event.what for event in there.events] == ["begun"]  # it is finished here too
    assert not (tmp_path / "outputs").exists()


ON_A_SMALL_DISK = """
mount -t tmpfs -o size=64m none outputs
cp -a killed/. outputs/
mount -o remount,{limit} outputs
status=0; "$@" > full.said 2>&1 || status=$?
echo $status > full.code
cp -a outputs/. full/
mount -o remount,rw,size=64m outputs
status=0; "$@" > ended.said 2>&1 || status=$?
echo $status > ended.code
cp -a outputs/. ended/outputs/
"""


def mountable() -> bool:
    try:
        command = ["unshare", "-rm", "sh", "-c", "mount -t tmpfs none /tmp"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@pytest.mark.skipif(not mountable(), reason="needs a file system of its own (unshare -rm, mount)")
@pytest.mark.parametrize(
    ("limit", "reason"),
    [("size=$(($(du -sk outputs | cut -f1) + 8))k", "No space left on device"), ("ro", "Read-only file system")],
    ids=["full", "read-only"],
)
def test_a_disk_that_takes_no_more(limit: str, reason: str, killed: Path, whole: Path, tmp_path: Path) -> None:
    """A file system of its own, in a namespace of its own: it ends with the processes in it."""
    for name in ("outputs", "full", "ended/outputs"):
        (tmp_path / name).mkdir(parents=True)
    shutil.copytree(killed / "outputs", tmp_path / "killed")
    script = ON_A_SMALL_DISK.format(limit=limit)
    command = ["unshare", "-rm", "sh", "-ec", script, "sh", sys.executable, "-m", "cl_bench", *COMMAND]
    environment = os.environ | {"PYTHONWARNINGS": "ignore::UserWarning"}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)

    said = (tmp_path / "full.said").read_text().splitlines()
    assert (tmp_path / "full.code").read_text() == "1\n"
    assert said[-1].startswith("error: output_root: can't write to outputs/")
    assert said[-1].endswith(f"({reason})")
    assert not any("Traceback" in line for line in said)
    before = {file.relative_to(tmp_path / "killed"): file for file in (tmp_path / "killed").rglob("*.pt")}
    for name, file in before.items():  # each is what it was, or a later one that is whole
        kept = tmp_path / "full" / name
        assert kept.read_bytes() == file.read_bytes() or torch.load(kept, weights_only=True)["task"] == 3
    assert not list((tmp_path / "full").rglob("*.new"))
    assert (tmp_path / "ended.code").read_text() == "0\n"
    assert same_numbers(tmp_path / "ended", whole)


def same_numbers(one: Path, other: Path) -> bool:
    """Of runs with another judge of generated images, see conftest.py."""
    (a, _, state), (b, _, expected) = outcome(one), outcome(other)
    return all(a[name] == b[name] for name in ("R", "b", "bytes_kept", "n_test")) and same(state, expected)
