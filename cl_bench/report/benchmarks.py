"""Runs -> configurations (runs that differ in their seed alone) -> benchmarks.

Only seeds of one configuration are ever averaged. Configurations are compared within a benchmark: a data set cut
the same way and answered under the same mask. What else they differ in outside their method is their protocol.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property, lru_cache
from typing import Any, Literal

from cl_bench.config.signatures import constant
from cl_bench.evaluation.statistics import Comparisons, Estimate, compare, estimate
from cl_bench.report.labels import ABSENT, as_typed, by_size, differing, short, shown, telling
from cl_bench.report.runs import REFERENCED, Run

BOUNDS = ("finetune", "joint", "cumulative", "joint_gan", "separate")
"""What bounds the others from below and above; they are no rivals for the best."""

BUDGETS = ("memory.images", "memory.per", "memory.bytes", "method.n_gen", "method.n_gen_mode")
"""How much of the past a method may keep or replay."""

OWN = ("method.", "memory.", "tuned_on")
"""How the keys of a method begin, and how its values were chosen; all others are its protocol."""

STATED = "the method's own"  # training mask


class Configuration:
    """Finished runs that differ in their seed alone.

    `label` tells it from the others of its benchmark, `full_label` with all values in which its method differs, and
    `brief` with its method and protocol alone. `tell_apart` finds these.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self.label = self.full_label = self.brief = self.protocol = ""
        self.numbers: dict[str, dict[int, float]] = {}
        self.runs = sorted(runs, key=lambda run: run.seed)
        first = self.runs[0]
        self.method, self.config, self.n_tasks = first.method, first.config, first.n_tasks
        self.rules = {f"mask.{name}": rule for name, rule in asdict(first.results.masks).items()}

    def name(self, protocol: str, label: str, full_label: str, brief: str) -> None:
        self.protocol, self.label, self.full_label, self.brief = protocol, label, full_label, brief

    @property
    def target(self) -> str:
        """The path of the method's class."""
        return str(self.config.get("method._target_"))

    @property
    def seeds(self) -> list[int]:
        return [run.seed for run in self.runs]

    @property
    def own(self) -> dict[str, Any]:
        """The values of the method, and of what it keeps."""
        return {key: value for key, value in self.config.items() if key.startswith(OWN)}

    @cached_property
    def conditions(self) -> dict[str, Any]:
        """All values but those of the method, and the masks."""
        found = {key: value for key, value in self.config.items() if not key.startswith(OWN)} | self.rules
        if stated_mask(self.target) == self.train_mask:  # of the method, as its paper has it
            found |= {key: STATED for key in ("scenario.train_mask", "mask.train") if key in found}
        return found

    @property
    def train_mask(self) -> str:
        """Which outputs took part in the training softmax."""
        return self.rules["mask.train"]

    @property
    def budget(self) -> str:
        """How much of the past may be kept or replayed, '' where the method has no such key."""
        budget = {key: shown(key, self.config[key]) for key in BUDGETS if self.config.get(key) is not None}
        if budget.get("memory.per") == "total":
            del budget["memory.per"]
        if "memory.bytes" in budget:
            budget.pop("memory.images", None)
        return " ".join(f"{short(key)}={value}" for key, value in budget.items())

    @property
    def length(self) -> str:
        """How long each task is trained."""
        for name in ("iterations", "epochs"):
            if (value := self.config.get(f"trainer.{name}")) is not None:
                return f"{shown('', value)} {name if value != 1 else name.removesuffix('s')}"
        return ""

    def by_seed(self, name: str) -> dict[int, float]:
        if name not in self.numbers:  # each is asked for by several tables and figures
            no_one = name in REFERENCED and self.compared_with is None
            values = ((run.seed, None if no_one else run.number(name)) for run in self.runs)
            self.numbers[name] = {seed: value for seed, value in values if value is not None}
        return self.numbers[name]

    def estimate(self, name: str) -> Estimate | None:
        return estimate(list(self.by_seed(name).values()))

    def accuracies(self) -> list[Estimate | None]:
        """Mean accuracy on the tasks seen so far, after each task."""
        columns = zip(*(run.accuracies() for run in self.runs), strict=True)
        return [estimate([value for value in column if value is not None]) for column in columns]

    def on_stream(self) -> list[tuple[float, Estimate]]:
        """(images that came, accuracy on what came) at each point, where seeds may differ by a mini-batch, and so by a
        point before the last, which is the end of the stream in each."""
        points, streams = [], [run.results.stream for run in self.runs]
        for of_seeds in [*zip(*(stream[:-1] for stream in streams), strict=False), [s[-1] for s in streams if s]]:
            value = estimate([accuracy for _, accuracy in of_seeds if accuracy is not None])
            if value:
                points.append((math.fsum(images for images, _ in of_seeds) / len(of_seeds), value))
        return points

    def while_learning(self, on: str) -> list[tuple[float, Estimate]]:
        """(steps of the run, mean accuracy on the tasks so far on these images), of the seeds that have it."""
        measured = [run for run in self.runs if on in run.while_learning]
        usual = Counter(run.evaluated for run in measured).most_common(1)  # others were measured at other moments
        curves = [run.while_learning[on] for run in measured if run.evaluated == usual[0][0]]
        found = []
        for moment in curves[0] if curves else ():
            of_seeds = [curve[moment] for curve in curves if moment in curve]
            if len(of_seeds) == len(curves) and (value := estimate([accuracy for _, accuracy in of_seeds])):
                found.append((math.fsum(step for step, _ in of_seeds) / len(of_seeds), value))
        return found

    def reference(self, name: Literal["chance", "joint"]) -> list[float | None] | None:
        """Mean accuracy on the tasks so far, after each, of one that guesses or of a joint run; the mean over the seeds
        that know it. None where they know different joint runs, see `compared_with`."""
        if name == "joint" and self.compared_with is None:
            return None
        lines = [line for run in self.runs if (line := getattr(run.results, name))]
        columns = [[value for value in of_seeds if value is not None] for of_seeds in zip(*lines, strict=True)]
        return [math.fsum(values) / len(values) if values else None for values in columns] or None

    @property
    def compared_with(self) -> tuple[str, ...] | None:
        """What its intransigence and the like compare with, see `Run.compared_with`; None where its seeds differ."""
        found = {run.compared_with for run in self.runs if run.compared_with}
        return next(iter(found)) if len(found) == 1 else None if found else ()

    def per_task(self, name: str) -> list[Estimate | None]:
        """A number of PLASTICITY or SIZES for each task."""
        columns = zip(*(run.per_task(name) for run in self.runs), strict=True)
        return [estimate([value for value in column if value is not None]) for column in columns]

    def matrix(
        self, tasks: Sequence[int] | None = None, after: Sequence[int] | None = None
    ) -> list[list[float | None]]:
        """R after and on these tasks (None: all; after: on the same), averaged over the seeds. A test set that all
        tasks share is one column."""
        tasks = range(self.n_tasks) if tasks is None else tasks
        columns = [0] if self.runs[0].shared_test else tasks
        cells = [[[run.R[i][j] for run in self.runs] for j in columns] for i in (tasks if after is None else after)]
        return [[None if None in cell else math.fsum(cell) / len(cell) for cell in row] for row in cells]  # type: ignore[arg-type]


