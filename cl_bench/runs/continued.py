"""`continue_from=FOLDER`: a new run that continues a finished run with new tasks. torch is imported only when it is
certain that this is possible."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cl_bench.config import InputError, NotApplicable
from cl_bench.config.came_from import SAME, came_from
from cl_bench.config.declared import declared, methods_with
from cl_bench.config.errors import no_such_folder, typed
from cl_bench.config.names import place
from cl_bench.config.tuned import leaves
from cl_bench.record import Damaged, Results, load_results
from cl_bench.runs.folder import RunFolder

if TYPE_CHECKING:
    from torch import Tensor


def tasks_before(settings: Mapping[str, Any]) -> int:
    """The number of tasks of the run that is continued; 0 without such a run."""
    return settings["came_from"]["tasks"] if settings.get("came_from") else 0


def earlier(settings: Mapping[str, Any]) -> Results:
    """The results of the run that is continued.

    Raises InputError if there are none, or if these settings cannot continue them.
    """
    folder = place(settings["continue_from"], "continue_from")
    where = f"continue_from={settings['continue_from']}"
    try:
        results = load_results(folder)
    except FileNotFoundError:
        there = "has no results.json" if folder.is_dir() else no_such_folder(folder)
        raise InputError(f"{where}: {there}; it is the folder of one finished run") from None
    except Damaged as error:
        raise InputError(f"{where}: {error}") from None
    if results.status != "finished" or "trial" in results.config:
        state = "a trial of a search" if "trial" in results.config else results.status
        raise InputError(f"{where}: its run is {state}; choose a finished one")
    if settings.get("came_from") != came_from(settings):
        raise InputError(f"{where}: has changed")
    check_goes_on(settings, results, where)
    return results


def check_goes_on(settings: Mapping[str, Any], results: Results, where: str) -> None:
    """Raises InputError for settings that cannot continue these results."""
    if "trial" in settings or settings.get("hparams_search"):
        raise InputError(f"{where}: a search chooses values before the first task; leave out hparams_search")
    if settings["reference"] is not None:
        raise InputError(f"{where}: its tasks come from two runs, so no reference fits; leave out reference")
    for config, whose in ((results.config, "its run"), (settings, "this one")):
        if config["scenario"].get("passes") == "online":
            raise InputError(
                f"{where}: {whose} is a stream (scenario.passes=online), which cannot be continued in another run"
            )
    for group in (*SAME, "weights"):
        ours, theirs = (dict(leaves({group: node})) for node in (settings.get(group), results.config.get(group)))
        for key in dict.fromkeys([*theirs, *ours]):
            if ours.get(key) != theirs.get(key):
                raise InputError(
                    f"{where}: its run has {key}={typed(theirs.get(key))}, here {typed(ours.get(key))}; both runs need "
                    f"the same method, network and memory"
                )
    for key in ("mean", "std", "normalize"):
        ours, theirs = ((config.get("dataset") or {}).get(key) for config in (settings, results.config))
        if ours and ours != theirs:
            why = f"pixels are normalized as in its run, which has {typed(theirs)}; leave it out"
            raise InputError(f"{where}: dataset.{key}={typed(ours)}: {why}")
    if settings["optimizer"].get("keep_state"):
        raise InputError(f"{where}: optimizer.keep_state=true would use the moments of the smaller head; set false")
    if not declared(settings, "grows"):
        others = ", ".join(methods_with("grows", True))
        why = f"cannot continue with more outputs (continue_from); these can: {others}"
        raise NotApplicable(settings["choices"]["method"], settings["choices"]["scenario"], why)


def state_to_go_on(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The state at the end of the run that is continued: of the method, of the scores, and its records."""
    results = earlier(settings)
    folder = RunFolder(place(settings["continue_from"], "continue_from"), results.key)
    return folder.state_after(len(results.tasks) - 1)


def grown(state: Mapping[str, Any], fresh: Mapping[str, Any]) -> dict[str, Any]:
    """The state of a smaller module as the state of a larger one: its numbers come first, and the rest is from `fresh`.

    A tensor that is empty in `fresh` takes its size from the state, see `networks.growing`.

    >>> import torch
    >>> grown({"bias": torch.ones(2), "index": 4}, {"bias": torch.zeros(3), "index": -1})
    {'bias': tensor([1., 1., 0.]), 'index': 4}
    """
    return {name: _in_corner(value, fresh.get(name)) for name, value in state.items()}


def _in_corner(value: Any, like: Tensor | Any) -> Any:
    shape, room = getattr(value, "shape", ()), getattr(like, "shape", ())
    if shape == room or len(shape) != len(room) or any(n > m for n, m in zip(shape, room, strict=True)):
        return value
    larger = like.clone()
    larger[tuple(slice(n) for n in shape)] = value.to(larger)
    return larger


def settings_of(results: Results, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the run that is continued, with the data folder and the plugins of the new one."""
    return {**results.config, "plugins": settings["plugins"], "data_dir": settings["data_dir"]}
