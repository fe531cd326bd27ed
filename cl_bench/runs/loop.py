"""The life of one run: for each task, learn it, then be measured on every task."""

from __future__ import annotations

import math
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import torch

from cl_bench.config import InputError, Stopped
from cl_bench.config.names import folder_of, key_of, name_of, place
from cl_bench.config.schema import build
from cl_bench.data.problem import Task
from cl_bench.data.scenarios import Scenario
from cl_bench.evaluation.judge import Judge, generated_metrics
from cl_bench.evaluation.scores import Score
from cl_bench.methods.base import Learner, Method, bytes_of
from cl_bench.methods.parts.memory import Memory, bytes_per_image
from cl_bench.record import Diagnostics, Masks, MemoryUse, Results, TaskRecord, from_json, to_json
from cl_bench.runs.figures import draw_results
from cl_bench.runs.fit import Fit
from cl_bench.runs.folder import RunFolder, read_results
from cl_bench.runs.loggers import RunLogger
from cl_bench.runs.progress import Plan
from cl_bench.runs.provenance import continued, provenance, versions
from cl_bench.runs.reference import reference_of
from cl_bench.runs.samples import sample_grid
from cl_bench.runs.setup import checked, prepare
from cl_bench.seeding import seeded

try:
    import resource
except ImportError:  # Windows
    resource = None


def run(settings: Mapping[str, Any]) -> Results:
    """Runs what the settings (`config.compose`) describe, or goes on with it, and returns its results.

    With `trial` among the settings (see `search`) it is measured on validation images, not on test images, and
    learns the first tasks alone if that is asked for.
    Raises InputError for anything that can't be done, before training where that can be known.
    """
    folder = RunFolder(folder_of(settings), key_of(settings), keep=settings["keep_checkpoints"])
    nodes = checked(settings)
    scenario, method = prepare(settings, nodes)
    reference = reference_of(settings, scenario)
    logger: RunLogger = build(nodes["logger"])
    fit: Fit = build(
        nodes["trainer"],
        folder=folder,
        logger=logger,
        seed=settings["seed"],
        checkpoint_every=settings["checkpoint_every"],
    )
    with folder.opened(anew=not settings["resume"]), saved_on_signals(fit):
        scenario = scenario.to(fit.device, fit.batch_size)
        score = Score(scenario, reference).to(fit.device)
        try:
            return Run(settings, scenario, method, score, fit, folder, logger).run()
        except OSError as error:  # what is read has been read
            raise InputError(f"output_root: can't write to {folder.path} ({error.strerror or error})") from error


