"""What is read from source is what an import would have shown, and takes no import."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml

from cl_bench.config import InputError, signatures
from cl_bench.config.checks import check_settings
from cl_bench.config.compose import compose
from cl_bench.config.declared import declared
from cl_bench.config.names import CONF
from cl_bench.config.schema import target

READ = """
import json, sys
from cl_bench.config import signatures
found = {path: {name: repr(kind) for name, kind in signatures.parameters(path).items()} for path in sys.argv[1:]}
assert "torch" not in sys.modules
json.dump(found, sys.stdout)
"""


def targets(node: Any) -> set[str]:
    if isinstance(node, list):
        return set().union(*map(targets, node))
    if not isinstance(node, dict):
        return set()
    own = {node["_target_"]} if str(node.get("_target_")).startswith("cl_bench.") else set()
    return own.union(*map(targets, node.values()))


TARGETS = sorted(set().union(*(targets(yaml.safe_load(file.read_text())) for file in CONF.rglob("*.yaml"))))


def imported(path: str) -> dict[str, Any]:
    """The same, by `inspect`."""
    found = target({"_target_": path}, "")
    hints = get_type_hints(found.__init__ if inspect.isclass(found) else found, include_extras=True)
    return {name: hints[name] for name in inspect.signature(found).parameters}


def is_of_numbers_and_words(kind: Any) -> bool:
    parts = [part for part in get_args(kind) if inspect.isclass(part) or get_args(part)]
    if parts:
        return all(map(is_of_numbers_and_words, parts))
    return not inspect.isclass(kind) or kind.__module__ in ("builtins", "pathlib")


@pytest.fixture(scope="module")
def read() -> dict[str, dict[str, str]]:
    out = subprocess.run([sys.executable, "-c", READ, *TARGETS], check=True, capture_output=True, text=True).stdout
    return json.loads(out)


@pytest.mark.parametrize("path", TARGETS)
def test_every_signature_is_the_one_that_an_import_shows(path: str, read: dict[str, dict[str, str]]) -> None:
    expected = imported(path)
    assert list(read[path]) == list(expected)
    for name, kind in expected.items():
        if is_of_numbers_and_words(kind):
            assert read[path][name] == repr(kind)
        else:
            assert "Built" in read[path][name]


def test_what_no_position_stands_for_is_read_as_an_import_shows_it() -> None:
    for path in TARGETS:
        shown = inspect.signature(target({"_target_": path}, "")).parameters.values()
        assert signatures.by_name_alone(path) == {one.name for one in shown if one.kind is one.KEYWORD_ONLY}


@pytest.mark.parametrize("path", [path for path in TARGETS if ".methods." in path])
def test_the_scenarios_of_a_method(path: str) -> None:
    method = target({"_target_": path}, "")
    if hasattr(method, "kinds"):
        assert signatures.constant(path, "kinds") == method.kinds
    else:
        with pytest.raises(LookupError):
            signatures.constant(path, "kinds")


@pytest.mark.parametrize(
    "path", ["", "os.system", "cl_bench", "cl_bench.no.X", "cl_bench.config.no", "cl_bench.config.names.CONF"]
)
def test_what_is_not_there(path: str) -> None:
    with pytest.raises(LookupError):
        signatures.parameters(path)


REFUSED = {
    "method.strength=abc method=ewc": "method.strength=abc: input should be a valid number",
    "method.gan.n_critic=0 method=dgr": "method.gan.n_critic=0: input should be greater than 0",
    "method=dgr method.gan=5": "method.gan=5: has several keys",
    "dataset.size=-1": "dataset.size=-1: input should be greater than 0",
    "method=packnet": "method=packnet: does not work in scenario=class_incremental",
}


@pytest.mark.parametrize(("line", "said"), REFUSED.items())
def test_a_refusal_says_why(line: str, said: str) -> None:
    with pytest.raises(InputError, match=f"^{said.replace('.', '[.]')}"):
        check_settings(compose(*line.split()))


def test_a_refusal_waits_for_no_import(tmp_path: Path) -> None:
    code = f"""
import sys
from cl_bench.__main__ import main
for line in {list(REFUSED)!r}:
    print(main(line.split()), "torch" in sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines() == ["1 False"] * len(REFUSED)
    for line, said in zip(ran.stderr.splitlines(), REFUSED.values(), strict=True):
        assert line.startswith(f"error: {said}")


OTHERS = """
from __future__ import annotations
from dataclasses import dataclass
import typing
from cl_bench.methods import base
from cl_bench.methods.finetune import Finetune
from cl_bench.methods.finetune import Finetune as Plain
from cl_bench.networks.optimizers import SGD

ONLY = ("task",)

@dataclass(frozen=True)
class Cyclic(SGD):
    period: int = 3

class Dotted(base.Classifier): ...

class Renamed(Plain): ...

class Named(Finetune):
    kinds = ONLY

class OfTyping(Finetune):
    def __init__(self, problem, network, optimizer, rate: typing.Optional[float] = None, more: typing.Any = 1): ...

class Anything(Finetune):
    def __init__(self, problem, network, *rest: int, **more: int): ...

class Unknown(Finetune):
    def __init__(self, problem, network: Nowhere): ...
"""


@pytest.fixture
def others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of somebody else's in the package."""
    import cl_bench.methods as package

    (tmp_path / "others.py").write_text(OTHERS)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    return "cl_bench.methods.others"


def test_a_dataclass_has_the_fields_of_the_one_that_it_comes_from(others: str) -> None:
    own = signatures.parameters("cl_bench.networks.optimizers.SGD")
    assert list(signatures.parameters(f"{others}.Cyclic").items()) == [*own.items(), ("period", int)]


@pytest.mark.parametrize("name", ["Dotted", "Renamed", "OfTyping", "Anything", "Unknown"])
def test_what_is_not_plain_to_read_is_left_to_the_import(name: str, others: str) -> None:
    with pytest.raises(LookupError):
        signatures.parameters(f"{others}.{name}")


@pytest.mark.parametrize("name", ["Dotted", "Renamed", "Named"])
def test_and_so_are_the_scenarios(name: str, others: str) -> None:
    path = f"{others}.{name}"
    with pytest.raises(LookupError):
        signatures.constant(path, "kinds")
    assert declared({"method": {"_target_": path}, "plugins": []}, "kinds") == (
        ("task",) if name == "Named" else ("class", "task", "domain")
    )
