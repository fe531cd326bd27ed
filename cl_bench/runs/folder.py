"""The folder of a run: atomic checkpoints, results.json, accuracy.csv, and who may write there."""

from __future__ import annotations

import csv
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

import cl_bench
from cl_bench import files
from cl_bench.config import InputError
from cl_bench.record import Damaged, Outdated, Results, load_results, to_json

LOCK = ".lock"
LAYOUT = 2  # of what a checkpoint holds; another one is another number, and isn't read
PAUSE = 0.5  # s between two looks at a folder that another process has


class Busy(InputError):
    """Another process uses the folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"another process works in {folder}; it will have the result")
        self.folder = folder


class RunFolder:
    """All files of one run, below `path`.

    path: see `config.folder_of`. key: of the configuration; a checkpoint of another one is not used. say: gets messages
    of one line. keep: number of task-end checkpoints that are kept, the newest ones; at least 2, because the last one
    may be damaged; None: all.
    """

    def __init__(self, path: Path, key: str, say: Callable[[str], None] = print, keep: int | None = 2) -> None:
        self.path, self.key, self.say, self.keep = path, key, say, keep

    @contextmanager
    def opened(self, anew: bool = False) -> Iterator[None]:
        """Makes the folder and locks it against other processes. The lock ends with the process that holds it.

        anew: moves an older result away first; nothing is deleted. A result of another schema is moved away too. Raises
        InputError if the folder cannot be written, and Busy if another process uses it.
        """
        if self.path.exists() and (anew or outdated(self.path)):
            with self._lock() as lock:
                if os.name == "nt":  # no folder is moved there that has an open file; another's makes it fail as well
                    lock.release()
                self._set_aside()
        with self._lock():
            yield

    def _lock(self) -> FileLock:
        """Takes the lock of the folder."""
        lock = FileLock(self.path / LOCK)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire(blocking=False)
        except Timeout:
            raise Busy(self.path) from None
        except OSError as error:
            raise InputError(f"output_root: can't write to {self.path} ({error.strerror})") from None
        return lock

    def write_results(self, results: Results) -> None:
        text = readable(files.sealed(to_json(results)))
        self.replace("results.json", lambda file: file.write_bytes(text.encode()))
        self.replace("accuracy.csv", lambda file: _write_accuracy(file, results))

    def save_task(self, index: int, state: dict[str, Any]) -> None:
        """Saves the state at the end of a task, and removes older ones beyond `keep`."""
        self._save(f"task{index}.pt", state)
        (self.path / "checkpoints" / "phase.pt").unlink(missing_ok=True)
        for old in self._tasks()[self.keep :] if self.keep else []:
            old.unlink()

    def load_task(self) -> dict[str, Any] | None:
        """The newest state at the end of a task that can be read; None if the run must begin."""
        for file in self._tasks():
            state = self._load(file.name)
            if state is not None:
                return state
        return None

    def state_after(self, task: int) -> dict[str, Any]:
        """The state at the end of this task. Reading it changes no file.

        Raises InputError if it does not exist or cannot be used.
        """
        self.check_end(task)
        file = self.path / "checkpoints" / f"task{task}.pt"
        try:
            return self._read(file)
        except files.Damaged as error:
            raise InputError(f"{file} {error}") from None

    def check_end(self, task: int) -> None:
        """Raises InputError if the state at the end of this task does not exist. Does not import torch."""
        there = self.ends()
        if task not in there:
            known = f"those after tasks {', '.join(map(str, there))} are" if there else "no other is"
            raise InputError(
                f"{self.path / 'checkpoints'}: has no state after task {task}, {known} there; a run with resume=false "
                f"keep_checkpoints=null keeps all"
            )

    def ends(self) -> list[int]:
        """The tasks whose state at the end is kept, in order."""
        return sorted(int(file.stem.removeprefix("task")) for file in self._tasks())

    def save_phase(self, state: dict[str, Any]) -> None:
        """Saves the state in the middle of a task."""
        self._save("phase.pt", state)

    def load_phase(self, task: int) -> dict[str, Any] | None:
        """The state in the middle of this task; None if there is none that can be read."""
        state = self._load("phase.pt")
        return state if state is not None and state["task"] == task else None

    def _set_aside(self) -> None:
        number = 1
        while (old := self.path.with_name(f"{self.path.name}.old{number}")).exists():
            number += 1
        try:
            self.path.rename(old)
        except PermissionError:
            raise Busy(self.path) from None
        (old / LOCK).unlink(missing_ok=True)  # it may be open in a process that is about to take it; so it gets nothing
        self.say(f"the older result is now in {old}")

    def _tasks(self) -> list[Path]:
        """The states at the ends of tasks, the newest first. Other files in their folder are ignored."""
        numbers = {
            int(name[1]): file
            for file in (self.path / "checkpoints").glob("task*.pt")
            if (name := re.fullmatch(r"task(0|[1-9][0-9]{0,8})\.pt", file.name)) and file.is_file()
        }
        return [file for _, file in sorted(numbers.items(), reverse=True)]

    def _save(self, name: str, state: dict[str, Any]) -> None:
        archive = files.to_archive(state | {"key": self.key, "version": cl_bench.__version__, "layout": LAYOUT})
        (self.path / "checkpoints").mkdir(exist_ok=True)
        self.replace(f"checkpoints/{name}", archive)

    def _load(self, name: str) -> dict[str, Any] | None:
        file = self.path / "checkpoints" / name
        try:
            return self._read(file)
        except FileNotFoundError:
            return None
        except files.Damaged as error:
            return self._refuse(file, str(error))

    def _read(self, file: Path) -> dict[str, Any]:
        """A checkpoint. Raises FileNotFoundError, or files.Damaged with the reason if it cannot be used."""
        try:
            state = files.from_archive(file)
        except files.Damaged:
            raise files.Damaged("is damaged") from None
        if state.get("key") != self.key:
            raise files.Damaged("belongs to another configuration")
        if state.get("version", cl_bench.__version__) != cl_bench.__version__:
            raise files.Damaged(f"was written by cl_bench {state['version']}, this is {cl_bench.__version__}")
        if state.get("layout", LAYOUT - 1) != LAYOUT:
            raise files.Damaged("was written by another state of cl_bench, with other contents")
        return state

    def _refuse(self, file: Path, why: str) -> None:
        """Renames a checkpoint that cannot be used, so that nothing of the user is deleted."""
        aside = file.replace(file.with_name(f"{file.name}.unusable"))
        self.say(f"{file} {why}; it is now {aside.name}, and the run continues from the checkpoint before it")

    def replace(self, name: str, make: Callable[[Path], Any]) -> None:
        """Writes a file of the folder, see `files.write`."""
        files.write(self.path / name, make)


def at_work(folder: Path) -> bool:
    """Whether a process holds the lock of this run's folder."""
    if not (folder / LOCK).exists():
        return False
    try:
        with FileLock(folder / LOCK).acquire(blocking=False):
            return False
    except Timeout:
        return True
    except OSError:  # nothing can be written there, as the run will say: waiting would have no end
        return False


