"""The numbers of a run in Weights & Biases, which never fails a run."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cl_bench.record import COSTS, Results, thinned
from cl_bench.runs.curves import Row, read
from cl_bench.runs.loggers import EVALUATED, MEASURED, STREAM, CSVLog, is_number

if TYPE_CHECKING:
    import wandb

log = logging.getLogger(__name__)
APART = (MEASURED, STREAM, EVALUATED)  # in the place of a phase, and none: they have no steps
MACHINE_KEYS = ("data_dir", "output_root", "reference")  # paths on one machine: no part of what was tried
PATH_KEYS = ("path", "datasets")  # of a person's own images: the file's name says which, its folder is their affair


class WandbLog(CSVLog):
    """`log.csv`, and the same values in Weights & Biases, which never fails a run.

    Losses are named PHASE/NAME over PHASE/step, the mini-batches of that phase in all tasks so far; what is measured
    after a task is task/NAME over `task`; accuracy_on_stream/accuracy is over the images of a stream that came; `step`
    counts the mini-batches of all phases, and while_learning/NAME, what `evaluate_every` asks for, is over it. The
    final numbers are in the summary under their plain names.

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
            if phase not in APART:
                named[f"{phase}/step"] = self._steps[phase]
            if phase != MEASURED:
                self._define_axis(phase)
            self._run.log({"step": step, "task": task, **named})

    def _count(self, step: int, phase: str) -> None:
        """What came since the last call were steps of this phase: a point stands at the last of its steps."""
        if phase not in APART:
            self._steps[phase] += step - self._last
            self._last = step

    def _define_axis(self, phase: str) -> None:
        if self._run and phase not in self._axes:
            self._axes.add(phase)
            along = "step" if phase == EVALUATED else f"{phase}/{'images' if phase == STREAM else 'step'}"
            if phase != EVALUATED:
                self._run.define_metric(f"{phase}/step", hidden=True)
            self._run.define_metric(f"{phase}/*", step_metric=along)

    def task(self, results: Results, samples: Path | None) -> None:
        super().task(results, samples)
        task = results.tasks[-1].task
        if self._run is None or task in self._sent_tasks or not samples:
            return
        with self._guard():
            self._run.log({"step": self._step, "task": task, f"{MEASURED}/samples": image(samples)})

    def finish(self, results: Results) -> None:
        super().finish(results)
        if self._run is None:
            return
        with self._guard():
            final = {**results.metrics, **{name: getattr(results, name) for name in COSTS}}
            self._run.summary.update({name: value for name, value in final.items() if is_number(value)})
            pictures = sorted(self._folder.glob("figures/*.png"))  # the accuracy matrix as a heat map is one of them
            self._run.log({f"figures/{picture.stem}": image(picture) for picture in pictures})
            self._run.log({"accuracy_matrix": table(results.R)})  # last: online, a table asks the server

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
    if len(R[0]) < len(R):  # on one test set that all share
        return wandb.Table(columns=["after task", "all tasks"], data=[[i, *R[i]] for i in tasks])
    rows: list[Any] = [[i, *(R[i][j] for j in tasks)] for i in tasks]
    return wandb.Table(columns=["after task", *(f"task {j}" for j in tasks)], data=rows)


def without_paths(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration as it would be on any machine.

    >>> without_paths({"data_dir": "/disk", "dataset": {"path": "/disk/mine.npz"}, "scenario": {"kind": "class"}})
    {'dataset': {'path': 'mine.npz'}, 'scenario': {'kind': 'class'}}
    """

    def bare(key: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return without_paths(value)
        if isinstance(value, list | tuple):
            return [bare(key, part) for part in value]
        return Path(value).name if key in PATH_KEYS and isinstance(value, str) else value

    return {key: bare(key, value) for key, value in config.items() if key not in MACHINE_KEYS}
