"""The callback that watches a training phase while Lightning runs it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch

from cl_bench.config import InputError, KnownError, Stopped
from cl_bench.evaluation.plasticity import OnlineAccuracy
from cl_bench.methods.base import Learner
from cl_bench.networks.optimizers import clip_gradients
from cl_bench.runs.course import Course
from cl_bench.runs.curves import Logged, averaged
from cl_bench.runs.evaluating import Evaluating
from cl_bench.runs.loggers import EVALUATED, STREAM, RunLogger
from cl_bench.runs.progress import RunProgress
from cl_bench.runs.task_checkpoint import TaskCheckpoint
from cl_bench.seeding import restore_rng, rng

VALIDATIONS = 20  # in a phase, at most

Validate = Callable[[Learner], float | None]


class Points(NamedTuple):
    """Where a stream is measured while it is learned.

    seen: number of steps of this task's phase -> number of images of the whole stream so far.
    measure: this number of images -> the accuracy on the classes so far.
    """

    seen: Mapping[int, int]
    measure: Callable[[int], float]


NO_POINTS = Points({}, lambda seen: math.nan)


class Diverged(KnownError):
    """A loss, a gradient or a weight is no longer a finite number."""


class Watch(pl.Callback):
    """Watches one phase, after each chunk: curves, the bar, checkpoints, signals, and numbers that are not finite.

    Args:
        checkpoint: saves the phase. logger, progress: show it.
        where: the phase, for a message.
        steps: of all of it.
        log_every: steps whose mean is one point of a curve.
        gradient_clip: largest norm of the gradient, see `Fit`.
        validate: the accuracy on validation images.
        points: where a stream is measured.
        course: decides about step sizes and the end of the phase.
        evaluating: measures all tasks so far during the phase.
    """

    def __init__(
        self,
        module: Learner,
        checkpoint: TaskCheckpoint,
        logger: RunLogger,
        progress: RunProgress,
        *,
        where: str,
        steps: int,
        log_every: int,
        gradient_clip: float | None,
        validate: Validate,
        points: Points,
        course: Course | None,
        evaluating: Evaluating | None,
    ) -> None:
        self.module, self.checkpoint, self.logger, self.progress = module, checkpoint, logger, progress
        self.where, self.steps, self.log_every, self.gradient_clip = where, steps, log_every, gradient_clip
        self.validate, self.points, self.course, self.evaluating = validate, points, course, evaluating
        self.optimizer_steps: list[int] = []  # of each optimizer
        self.losses: dict[str, float] = {}  # the last value of each number logged
        self.validation: list[tuple[int, float]] = []  # step, accuracy
        self.stream: list[tuple[int, float | None]] = []  # images that came, accuracy
        self._looked: list[tuple[int, dict[str, float]]] = []  # of this chunk: steps done, and the same by name
        self.online = OnlineAccuracy(module)
        self.seconds, self._saved = 0.0, None
        self.done = 0  # steps, after the last chunk of this process
        self._gradients: list[tuple[int, str, torch.Tensor]] = []  # of this chunk: step, parameter, sum
        self._unlogged: list[Logged] = []  # of steps after the last point of the curves

    def restore(self, running: dict[str, Any]) -> int:
        """Sets the module to the state at which the phase was cut. Returns the next step."""
        self.module.load_state_dict(running["module"])
        self.optimizer_steps, self.seconds = list(running["optimizer_steps"]), running["seconds"]
        self.losses, self.validation = dict(running["losses"]), list(running["validation"])
        self.stream = list(running.get("stream", []))
        if self.evaluating:
            self.evaluating.restore(running.get("evaluation", []))
        self._unlogged = list(running["unlogged"])
        self.online = OnlineAccuracy(self.module, running["online"])
        if self.course and "course" in running:
            self.course.restore(running["course"])
        self._saved = running
        return running["step"]

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self._saved:
            self.checkpoint.restore_callbacks()  # here, as Lightning does where it goes on itself

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.optimizer_steps = self.optimizer_steps or [0] * len(trainer.optimizers)
        self._names = {parameter: name for name, parameter in module.named_parameters()}
        self._check_optimizers(trainer)
        for number, optimizer in enumerate(trainer.optimizers):
            if self.gradient_clip:
                optimizer.register_step_pre_hook(self._clip)
            optimizer.register_step_post_hook(partial(self._look, number))
        if self._saved:
            self._put_back(trainer, self._saved)
        if self.course:
            self.course.begin(trainer.optimizers, self._saved["step"] if self._saved else 0)
        self._began, self._before = time.monotonic(), self.seconds

    def _check_optimizers(self, trainer: pl.Trainer) -> None:
        """Raises InputError for what `configure_optimizers` gave and a phase can't follow: nothing steps a scheduler of
        Lightning, and weights that are no part of the module are in no state."""
        where = f"method: {type(self.module).__name__}.configure_optimizers"
        if trainer.lr_scheduler_configs:
            raise InputError(f"{where} returns a scheduler, which a run does not use; return only the optimizer")
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        if any(p not in self._names for group in groups for p in group["params"]):
            raise InputError(f"{where} trains weights that are not in the state; make them parameters of the module")

    def _put_back(self, trainer: pl.Trainer, saved: dict[str, Any]) -> None:
        """Gives the optimizers and the random generators the state that they had when the phase was cut."""
        for optimizer, state in zip(trainer.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        restore_rng(saved["rng"])

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        if self._saved and self.checkpoint.callbacks:  # what they did since, when a phase starts, is in what was saved
            self.module.load_state_dict(self._saved["module"])
            self.checkpoint.restore_callbacks()
            self._put_back(trainer, self._saved)
        self._saved = None
        stop = self.checkpoint.signal  # one that comes later waits for the next chunk, which is then saved
        self._save(trainer, module, bool(stop))
        if stop and self.done:
            raise Stopped(stop)

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.seconds = self._before + time.monotonic() - self._began
        step = self.module.step_index + 1
        self.done = step
        if self.course and self.course.stopped:
            trainer.should_stop = True
        logged = self._check()
        self.losses.update({name: value for _, name, value in logged})
        self.progress.step(step, self.seconds, [(name, value) for _, name, value in logged])
        points, self._unlogged = averaged(
            self._unlogged + logged, self.log_every, step, step if trainer.should_stop else self.steps
        )
        self.logger.log_points(points)
        self.logger.log_points(self._looked, STREAM)
        self._looked.clear()
        if self.evaluating:
            self.logger.log_points(self.evaluating.new_points(), EVALUATED)
        if step * VALIDATIONS // self.steps > len(self.validation):
            with self._measuring():
                accuracy = self.validate(self.module)
            if accuracy is not None:
                self.validation.append((step, accuracy))

    def after_step(self, done: int) -> bool:
        """Measures where that is to be, and at the end of a pass: inside of a chunk, as one for each point would cost
        more than its steps. Returns whether the phase ends here."""
        if (seen := self.points.seen.get(done)) is not None:
            with self._measuring():
                accuracy = self.points.measure(seen)
            self.stream.append((seen, accuracy))
            self._looked.append((done, {"images": seen, "accuracy": accuracy}))
        ends = False
        if self.course:
            with self._measuring():
                ends = self.course.after_step(done)
        if self.evaluating and (ends or self.evaluating.due(done)):
            with self._measuring():
                self.evaluating.look(done)
        return ends

    def end_course(self, done: int) -> None:
        """Sets the module to its best state. The accuracy of this state becomes the last validation accuracy."""
        if self.course is None or self.course.best is None:
            return
        before = time.monotonic()
        self.module.load_state_dict(self.course.best)
        accuracy = self.validate(self.module)
        if accuracy is not None:
            self.validation = [*(point for point in self.validation if point[0] < done), (done, accuracy)]
        self.checkpoint.set_aside(time.monotonic() - before)

    @contextmanager
    def _measuring(self) -> Iterator[None]:
        """Measurements inside do not count as training time and do not use its precision."""
        before = time.monotonic()
        with torch.autocast(self.module.device.type, enabled=False):
            try:
                yield
            except InputError:
                self._check()  # answers that are NaN have their cause in the steps before them
                raise
        seconds = time.monotonic() - before
        self._began += seconds
        self.checkpoint.set_aside(seconds)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if not self.checkpoint.callbacks:  # they have yet to hear of the end: what was saved before has them hear of it
            self._save(trainer, module, bool(self.checkpoint.signal))

    def _save(self, trainer: pl.Trainer, module: pl.LightningModule, now: bool) -> None:
        """Saves after a chunk when it is due, once the chunk has been logged: one that is saved and not logged would be
        missing from the curves of a run killed in between."""
        if self.done and (now or self.checkpoint.due):
            self.checkpoint.save(
                {
                    "step": self.done,
                    "module": module.state_dict(),
                    "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
                    "rng": rng(),
                    "optimizer_steps": list(self.optimizer_steps),
                    "seconds": self.seconds,
                    "losses": self.losses,
                    "validation": self.validation,
                    "stream": self.stream,
                    "evaluation": self.evaluating.points if self.evaluating else [],
                    "unlogged": self._unlogged,
                    "online": (self.online.right, self.online.given),
                }
                | ({"course": self.course.state()} if self.course else {})
            )

    def _clip(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """Clips the gradient before each step of an optimizer, in all methods."""
        if self.gradient_clip:
            clip_gradients(optimizer, self.gradient_clip)

    def _look(self, number: int, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """After a step of an optimizer: counts it and notes its gradients' sums.

        Sums take 2% of a step of a small network, norms up to twice that; nothing here waits for a GPU.
        """
        self.optimizer_steps[number] += 1
        for group in optimizer.param_groups:
            learned = [p for p in group["params"] if p.grad is not None]
            self._gradients += [(self.module.step_index, self._names[p], p.grad.sum()) for p in learned]

    def _check(self) -> list[Logged]:
        """The logged numbers of a chunk, for which a GPU is waited for once.

        Raises Diverged with the first number that is not finite, before anything of the chunk is saved, and InputError
        for what is no number of a tensor.
        """
        found = [(at, 0, name, value) for at, name, value in self.module.logs]
        if odd := [name for *_, name, value in found if not (torch.is_tensor(value) and value.dim() == 0)]:
            raise InputError(
                f"{self.where}: a step logs {odd[0]!r}, which is not a tensor of one number; see train_step"
            )
        found += [(at, 1, f"the gradient of {name}", total) for at, name, total in self._gradients]
        found += [(self.module.step_index, 2, name, p.detach().sum()) for p, name in self._names.items()]
        self._gradients.clear()
        numbers = torch.stack([*(value.float() for *_, value in found), *self.online.of_chunk().float()]).cpu()
        bad = numbers.isfinite().logical_not().nonzero().flatten().tolist()
        if bad:
            at, _, name, value = min((found[i] for i in bad), key=lambda entry: entry[:2])
            raise Diverged(f"{self.where}, step {at + 1}: {name} is {float(value)}")
        self.online.add(*numbers[-2:].tolist())
        values = numbers[: len(self.module.logs)].tolist()
        return [(at, name, value) for (at, name, _), value in zip(self.module.logs, values, strict=True)]
