"""A search for good values: Optuna proposes them, runs of the first tasks or of all tasks try them, and validation
images alone judge.

Everything lies in one folder: `study.db` has the trials, `.trials/` their runs, each as resumable as any other
and out of the sight of reports, which are on test images.
"""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from cl_bench.config import InputError, KnownError, Positive
from cl_bench.config.checks import WORKED_OUT, check_settings
from cl_bench.config.compose import compose
from cl_bench.config.declared import unread_in
from cl_bench.config.errors import nearest, typed
from cl_bench.config.names import WITHOUT_EFFECT, key_of, name_of, place
from cl_bench.config.schema import build, check
from cl_bench.config.tuned import MAY_SET
from cl_bench.runs.folder import RunFolder
from cl_bench.runs.loop import run
from cl_bench.runs.setup import prepare
from cl_bench.seeding import derive
from cl_bench.sweep.search_figures import search_history, search_importance

try:
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
    from optuna.exceptions import StorageInternalError
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
    from optuna.trial import FrozenTrial, TrialState
    from sqlalchemy import URL
    from sqlalchemy.exc import SQLAlchemyError
except ImportError:
    raise InputError("hparams_search: needs optuna: pip install 'cl_bench[search]'") from None

NO_KEYS = ("_target_", "choices", "hparams_search", *WORKED_OUT)
"""What composed settings have beside the keys of a person."""

BENCHMARK = ("dataset", "scenario", "seed", "continue_from")
"""The keys that say what is learned."""

MEASURES = ("tuned_on", "measure_every", "evaluate_every", "evaluate_unit", "evaluate_on")
"""The keys that say what is known of a run, beside `WITHOUT_EFFECT`: the accuracy in the end is the same."""


@dataclass(frozen=True)
class Plan:
    """What is searched for, and how; the keys are explained in `conf/hparams_search/*.yaml`."""

    trials: Positive
    first_tasks: Positive | None
    space: dict[str, Any]

    @property
    def protocol(self) -> str:
        """On which tasks the values are chosen, as results are labeled with it."""
        return f"first_{self.first_tasks}_tasks" if self.first_tasks else "all_tasks"


def search(overrides: Sequence[str], flags: Sequence[str] = ()) -> dict[str, Any]:
    """Tries values as a command line with `hparams_search=NAME` asks for, or goes on with that, and returns the
    settings of a run of all tasks with the best of them.

    flags: of that command line, for those that are printed.
    Raises InputError for what can't be searched, and KnownError when no trial got to its end.
    """
    given = compose(*overrides)
    plan: Plan = build(check(given["hparams_search"], "hparams_search", Plan))
    space = dict(distributions(plan.space, given, "hparams_search.space."))
    if not space:
        raise InputError("hparams_search.space={}: name at least one key")

    def trial_with(values: Mapping[str, Any]) -> dict[str, Any]:
        settings = compose(*overrides, *assigned(values), "tuned_on=null")
        del settings["hparams_search"]
        check_settings(settings)
        return settings | {"trial": {"first_tasks": plan.first_tasks}}

    unread = [unread_in(compose(*overrides, *assigned({key: ends(space[key])[0]}))) for key in space]
    if idle := [key for key, found in zip(space, unread, strict=True) if key in found]:
        raise InputError(f"hparams_search.space.{idle[0]}: has no effect here; leave it out")
    outermost = [{key: ends(distribution)[end] for key, distribution in space.items()} for end in (1, 0)]
    for values in outermost:  # what can't be run at the ends of the ranges is told before anything begins
        prepare(trial_with(values))
    for values in outermost:  # and what can't be run afterwards, without the validation images of a search
        prepare(compose(*chosen_with(overrides, values, plan)))
    lowest = trial_with(outermost[1])
    key = key_of(lowest | {"space": plan.space})  # the same whatever is given for the keys that are searched
    root = place(given["output_root"], "output_root") / name_of(given) / f"search-seed{given['seed']}-{key}"
    runs = {"output_root": str(root / ".trials")}

    database = root.resolve() / "study.db"
    with RunFolder(root, key).opened(anew=not given["resume"]), told_of(database):
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = URL.create("sqlite", database=str(database)).render_as_string()  # a path may have a ?
        study = optuna.create_study(storage=storage, study_name=key, direction="maximize", load_if_exists=True)
        for number in range(plan.trials):
            if number == len(study.trials):
                values = proposed(study, space, derive(given["seed"], "search", number))
                study.add_trial(optuna.create_trial(state=TrialState.RUNNING, params=values, distributions=space))
            trial = study.trials[number]
            if not trial.state.is_finished():
                attempt(study, trial, trial_with(trial.params) | runs)
            print(f"trial {number + 1} of {plan.trials}: {summary_of(study, study.trials[number])}", flush=True)
        return best_of(study, plan, overrides, root, flags)