def wait_for(folder: Path, announced: bool = False) -> None:
    """Returns when no process uses the folder of a run. Before it waits, it says for what.

    announced: whether this was already said.
    """
    while at_work(folder):
        time.sleep(PAUSE)
        if not announced and at_work(folder):  # not somebody who only asked, as we do
            print(f"another process works in {folder}; waiting for it", file=sys.stderr, flush=True)
            announced = True


def read_results(folder: Path, say: Callable[[str], None] = lambda line: None) -> Results | None:
    """The results.json of a folder; None if there is none or it cannot be used (`record.load_results`).

    say: gets the reason in one line if the file cannot be used.
    """
    try:
        return load_results(folder)
    except FileNotFoundError:
        return None
    except Damaged as error:
        say(f"{folder}: {error}")
        return None


def outdated(folder: Path) -> bool:
    """Whether a folder's results.json has another schema."""
    try:
        load_results(folder)
    except Outdated:
        return True
    except (FileNotFoundError, Damaged):
        pass
    return False


def readable(value: Any, indent: str = "") -> str:
    """JSON with a line for each key, and one for each list of plain values: a matrix has a line a row.

    >>> print(readable({"R": [[0.5, 0.1], [0.4, 0.6]], "n": {}}))
    {
     "R": [
      [0.5, 0.1],
      [0.4, 0.6]
     ],
     "n": {}
    }
    """
    nested = isinstance(value, list) and not {dict, list}.isdisjoint(map(type, value))
    if not value or not (nested or isinstance(value, dict)):
        return json.dumps(value)
    deeper = indent + " "
    if isinstance(value, dict):
        lines = [f"{json.dumps(key)}: {readable(part, deeper)}" for key, part in value.items()]
    else:
        lines = [readable(part, deeper) for part in value]
    start, end = "{}" if isinstance(value, dict) else "[]"
    return f"{start}\n{deeper}" + f",\n{deeper}".join(lines) + f"\n{indent}{end}"


def _write_accuracy(file: Path, results: Results) -> None:
    """One row per measurement: after learning which task (-1: before any), on which task."""
    with file.open("w", newline="") as handle:
        rows = csv.writer(handle)
        rows.writerow(["after", "on", "mask", "accuracy", "n_test"])
        tables = {results.masks.evaluation: results.R}
        if results.R_task_masked:
            tables["own"] = results.R_task_masked
        for on, n, accuracy in zip(results.tests, results.n_test, results.b, strict=False):
            if accuracy is not None:
                rows.writerow([-1, on, results.masks.baseline, accuracy, n])
        for mask, table in tables.items():
            for after, row in enumerate(table):
                for on, n, accuracy in zip(results.tests, results.n_test, row, strict=False):
                    if accuracy is not None:
                        rows.writerow([after, on, mask, accuracy, n])