@dataclass
class Benchmark:
    """Configurations that answer the same question: a data set, cut the same way, evaluated under the same mask.

    shared_test: whether all tasks share one test set. measured_on: test images, or validation images of a search.
    protocols: by a short name, in what they differ.
    """

    dataset: str
    scenario: str
    n_tasks: int
    mask: str
    shared_test: bool
    measured_on: str
    configurations: list[Configuration]
    protocols: dict[str, dict[str, str]]

    @property
    def title(self) -> str:
        of_tasks = f"{self.n_tasks} task{'s' * (self.n_tasks != 1)}"
        usual = {"class_incremental": "seen", "task_incremental": "own", "domain_incremental": "all"}
        named = usual.get(self.scenario, "all") == self.mask  # the name of a scenario such as permuted leaves it open
        rules = {"own": ", task given", "seen": ", classes seen", "all": ", all classes"}
        rule = "" if named else rules.get(self.mask, "")
        rule += ", one test set" * self.shared_test
        rule += f", on {self.measured_on}" * (self.measured_on != "test images")
        return f"{self.dataset}, {self.scenario.replace('_', '-')}, {of_tasks}{rule}"

    @property
    def runs(self) -> list[Run]:
        return [run for configuration in self.configurations for run in configuration.runs]


@lru_cache(maxsize=256)
def compared(rows: tuple[Configuration, ...], name: str) -> Comparisons:
    """All pairs of the configurations of a protocol by a metric; three tables mark the best of them.

    None may be left out: to test those alone that came out best would find differences where there are none.
    """
    return compare([configuration.by_seed(name) for configuration in rows])


