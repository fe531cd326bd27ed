"""The life of one run: for each task, learn it, then be measured on every task."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch

from cl_bench.config import InputError, Stopped
from cl_bench.config.names import folder_of, key_of
from cl_bench.config.schema import build
from cl_bench.evaluation.plasticity import plasticity
from cl_bench.methods.base import Method
from cl_bench.process import on_signals
from cl_bench.record import Results
from cl_bench.runs.fit import Fit
from cl_bench.runs.folder import RunFolder, read_results
from cl_bench.runs.models import check_states
from cl_bench.runs.recorder import Recorder
from cl_bench.runs.reference import references_of
from cl_bench.runs.setup import checked, prepare
from cl_bench.runs.trackers import logger_of
from cl_bench.seeding import usual_torch


def learn_tasks(method: Method, fit: Fit, recorder: Recorder) -> Results:
    """Each task is looked at and learned, then all are measured, and what is known is written down. After a kill it
    goes on with the first task that isn't."""
    with recorder.open(), fit.progress.live(recorder.plan()):
        for task in recorder.tasks_left():
            before = recorder.score.or_nan.attempt("plasticity", partial(plasticity, method, task.train, task.index))
            watched = (recorder.points(task), recorder.validate_current, recorder.evaluate(task))
            with fit.task(task.index, recorder.validate, *watched):
                diagnostics = method.learn_task(task, fit)
            recorder.record(task, diagnostics, before)
            if fit.checkpoint.signal:
                raise Stopped(fit.checkpoint.signal)
        return recorder.finish()


@contextmanager
def without_subnormals() -> Iterator[None]:
    """Inside, numbers below 1e-38 are zero: a CPU takes up to a hundred times as long for them, and masks near 0 make
    many. It comes before torch starts its threads, which take it over; afterwards there are as many as before."""
    zero_before = not torch.tensor(1e-39).mul(1)
    torch.set_flush_denormal(True)
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)  # `trainer.threads` is of one run, not of the next one in this process
        torch.set_flush_denormal(zero_before)


@usual_torch()
@without_subnormals()
def run(settings: Mapping[str, Any]) -> Results:
    """Runs what the settings (`config.compose`) describe, or goes on with it, and returns its results.

    With `trial` among the settings (see `search`) it is measured on validation images, not on test images, and
    learns the first tasks alone if that is asked for.
    Raises InputError for anything that can't be done, before training where that can be known.
    """
    folder = RunFolder(folder_of(settings), key_of(settings), keep=settings["keep_checkpoints"])
    nodes = checked(settings)
    scenario, method = prepare(settings, nodes)
    references = references_of(settings, scenario)
    logger = logger_of(build(nodes["logger"]))
    fit: Fit = build(
        nodes["trainer"],
        folder=folder,
        logger=logger,
        seed=settings["seed"],
        checkpoint_every=settings["checkpoint_every"],
        schedule=build(nodes["scheduler"]) if "scheduler" in nodes else None,
    )
    with folder.opened(anew=not settings["resume"]), saved_on_signals(fit):
        check_states(folder, read_results(folder.path), settings)
        scenario = scenario.to(fit.device, fit.batch_size)
        recorder = Recorder(settings, scenario, method, references, fit, folder, logger)
        try:
            return learn_tasks(method, fit, recorder)
        except OSError as error:  # what is read has been read
            file = error.filename or folder.path
            raise InputError(f"output_root: can't write to {file} ({error.strerror or error})") from error


def saved_on_signals(fit: Fit) -> AbstractContextManager[None]:
    """SIGTERM and Ctrl-C stop the run at the end of the current chunk, after it was saved; a second one at once. In a
    script or a notebook a second Ctrl-C ends the run alone: what else is in its memory isn't ours to lose."""
    interrupts = signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def stop(number: int) -> None:
        if number == signal.SIGINT and interrupts:
            if fit.checkpoint.signal:
                raise Stopped(number)
        else:
            signal.signal(number, signal.SIG_DFL)
        fit.stop(number)

    return on_signals(stop)
