"""Every key of every YAML file at values that make no sense: each is refused in one line, or does no harm.

What is tried follows from the files and the constructors' signatures, so a new file is covered by being there.
"""

from __future__ import annotations

import inspect
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints

import pytest
from example_records import results
from hypothesis import HealthCheck, given
from hypothesis import settings as profile
from hypothesis import strategies as st
from omegaconf import OmegaConf

from cl_bench.__main__ import main
from cl_bench.config import InputError
from cl_bench.config.checks import STREAM, check_settings, stream_of
from cl_bench.config.compose import compose
from cl_bench.config.names import CONF, GROUPS, options_of
from cl_bench.config.schema import check, target
from cl_bench.data import datasets
from cl_bench.data.streams import Stream
from cl_bench.runs import loop as running
from cl_bench.runs.folder import RunFolder
from cl_bench.runs.setup import prepare
from cl_bench.sweep.search import Plan, distributions

WRONG = (-1, -0.5, 10**40, 1e300, math.nan, math.inf, "text", True, [-1], [math.nan], ["text"], {"a": 1})
LEGAL = (0, 0.5, 10**9, 10**12, 1e30, None, [], [10**9])  # by the signature, for some keys
PARTS = ("gan", "generator")  # of methods, in files of their own
FILES = [(group, name) for group in (*GROUPS, *PARTS) for name in options_of(group) if name != "none"]
SEARCHES = options_of("hparams_search")
KINDS = {"class": "class_incremental", "task": "task_incremental", "domain": "domain_incremental"}

Path_ = tuple[str, ...]


@cache
def loaded(group: str, name: str) -> dict[str, Any]:
    """A group's file with the parts it asks for; where it leaves a value open, one that is there."""
    node: Any = OmegaConf.to_container(OmegaConf.load(CONF / group / f"{name}.yaml"))
    for default in node.pop("defaults", []):
        part, choice = next(iter(default.items())) if isinstance(default, dict) else ("override", "")
        if not part.startswith("override"):
            node[part.lstrip("/")] = loaded(part.lstrip("/"), choice)
    if node.get("path") == "???":
        node["path"] = str(Path(datasets.__file__).with_name("digits.npz"))
    if group == "scenario":  # with the keys that any scenario has
        node = OmegaConf.to_container(OmegaConf.load(CONF / "config.yaml").scenario) | node
    return node | ({"datasets": ["digits"]} if "datasets" in node else {})


def keys(node: Mapping[str, Any], path: Path_ = ()) -> Iterator[tuple[Path_, Any]]:
    """The path of every key of a node and of the nodes in it, with its type hint."""
    constructor = target(node, "node")
    hints = get_type_hints(constructor.__init__ if isinstance(constructor, type) else constructor)
    hints |= get_type_hints(Stream.__init__) if "passes" in node else {}
    for key, value in node.items():
        if isinstance(value, dict) and "_target_" in value:
            yield from keys(value, (*path, key))
        elif key != "_target_":
            yield (*path, key), hints[key]


def check_apart(node: Mapping[str, Any], where: str) -> None:
    """As a run's settings are checked: the keys that any scenario has, then the others."""
    stream = stream_of(node) if where == "scenario" else {}
    check(stream, where, STREAM)
    check({key: value for key, value in node.items() if key not in stream}, where)


def plain_types(hint: Any) -> set[Any]:
    return set().union(*map(plain_types, get_args(hint))) if get_args(hint) else {hint}


def changed(node: Mapping[str, Any], path: Path_, value: Any) -> dict[str, Any]:
    """A copy of a node with one value in it replaced."""
    key, *rest = path
    return {**node, key: changed(node[key], tuple(rest), value) if rest else value}


def place_of(group: str) -> str:
    """Where a group's values are found: a GAN's and a generator's, in those of a method."""
    return group if group in GROUPS else f"method.{group}"


@cache
def default() -> dict[str, Any]:
    return compose("network.hidden=[8]")


