"""The checkpoint of the current task, saved at intervals: a killed task continues where it was cut."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from pytorch_lightning import Callback

from cl_bench.record import Phase
from cl_bench.runs.callbacks import restore, states_of
from cl_bench.runs.folder import RunFolder


class TaskCheckpoint:
    """The finished phases of a task, with the state after each, and the running phase at intervals.

    After a kill `learn` runs again: `finished` gives each phase that was finished, and `running` the phase that was
    cut.

    every: seconds between two savings. callbacks: the user's own, whose state is saved too.
    """

    def __init__(self, folder: RunFolder, every: float, callbacks: Sequence[Callback]) -> None:
        self.folder, self.every, self.callbacks = folder, every, callbacks
        self.signal: int | None = None  # by which the run is to stop
        self.task = -1
        self.phases: list[Phase] = []  # the finished ones
        self._ends: list[dict[str, Any]] = []  # the state after each of them
        self._loaded: dict[str, Any] | None = None  # what was saved before a kill
        self._began = self._saved_at = 0.0  # seconds, on the monotonic clock

    def stop(self, signal: int) -> None:
        """The run must stop because of this signal, at the end of the current chunk, after it was saved."""
        self.signal = signal

    def load(self, task: int) -> int:
        """Reads what was saved in the middle of this task. Returns the number of its mini-batches that were learned."""
        self._loaded = self.folder.load_phase(task)
        if not self._loaded:
            return 0
        self.restore_callbacks()
        running = self._loaded["running"] or {"step": 0}
        return sum(phase["steps"] for phase in self._loaded["phases"]) + running["step"]

    def begin(self, task: int) -> None:
        """The task begins, or begins again with what was loaded."""
        self.task, self.phases, self._ends = task, [], []
        self._saved_at = time.monotonic()
        self._began = self._saved_at - (self._loaded["seconds"] if self._loaded else 0.0)

    def end(self) -> None:
        """The task is learned. What was loaded is not needed any more."""
        self._loaded = None

    @property
    def finished(self) -> tuple[Phase, dict[str, Any]] | None:
        """The next phase and the state after it, if it was finished before the kill."""
        number = len(self.phases)
        if self._loaded and number < len(self._loaded["ends"]):
            return Phase.of(self._loaded["phases"][number]), self._loaded["ends"][number]
        return None

    @property
    def running(self) -> dict[str, Any] | None:
        """What was saved of the next phase, if it is the phase that was cut."""
        if self._loaded and len(self.phases) == len(self._loaded["ends"]):
            return self._loaded["running"]
        return None

    @property
    def due(self) -> bool:
        return time.monotonic() - self._saved_at >= self.every

    @property
    def ahead(self) -> bool:
        """Whether the saved state is farther than this process."""
        return self._loaded is not None and len(self.phases) <= len(self._loaded["ends"])

    @property
    def seconds(self) -> float:
        """Seconds spent on this task so far, also before a kill."""
        return time.monotonic() - self._began

    def set_aside(self, seconds: float) -> None:
        """Subtracts seconds of the task that were not spent on training."""
        self._began += seconds

    def add(self, phase: Phase, state: dict[str, Any]) -> None:
        """Adds a finished phase, with the state after it."""
        self.phases.append(phase)
        self._ends.append({name: value.clone() if torch.is_tensor(value) else value for name, value in state.items()})

    def save(self, running: dict[str, Any] | None) -> None:
        """Saves the finished phases and the running one."""
        phases = [asdict(phase) for phase in self.phases]  # plain values: a checkpoint holds no classes
        state = {"task": self.task, "seconds": self.seconds, "phases": phases, "ends": self._ends}
        if self.callbacks:
            state["callbacks"] = states_of(self.callbacks)
        self.folder.save_phase(state | {"running": running})
        self._saved_at = time.monotonic()

    def restore_callbacks(self) -> None:
        """Gives the callbacks the state that they had when the running phase was saved."""
        if self._loaded:
            restore(self.callbacks, self._loaded.get("callbacks"))
