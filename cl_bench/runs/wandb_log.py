"""The numbers of a run in Weights & Biases. Its failures never end a run."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from cl_bench.record import Results, thinned
from cl_bench.runs.loggers import EVALUATED, MEASURED, STREAM
from cl_bench.runs.trackers import APART, About, Point, Tracker, without_paths

if TYPE_CHECKING:
    import wandb

log = logging.getLogger(__name__)


class WandbLog(Tracker):
    """The values of `log.csv` in Weights & Biases, which never fails a run.

    Losses are named PHASE/NAME over PHASE/step, the mini-batches of that phase in all tasks so far; what is measured
    after a task is task/NAME over `task`; accuracy_on_stream/accuracy is over the images of a stream that came; `step`
    counts the mini-batches of all phases, and while_learning/NAME, what `evaluate_every` asks for, is over it. The
    final numbers are in the summary under their plain names.

    Whatever W&B raises becomes one warning and W&B is off for the rest of the run; log.csv goes on.

    project, entity: where the run appears; without an entity, the user's own default.
    mode: None is what WANDB_MODE says, else online if there is a key (`wandb login`), else offline.
    tags: besides those that the run has anyway.
    """

    title: ClassVar[str] = "W&B"

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

    def open(self, about: About, continued: bool) -> None:
        import wandb  # 0.85 s that a run without W&B need not wait for

        self._axes: set[str] = set()

        # Silence comes first: a W&B that may speak asks the server who is logged in.
        settings = wandb.setup(wandb.Settings(silent=True)).settings
        mode = self.mode or settings.mode
        if self.mode is None and mode == "online" and not wandb.login(prompt=False, verify=False):
            mode = "offline"
        self._run = run = wandb.init(  # at once: whatever fails below, `stop` finishes it
            project=self.project,
            entity=self.entity,
            id=about.key,
            resume="allow",
            name=about.name,
            group=about.group,
            job_type=about.config["choices"]["method"],
            tags=list(dict.fromkeys([*about.tags, *self.tags])),
            config=without_paths({**about.config, "key": about.key}),
            dir=about.folder,
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
            log.info("W&B is offline; to upload the run: wandb sync %s", about.folder / "wandb")
        elif run.url:
            log.info("W&B: %s", run.url)

    def send(self, points: Sequence[Point]) -> None:
        assert self._run is not None
        for step, task, phase, of_phase, values in points:
            if phase not in APART:
                values[f"{phase}/step"] = of_phase
            if phase != MEASURED:
                self._define_axis(phase)
            self._run.log({"step": step, "task": task, **values})

    def _define_axis(self, phase: str) -> None:
        if self._run and phase not in self._axes:
            self._axes.add(phase)
            along = "step" if phase == EVALUATED else f"{phase}/{'images' if phase == STREAM else 'step'}"
            if phase != EVALUATED:
                self._run.define_metric(f"{phase}/step", hidden=True)
            self._run.define_metric(f"{phase}/*", step_metric=along)

    def send_picture(self, name: str, picture: Path, task: int) -> None:
        import wandb

        assert self._run is not None
        self._run.log({"step": self._last, "task": task, name: wandb.Image(str(picture))})

    def end(self, final: Mapping[str, float]) -> None:
        assert self._run is not None
        self._run.summary.update(dict(final))

    def finish(self, results: Results, folder: Path) -> None:
        super().finish(results, folder)
        if self.on and self._run is not None:
            with self.guard():
                self._run.log({"accuracy_matrix": table(results.R)})  # last: online, a table asks the server

    def stop(self, failed: bool) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.finish(exit_code=int(failed))  # else its id stays taken in this process


def table(R: list[list[float | None]]) -> wandb.Table:
    """The accuracy matrix for W&B: a row after each task, a column on each task; of many tasks some."""
    import wandb

    tasks = thinned(len(R))
    if len(R[0]) < len(R):  # on one test set that all share
        return wandb.Table(columns=["after task", "all tasks"], data=[[i, *R[i]] for i in tasks])
    rows: list[Any] = [[i, *(R[i][j] for j in tasks)] for i in tasks]
    return wandb.Table(columns=["after task", *(f"task {j}" for j in tasks)], data=rows)