class Run:
    """One run: for each task, learn it, then be measured on every task. Replayed after a kill, it goes on."""

    def __init__(
        self,
        settings: Mapping[str, Any],
        scenario: Scenario,
        method: Method,
        score: Score,
        fit: Fit,
        folder: RunFolder,
        logger: RunLogger,
    ) -> None:
        self.settings, self.scenario, self.method, self.score = settings, scenario, method, score
        self.fit, self.folder, self.logger = fit, folder, logger
        self.judge = Judge(scenario, place(settings["output_root"], "output_root") / ".judge")
        self.records: list[TaskRecord] = []
        self.name = f"{name_of(settings)}-seed{settings['seed']}"
        self.provenance = provenance(fit.device, settings)

    def run(self) -> Results:
        self.begin()
        failed = True
        try:
            with self.fit.progress.live(self.plan()):
                for task in self.to_learn[len(self.records) :]:
                    with self.fit.task(task.index, self.validate):
                        noted = self.method.learn_task(task, self.fit)
                    seconds = self.fit.seconds  # of training alone
                    self.fit.progress.say_what("evaluation")
                    if self.method.measurable:
                        self.score.measure(self.method, after=task.index)
                    self.keep(task.index, seconds, noted)
                    if self.fit.signal:
                        raise Stopped(self.fit.signal)
                failed = False
                self.fit.progress.say_what("figures")
                return self.end()
        except Exception as error:
            with suppress(OSError):  # a full disk has no room for this either
                self.folder.write_results(replace(self.results(), status="failed", reason=str(error)))
            raise
        finally:
            self.logger.close(failed)

    def begin(self) -> None:
        """Puts everything where the last saved task left it; the first time, measures the untrained method."""
        self.method.to(self.fit.device)
        state = self.folder.load_task()
        if state:
            self.method.load_state_dict(state["method"])
            self.score.load_state_dict(state["score"])
            self.records = [from_json(TaskRecord, record) for record in state["records"]]
            self.method.to(self.fit.device)
        else:
            self.score.measure(self.method, after=-1)
        before = sum(phase.steps for record in self.records for phase in record.phases)
        step = self.fit.resume(len(self.records), before)
        if state or step:
            self.provenance = continued(read_results(self.folder.path), self.provenance)
        else:
            self.folder.write_results(self.results())  # when it began, should it be killed in its first task
        tags = [str(choice) for choice in self.settings["choices"].values() if choice]
        self.logger.start(
            self.folder.path,
            self.folder.key,
            self.name,
            dict(self.settings),
            name_of(self.settings),
            tags,
            step,
        )

    @property
    def to_learn(self) -> Sequence[Task]:
        """The tasks of this run: a trial may learn the first ones only."""
        return self.scenario.tasks[: len(self.scenario.tests)]

    def plan(self) -> Plan:
        """What is known of the run's length, by the tasks learned so far."""
        plan = Plan([len(task.train) for task in self.to_learn], self.method.n_phases, self.fit.batch_size)
        for record in self.records:
            plan.begin_task(record.task)
            for phase in record.phases:
                plan.begin_phase(phase.steps, done=phase.steps, seconds=phase.seconds)
        return plan

    def validate(self, module: Learner) -> float | None:
        """Accuracy on what is set apart of the tasks so far, of the method while it trains; not of its parts."""
        return self.score.validation(self.method, after=self.method.index) if module is self.method else None

    def keep(self, task: int, seconds: float, noted: dict[str, Any]) -> None:
        """Writes down what is known after a task; only then is the task done."""
        generated, picture = None, None
        with seeded(self.settings["seed"], "samples", task):
            judged = self.judge.measure(self.method, after=task) if self.method.measurable else None
        if judged:
            generated, samples = judged
            picture = self.folder.path / "samples" / f"task{task + 1}.png"
            names = self.scenario.problem.class_names
            sample_grid(samples, picture, [names[output] for output in self.judge.seen(task)])
        diagnostics = Diagnostics.of(noted)
        record = TaskRecord(
            task=task,
            phases=self.fit.phases,
            seconds=seconds,
            bytes_kept=bytes_of(self.method.state_dict()),
            diagnostics=diagnostics,
            generated=generated,
            memory=self.memory(task, diagnostics.generator_bytes),
        )
        self.records.append(record)
        results = self.results()
        self.folder.write_results(results)
        self.logger.task(results, picture)
        records = [to_json(record) for record in self.records]  # plain values: a checkpoint holds no classes
        self.folder.save_task(
            task, {"method": self.method.state_dict(), "score": self.score.state_dict(), "records": records}
        )
        if "trial" not in self.settings:  # a search has a line for each of its trials
            self.fit.progress.end_task(task, results.R[task][: task + 1], seconds)

    def memory(self, task: int, generator_bytes: int | None) -> MemoryUse | None:
        """What is kept of the past after a task."""
        problem = self.scenario.problem
        if generator_bytes is not None:
            raw = sum(len(one.train) for one in self.scenario.tasks[: task + 1]) * math.prod(problem.image_shape)
            return MemoryUse(
                images=generator_bytes // bytes_per_image(problem),
                bytes=generator_bytes,
                generator_bytes=generator_bytes,
                raw_bytes_uint8=raw,
                raw_bytes_float32=4 * raw,
            )
        memories = [part for part in self.method.modules() if isinstance(part, Memory)]
        if not memories:
            return None
        return MemoryUse(images=sum(map(len, memories)), bytes=sum(bytes_of(part.state_dict()) for part in memories))

    def end(self) -> Results:
        results = replace(self.results(), status="finished")
        draw_results(results, self.folder.path / "figures")
        self.folder.write_results(results)
        self.logger.finish(results)
        return results

    def results(self) -> Results:
        """Everything that is known so far."""
        problem, scores = self.scenario.problem, self.score.results()
        return Results(
            key=self.folder.key,
            name=self.name,
            status="running",
            seed=self.settings["seed"],
            config=dict(self.settings),
            versions=versions(),
            provenance=self.provenance,
            kind=problem.kind,
            masks=Masks(**problem.rules),
            measured_on="validation images" if "trial" in self.settings else "test images",
            classes=[list(task.names) for task in self.scenario.tasks],
            class_names=list(problem.class_names),
            R=scores.R,
            b=scores.b,
            R_task_masked=scores.R_task_masked,
            n_test=scores.n_test,
            metrics=scores.metrics | generated_metrics(self.records, self.score.ends),
            memory=self.records[-1].memory if self.records else None,
            tasks=list(self.records),
            parameters=sum(p.numel() for p in self.method.parameters() if p.requires_grad),
            bytes_kept=bytes_of(self.method.state_dict()),
            seconds=sum(record.seconds for record in self.records),
            peak_memory_mb=peak_memory_mb(),
            peak_gpu_memory_mb=torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None,
            device=str(self.fit.device),
        )


@contextmanager
def saved_on_signals(fit: Fit) -> Iterator[None]:
    """SIGTERM and Ctrl-C stop the run at the end of the current chunk, after it was saved; a second one at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: Any) -> None:
        signal.signal(number, signal.SIG_DFL)
        fit.stop(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def peak_memory_mb() -> float:
    """The most memory this process has held, in MB (2^20 bytes)."""
    if resource is None:
        import psutil

        memory = psutil.Process().memory_info()
        return getattr(memory, "peak_wset", memory.rss) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
