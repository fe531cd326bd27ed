"""One run: for each task, the method learns it and is then measured on every task."""

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
    """Learns each task, measures all tasks after it, and writes the results. After a kill the run continues with the
    first task that is not recorded."""
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
    """Inside, numbers below 1e-38 are 0: a CPU takes up to a hundred times as long for them, and masks near 0 make many
    of them. It must be set before torch starts its threads, which inherit it. Restores the number of threads."""
    zero_before = not torch.tensor(1e-39).mul(1)
    torch.set_flush_denormal(True)
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)  # `trainer.threads` must not change the next run in this process
        torch.set_flush_denormal(zero_before)


@usual_torch()
@without_subnormals()
def run(settings: Mapping[str, Any]) -> Results:
    """Makes or continues the run that the settings (from `config.compose`) describe, and returns its results.

    With `trial` in the settings (see `search`) it is measured on validation images instead of test images, and may
    learn only the first tasks.
    Raises InputError for settings that are not possible, before the training if it can be known then.
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
            results = learn_tasks(method, fit, recorder)
        except OSError as error:  # all reading is done, so this is an error of writing
            file = error.filename or folder.path
            raise InputError(f"output_root: can't write to {file} ({error.strerror or error})") from error
    if fit.checkpoint.signal:  # it came after the last task; otherwise a sweep would start its next run
        raise Stopped(fit.checkpoint.signal)
    return results


def saved_on_signals(fit: Fit) -> AbstractContextManager[None]:
    """SIGTERM and Ctrl-C stop the run at the end of the current chunk, after it was saved. A second signal stops it at
    once. In a script or a notebook a second Ctrl-C ends only the run, not the process with the user's other data."""
    interrupts = signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def stop(number: int) -> None:
        if number == signal.SIGINT and interrupts:
            if fit.checkpoint.signal:
                raise Stopped(number)
        else:
            signal.signal(number, signal.SIG_DFL)
        fit.stop(number)

    return on_signals(stop)