@contextmanager
def told_of(database: Path) -> Iterator[None]:
    """Whatever is wrong with a database is one line."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise InputError(f"{database}: can't be used ({reason}); delete it to start a new search") from error


def distributions(
    space: Any, given: Mapping[str, Any], where: str, path: str = ""
) -> Iterator[tuple[str, BaseDistribution]]:
    """The dotted keys of a space, which has the shape of the configuration, and what each is drawn from."""
    if not isinstance(space, Mapping):
        raise InputError(f"{where}{path[:-1]}={typed(space)}: has several keys; name those to search")
    for key, node in space.items():
        found, known = f"{path}{key}", [name for name in given if not unsearchable(path, name)]
        if why := key in given and unsearchable(path, key):
            raise InputError(f"{where}{found}: {why}")
        if key not in known:
            raise InputError(f"{where}{found}: there is no {found} to search{nearest(key, known, where + path)}")
        if isinstance(given[key], Mapping) and isinstance(node, Mapping) and "choices" in node:
            raise InputError(f"{where}{found}: {key} cannot be searched; search once for each {key}=NAME")
        if isinstance(given[key], Mapping):
            yield from distributions(node, given[key], where, f"{found}.")
        elif not isinstance(node, Mapping):
            raise InputError(f"{where}{found}={typed(node)}: needs low and high, or choices")
        else:
            if "choices" in node:  # Hydra has merged them with the range of a file
                node = {name: value for name, value in node.items() if name not in ("low", "high", "log")}
            try:
                yield found, build(check(node, f"{where}{found}", among if "choices" in node else between))
            except InputError:
                raise
            except ValueError as error:  # Optuna's, of a range that can't be
                raise InputError(f"{where}{found}: {error}") from None


def unsearchable(group: str, key: str) -> str | None:
    """Why a key below a path, as "method." or "", can't be searched; None where it can."""
    if key == "_target_" or (not group and key in NO_KEYS):
        return "cannot be searched; search once for each choice"
    if not group and key in BENCHMARK:
        return "changes what is learned, so accuracies cannot be compared; search once for each value"
    if key in WITHOUT_EFFECT.get(group.rstrip("."), ()) or (not group and key in MEASURES):
        return "changes no accuracy; leave it out"
    return None


def between(low: int | float, high: int | float, log: bool = False) -> BaseDistribution:
    """Numbers from `low` to `high`, whole ones if both are. log: drawn by their logarithm."""
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(low, high, log=log)


def among(choices: list[Any]) -> BaseDistribution:
    """One of these values, as a person types it: Optuna keeps no lists."""
    return CategoricalDistribution([typed(choice) for choice in choices])