def around(group: str, node: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run with this node in its place, and with what else it goes with."""
    chosen = default() | {"method": loaded("method", "finetune")}
    if group == "gan":
        conditional = node["_target_"].endswith("ACGAN")
        group, node = "method", loaded("method", "joint_gan" if conditional else "dgr") | {"gan": node}
    elif group == "generator":
        group, node = "method", loaded("method", "dgm") | {"generator": node}
    chosen[group] = node
    if group == "method":
        method = target(node, "method")
        chosen["scenario"] = loaded("scenario", KINDS[method.kinds[0]])
        if "memory" in inspect.signature(method).parameters:
            chosen["memory"] = memory()
        if method.__name__ == "MER":
            chosen["optimizer"] = loaded("optimizer", "sgd")
        if method.__name__ == "OML":
            chosen["scenario"] |= {"meta_classes": 5}
    if group == "scheduler":
        chosen["scenario"] = chosen["scenario"] | {"val_fraction": 0.2}
    return chosen


@cache
def memory() -> dict[str, Any]:
    """The budget of a method that keeps images."""
    return compose("method=er")["memory"]


def said(doing: Callable[..., Any], *of: Any) -> str | None:
    """The one line with which something is refused, None when it isn't."""
    line = None
    try:
        doing(*of)
    except InputError as error:
        line = str(error)
    assert "\n" not in (line or "")
    return line


@pytest.mark.parametrize(("group", "name"), FILES)
def test_numbers_out_of_their_range(group: str, name: str) -> None:
    """Refused by the signature alone, before anything is read or built."""
    node, where = loaded(group, name), place_of(group)
    for path, hint in keys(node):
        if not {int, float} & plain_types(hint) or (group == "method" and path[0] in PARTS):
            continue
        key = ".".join((where, *path))
        for value in (*WRONG, *LEGAL):
            line = said(check_apart, changed(node, path, value), where)
            if line is None:
                if value == ["text"] and str in plain_types(hint):  # names of classes
                    continue
                if value == {"a": 1} and path == ("options",):  # which there are, torchvision knows
                    continue
                biggest = 10**9 if int in plain_types(hint) and float not in plain_types(hint) else 1e30
                assert value in LEGAL, f"{key}={value} is accepted"
                numbers: Any = value if isinstance(value, list) else [value or 0]
                for number in numbers:
                    assert 0 <= number <= biggest, f"{key}={value} is accepted"
            else:
                assert line.startswith(f"{key}="), line
                assert len(line) < 200


@pytest.mark.parametrize(("group", "name"), FILES)
def test_what_a_signature_accepts_is_built_or_refused(group: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the largest sizes and with empty lists: no traceback, and no memory is asked for that isn't there."""
    if group == "dataset" and name not in ("digits", "npz"):
        return
    node, where = loaded(group, name), place_of(group)
    small_machine(monkeypatch)
    for path, hint in keys(node):
        if int not in plain_types(hint) or "optimizer" in path or (group == "method" and path[0] in PARTS):
            continue
        for value in ([], [10**9]) if get_args(hint) and None.__class__ not in get_args(hint) else (10**9,):
            wrong = changed(node, path, value)
            if said(check_apart, wrong, where) is None:
                line = said(prepare, around(group, wrong))
                assert line is None or path[-1] in line or group == "scenario", line


def small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of 256 MB: what is built in a test is small."""
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=2**28))


@pytest.mark.parametrize("key", ["seed", "checkpoint_every"])
def test_numbers_outside_the_groups(key: str) -> None:
    for value in (*WRONG, None, []):
        line = said(check_settings, default() | {key: value})
        assert line is not None, f"{key}={value} is accepted"
        assert line.startswith(f"{key}="), line


@pytest.mark.parametrize("name", SEARCHES)
def test_numbers_of_a_search(name: str) -> None:
    plan: Any = OmegaConf.to_container(OmegaConf.load(CONF / "hparams_search" / f"{name}.yaml"))
    plan = plan["hparams_search"]
    for key in ("trials", "first_tasks"):
        for value in (*WRONG, 0, 0.5):
            line = said(check, plan | {key: value}, "hparams_search", Plan)
            assert line is not None, f"hparams_search.{key}={value} is accepted"
            assert line.startswith(f"hparams_search.{key}=")
    group, searched = next(iter(plan["space"].items()))
    ((key, ends),) = searched.items()
    settings = {group: {key: 1}}
    for end in ends:
        for value in (math.nan, math.inf, "text", -1 if ends.get("log") else None, [], {"a": 1}):
            space = {group: {key: ends | {end: value}}}
            line = said(dict, distributions(space, settings, "hparams_search.space."))
            assert line is not None, f"{end}={value} is accepted"
            assert line.startswith(f"hparams_search.space.{group}.{key}"), line


@pytest.mark.parametrize("method", options_of("method"))
def test_a_method_in_each_kind_of_scenario_that_it_has_no_meaning_in(method: str) -> None:
    node = loaded("method", method)
    allowed = target(node, "method").kinds
    for kind, scenario in KINDS.items():
        if kind in allowed:
            continue
        chosen = {"choices": {"method": method, "scenario": scenario, "dataset": "digits"}}
        settings = around("method", node) | chosen | {"scenario": loaded("scenario", scenario)}
        line = said(prepare, settings)
        assert line is not None, f"{method} is accepted in {scenario}"
        assert line.startswith(f"method={method}: does not work in scenario={scenario}")
        assert f"try scenario={KINDS[allowed[0]]}" in line


@pytest.mark.parametrize("group", GROUPS)
def test_what_a_group_builds_is_of_its_kind(group: str) -> None:
    others = {one: loaded(one, options_of(one)[0]) for one in GROUPS if one != group}
    for other, node in others.items():
        line = said(prepare, around(group, node) if group != "method" else default() | {group: node})
        assert line is not None, f"{group} can be a {other}"
        assert line.startswith(f"{group}."), line


def test_a_gan_that_takes_no_classes() -> None:
    settings = around("method", loaded("method", "mergan") | {"gan": loaded("gan", "mlp")})
    line = said(prepare, settings)
    assert line == "method.gan._target_=cl_bench.methods.parts.wgan_gp.WGANGP: is not of type ACGAN"


# ---------------------------------------------------------------------------------------------- anything at all

TEXT = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(
    ["${seed}", "${nope}", "${oc.env:NOPE}", "${", "glob(*)", "range(3)", "a,b", "???", "~", "'", '"', "\\", "{", "é\0"]
)
NUMBERS = st.integers() | st.floats() | st.integers(-2, 70) | st.sampled_from([10**12, -(10**12), 1e30, 1e-300])
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=4,
)
PLACES = [
    (group, name, path)
    for group, name in FILES
    if group != "dataset" or name in ("digits", "npz", "image_folder")
    for path in [*(path for path, _ in keys(loaded(group, name))), ("_target_",), ("new",)]
]


@pytest.fixture
def nothing_done(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A run ends when all is built: nothing is trained, written or downloaded, and nothing large is built."""
    small_machine(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(running, "learn_tasks", lambda *_: results([[0.5]]))
    monkeypatch.setattr(RunFolder, "opened", lambda folder, anew: nullcontext())
    monkeypatch.setattr("cl_bench.runs.console.show", lambda results, folder: None)
    monkeypatch.setattr(datasets, "download", lambda *_: (_ for _ in ()).throw(InputError("no network")))
    monkeypatch.setattr(
        "cl_bench.data.dataset.resize", lambda images, shape: images[:, :, :1, :1].expand(-1, -1, *shape)
    )
    monkeypatch.setattr(sys, "argv", ["cl_bench"])


def unharmed(place: tuple[str, str, Path_], value: Any) -> None:
    """One key of one file has this value, whatever it is: a run is built or refused in one line."""
    group, name, path = place
    settings = changed(around(group, loaded(group, name)), (*place_of(group).split("."), *path), value)
    if said(check_settings, settings) is None:
        assert said(running.run, settings) != ""


@given(place=st.sampled_from(PLACES), value=VALUES)
@profile(
    max_examples=60,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_value_of_any_key(nothing_done: None, place: tuple[str, str, Path_], value: Any) -> None:
    unharmed(place, value)


@pytest.mark.slow
@given(place=st.sampled_from(PLACES), value=VALUES)
@profile(
    max_examples=5000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_any_value_of_any_key_at_length(nothing_done: None, place: tuple[str, str, Path_], value: Any) -> None:
    unharmed(place, value)


COMMANDS = st.tuples(
    st.sampled_from([place for place in PLACES if place[0] not in PARTS])
    | st.sampled_from(["seed", "output_root", "data_dir", "resume", "reference", "checkpoint_every", "tuned_on"])
    | st.sampled_from([*GROUPS, "tuned", "experiment", "hydra.run.dir", "hydra.verbose", "hydra/launcher"]),
    VALUES.map(str) | VALUES.map(lambda value: json.dumps(value, ensure_ascii=False)) | TEXT.map("'{}'".format),
)


def unharmed_command(command: tuple[Any, str], capsys: pytest.CaptureFixture[str]) -> None:
    """A command line ends well or with one line."""
    (place, value), given = command, ["network.hidden=[8]", "method=finetune"]
    if isinstance(place, tuple):
        group, name, path = place
        given = [one for one in given if not one.startswith(group)]
        given += [f"{group}={name}", ".".join((group, *path)) + f"={value}"]
    else:
        given.append(f"{place}={value}")
    code = main(given)
    lines = capsys.readouterr().err.split("\n")[:-1]
    assert (code, len(lines)) in ((0, 0), (1, 1)), "\n".join([*given, *lines])
    assert all(line.startswith("error: ") for line in lines)


@given(command=COMMANDS)
@profile(
    max_examples=10,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_command(nothing_done: None, capsys: pytest.CaptureFixture[str], command: tuple[Any, str]) -> None:
    unharmed_command(command, capsys)


@pytest.mark.slow
@given(command=COMMANDS)
@profile(
    max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_any_command_at_length(
    nothing_done: None, capsys: pytest.CaptureFixture[str], command: tuple[Any, str]
) -> None:
    unharmed_command(command, capsys)
