"""Measures a run and writes its records after each task."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cl_bench.config import Stopped
from cl_bench.config.names import name_of, place
from cl_bench.data.problem import Task
from cl_bench.data.streams import first_places
from cl_bench.data.tasks import Scenario
from cl_bench.evaluation.by_class import FIRST, kept_after
from cl_bench.evaluation.chance import chance
from cl_bench.evaluation.judge import Judge, generated_metrics
from cl_bench.evaluation.scores import References, Score
from cl_bench.evaluation.sizes import growth_rate
from cl_bench.evaluation.streams import stream_metrics
from cl_bench.methods.base import Learner, Method
from cl_bench.methods.parts.memory import Memory, bytes_per_image
from cl_bench.methods.parts.sizes import bytes_of
from cl_bench.record import (
    Diagnostics,
    Generated,
    Masks,
    MemoryUse,
    Plasticity,
    Results,
    TaskRecord,
    from_json,
    thinned,
    to_json,
)
from cl_bench.runs.callbacks import restore, states_of
from cl_bench.runs.continued import grown, state_to_go_on, tasks_before
from cl_bench.runs.evaluating import Evaluate, evaluate, warn_if_idle
from cl_bench.runs.figures import draw_results
from cl_bench.runs.fit import Fit
from cl_bench.runs.folder import RunFolder, read_results
from cl_bench.runs.loggers import RunLogger
from cl_bench.runs.models import Models, keep_of, put_in, wanted
from cl_bench.runs.progress import Plan
from cl_bench.runs.provenance import continued, provenance, versions
from cl_bench.runs.samples import sample_grid
from cl_bench.runs.watch import NO_POINTS, Points
from cl_bench.seeding import seeded

try:
    import resource
except ImportError:  # Windows
    resource = None


class Recorder:
    """Measures a run and writes its files: records and scores, results.json, checkpoints, curves and figures.

    Args:
        references: results of other runs, for metrics that compare with them.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        scenario: Scenario,
        method: Method,
        references: References,
        fit: Fit,
        folder: RunFolder,
        logger: RunLogger,
    ) -> None:
        self.settings, self.scenario, self.method = settings, scenario, method
        self.fit, self.folder, self.logger = fit, folder, logger
        self.score = Score(scenario, references).to(fit.device)
        self.judge = Judge(scenario, place(settings["output_root"], "output_root") / ".judge")
        self.records: list[TaskRecord] = []
        self.lines: list[str] = []  # the same as JSON: a checkpoint holds no classes
        n_tasks = len(scenario.tasks)
        every = settings.get("measure_every", 1)
        self.measured = {*range(every - 1, n_tasks, every), n_tasks - 1}  # tasks after which all are measured
        self.warned = False
        self.with_classes, self.with_confusion = kept_after(self.measured, scenario.problem.n_outputs)
        self.chance, self.joint = chance(scenario), references.joint_line
        problem = scenario.problem
        in_the_end = problem.mask(problem.rules["evaluation"], after=n_tasks - 1)[:n_tasks]
        self.has_top5 = bool((in_the_end.sum(1) > FIRST).all())
        self.written = set(thinned(n_tasks))  # and those after which results.json is written
        self.name = f"{name_of(settings)}-seed{settings['seed']}"
        self.provenance = provenance(fit.device, settings)
        self.models = Models(folder.path, folder.key)
        self.keep_models = keep_of(settings)

    @contextmanager
    def open(self) -> Iterator[None]:
        """Tasks that are learned inside are recorded, and also an error that ends the run."""
        self.begin()
        failed = True
        try:
            yield
            failed = False
        except Stopped:
            self.folder.write_results(self.results())  # of many tasks not every one is written
            raise
        except Exception as error:
            with suppress(OSError):  # a full disk has no room for this either
                self.folder.write_results(replace(self.results(), status="failed", reason=str(error)))
            raise
        finally:
            self.logger.close(failed)

    def begin(self) -> None:
        """Restores the state at the end of the last saved task; in a new run, measures the untrained method."""
        self.method.to(self.fit.device)
        state = self.folder.load_task()
        begun, where = state is not None, self.folder.path / "checkpoints"
        if not begun and self.settings.get("continue_from"):
            state = state_to_go_on(self.settings)
            state |= {name: grown(state[name], getattr(self, name).state_dict()) for name in ("method", "score")}
            state["callbacks"] = None  # the callbacks are of this run, and begin with it
        if state:
            if self.keep_models == "all":  # a run may have kept none before
                for task in self.models.lacking(range(tasks_before(self.settings), len(state["records"]))):
                    put_in(self.method, self.folder.state_after(task)["method"], where, whole=True)
                    self.models.write(self.method, task)
            put_in(self.method, state["method"], where, whole=True)
            restore(self.fit.checkpoint.callbacks, state.get("callbacks"))
            self.score.load_state_dict(state["score"])
            self.lines = state["records"]
            self.records = [from_json(TaskRecord, json.loads(line)) for line in self.lines]
            self.method.to(self.fit.device)
        else:
            self.score.measure(self.method, after=-1)
        before = sum(phase.steps for record in self.records for phase in record.phases)
        step = self.fit.resume(len(self.records), before)
        if begun or step:
            self.provenance = continued(read_results(self.folder.path), self.provenance)
        else:
            self.folder.write_results(self.results())  # when it began, should it be killed in its first task
        tags = [choice for choice in self.settings["choices"].values() if isinstance(choice, str)]
        self.logger.start(
            self.folder.path,
            self.folder.key,
            self.name,
            dict(self.settings),
            name_of(self.settings),
            tags,
            step,
        )

    def tasks_left(self) -> Sequence[Task]:
        """The tasks that are not recorded yet."""
        return self.scenario.tasks[len(self.records) :]

    def plan(self) -> Plan:
        """The expected length of the run, from the tasks so far."""
        sizes = [len(task.train) for task in self.scenario.tasks]
        plan = Plan(sizes, self.method.n_phases, self.fit.batch_size)
        for record in self.records:
            plan.begin_task(record.task)
            for phase in record.phases:
                plan.begin_phase(phase.steps, done=phase.steps, seconds=phase.seconds)
        return plan

    def validate(self, module: Learner) -> float | None:
        """The accuracy on validation images of the tasks so far, while the method trains; None for other modules."""
        return self.score.validation(self.method, after=self.method.index) if module is self.method else None

    def validate_current(self, module: Learner) -> float | None:
        """The accuracy on the validation images of the current task, which may end its training."""
        return self.score.validation(self.method, after=self.method.index, first=self.method.index)

    def points(self, task: Task) -> Points:
        """The points of a stream at which it is measured during this task: `scenario.measure_every`."""
        every, data = self.settings["scenario"].get("measure_every"), task.train
        if not every or data.order is None:
            return NO_POINTS
        before = sum(len(earlier.train) for earlier in self.scenario.tasks[: task.index])
        first = first_places(self.scenario.problem, task)

        def measure(seen: int) -> float:
            came = first < seen - before
            return self.score.or_nan("accuracy_on_stream", lambda: self.score.on_stream(self.method, task.index, came))

        n = data.n_batches(self.fit.batch_size)
        ends = [before + self.fit.batch_size * i for i in range(n)] + [before + len(data)]
        last = task.index == len(self.scenario.tasks) - 1
        due = [i for i in range(1, n + 1) if ends[i] // every > ends[i - 1] // every or (last and i == n)]
        return Points({i * data.updates: ends[i] for i in due}, measure)

    def evaluate(self, task: Task) -> Evaluate | None:
        """The measurements of all tasks so far during this task: `evaluate_every`."""
        return evaluate(self.settings, self.scenario, self.score, self.method, task)

    def record(self, task: Task, noted: Mapping[str, Any], before: Plasticity | None) -> None:
        """Measures the method after a task and writes the results. Only then the task is done.

        results.json is as large as R. It is written after each task if there are few tasks, and otherwise after some of
        them. The record of each task is appended to log.csv and is in the checkpoint.

        noted: what `learn_task` returned. before: the plasticity before the task, see `evaluation.plasticity`.
        """
        seconds, index = self.fit.checkpoint.seconds, task.index  # of training alone
        self.fit.progress.say_what("evaluation")
        if self.method.measurable and not self.warned:
            self.warned = warn_if_idle(self.settings, self.fit.checkpoint.phases)
        self.method.eval()
        top5, by_class = None, None
        if self.method.measurable and index in self.measured:
            tally = self.score.measure(self.method, after=index)
            top5 = tally.top5
            by_class = tally.count(index in self.with_confusion) if index in self.with_classes else None
        generated, picture = self.generated(index)
        diagnostics = Diagnostics.of(noted)
        record = TaskRecord(
            task=index,
            phases=self.fit.checkpoint.phases,
            seconds=seconds,
            bytes_kept=bytes_of(self.method.state_dict()),
            diagnostics=diagnostics,
            generated=generated,
            memory=self.memory(index, diagnostics.generator_bytes),
            answer_bytes=self.method.answer_bytes,
            plasticity=before if self.fit.checkpoint.phases else None,
            top5=top5,
            by_class=by_class,
        )
        self.records.append(record)
        self.lines.append(json.dumps(to_json(record)))
        results = self.results()
        if index in self.written:
            self.folder.write_results(results)
        self.logger.task(results, picture)
        if self.keep_models == "all":  # before the task is done: after a kill it is learned and written again
            self.models.write(self.method, index)
        state = {"method": self.method.state_dict(), "score": self.score.state_dict(), "records": self.lines}
        if self.fit.checkpoint.callbacks:
            state["callbacks"] = states_of(self.fit.checkpoint.callbacks)
        self.folder.save_task(index, state)
        if "trial" not in self.settings:  # a search has a line for each of its trials
            shared = self.scenario.shared_test
            self.fit.progress.end_task(index, results.R[index][: index + 1], seconds, shared_test=shared)

    def generated(self, index: int) -> tuple[Generated | None, Path | None]:
        """The judge's metrics of generated images after a task, and a picture; None without generated images."""
        with seeded(self.settings["seed"], "samples", index):
            judged = self.judge.measure(self.method, after=index) if self.method.measurable else None
        if not judged:
            return None, None
        generated, samples = judged
        picture = self.folder.path / "samples" / f"task{index + 1}.png"
        names = self.scenario.problem.class_names
        sample_grid(samples, picture, [names[output] for output in self.judge.seen(index)])
        return generated, picture

    def memory(self, index: int, generator_bytes: int | None) -> MemoryUse | None:
        """The images that are kept after a task."""
        problem = self.scenario.problem
        if generator_bytes is not None:
            raw = sum(len(task.train) for task in self.scenario.tasks[: index + 1]) * math.prod(problem.image_shape)
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

    def stream(self) -> dict[str, float | None]:
        """The metrics of a stream: the accuracy on its images before they are learned, and on the tests so far."""
        if not self.scenario.problem.online:
            return {}
        return to_json(stream_metrics(self.records, [len(task.train) for task in self.scenario.tasks]))

    def top5(self) -> dict[str, float | None]:
        """The last measured top-5 accuracy; nothing if there will never be more than five outputs."""
        last = [record.top5 for record in self.records if record.task in self.measured]
        return {"top5_ACC": last[-1] if last else None} if self.has_top5 else {}

    def growth(self) -> dict[str, float | None]:
        """The growth of the bytes that predictions need, per task."""
        return to_json({"growth_rate": growth_rate([record.answer_bytes or 0 for record in self.records])})

    def finish(self) -> Results:
        self.fit.progress.say_what("figures")
        results = replace(self.results(), status="finished")
        for task in self.models.lacking(wanted(self.keep_models, len(self.records))[-1:]):
            self.models.write(self.method, task)
        draw_results(results, self.folder.path / "figures")
        self.folder.write_results(results)
        self.logger.finish(results)
        return results

    def results(self) -> Results:
        """The results so far."""
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
            metrics=scores.metrics
            | self.top5()
            | self.stream()
            | self.growth()
            | generated_metrics(self.records, self.score.ends),
            memory=self.records[-1].memory if self.records else None,
            tasks=list(self.records),
            parameters=sum(p.numel() for p in self.method.parameters() if p.requires_grad),
            bytes_kept=bytes_of(self.method.state_dict()),
            seconds=sum(record.seconds for record in self.records),
            peak_memory_mb=peak_memory_mb(),
            peak_gpu_memory_mb=torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None,
            device=str(self.fit.device),
            chance=to_json(self.chance),
            joint=self.joint,
        )


def peak_memory_mb() -> float:
    """The largest memory that this process has used, in MB (2^20 bytes)."""
    if resource is None:
        import psutil

        memory = psutil.Process().memory_info()
        return getattr(memory, "peak_wset", memory.rss) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