def by_protocol(configurations: Iterable[Configuration]) -> dict[str, tuple[Configuration, ...]]:
    found: dict[str, list[Configuration]] = {}
    for configuration in configurations:
        found.setdefault(configuration.protocol, []).append(configuration)
    return {protocol: tuple(found[protocol]) for protocol in sorted(found, key=lambda name: int(name[1:]))}


@cache
def stated_mask(method: str) -> str | None:
    """The training mask of a method's paper, where its class states one; method: the path of that."""
    try:
        return constant(method, "train_mask")
    except LookupError:
        return None


def benchmarks(runs: Iterable[Run]) -> list[Benchmark]:
    """The finished runs, by benchmark and configuration, each with a label that tells it from the others."""
    together: dict[Hashable, list[Run]] = {}
    for run in runs:
        if run.finished:
            together.setdefault(run.identity, []).append(run)
    tables: dict[tuple[str, str, int, str, bool, str], list[Configuration]] = {}
    for group in together.values():
        first = group[0]
        place = (first.dataset, first.scenario, first.n_tasks, first.results.masks.evaluation, first.shared_test)
        place = (*place, first.results.measured_on)
        tables.setdefault(place, []).append(Configuration(group))
    return [Benchmark(*place, found, tell_apart(found)) for place, found in sorted(tables.items())]


def tell_apart(configurations: list[Configuration]) -> dict[str, dict[str, str]]:
    """Names protocols and labels in place and sorts; returns in what the protocols differ, the most used first."""
    differ = differing([configuration.conditions for configuration in configurations])
    if "scenario.train_mask" in differ and "mask.train" in differ:  # the one follows from the other
        differ.remove("mask.train")
    conditions = [
        tuple(as_typed(configuration.conditions.get(key, ABSENT)) for key in differ) for configuration in configurations
    ]
    texts = {
        key: told([configuration.conditions.get(key, ABSENT) for configuration in configurations], key)
        for key in differ
    }
    used = Counter()
    for configuration, values in zip(configurations, conditions, strict=True):
        used[values] += len(configuration.runs)
    names = {values: f"P{number}" for number, (values, _) in enumerate(used.most_common(), 1)}
    protocols = {configuration: names[values] for configuration, values in zip(configurations, conditions, strict=True)}
    for method in {configuration.method for configuration in configurations}:
        same = [configuration for configuration in configurations if configuration.method == method]
        keys = differing([configuration.own for configuration in same])
        own = {key: told([configuration.own.get(key, ABSENT) for configuration in same], key) for key in keys}
        few = keys if len(keys) <= 3 else telling([configuration.own for configuration in same], keys)
        for configuration in same:
            values = {key: as_typed(configuration.own.get(key, ABSENT)) for key in keys}
            parts = [f"{short(key)}={own[key][values[key]]}" for key in keys]
            some = [part for key, part in zip(keys, parts, strict=True) if key in few]
            label = " ".join([method, *some, *(["…"] if len(few) < len(keys) else [])])
            mark = f" · {protocols[configuration]}" if len(names) > 1 else ""
            configuration.name(protocols[configuration], label + mark, " ".join([method, *parts]), method + mark)

    order = {name: place for place, name in enumerate(names.values())}
    configurations.sort(
        key=lambda configuration: (
            order[configuration.protocol],
            -mean_accuracy(configuration),
            configuration.method,
            sort_key(configuration),
        )
    )
    return {
        name: {key: texts[key][value] for key, value in zip(differ, values, strict=True)}
        for values, name in names.items()
    }


