"""The life of one run: for each task, learn it, then be measured on every task."""

from __future__ import annotations

import logging
import math
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from torch import nn

from cl_bench.config import (
    GROUPS,
    InputError,
    Stopped,
    build,
    check_kind,
    check_settings,
    folder_of,
    key_of,
    name_of,
    place,
    typed,
)
from cl_bench.content import by_content
from cl_bench.data.datasets import Dataset
from cl_bench.data.scenarios import Scenario, Task
from cl_bench.figures import draw_results, sample_grid
from cl_bench.fit import Fit
from cl_bench.judge import Judge, generated_metrics
from cl_bench.loggers import RunLogger
from cl_bench.measure import Score, bytes_of
from cl_bench.methods.base import Learner, Method
from cl_bench.methods.memory import Budget, Memory, bytes_per_image
from cl_bench.networks.optimizers import Optimizer
from cl_bench.progress import Plan
from cl_bench.provenance import continued, provenance, versions
from cl_bench.results import RunFolder, read_results
from cl_bench.seeding import seeded
from cl_bench.tuned import leaves

try:
    import resource
except ImportError:  # Windows
    resource = None

log = logging.getLogger(__name__)

REFERENCES = ("joint", "cumulative")
"""Methods that learn all tasks together, and so say how well each could be learned."""


