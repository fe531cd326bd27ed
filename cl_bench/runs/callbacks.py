"""Lightning callbacks of the user: which of them are possible here, and what checkpoints keep of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any

import torch
from pytorch_lightning import Callback
from pytorch_lightning import callbacks as lightning

from cl_bench.config import InputError

NOT_HERE: dict[tuple[type[Callback], ...], str] = {
    (lightning.Checkpoint,): "a run writes its own checkpoints, see checkpoint_every and keep_checkpoints",
    (lightning.ProgressBar, lightning.ModelSummary): "a run shows its own progress, see trainer.progress",
    (lightning.EarlyStopping, lightning.Timer): "the settings determine the steps of a phase, see trainer.patience",
    (lightning.BasePredictionWriter, lightning.SpikeDetection): "Lightning gets no loss and no predictions here",
    (lightning.BaseFinetuning, lightning.ModelPruning): "it counts epochs, and a phase is one epoch of Lightning",
    (
        lightning.BatchSizeFinder,
        lightning.LearningRateFinder,
        lightning.GradientAccumulationScheduler,
        lightning.StochasticWeightAveraging,
        lightning.WeightAveraging,
    ): "Lightning does not make the optimizer's steps here, and its global_step stays 0",
}
"""Lightning's own callbacks that would do nothing or harm, with the reason."""


def usable(callbacks: Sequence[Callback]) -> list[Callback]:
    """The callbacks. Raises InputError for callbacks that are not possible here."""
    for number, callback in enumerate(callbacks):
        for kinds, why in NOT_HERE.items():
            if isinstance(callback, kinds):
                raise InputError(f"trainer.callbacks[{number}]: {type(callback).__name__} cannot be used: {why}")
    return list(callbacks)


def states_of(callbacks: Sequence[Callback]) -> list[dict[str, Any]]:
    """The `state_dict` of each callback, in order, for checkpoints.

    Raises InputError for anything but tensors and plain values: a checkpoint is no reason to import code.
    """
    states = [callback.state_dict() for callback in callbacks]
    for number, state in enumerate(states):
        if odd := next(not_plain(state, "state_dict"), None):
            what = "a checkpoint may have tensors, numbers, texts, and lists and dictionaries of these"
            raise InputError(f"trainer.callbacks[{number}]: its {odd}; {what}")
    return states


def restore(callbacks: Sequence[Callback], states: Sequence[dict[str, Any]] | None) -> None:
    """Gives them their kept state, if there is one; a copy, because they may change it."""
    for callback, state in zip(callbacks, states or [], strict=False):
        if state is not None:
            callback.load_state_dict(deepcopy(state))


def not_plain(value: Any, where: str) -> Iterator[str]:
    """The places in a value that have other objects than tensors and plain values.

    >>> next(not_plain({"seen": [1, 2.5, {"all"}]}, "state_dict"))
    "state_dict['seen'][2] is a set"
    """
    if type(value) is dict:
        for key, part in value.items():
            yield from not_plain(part, f"{where}[{key!r}]")
    elif type(value) in (list, tuple):
        for i, part in enumerate(value):
            yield from not_plain(part, f"{where}[{i}]")
    elif not (value is None or type(value) in (bool, int, float, str, torch.Tensor)):
        yield f"{where} is a {type(value).__name__}"
