"""The progress of a run in the terminal: a first line, one bar for the whole run, and a line after each task."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from cl_bench.config.names import folder_of, name_of
from cl_bench.config.tuned import described

SHOW_CURSOR = b"\x1b[?25h"
PER_SECOND = 4  # times that the bar is drawn


@dataclass
class Phase:
    """One training of one network. fixed: its length does not depend on the number of images."""

    task: int
    n_steps: int
    fixed: bool
    done: int = 0
    seconds: float = 0.0


class Plan:
    """The expected number of mini-batches of a whole run, and the expected time.

    The length of a phase is known when it begins. Later tasks are expected to be like those that have begun: with the
    same number of mini-batches if this is fixed, otherwise with the same number of passes over the task's own images,
    which may grow from task to task (for example with replay of all old tasks).

    Args:
        n_images: of each task that the run learns.
        n_phases: largest number of trainings in a task; until a task has begun so many, the end is not known.
        batch_size: images in a mini-batch.
    """

    def __init__(self, n_images: Sequence[int], n_phases: int, batch_size: int) -> None:
        self.per_pass = [math.ceil(n / batch_size) for n in n_images]
        self.n_phases = n_phases
        self.tasks: list[list[Phase]] = [[] for _ in n_images]
        self.index = 0

    def begin_task(self, index: int) -> None:
        """The task with this index begins; those before are done."""
        self.index = index

    def begin_phase(self, n_steps: int, *, fixed: bool = False, done: int = 0, seconds: float = 0.0) -> Phase:
        """The next phase of the task begins, or goes on after a kill with what was `done` in `seconds`."""
        phase = Phase(self.index, n_steps, fixed, done, seconds)
        self.tasks[self.index].append(phase)
        return phase

    @property
    def done(self) -> int:
        """Mini-batches so far."""
        return sum(phase.done for task in self.tasks for phase in task)

    @property
    def total(self) -> int | None:
        """The expected mini-batches of the whole run; None while they are not known."""
        left = self._left()
        return None if left is None else self.done + sum(n for _, n in left)

    @property
    def certain(self) -> bool:
        """Whether every phase has begun."""
        return self.index == len(self.tasks) - 1 and len(self.tasks[-1]) >= self.n_phases

    @property
    def seconds_left(self) -> float | None:
        """Expected seconds of training, at the last speed of each kind of phase; None while they are not known."""
        left = self._left()
        if left is None:
            return None
        seconds = 0.0
        for number in {number for number, _ in left}:
            n_steps = sum(n for other, n in left if other == number)
            timed = [phase for phase in self._history(number) if phase.done]
            if n_steps and not timed:
                return None
            seconds += n_steps * timed[-1].seconds / timed[-1].done if timed else 0.0
        return seconds

    def _left(self) -> list[tuple[int, int]] | None:
        """Number within its task, and mini-batches to come, of each phase that isn't over."""
        whole = [len(phases) for phases in self.tasks[: self.index] if phases]
        n_phases = max(whole, default=self.n_phases)  # what was done counts, not what was said
        left, histories = [], [self._history(number) for number in range(n_phases)]
        for index in range(self.index, len(self.tasks)):
            begun = self.tasks[index]
            left += [(number, phase.n_steps - phase.done) for number, phase in enumerate(begun)]
            for number in range(len(begun), n_phases):
                if not histories[number]:
                    return None
                left.append((number, self._expected(histories[number], index)))
        return left

    def _history(self, number: int) -> list[Phase]:
        return [task[number] for task in self.tasks if len(task) > number]

    def _expected(self, history: list[Phase], index: int) -> int:
        """Mini-batches of a phase that hasn't begun. history: those of its kind that have."""
        before, last = history[:-1][-1:], history[-1]
        if last.fixed:
            return last.n_steps
        passes, growth = last.n_steps / self.per_pass[last.task], 0.0
        if before:
            earlier = before[-1].n_steps / self.per_pass[before[-1].task]
            growth = (passes - earlier) / (last.task - before[-1].task)
        return max(0, round((passes + growth * (index - last.task)) * self.per_pass[index]))