def run(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Runs what the settings (`config.compose`) describe, or goes on with it, and returns its results.

    With `trial` among the settings (see `search`) it is measured on validation images, not on test images, and
    learns the first tasks alone if that is asked for.
    Raises InputError for anything that can't be done, before training where that can be known.
    """
    folder = RunFolder(folder_of(settings), key_of(settings))
    scenario, method = prepare(settings)
    reference = reference_of(settings, scenario)
    logger: RunLogger = build(settings["logger"], "logger")
    fit: Fit = build(
        settings["trainer"],
        "trainer",
        folder=folder,
        logger=logger,
        seed=settings["seed"],
        checkpoint_every=settings["checkpoint_every"],
    )
    with folder.opened(anew=not settings["resume"]), saved_on_signals(fit):
        scenario = scenario.to(fit.device, fit.batch_size)
        score = Score(scenario, reference).to(fit.device)
        try:
            return Story(settings, scenario, method, score, fit, folder, logger).tell()
        except OSError as error:  # what is read has been read
            raise InputError(f"output_root: can't write to {folder.path} ({error.strerror or error})") from error


def prepare(settings: Mapping[str, Any]) -> tuple[Scenario, Method]:
    """The scenario and the untrained method, each random weight drawn from the seed."""
    seed = settings["seed"]
    context: dict[str, Any] = {"data_dir": place(settings["data_dir"], "data_dir"), "seed": seed}
    # everything is checked before any image is read
    check_settings({key: value for key, value in settings.items() if key != "trial"})
    for group, made in zip(GROUPS, (Method, Dataset, Scenario, nn.Module, Optimizer, Fit, RunLogger), strict=True):
        if settings[group]:  # dataset=none
            check_kind(settings[group], group, made)
    if "datasets" not in settings["scenario"]:
        if settings["choices"]["dataset"] == "none":
            raise InputError("dataset=none: only scenario=sequence goes without a data set; choose one, e.g. digits")
        context["dataset"] = build(settings["dataset"], "dataset", **context)
    scenario: Scenario = build(settings["scenario"], "scenario", **context)
    if not all(len(task.train) for task in scenario.tasks):
        raise InputError(f"scenario.val_fraction={settings['scenario']['val_fraction']}: leaves nothing to train on")
    if "trial" in settings:
        scenario = on_validation(scenario, settings["trial"]["first_tasks"], settings["scenario"]["val_fraction"])
    problem = scenario.problem
    given: dict[str, Any] = {"problem": problem, "image_shape": problem.image_shape, "n_outputs": problem.n_outputs}
    if "memory" in settings:
        check_kind(settings["memory"], "memory", Budget)
        available = sum(len(task.train) for task in scenario.tasks)
        memory: Budget = build(settings["memory"], "memory", available=available)
        if memory.bytes is None and memory.per == "total" and memory.images > available:
            log.warning("%s: there are only %d training images, and no more are kept", memory, available)
        given["memory"] = memory
    optimizer = build(settings["optimizer"], "optimizer")
    weigh(settings["network"], "network", **given)
    for key, node in settings["method"].items():  # a generator, a GAN
        if isinstance(node, Mapping) and "_target_" in node:
            weigh(node, f"method.{key}", **given)
            anew(node, f"method.{key}")
    with seeded(seed, "network"):
        network = build(settings["network"], "network", **given)
    with seeded(seed, "method"):
        method = build(settings["method"], "method", **given, network=network, optimizer=optimizer)
    return scenario, method


def weigh(node: Mapping[str, Any], where: str, **shapes: Any) -> None:
    """Raises InputError for networks that this machine can't hold, before any memory is taken for them."""
    try:
        with torch.device("meta"):
            built = build(node, where, **shapes)
        weights = sum(p.numel() for p in built.parameters()) if isinstance(built, nn.Module) else 0
    except RuntimeError:  # a number of weights that torch can't count
        weights = sys.maxsize
    gigabytes = 4 * 4 * weights / 2**30  # weights, gradients, and the two moments of Adam
    import psutil  # brings what this system has in place of POSIX's

    memory = psutil.virtual_memory().total / 2**30
    if gigabytes > memory:
        key, size = max(sizes(node, where), key=lambda one: max(np.ravel(one[1]), default=0))
        needs = f"needs {gigabytes:,.0f} GB of memory to train, and this machine has {memory:,.0f} GB"
        raise InputError(f"{key}={typed(size)}: {needs}; make it smaller")


def anew(node: Mapping[str, Any], where: str) -> None:
    """Raises InputError for an optimizer of a method's own that would go on: generators and their critics change from
    task to task, so their optimizers start anew."""
    if node.get("keep_state"):
        raise InputError(f"{where}.keep_state=true: the optimizers of a GAN start anew in every task; choose false")
    for key, part in node.items():
        if isinstance(part, Mapping):
            anew(part, f"{where}.{key}")


def sizes(node: Mapping[str, Any], where: str) -> Iterator[tuple[str, Any]]:
    """The dotted keys of whole numbers and of lists in a node and in the nodes in it, with their values."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from sizes(value, f"{where}.{key}")
        elif isinstance(value, int | list):
            yield f"{where}.{key}", value


def on_validation(scenario: Scenario, first_tasks: int | None, val_fraction: float) -> Scenario:
    """The scenario as a search may see it: validation images of the first tasks (None: all) in place of the test
    images, so that no test image can have a say in what is chosen."""
    n_tasks = scenario.problem.n_tasks
    if (first_tasks or 1) > n_tasks:
        raise InputError(f"hparams_search.first_tasks={first_tasks}: there are {n_tasks} tasks; null: all of them")
    tests = [task.val for task in scenario.tasks[:first_tasks]]
    if not all(map(len, tests)):
        raise InputError(f"scenario.val_fraction={val_fraction}: sets no images apart to choose by; try 0.1")
    return Scenario(scenario.problem, scenario.tasks, tests)


class Story:
    """One run: for each task, learn it, then be measured on every task. Told again after a kill, it goes on."""

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
        fit.validate = self.validate
        self.judge = Judge(scenario, place(settings["output_root"], "output_root") / ".judge")
        self.records: list[dict[str, Any]] = []
        self.name = f"{name_of(settings)}-seed{settings['seed']}"
        self.provenance = provenance(fit.device)

    def tell(self) -> dict[str, Any]:
        self.begin()
        failed = True
        try:
            with self.fit.progress.live(self.plan()):
                for task in self.to_learn[len(self.records) :]:
                    self.method.task, self.method.facts = task.index, {}
                    with self.fit.task(task.index):
                        self.method.learn(task, self.fit)
                    seconds = self.fit.seconds  # of training alone
                    self.fit.progress.say_what("evaluation")
                    if self.method.measurable:
                        self.score.measure(self.method, after=task.index)
                    self.keep(task.index, seconds)
                    if self.fit.signal:
                        raise Stopped(self.fit.signal)
                failed = False
                self.fit.progress.say_what("figures")
                return self.end()
        except Exception as error:
            with suppress(OSError):  # a full disk has no room for this either
                self.folder.write_results(self.results() | {"status": "failed", "reason": str(error)})
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
            self.records = state["records"]
            self.method.to(self.fit.device)
        else:
            self.score.measure(self.method, after=-1)
        self.fit.steps_before = sum(phase["steps"] for record in self.records for phase in record["phases"])
        step = self.fit.steps_before + self.fit.resume(len(self.records))
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
            plan.begin_task(record["task"])
            for phase in record["phases"]:
                plan.begin_phase(phase["steps"], done=phase["steps"], seconds=phase["seconds"])
        return plan

    def validate(self, module: Learner) -> float | None:
        """Accuracy on what is set apart of the tasks so far, of the method while it trains; not of its parts."""
        return self.score.validation(self.method, after=self.method.task) if module is self.method else None

    def keep(self, task: int, seconds: float) -> None:
        """Writes down what is known after a task; only then is the task done."""
        generated, picture = None, None
        with seeded(self.settings["seed"], "samples", task):
            judged = self.judge.measure(self.method, after=task) if self.method.measurable else None
        if judged:
            generated, samples = judged
            picture = f"samples/task{task + 1}.png"
            names = self.scenario.problem.class_names
            sample_grid(samples, self.folder.path / picture, [names[output] for output in self.judge.seen(task)])
        record = {
            "task": task,
            "phases": self.fit.phases,
            "seconds": seconds,
            "bytes_kept": bytes_of(self.method.state_dict()),
            "facts": self.method.facts,
            "generated": generated,
            "memory": self.memory(task),
        }
        self.records.append(record)
        results = self.results()
        self.folder.write_results(results)
        accuracy = {str(on): value for on, value in enumerate(results["R"][task])}
        self.logger.task(
            task,
            record | {"accuracy": accuracy, "metrics": results["metrics"], "samples": picture},
            self.folder.path,
        )
        self.folder.save_task(
            task,
            {"method": self.method.state_dict(), "score": self.score.state_dict(), "records": self.records},
        )
        if "trial" not in self.settings:  # a search has a line for each of its trials
            self.fit.progress.end_task(task, results["R"][task][: task + 1], seconds)

    def memory(self, task: int) -> dict[str, int] | None:
        """What is kept of the past, comparable between methods: the real images, with their bytes, or the bytes of a
        generator, with the images that a memory of so many bytes would hold, and those of all tasks so far, raw."""
        problem = self.scenario.problem
        if "generator_bytes" in self.method.facts:
            n_bytes = self.method.facts["generator_bytes"]
            raw = sum(len(one.train) for one in self.scenario.tasks[: task + 1]) * math.prod(problem.image_shape)
            return {
                "images": n_bytes // bytes_per_image(problem),
                "bytes": n_bytes,
                "generator_bytes": n_bytes,
                "raw_bytes_uint8": raw,
                "raw_bytes_float32": 4 * raw,
            }
        memories = [part for part in self.method.modules() if isinstance(part, Memory)]
        if not memories:
            return None
        return {
            "images": sum(map(len, memories)),
            "bytes": sum(bytes_of(part.state_dict()) for part in memories),
        }

    def end(self) -> dict[str, Any]:
        results = self.results() | {"status": "finished"}
        draw_results(results, self.folder.path / "figures")
        self.folder.write_results(results)
        self.logger.finish(results, self.folder.path)
        return results

    def results(self) -> dict[str, Any]:
        """Everything that is known so far, as results.json holds it."""
        problem, score = self.scenario.problem, self.score.results()
        score["metrics"] |= generated_metrics(self.records, self.score.ends)
        return {
            "key": self.folder.key,
            "name": self.name,
            "status": "running",
            "seed": self.settings["seed"],
            "config": dict(self.settings),
            "versions": versions(),
            "provenance": self.provenance,
            "kind": problem.kind,
            "masks": problem.rules,
            "measured_on": "validation images" if "trial" in self.settings else "test images",
            "classes": [list(task.names) for task in self.scenario.tasks],
            "class_names": list(problem.class_names),
            **score,
            "memory": self.records[-1]["memory"] if self.records else None,
            "tasks": self.records,
            "parameters": sum(p.numel() for p in self.method.parameters() if p.requires_grad),
            "bytes_kept": bytes_of(self.method.state_dict()),
            "seconds": sum(record["seconds"] for record in self.records),
            "peak_memory_mb": peak_memory_mb(),
            "peak_gpu_memory_mb": torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None,
            "device": str(self.fit.device),
        }


def reference_of(settings: Mapping[str, Any], scenario: Scenario) -> list[float] | None:
    """Accuracy on each task of jointly trained models: the diagonal of a cumulative run, the last row of a joint
    run, read from that run's folder.

    Raises InputError where there is no such run, or one of another benchmark.
    """
    reference, n_tasks = settings["reference"], scenario.problem.n_tasks
    if reference is None or "trial" in settings:  # a trial is measured on other images
        return None
    said: list[str] = []
    results = read_results(place(reference, "reference"), said.append)
    if not results or results["status"] != "finished" or len(results["R"]) != n_tasks:
        why = f" (results.json{said[0].rpartition(': results.json')[2]})" if said else ""
        raise InputError(f"reference={reference}: no finished run of {n_tasks} tasks there{why}")
    if other := differing(results, settings, scenario):
        raise InputError(
            f"reference={reference}: is of other tasks ({results['name']}): {other}; choose a run of the same ones"
        )
    if results["config"]["choices"]["method"] not in REFERENCES:
        raise InputError(
            f"reference={reference}: is a run of {results['config']['choices']['method']}, which learns one task after "
            f"another; choose one of {' or '.join(REFERENCES)}"
        )
    for row in ([results["R"][task][task] for task in range(n_tasks)], results["R"][-1]):
        if None not in row:
            return row
    raise InputError(f"reference={reference}: has no accuracy on some of its tasks")


def differing(results: Mapping[str, Any], settings: Mapping[str, Any], scenario: Scenario) -> str:
    """In what a finished run is of another benchmark, by the key that a person sets; '' if it is of the same.

    The length of training and all that belongs to a method may differ.
    """
    settings, theirs = by_content(settings), by_content(results["config"])

    def by_key(config: Mapping[str, Any], group: str) -> dict[str, Any]:
        """The values of a group by their dotted keys; what isn't set is not there."""
        node = {group: {"": config["choices"].get(group), **(config.get(group) or {})}}
        return {key.removesuffix("."): value for key, value in leaves(node) if value is not None}

    for group in ("dataset", "scenario"):
        own, other = by_key(settings, group), by_key(theirs, group)
        same_kind = own.get(f"{group}._target_") == other.get(f"{group}._target_")
        for key in dict.fromkeys([*own, *other]):
            a_name = key == group and same_kind  # of a file with the same thing in it
            if own.get(key) != other.get(key) and not a_name and key != "scenario.train_mask":
                return f"{key}={typed(other.get(key))}, here {typed(own.get(key))}"
    rules = scenario.problem.rules  # the training mask as it was used
    for name, rule in results["masks"].items():
        if name in rules and rule != rules[name]:
            key = "scenario.train_mask" if name == "train" else f"the mask of the {name}"
            return f"{key}={rule}, here {rules[name]}"
    if (images := results.get("measured_on", "test images")) != "test images":
        return f"measured on {images}"
    if results["n_test"] != [len(test) for test in scenario.tests]:
        return "has other test images"
    drawn = drawn_from_seed(settings["scenario"])
    if drawn and results["seed"] != settings["seed"]:
        return f"seed={results['seed']}, here {settings['seed']}, which decides on {drawn}"
    if results["classes"] != [list(task.names) for task in scenario.tasks]:
        return "has other classes in its tasks"
    return ""


def drawn_from_seed(scenario: Mapping[str, Any]) -> str:
    """What of a benchmark follows from the seed; '' where every seed has the same tasks and test images."""
    if scenario["_target_"].endswith(".permuted"):
        return "the permutations"
    drawn = [key for key, value in scenario.items() if value == "random"]
    drawn += [key for key in ("max_train", "max_test") if scenario.get(key) is not None]
    return f"scenario.{drawn[0]}" if drawn else ""


@contextmanager
def saved_on_signals(fit: Fit) -> Iterator[None]:
    """SIGTERM and Ctrl-C stop the run at the end of the current chunk, after it was saved; a second one at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: Any) -> None:
        fit.signal = number
        signal.signal(number, signal.SIG_DFL)
        fit.progress.stopping()

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
