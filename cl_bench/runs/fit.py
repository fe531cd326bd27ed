"""Training phases: only here a Lightning Trainer is made, and a killed phase continues."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import pytorch_lightning as pl
import torch
from annotated_types import Ge, Gt, Le
from pytorch_lightning import Callback

from cl_bench.config import InputError, Positive, Rate, Stopped
from cl_bench.data.batches import Batches, Data, Step
from cl_bench.methods.base import Classifier, Learner, Method
from cl_bench.networks.base import batch_norms
from cl_bench.networks.schedules import Schedule
from cl_bench.record import Phase
from cl_bench.runs.callbacks import usable
from cl_bench.runs.course import Course
from cl_bench.runs.evaluating import Evaluate
from cl_bench.runs.folder import RunFolder
from cl_bench.runs.loggers import RunLogger
from cl_bench.runs.progress import RunProgress
from cl_bench.runs.task_checkpoint import TaskCheckpoint
from cl_bench.runs.watch import NO_POINTS, Points, Validate, Watch
from cl_bench.seeding import derive, seeded

logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # otherwise each Trainer prints a banner
warnings.filterwarnings("ignore", module="pytorch_lightning", message=".*LeafSpec.*")
warnings.filterwarnings("ignore", module="pytorch_lightning", message=".*in eval mode.*")  # frozen batch normalization

ONE_IMAGE = (
    "network: its batch normalization can't train on a single image; raise memory, method.n_replay, "
    "trainer.batch_size or, of a stream, scenario.batch_size, whichever is 1, or choose a network without it, such as "
    "network=cnn"
)


class Fit:
    """Trains a module for one phase: `phase = fit(module, data, phase="solver")`; see `methods.base.Fit`.

    Inside `with fit.task(i):` it keeps finished phases, and saves the current phase every `checkpoint_every` seconds.
    When `learn` runs again after a kill, calls for finished phases return at once, and the interrupted phase continues
    at its step.

    schedule: of the method's step sizes; parts of it, such as a GAN, do not use it. epochs: passes over a phase's data.
    iterations: mini-batches per task instead. batch_size: images in a mini-batch. patience: passes without better
    accuracy on the task's validation images before a phase of the method ends, see `Course`. gradient_clip: largest
    norm of the gradient of all weights of an optimizer, in every phase. freeze_batch_norm: whether the statistics do
    not change after the first task. chunk: mini-batches per Lightning batch; it changes no result. accelerator,
    precision: as in Lightning. threads: of torch on the CPU; None: torch chooses. log_every: steps whose mean is one
    point of a curve; it changes no result. progress: shows a bar in a terminal, and a line after each task. callbacks:
    of the user, for each Trainer; their state is in checkpoints.
    """

    def __init__(
        self,
        folder: RunFolder,
        logger: RunLogger,
        seed: int,
        checkpoint_every: float,
        schedule: Schedule | None = None,
        *,
        epochs: Positive,
        iterations: Positive | None = None,
        batch_size: Annotated[int, Ge(1), Le(10**9)] = 128,
        patience: Positive | None = None,
        gradient_clip: Rate | None = None,
        freeze_batch_norm: bool = False,
        chunk: Positive = 32,
        accelerator: Literal["auto", "cpu", "gpu"] = "auto",
        precision: Literal["32-true", "bf16-mixed"] = "32-true",
        threads: Annotated[int, Gt(0), Le(1024)] | None = None,
        log_every: Positive = 5,
        progress: bool = True,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.logger, self.seed, self.default_root_dir = logger, seed, folder.path
        self.epochs, self.iterations, self.batch_size, self.chunk = epochs, iterations, batch_size, chunk
        self.schedule, self.patience = schedule, patience
        self.gradient_clip, self.freeze_batch_norm = gradient_clip, freeze_batch_norm
        self.log_every, self.progress = log_every, RunProgress(shown=progress)
        self.checkpoint = TaskCheckpoint(folder, checkpoint_every, usable(callbacks))
        self.device = device_of(accelerator)
        self.precision: Literal["32-true", "bf16-mixed"] = precision
        torch.backends.cudnn.deterministic = True  # otherwise the same command may have other results on a GPU
        if threads:
            torch.set_num_threads(threads)
        self.validate: Validate = lambda module: None
        self.validate_current = self.validate
        self.points = NO_POINTS
        self.evaluate: Evaluate | None = None
        self.steps_before = 0  # mini-batches of the run so far

    @contextmanager
    def task(
        self,
        index: int,
        validate: Validate = lambda module: None,
        points: Points = NO_POINTS,
        validate_current: Validate = lambda module: None,
        evaluate: Evaluate | None = None,
    ) -> Iterator[None]:
        """Phases inside belong to this task. The code between phases has its own random numbers.

        validate: measures the accuracy of the module several times in a phase; None: nothing is measured. points: where
        a stream is measured. validate_current: the accuracy on validation images of only this task. evaluate: measures
        all tasks so far while this task is learned.
        """
        self.validate, self.validate_current = validate, validate_current
        self.points, self.evaluate = points, evaluate
        self.checkpoint.begin(index)
        self.progress.begin_task(index)
        with seeded(self.seed, "task", index):
            yield
        self.checkpoint.end()

    def __call__(
        self,
        module: Learner,
        data: Data,
        *,
        phase: str,
        step: Step | None = None,
        epochs: int | None = None,
        steps: int | None = None,
        times: int = 1,
    ) -> Phase:
        checkpoint = self.checkpoint
        task, number = checkpoint.task, len(checkpoint.phases)
        if checkpoint.signal:
            if not checkpoint.ahead:
                checkpoint.save(None)
            raise Stopped(checkpoint.signal)
        if ended := checkpoint.finished:
            finished, state = ended
            module.load_state_dict(state)
            self.progress.begin_phase(phase, finished.steps, done=finished.steps, seconds=finished.seconds)
            return self._end(finished, state)
        fixed = steps is not None or (epochs is None and self.iterations is not None)
        if steps is None:
            steps = self._steps(data, epochs, times)

        per_pass = data.n_batches(self.batch_size) * data.updates
        watch = Watch(
            module,
            checkpoint,
            self.logger,
            self.progress,
            where=f"task {task + 1}, {phase}",
            steps=steps,
            log_every=self.log_every,
            gradient_clip=self.gradient_clip,
            validate=self.validate,
            points=self.points if data.order is not None else NO_POINTS,
            course=self._course(module, per_pass, steps),
            evaluating=self.evaluate.phase(module, steps, per_pass) if self.evaluate else None,
        )
        start = watch.restore(cut) if (cut := checkpoint.running) else 0
        self.progress.begin_phase(phase, steps, fixed=fixed, done=start, seconds=watch.seconds)
        self.logger.phase(task, phase, self.steps_before)
        batches = Batches(
            data,
            batch_size=self.batch_size,
            steps=steps,
            seed=derive(self.seed, "batches", task, number),
            chunk=self.chunk,
            start=steps if watch.course and watch.course.stopped else start,
            step=step,
            after_step=watch.after_step,
        )
        with seeded(self.seed, "phase", task, number):
            module.train()
            if self.freeze_batch_norm and task and isinstance(module, Classifier):
                for norm in batch_norms(module.network):
                    norm.eval()
            if len(batches):
                trainer = self._trainer(watch)
                try:
                    trainer.fit(module, batches)
                except ValueError as error:
                    if "more than 1 value per channel" in str(error):  # torch's words
                        raise InputError(ONE_IMAGE) from error
                    raise
                finally:  # reference cycles would keep images and moments until a garbage collection
                    trainer.strategy.optimizers = []
                    vars(trainer).clear()
                    module.trainer = None
                if checkpoint.callbacks and watch.done < steps and not (watch.course and watch.course.stopped):
                    stopped = f"a callback stopped {watch.where} after step {watch.done} of {steps}"
                    raise InputError(f"trainer.callbacks: {stopped}; set trainer.epochs or trainer.iterations")
        module.to(self.device)
        if watch.course:
            steps = watch.done or start
            watch.end_course(steps)
        self.progress.end_phase(steps)
        finished = Phase(
            phase,
            steps,
            watch.optimizer_steps,
            watch.seconds,
            watch.losses,
            watch.validation,
            online_accuracy=watch.online.value,
            stream=watch.stream or None,
            evaluation=watch.evaluating and watch.evaluating.record,
        )
        return self._end(finished, module.state_dict())

    def stop(self, signal: int) -> None:
        """Stops the run at the end of the current chunk, after it was saved."""
        self.checkpoint.stop(signal)
        self.progress.stopping()

    def resume(self, task: int, steps_before: int) -> int:
        """Loads the state saved in the middle of this task. Returns the number of mini-batches of the run so far.

        steps_before: mini-batches of the tasks before.
        """
        self.steps_before = steps_before
        return steps_before + self.checkpoint.load(task)

    def _course(self, module: Learner, per_pass: int, steps: int) -> Course | None:
        """The `Course` of a phase that trains the method; None for its parts, and if there is nothing to decide."""
        if not (isinstance(module, Method) and module.by_gradients) or not (self.schedule or self.patience):
            return None
        return Course(module, steps, per_pass, self.schedule, self.patience, self.validate_current)

    def _steps(self, data: Data, epochs: int | None, times: int) -> int:
        if epochs is None and self.iterations:
            return self.iterations * times
        return (epochs or self.epochs) * data.n_batches(self.batch_size) * data.updates

    def _end(self, phase: Phase, state: dict[str, Any]) -> Phase:
        self.checkpoint.add(phase, state)
        self.steps_before += phase.steps
        return phase

    def _trainer(self, watch: Watch) -> Trainer:
        return Trainer(
            max_epochs=1,
            accelerator="gpu" if self.device.type == "cuda" else "cpu",
            devices=1,
            precision=self.precision,
            logger=self.logger,
            log_every_n_steps=1,
            callbacks=[watch, *self.checkpoint.callbacks],  # `watch` is first: it saves before their next hook
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=self.default_root_dir,
        )


class Trainer(pl.Trainer):
    """Lightning's Trainer, without its handling of SIGTERM."""

    @property
    def received_sigterm(self) -> bool:
        """Never: `Watch` handles signals. Lightning would stop without saving."""
        return False


def device_of(accelerator: str) -> torch.device:
    """The device for training. Raises InputError if the settings require a GPU and there is none."""
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise InputError("trainer.accelerator=gpu: no GPU was found; choose cpu or auto")
    return torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")
