"""`reference=`: the accuracy of joint training, or of separate networks, on the same benchmark, read from finished
runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from cl_bench.config import InputError
from cl_bench.config.content import by_content
from cl_bench.config.errors import typed
from cl_bench.config.names import WITHOUT_EFFECT, as_ever, place
from cl_bench.config.tuned import leaves
from cl_bench.config.weights import by_weights
from cl_bench.data.tasks import Scenario
from cl_bench.evaluation.scores import References
from cl_bench.record import Damaged, Results, load_results

AT_THE_END = "joint"
"""The method that learns all tasks when the last has come."""
JOINT = (AT_THE_END, "cumulative")
"""Methods that learn all tasks together, and so say how well each could be learned."""
SEPARATE = "separate"
"""The method that learns each task alone."""


def references_of(settings: Mapping[str, Any], scenario: Scenario) -> References:
    """The accuracies on each task of the runs that `reference` names.

    Raises InputError if a run does not exist or has another benchmark, and for two runs of the same sort.
    """
    named = settings["reference"]
    if named is None or "trial" in settings:  # a trial is measured on other images
        return References()
    if scenario.shared_test:
        tasks = "the tasks share one test set, so there is no accuracy on each of them to compare; leave it out"
        raise InputError(f"reference={typed(named)}: {tasks}")
    found: dict[str, list[float]] = {}
    line = None
    for reference in [named] if isinstance(named, str) else named:
        sort, accuracies, R = accuracies_of(reference, settings, scenario)
        if sort in found:
            raise InputError(f"reference={typed(named)}: names two runs of the same kind, {sort}; choose one of them")
        found[sort] = accuracies
        line = so_far(R) if sort == "joint" else line
    return References(**found, joint_line=line)


def so_far(R: Sequence[Sequence[float | None]]) -> list[float | None]:
    """The mean accuracy on the tasks so far after each task; None if one of them was not measured. If a run was
    measured only after its last task, its final accuracies are used after each task.

    >>> so_far([[0.9, 0.0], [0.5, 0.75]]), so_far([[None, None], [0.5, 0.75]])
    ([0.9, 0.625], [0.625, 0.625])
    """
    rows = [[accuracy for accuracy in row[: after + 1] if accuracy is not None] for after, row in enumerate(R)]
    means = [sum(row) / len(row) if len(row) == after + 1 else None for after, row in enumerate(rows)]
    return means if any(mean is not None for mean in means[:-1]) else means[-1:] * len(R)


def accuracies_of(
    reference: str, settings: Mapping[str, Any], scenario: Scenario
) -> tuple[str, list[float], list[list[float | None]]]:
    """The field of `References` that a finished run gives, its accuracy on each task, and its R.

    The accuracies are the diagonal of a cumulative or a separate run, and the last row of a joint run. A separate
    network knows only the classes of its task, so in class-incremental learning its accuracy is that with the task
    given.

    Args:
        reference: the folder of the run.
    """
    n_tasks = scenario.problem.n_tasks
    missing = f"reference={reference}: there is no finished run of {n_tasks} tasks in it"
    try:
        results = load_results(place(reference, "reference"))
    except FileNotFoundError:
        raise InputError(missing) from None
    except Damaged as error:
        raise InputError(f"{missing} ({error})") from None
    if results.status != "finished" or len(results.R) != n_tasks:
        raise InputError(missing)
    if other := differing(results, settings, scenario):
        raise InputError(
            f"reference={reference}: has other tasks ({results.name}): {other}; choose a run of the same tasks"
        )
    method = results.config["choices"]["method"]
    if method not in (*JOINT, SEPARATE):
        raise InputError(
            f"reference={reference}: is a run of {method}, which learns one task after another; choose one of "
            f"{', '.join(JOINT)} or {SEPARATE}"
        )
    R = results.R_task_masked if method == SEPARATE and results.R_task_masked else results.R
    row = R[-1] if method == AT_THE_END else [R[task][task] for task in range(n_tasks)]
    accuracies = [accuracy for accuracy in row if accuracy is not None]
    if len(accuracies) < n_tasks:
        every = 1 if method == AT_THE_END else results.config.get("measure_every", 1)
        why = "" if every == 1 else f": it was run with measure_every={every}, and 1 is needed"
        raise InputError(f"reference={reference}: has no accuracy on some of its tasks{why}")
    return SEPARATE if method == SEPARATE else "joint", accuracies, R


def differing(results: Results, settings: Mapping[str, Any], scenario: Scenario) -> str:
    """The key in which the benchmark of a finished run differs from this one; '' if it is the same benchmark.

    The length of training and everything that belongs to a method may differ.
    """
    settings, theirs = (as_ever(by_weights(by_content(config))) for config in (settings, results.config))

    def by_key(config: Mapping[str, Any], group: str) -> dict[str, Any]:
        """The values of a group by their dotted keys, without keys that are not set or that change no number."""
        node = {"": config["choices"].get(group), **(config.get(group) or {})}
        kept = {name: value for name, value in node.items() if name not in WITHOUT_EFFECT.get(group, ())}
        return {key.removesuffix("."): value for key, value in leaves({group: kept}) if value is not None}

    for group in ("dataset", "scenario", "features"):
        own, other = by_key(settings, group), by_key(theirs, group)
        same_kind = own.get(f"{group}._target_") == other.get(f"{group}._target_")
        for key in dict.fromkeys([*own, *other]):
            a_name = key == group and same_kind  # of a file with the same thing in it
            if own.get(key) != other.get(key) and not a_name and key != "scenario.train_mask":
                return f"{key}={typed(other.get(key))}, here {typed(own.get(key))}"
    rules = scenario.problem.rules  # the training mask as it was used
    for name, rule in asdict(results.masks).items():
        if rule != rules[name]:
            key = "scenario.train_mask" if name == "train" else f"the mask of the {name}"
            return f"{key}={rule}, here {rules[name]}"
    if results.measured_on != "test images":
        return f"measured on {results.measured_on}"
    if results.n_test != [len(test) for test in scenario.tests]:
        return "has other test images"
    drawn = drawn_from_seed(settings["scenario"])
    if drawn and results.seed != settings["seed"]:
        return f"seed={results.seed}, here {settings['seed']}, which determines {drawn}"
    if results.classes != [list(task.names) for task in scenario.tasks]:
        return "has other classes in its tasks"
    return ""


def drawn_from_seed(scenario: Mapping[str, Any]) -> str:
    """The part of a benchmark that depends on the seed; '' if every seed has the same tasks and test images."""
    if scenario["_target_"].endswith(".permuted"):
        return "the permutations"
    drawn = [key for key, value in scenario.items() if value in ("random", "unsorted")]
    drawn += [key for key in ("max_train", "max_test") if scenario.get(key) is not None]
    return f"scenario.{drawn[0]}" if drawn else ""