def told(values: Iterable[Any], key: str) -> dict[str, str]:
    """How values of a key are shown, by their whole text: short where that tells them apart.

    >>> told(["a.mlp.MLP", "a.cnn.CNN"], "network._target_"), told(["a.mlp.MLP", "b.mlp.MLP"], "network._target_")
    ({'a.mlp.MLP': 'MLP', 'a.cnn.CNN': 'CNN'}, {'a.mlp.MLP': 'a.mlp.MLP', 'b.mlp.MLP': 'b.mlp.MLP'})
    """
    found = {as_typed(value): shown(key, value) for value in values}
    return found if len(set(found.values())) == len(found) else {text: text for text in found}


def mean_accuracy(configuration: Configuration) -> float:
    """ACC, to sort by: what has none comes last."""
    value = configuration.estimate("ACC")
    return value.mean if value else -math.inf


def by_acc(configuration: Configuration) -> tuple[bool, float]:
    """A key for the highest ACC: of one seed only where none has several, as it says nothing of chance."""
    value = configuration.estimate("ACC")
    return value is not None and value.n > 1, mean_accuracy(configuration)


def sort_key(configuration: Configuration) -> list[tuple[bool, float, str]]:
    """By the values of its method."""
    return [by_size(value) for _, value in sorted(configuration.own.items())]


def mixtures(benchmark: Benchmark) -> list[str]:
    """What a reader must know before comparing rows with each other, a sentence each."""
    notes, found = [], benchmark.configurations
    for name, what in (
        ("budget", "Budgets of kept or replayed images differ"),
        ("train_mask", "Training masks differ"),
        ("length", "Lengths of training differ"),
    ):
        methods: dict[str, set[str]] = {}
        for configuration in found:
            if value := getattr(configuration, name):
                methods.setdefault(value, set()).add(configuration.method)
        if len(methods) > 1:
            listed = "; ".join(f"{value} ({', '.join(sorted(names))})" for value, names in methods.items())
            notes.append(f"{what}: {listed}.")
    mixed = [configuration.label for configuration in found if configuration.compared_with is None]
    if mixed:
        why = "Their seeds have different references, so intransigence and the like are not averaged"
        notes.append(f"{why}: {', '.join(mixed)}.")
    references = {configuration.compared_with for configuration in found} - {None, ()}
    if len(references) > 1:
        listed = "; ".join(sorted(" and ".join(reference) for reference in references if reference))
        notes.append(f"References differ, so intransigence and the like can't be compared between all rows: {listed}.")
    seeds = {tuple(configuration.seeds) for configuration in found}
    if len(seeds) > 1:
        least, most = min(map(len, seeds)), max(map(len, seeds))
        count = f"{least} to {most}" if least < most else f"{most}"
        notes.append(f"Configurations have different seeds ({count} each); paired comparisons use shared ones alone.")
    for name in ("cl_bench", "torch"):
        mixed = [
            configuration.label
            for configuration in found
            if len({run.results.versions.get(name) for run in configuration.runs}) > 1
        ]
        if mixed:
            notes.append(f"Seeds that were run with different versions of {name} are averaged: {', '.join(mixed)}.")
    devices = sorted({run.results.device for run in benchmark.runs})
    if len(devices) > 1:
        notes.append(f"Seconds were measured on different devices ({', '.join(devices)}) and can't be compared.")
    return notes