def ends(distribution: Any) -> tuple[Any, Any]:
    """The first and the last of all values."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0], distribution.choices[-1]
    return distribution.low, distribution.high


def assigned(values: Mapping[str, Any]) -> list[str]:
    """The values as they are set on a command line."""
    return [f"{key}={typed(value)}" for key, value in values.items()]


def proposed(study: optuna.Study, space: dict[str, BaseDistribution], seed: int) -> dict[str, Any]:
    """What to try next: a function of the trials so far and the seed, so that a search killed anywhere proposes what
    it would have proposed."""
    sampler = optuna.samplers.TPESampler(seed=seed % 2**32)
    beside = optuna.create_study(sampler=sampler, direction="maximize")
    beside.add_trials(study.get_trials())
    return beside.ask(space).params


def attempt(study: optuna.Study, trial: FrozenTrial, settings: Mapping[str, Any]) -> None:
    """Runs a trial, or goes on with its run, and tells the study how it went; one that fails doesn't end the search.

    Raises InputError: what can't be run is for a person to mend.
    """
    try:
        accuracy, reason = run(settings).metrics["ACC"], "nothing was measured after its last task"
    except InputError:
        raise
    except Exception as error:
        accuracy, reason = None, str(error) if isinstance(error, KnownError) else repr(error)
    if accuracy is None:
        study.set_user_attr(f"reason {trial.number}", " ".join(reason.split()))
        study.tell(trial.number, state=TrialState.FAIL)
    else:
        study.tell(trial.number, accuracy)


def summary_of(study: optuna.Study, trial: FrozenTrial) -> str:
    """A finished trial in one line."""
    how = f"{trial.value:.4f}" if trial.value is not None else f"failed: {study.user_attrs[f'reason {trial.number}']}"
    return f"{' '.join(assigned(trial.params))}: {how}"


def chosen_with(overrides: Sequence[str], values: Mapping[str, Any], plan: Plan) -> list[str]:
    """The command line of a run with these values, without a search and the validation images that it sets apart."""
    searched = ("hparams_search", *(f"{key}=" for key in values))
    own = [override for override in overrides if not override.lstrip("~+").startswith(searched)]
    return [*own, *assigned(values), f"tuned_on={plan.protocol}"]


def best_of(
    study: optuna.Study, plan: Plan, overrides: Sequence[str], root: Path, flags: Sequence[str]
) -> dict[str, Any]:
    """Draws and tells how the search ended; returns the settings of a run of all tasks with the best values.

    An earlier search for more trials may have left some, one of them perhaps cut: they are none of this one.
    """
    trials = study.get_trials()[: plan.trials]
    done = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    if not done:
        raise KnownError(f"hparams_search: no trial was finished; {summary_of(study, trials[0])} (in {root})")
    best = max(done, key=lambda trial: trial.value or 0.0)
    tasks = f"the first {plan.first_tasks} tasks" if plan.first_tasks else "all tasks"
    search_history([trial.value for trial in trials], tasks, root / "history.png")
    of_these = optuna.create_study(direction="maximize")
    of_these.add_trials(trials)
    with warnings.catch_warnings(action="ignore"):  # few or equal trials: all keys count the same then
        importance = get_param_importances(of_these, evaluator=PedAnovaImportanceEvaluator())
    tried = {key: [(trial.params[key], trial.value or 0.0) for trial in done] for key in importance}
    search_importance(importance, tried, tasks, root / "importance.png")

    whole = chosen_with(overrides, best.params, plan)
    settings = compose(*whole)
    names = [settings["choices"][group] for group in ("method", "dataset", "scenario")]
    file = root / f"{'-'.join(names)}.yaml"
    file.write_text(
        f"# @package _global_\n"
        f"# Chosen on validation images of {tasks}: {best.value:.4f}, the best of {len(done)} trials "
        f"({len(trials) - len(done)} failed), by\n"
        f"# python -m cl_bench {shlex.join([*flags, *overrides])}\n"
        f"{OmegaConf.to_yaml(OmegaConf.from_dotlist([*assigned(best.params), f'tuned_on={plan.protocol}']))}"
    )
    print(f"best of {len(done)} trials ({len(trials) - len(done)} failed), on validation images of {tasks}:")
    print(f"  {summary_of(study, best)}")
    print(f"now with all tasks and test images:\n  python -m cl_bench {shlex.join([*flags, *whole])}")
    other = [key for key in best.params if key.partition(".")[0] not in MAY_SET["tuned/scenario"]]
    if other:
        print(f"not a file for conf/tuned, which may set only the method and its optimizer, not {', '.join(other)}:\n")
    else:
        print(f"used automatically if saved as conf/tuned/scenario/{file.name}:\n")
    print(file.read_text())
    print(f"study.db, history.png, importance.png and the runs of the trials are in {root}")
    return settings
