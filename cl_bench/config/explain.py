"""What is wrong with a command line, by the error that Hydra had with it."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Mapping
from typing import Any

from cl_bench.config.errors import InputError, KnownError, most_like, nearest
from cl_bench.config.names import check_name, conf_of, options_of


def explained(error: Exception, overrides: Iterable[str]) -> Exception:
    """The error as a person is told it: one of ours as it is, Hydra's as an InputError of one line; itself when nobody
    can have meant it."""
    line = None if isinstance(error, KnownError) else _meant(error, overrides)
    return InputError(line) if line else error


def _meant(error: Exception, overrides: Iterable[str]) -> str | None:
    """What is wrong with a command line, by the error that Hydra had with it; None when Hydra can't have meant it."""
    from hydra.errors import HydraException, MissingConfigException, OverrideParseException
    from omegaconf import DictConfig
    from omegaconf.errors import (
        ConfigAttributeError,
        ConfigKeyError,
        ConfigTypeError,
        MissingMandatoryValue,
        OmegaConfBaseException,
    )
    from yaml import MarkedYAMLError

    if isinstance(error, OSError) and error.filename:
        return f"output_root: can't write {error.filename} ({error.strerror})"
    cause = error.__cause__
    if isinstance(error, MissingConfigException) and "/" in str(error.missing_cfg_file):
        depth = 1 + str(error.missing_cfg_file).startswith("hydra/")  # hydra/launcher is a group
        *names, choice = str(error.missing_cfg_file).split("/", depth)
        group = "/".join(names)
        try:
            check_name(group, choice)
        except InputError as wrong:
            return str(wrong)
        known = {*(error.options or []), *options_of(group)}  # Hydra's list has files of one's own, but no folders
        return f"{group}={choice}: no such {group}{nearest(choice, known)}"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: can't be read; type KEY=VALUE, and quote a VALUE with special characters"
    if isinstance(error, MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        return f"{mark.name}, line {mark.line + 1}: is not YAML ({error.problem})"
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and isinstance(cause.parent_node, DictConfig):
        return _unknown(str(cause.full_key), cause.parent_node)
    if isinstance(error, MissingMandatoryValue):  # one of Hydra's own keys, set to ???
        return f"{error.full_key}: needs a value"
    if isinstance(cause, ConfigTypeError) and str(cause).startswith("Cannot merge"):  # words for who wrote OmegaConf
        wrong = next((override for override in overrides if override.startswith(f"{cause.full_key}=")), cause.full_key)
        wanted = "a list: [VALUE, ...]" if "object_type=list" in str(cause) else "keys: {KEY: VALUE, ...}"
        return f"{wrong}: must be {wanted}"
    if isinstance(cause, OmegaConfBaseException):
        return f"{cause.full_key}: {str(cause).splitlines()[0]}"
    text = " ".join(str(error).split())
    named = text.split("'")[1] if "'" in text else ""
    if text.startswith("Ambiguous value"):
        return f"{named}: several values need a sweep (-m); write a list as [1,2], and a text with commas as '1,2'"
    if "No match in the defaults list" in text:
        return f"{named}: there is no such group in this configuration"
    # Hydra stumbles over a choice that is a list
    no_name = (isinstance(error, TypeError) and module_of(error).startswith("hydra.")) or text.startswith(
        ("Config group override must be", "Error resolving interpolation")
    )
    unread = isinstance(error, UnicodeError) or text.startswith("Unsupported type")  # of a person's own --config-dir
    for override in overrides:
        key, _, value = override.partition("=")
        if not key:
            return f"{override}: no key; type KEY=VALUE"
        if text.startswith("Error resolving interpolation") and key.startswith("~") and options_of(key[1:]):
            return f"{key[1:]}: needs a choice{nearest('', options_of(key[1:]))}"
        is_group = any((conf / key).is_dir() for conf in conf_of().values())
        ours = "hydra" in key or not is_group or set(value.split(",")) <= set(options_of(key))
        if not ours and "(" not in value:  # glob(*)
            if unread:
                return f"{override}: its file can't be read ({text})"
            if no_name:
                return f"{override}: no such {key}{nearest(value, options_of(key))}"
        of_hydra = key.startswith(("hydra.", "hydra/"))
        if of_hydra and isinstance(error, AssertionError | TypeError):  # Hydra checks few of its own
            return f"{override}: Hydra cannot use this value"
    return text if isinstance(error, HydraException | ValueError) else None


def module_of(error: Exception) -> str:
    """The module that raised it."""
    (*_, (frame, _)) = traceback.walk_tb(error.__traceback__)
    return frame.f_globals["__name__"]


def _unknown(full_key: str, parent: Any) -> str:
    """There is no such key in `parent`, the part of a configuration where it was looked for."""
    from omegaconf import OmegaConf

    above, _, key = full_key.rpartition(".")
    known = [path for path in paths_of(OmegaConf.to_container(parent)) if not path.startswith("hydra")]
    deeper = [path for path in known if path.endswith(f".{key}")]  # where it is, had they typed all of it
    choices = [path for path in known if "." not in path]
    prefix = above and f"{above}."
    if deeper:
        return f"{full_key}: no such key; did you mean '{prefix}{min(deeper, key=len)}'?"
    if not most_like(key, choices):  # here; it may be somewhere else
        everywhere = paths_of(OmegaConf.to_container(parent._get_root()))
        ends = {path.rpartition(".")[2]: path for path in everywhere if not path.startswith("hydra")}
        if there := most_like(key, ends, likeness=0.8):
            return f"{full_key}: no such key; did you mean '{ends[there]}'?"
    return f"{full_key}: no such key{nearest(key, choices, prefix) or f'; {above} has none'}"


def paths_of(node: Any) -> list[str]:
    """The dotted path of every key below a node."""
    if not isinstance(node, Mapping):
        return []
    keys = [str(key) for key in node if key != "_target_"]
    return keys + [f"{key}.{path}" for key in keys for path in paths_of(node[key])]