class RunProgress:
    """One bar for a whole run and a line after each task; without a terminal only the lines.

    It costs training two assignments per chunk: a thread of rich reads them four times a second. An output that cannot
    be written (a closed pipe, a full disk) never ends a run: the run continues without output.
    """

    def __init__(self, *, shown: bool) -> None:
        self.shown, self.console = shown, Console()
        self._plan: Plan | None = None
        self._phase: Phase | None = None
        self._what, self._loss, self._stopping = "", "", False
        self._changed = self._began = time.monotonic()
        self._outside = 0.0  # seconds of the last task that no phase took: those of its evaluation, for one

    @contextmanager
    def live(self, plan: Plan) -> Iterator[None]:
        """Shows the bar inside. At the end the bar disappears, and the terminal is as before, also after an error."""
        self._plan, self._what = plan, ""
        live: AbstractContextManager[Any] = nullcontext()
        if self.shown and self.console.is_terminal:
            live = Live(get_renderable=self.view, console=self.console, refresh_per_second=PER_SECOND, transient=True)
        before = sys.stdout
        try:
            with live, logged_to_stdout(before):
                yield
        finally:
            self._plan = self._phase = None

    def begin_task(self, index: int) -> None:
        """The task with this index begins."""
        self._began = self._changed = time.monotonic()
        if self._plan:
            self._plan.begin_task(index)
            self._phase, self._what, self._loss = None, "", ""

    def begin_phase(self, name: str, n_steps: int, **more: Any) -> None:
        """The next phase of the task begins; see `Plan.begin_phase`."""
        if self._plan:
            self._phase, self._what, self._loss = self._plan.begin_phase(n_steps, **more), name, ""

    def step(self, done: int, seconds: float, logged: Sequence[tuple[str, float]]) -> None:
        """So many mini-batches of this phase are done, in so many seconds of training; once per chunk, with what was
        logged in it, of which the mean of the first name is shown."""
        if self._phase:
            self._phase.done, self._phase.seconds = done, seconds
            losses = [value for name, value in logged if name == logged[0][0]]
            self._loss = f"{logged[0][0]} {sum(losses) / len(losses):.3g}" if losses else ""
            self._changed = time.monotonic()

    def end_phase(self, n_steps: int) -> None:
        """The phase is over after so many mini-batches, which may be fewer than it was to have."""
        if self._phase:
            self._phase.done = self._phase.n_steps = n_steps

    def say_what(self, what: str) -> None:
        """Shows what is done outside of training."""
        self._what, self._loss = what, ""

    def end_task(
        self, index: int, accuracies: Sequence[float | None], seconds: float, *, shared_test: bool = False
    ) -> None:
        """A task was learned in so many seconds, and measured on all tasks so far, or on the one test set that all
        share; None where it wasn't."""
        if not self._plan:
            return
        trained = sum(phase.seconds for phase in self._plan.tasks[index])
        self._outside = max(0.0, time.monotonic() - self._began - trained)
        measured = [accuracy for accuracy in accuracies if accuracy is not None]
        mean = sum(measured) / len(accuracies)
        whole = len(measured) == len(accuracies)
        known = "not measured yet"
        if whole:
            known = f"accuracy {measured[-1]:.3f}" + (f", of all so far {mean:.3f}" if not shared_test else "")
        self.print(f"task {index + 1} of {len(self._plan.tasks)}: {known}; {seconds:.1f} s")

    def print(self, line: str) -> None:
        """Prints a line above the bar."""
        if not self.shown:
            return
        try:
            print(line, flush=True)  # not by rich, which would end the process
        except (OSError, ValueError):  # the output is closed
            self.shown = False

    def stopping(self) -> None:
        """A signal came; safe in its handler. A second one may end the process at once, so the cursor is shown now."""
        self._stopping = True
        if self._plan and self.shown and self.console.is_terminal:
            with suppress(OSError, ValueError):
                os.write(self.console.file.fileno(), SHOW_CURSOR)

    def view(self) -> RenderableType:
        """The bar in one line, cut at the width of the terminal."""
        plan = self._plan
        if plan is None:
            return ""
        total, about = plan.total, "" if plan.certain else "~"
        whole = "?" if total is None else f"{about}{total:,}"
        task = f"task {plan.index + 1}/{len(plan.tasks)} {'stopping' if self._stopping else self._what}"
        # steady as the texts change
        texts = [f"{task:20}", f"{plan.done:{len(whole)},}/{whole}", f"{self._to_go(plan):13}", f"{self._loss:10}"]
        room = self.console.width - 4  # that of the ^C that a terminal adds
        while len(texts) > 1 and sum(len(text) + 2 for text in texts) > room:
            texts.pop()
        width = max(0, room - sum(len(text) + 2 for text in texts))
        bar = ProgressBar(total=total, completed=plan.done, pulse=total is None, width=width)
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(no_wrap=True)
        grid.add_row(texts[0], bar, *texts[1:])
        return grid

    def _to_go(self, plan: Plan) -> str:
        seconds = plan.seconds_left
        if seconds is None:
            return ""
        seconds += self._outside * (len(plan.tasks) - plan.index)
        seconds = max(0.0, seconds - (time.monotonic() - self._changed))
        return f"{timedelta(seconds=round(seconds))} to go"


@contextmanager
def logged_to_stdout(before: Any) -> Iterator[None]:
    """What is logged to the standard output that was `before` goes to the one of now: above the bar, not into it."""
    handlers = [handler for handler in logging.getLogger().handlers if isinstance(handler, logging.StreamHandler)]
    ours = [handler for handler in handlers if handler.stream is before]
    for handler in ours:
        handler.setStream(sys.stdout)
    try:
        yield
    finally:
        for handler in ours:
            handler.setStream(before)


def first_line(settings: Mapping[str, Any]) -> str:
    """The first line: the run, its folder and its tuned values, before anything is imported or read."""
    picked = described(settings["choices"].get("picked_up", {}))
    line = f"{name_of(settings)}, seed {settings['seed']}: kept in {folder_of(settings)}"
    return f"{line}; picked up {picked}" if picked else line
