"""Data sets and pictures for predictions of a run, and a lock so that nothing else of ours runs at the same time."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from numbers import Integral
from pathlib import Path
from typing import Any

from cl_bench.config import InputError
from cl_bench.config.errors import nearest
from cl_bench.config.names import CONF, options_of
from cl_bench.config.plugins import allowed
from cl_bench.config.schema import check

AT_WORK = threading.Lock()
HERE = ContextVar("HERE", default=False)  # whether this thread has it
if hasattr(os, "register_at_fork"):  # in a process that is forked, no thread would ever release it
    os.register_at_fork(after_in_child=AT_WORK._at_fork_reinit)  # pyright: ignore[reportAttributeAccessIssue]


def node_of(dataset: str, config: Mapping[str, Any], keys: Sequence[str] = ()) -> dict[str, Any]:
    """A data set as a node of the configuration, its images resized as those of a run.

    keys: more of its settings, such as "dataset.size=32".
    """
    known = [name for name in options_of("dataset") if name != "none"]
    own = None
    if dataset not in known:
        endings = {".npz": "npz", ".csv": "files"}
        own = endings.get(Path(dataset).suffix.lower(), "image_folder" if Path(dataset).is_dir() else None)
        if own is None:
            choices = [*known, "PATH.npz", "PATH.csv", "FOLDER"]
            raise InputError(f"dataset={dataset}: no such dataset{nearest(dataset, choices)}")
    sized = any(key.partition("=")[0] == "dataset.size" for key in keys)
    words = [f"dataset={own or dataset}", *(["dataset.path=any"] if own else [])]
    if {"image_folder", "files"} & {own, dataset} and not sized:  # it needs one; see `Trained.accuracies`
        words.append("dataset.size=1")
    with by_itself():
        node = composed_of([*words, *keys], keys)["dataset"]
    check(node, "dataset", packages=allowed([]))
    size = (config.get("dataset") or {}).get("size")
    return node | ({"path": dataset} if own else {}) | ({"size": size} if "size" in node and not sized else {})


def places_of(images: Any) -> list[Path] | None:
    """The paths of picture files and folders, where images are given so."""
    if isinstance(images, str | os.PathLike):
        return [Path(images)]
    if isinstance(images, list | tuple) and images and all(isinstance(place, str | os.PathLike) for place in images):
        return [Path(place) for place in images]
    return None


def as_path(place: Any, what: str) -> Path:
    """A path from the user. Raises InputError for values that are not paths."""
    if isinstance(place, str | os.PathLike):
        return Path(place)
    raise InputError(f"{what}={place!r}: is not a path; give a text or a Path")


def is_one_of(number: Any, known: range) -> bool:
    """Whether a whole number, Python's or numpy's, is one of these: True is none, nor is 1.0.

    >>> is_one_of(1, range(2)), is_one_of(True, range(2)), is_one_of(1.0, range(2))
    (True, False, False)
    """
    return isinstance(number, Integral) and not isinstance(number, bool) and number in known


def composed_of(overrides: Sequence[str], typed: Sequence[str] | None = None) -> dict[str, Any]:
    """The settings of a command line of these words, inside `by_itself`.

    typed: those that a person typed, if not all. Raises InputError, in one line, for what can't be meant.
    """
    from cl_bench.config.compose import compose
    from cl_bench.config.explain import explained

    try:
        return compose(*overrides)
    except Exception as error:
        told = explained(error, overrides if typed is None else typed)
        if told is error:
            raise
        raise told from error


@contextmanager
def alone() -> Iterator[None]:
    """A lock: nothing else of ours is composed, built or trained in this process, because torch's random numbers and
    Hydra's configuration are global. Raises InputError if it is entered twice, which would wait for ever."""
    if HERE.get():
        why = "a run is in progress in this thread, and nothing else can be built or trained before it ends"
        raise InputError(f"cl_bench: {why}; leave it out of callbacks")
    with AT_WORK:
        before = HERE.set(True)
        try:
            yield
        finally:
            HERE.reset(before)


@contextmanager
def by_itself() -> Iterator[None]:
    """`alone`, also for Hydra. Afterwards Hydra has the configuration again that other code had opened."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    with alone():
        opened, GlobalHydra.instance().hydra = GlobalHydra.instance().hydra, None
        try:
            with initialize_config_dir(str(CONF), version_base="1.3"):
                yield
        finally:
            GlobalHydra.instance().hydra = opened
