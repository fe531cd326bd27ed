"""Where a run's numbers go: always `log.csv` in the run's folder, and Weights & Biases if asked for.

A run is many Lightning Trainers, each counting its steps from 0. The loggers add them up to one step that
grows over the whole run, so that the curves of its phases, and of a run that was continued, fit together.
"""

from __future__ import annotations

import csv
import logging
import math
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pytorch_lightning.loggers import Logger

from cl_bench.record import thinned

if TYPE_CHECKING:
    import wandb

log = logging.getLogger(__name__)

MEASURED = "task"  # stands in the place of the phase for what is measured after a task
MACHINE_KEYS = ("data_dir", "output_root", "reference")  # paths on one machine: no part of what was tried
COSTS = ("parameters", "bytes_kept", "seconds", "peak_memory_mb", "peak_gpu_memory_mb")  # of a whole run
PATH_KEYS = ("path", "datasets")  # of a person's own images: the file's name says which, its folder is their affair


class Row(NamedTuple):
    """One row of log.csv."""

    step: int
    task: int
    phase: str
    name: str
    value: float


class RunLogger(Logger):
    """The logger of one run, handed to each of its Trainers in turn; a subclass says where values go.

    Calls come in this order: `start`; for each task, `phase` before and `log_points` (or `log_metrics`, by Lightning)
    during each Trainer, then `task`; at the end `finish`. `close` comes last, whatever happened before.
    """

    def __init__(self) -> None:
        super().__init__()
        self._name, self._key = "", ""
        self._task, self._phase, self._offset, self._step = 0, "", 0, 0

    @property
    def name(self) -> str:
        return self._name

    @property
    def version(self) -> str:
        return self._key

    def start(
        self,
        folder: Path,
        key: str,
        name: str,
        config: dict[str, Any],
        group: str,
        tags: list[str],
        step: int,
    ) -> None:
        """Begin a run, or continue it: what was logged after `step` steps will come again."""
        self._folder, self._key, self._name = folder, key, name
        self.open(config, group, tags, step)

    def phase(self, task: int, phase: str, step: int) -> None:
        """The next Trainer is for this phase of this task; `step` is the number of steps before it."""
        self._task, self._phase, self._offset = task, phase, step

    def log_points(self, points: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        """Points of the curves of this phase: how many of its steps were done, and the value of each name then."""
        rows = [self._row(step, name, value) for step, values in points for name, value in values.items()]
        if rows:
            self._step = rows[-1].step
            self.write(rows)

    def _row(self, step: int, name: str, value: float) -> Row:
        return Row(self._offset + step, self._task, self._phase, name, float(value))

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """One point, by Lightning, which adds an epoch of its own."""
        self.log_points([(step or 0, {name: value for name, value in metrics.items() if name != "epoch"})])

    def log_hyperparams(self, params: object, *args: object, **kwargs: object) -> None:
        """Nothing: the configuration has been known since `start`."""

    def task(self, task: int, record: dict[str, Any], folder: Path) -> None:
        """A task was learned and all were measured; the numbers of the record go to the last step logged."""
        self.write([Row(self._step, task, MEASURED, name, float(value)) for name, value in measured(record).items()])

    def finish(self, results: dict[str, Any], folder: Path) -> None:
        """The run is complete; `results` is the content of results.json."""

    def close(self, failed: bool) -> None:
        """Let go of what is open. (Lightning's own `finalize` comes after every phase.)"""

    @abstractmethod
    def open(self, config: dict[str, Any], group: str, tags: list[str], step: int) -> None:
        """Get ready to write; see `start`."""

    @abstractmethod
    def write(self, rows: Sequence[Row]) -> None:
        """Keep these values; those of one step follow each other."""


class CSVLog(RunLogger):
    """`log.csv` in the run's folder: one value per row, with its step, task and phase."""

    def open(self, config: dict[str, Any], group: str, tags: list[str], step: int) -> None:
        self._path = self._folder / "log.csv"
        kept = [row for row in read(self._path) if row.step <= step]
        self._step = max((row.step for row in kept), default=0)
        self._measured = {row.task for row in kept if row.phase == MEASURED}
        rewrite(self._path, kept)

    def task(self, task: int, record: dict[str, Any], folder: Path) -> None:
        if task in self._measured:  # before a kill, just after the checkpoint
            rewrite(self._path, [row for row in read(self._path) if (row.task, row.phase) != (task, MEASURED)])
        super().task(task, record, folder)

    def write(self, rows: Sequence[Row]) -> None:
        with self._path.open("a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)


class WandbLog(CSVLog):
    """`log.csv`, and the same values in Weights & Biases, which never fails a run.

    Losses are named PHASE/NAME over PHASE/step, the mini-batches of that phase in all tasks so far; what is measured
    after a task is task/NAME over `task`; `step` counts the mini-batches of all phases. The final numbers are in the
    summary under their plain names.

    Whatever W&B raises becomes one warning and W&B is off for the rest of the run; log.csv goes on.

    project, entity: where the run appears; without an entity, the user's own default.
    mode: None is what WANDB_MODE says, else online if there is a key (`wandb login`), else offline.
    tags: besides those that the run has anyway.
    """

    def __init__(
        self,
        project: str = "cl_bench",
        entity: str | None = None,
        mode: Literal["online", "offline", "disabled"] | None = None,
        tags: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.project, self.entity, self.mode, self.tags = project, entity, mode, tags
        self._run: wandb.Run | None = None

    def open(self, config: dict[str, Any], group: str, tags: list[str], step: int) -> None:
        # W&B can't take back what came after the last checkpoint, so that isn't sent a second time.
        sent = read(self._folder / "log.csv")
        self._sent_step = max((row.step for row in sent), default=-1)
        self._sent_tasks = {row.task for row in sent if row.phase == MEASURED}
        super().open(config, group, tags, step)
        self._steps: Counter[str] = Counter()  # of each phase
        self._last = 0  # step of the run that they add up to
        for row in read(self._path):
            self._count(row.step, row.phase)
        self._axes: set[str] = set()
        with self._guard():
            self._init(config, group, tags)

    def _init(self, config: dict[str, Any], group: str, tags: list[str]) -> None:
        import wandb  # 0.85 s that a run without W&B need not wait for

        # Silence comes first: a W&B that may speak asks the server who is logged in.
        settings = wandb.setup(wandb.Settings(silent=True)).settings
        mode = self.mode or settings.mode
        if self.mode is None and mode == "online" and not wandb.login(prompt=False, verify=False):
            mode = "offline"
        self._run = run = wandb.init(  # at once: whatever fails below, `_guard` finishes it
            project=self.project,
            entity=self.entity,
            id=self._key,
            resume="allow",
            name=self._name,
            group=group,
            job_type=config["choices"]["method"],
            tags=list(dict.fromkeys([*tags, *self.tags])),
            config=without_paths({**config, "key": self._key}),
            dir=self._folder,
            mode=mode,  # type: ignore[arg-type]  # a str in W&B's own settings
            settings=wandb.Settings(
                silent=True,
                console="off",
                reinit="create_new",  # a run that this process may have left open gets none of our values
                init_timeout=30,  # s
                finish_timeout=600,  # s; when the network fails it would wait for ever, and a sweep with it
                host="",
                x_disable_machine_info=True,  # whose machine it was, where things lie on it, git remotes
            ),
        )
        run.define_metric("step", hidden=True)
        run.define_metric("task", hidden=True)
        run.define_metric(f"{MEASURED}/*", step_metric="task")
        if run.offline:
            log.info("W&B is offline; to upload the run: wandb sync %s", self._folder / "wandb")
        elif run.url:
            log.info("W&B: %s", run.url)

    def write(self, rows: Sequence[Row]) -> None:
        super().write(rows)
        for (step, task, phase), of_point in groupby(rows, key=lambda row: row[:3]):
            self._send(step, task, phase, {f"{phase}/{row.name}": row.value for row in of_point})

    def _send(self, step: int, task: int, phase: str, named: dict[str, float]) -> None:
        self._count(step, phase)
        sent = task in self._sent_tasks if phase == MEASURED else step <= self._sent_step
        if self._run is None or sent:
            return
        accuracies = [name for name in named if name.startswith(f"{MEASURED}/accuracy/")]
        shown = {accuracies[i] for i in thinned(len(accuracies))}  # W&B draws a panel for each name
        named = {name: value for name, value in named.items() if name in shown or name not in accuracies}
        with self._guard():
            if phase != MEASURED:
                named[f"{phase}/step"] = self._steps[phase]
                self._define_axis(phase)
            self._run.log({"step": step, "task": task, **named})

    def _count(self, step: int, phase: str) -> None:
        """What came since the last call were steps of this phase: a point stands at the last of its steps."""
        if phase != MEASURED:
            self._steps[phase] += step - self._last
            self._last = step

    def _define_axis(self, phase: str) -> None:
        if self._run and phase not in self._axes:
            self._axes.add(phase)
            self._run.define_metric(f"{phase}/step", hidden=True)
            self._run.define_metric(f"{phase}/*", step_metric=f"{phase}/step")

    def task(self, task: int, record: dict[str, Any], folder: Path) -> None:
        super().task(task, record, folder)
        if self._run is None or task in self._sent_tasks or not record["samples"]:
            return
        with self._guard():
            self._run.log({"step": self._step, "task": task, f"{MEASURED}/samples": image(folder / record["samples"])})

    def finish(self, results: dict[str, Any], folder: Path) -> None:
        super().finish(results, folder)
        if self._run is None:
            return
        with self._guard():
            final = {**results["metrics"], **{name: results[name] for name in COSTS}}
            self._run.summary.update({name: value for name, value in final.items() if is_number(value)})
            pictures = sorted(folder.glob("figures/*.png"))  # the accuracy matrix as a heat map is one of them
            self._run.log({f"figures/{picture.stem}": image(picture) for picture in pictures})
            self._run.log({"accuracy_matrix": table(results["R"])})  # last: online, a table asks the server

    def close(self, failed: bool) -> None:
        super().close(failed)
        run, self._run = self._run, None
        if run is not None:
            with self._guard():
                run.finish(exit_code=int(failed))

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # hours of training outweigh their dashboard
            run, self._run = self._run, None
            if run is not None:
                with suppress(Exception):
                    run.finish(exit_code=1)  # else its id stays taken in this process
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            log.warning("W&B is off for the rest of this run, log.csv goes on (%s)", reason)


def image(path: Path) -> wandb.Image:
    """A PNG file for W&B."""
    import wandb

    return wandb.Image(str(path))


def table(R: list[list[float | None]]) -> wandb.Table:
    """The accuracy matrix for W&B: a row after each task, a column on each task; of many tasks some."""
    import wandb

    tasks = thinned(len(R))
    rows = [[i, *(R[i][j] if is_number(R[i][j]) else None for j in tasks)] for i in tasks]
    return wandb.Table(columns=["after task", *(f"task {j}" for j in tasks)], data=rows)


def measured(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers in the record of a task, without those that aren't defined (yet).

    >>> measured({"accuracy": {"0": 0.5}, "metrics": {"ACC": 0.5, "BWT": math.nan}, "seconds": 2,
    ...           "bytes_kept": 0, "phases": [{"validation": [[9, 0.4]]}],
    ...           "diagnostics": {"n": 7, "by": "a GAN", "capacity": {"free": [3, 4]}}})
    {'accuracy/0': 0.5, 'ACC': 0.5, 'seconds': 2, 'bytes_kept': 0, 'validation': 0.4, 'facts/n': 7, 'capacity/free': 7}
    """
    values = {
        **{f"accuracy/{task}": value for task, value in record["accuracy"].items()},
        **record["metrics"],
        "seconds": record["seconds"],
        "bytes_kept": record["bytes_kept"],
        "validation": validated(record["phases"]),
        **{f"facts/{name}": value for name, value in record["diagnostics"].items()},
        **{f"capacity/{name}": total(value) for name, value in record["diagnostics"].get("capacity", {}).items()},
    }
    return {name: value for name, value in values.items() if is_number(value)}


def validated(phases: Iterable[Mapping[str, Any]]) -> float | None:
    """The accuracy on validation images at the end of a task's phases, where it was measured."""
    accuracies = [accuracy for phase in phases for _, accuracy in phase["validation"]]
    return accuracies[-1] if accuracies else None


def total(value: Any) -> Any:
    """Of numbers per layer their sum, of other values themselves."""
    return sum(value) if isinstance(value, list) and all(map(is_number, value)) else value


def is_number(value: object) -> bool:
    """Whether a value can be drawn as a point."""
    return isinstance(value, int | float) and math.isfinite(value)


def without_paths(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration as it would be on any machine.

    >>> without_paths({"data_dir": "/disk", "dataset": {"path": "/disk/mine.npz"}, "scenario": {"kind": "class"}})
    {'dataset': {'path': 'mine.npz'}, 'scenario': {'kind': 'class'}}
    """

    def bare(key: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return without_paths(value)
        if isinstance(value, list | tuple):
            return [bare(key, one) for one in value]
        return Path(value).name if key in PATH_KEYS and isinstance(value, str) else value

    return {key: bare(key, value) for key, value in config.items() if key not in MACHINE_KEYS}


def read(path: Path) -> list[Row]:
    """The rows of a log.csv, none if there is no such file; what is no row is left out: a line cut short by a crash,
    letters of another encoding, what somebody else wrote there."""
    text = path.read_bytes().decode(errors="replace") if path.is_file() else ""
    lines = text[: text.rfind("\n") + 1].replace("\0", "").split("\n")[1:]
    rows = []
    for line in lines:
        with suppress(ValueError, csv.Error):  # a number that is none, too few of them, a field without end
            i, task, phase, name, value = next(csv.reader([line]), [])
            rows.append(Row(int(i), int(task), phase, name, float(value)))
    return rows


def rewrite(path: Path, rows: Iterable[Row]) -> None:
    """Replace a log.csv as a whole: a crash leaves the old one or the new one."""
    draft = path.with_suffix(".tmp")
    with draft.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Row._fields)
        writer.writerows(rows)
    draft.replace(path)
