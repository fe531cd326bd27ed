"""`cl-bench explain`: what the configuration says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from cl_bench.config.explain import paths_of
from cl_bench.config.names import CONF
from cl_bench.manual import explanation, files_of, groups, main, settings_of, top

UNEXPLAINED = (
    "experiment",
    "tuned",
    "tuned/scenario",
    "benchmark",
    "sweeps",
    "hparams_search",
    "hydra/launcher",
    "logger",
)


def value_at(node: Any, key: str) -> Any:
    """The value of a key with the prefix `x.`."""
    for name in key.split(".")[1:]:
        node = node[name]
    return node


@pytest.mark.parametrize(
    "word", [f"{group}={name}" for group in groups() for name in files_of(group)] + groups(), ids=lambda word: word
)
def test_every_choice_and_every_group_is_explained(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word]) == 0
    said = capsys.readouterr().out
    group, _, name = word.partition("=")
    if name:
        own = files_of(group)[name].read_text().strip()
        assert said.startswith(own)
        assert said.strip() == own or group == "scenario"
        assert group != "scenario" or "\n  passes: epochs  " in said  # and the keys that all of them have
        return
    assert [line.split()[0] for line in said.splitlines()] == [f"{group}={name}" for name in files_of(group)]
    if not group.startswith(("tuned", "benchmark")):
        assert all("  # " in line for line in said.splitlines())


def test_no_file_of_the_configuration_is_left_out() -> None:
    known = {file for group in groups() for file in files_of(group).values()}
    assert set(CONF.rglob("*.yaml")) - known == {CONF / "config.yaml"} | set(CONF.glob("hydra/*.yaml"))


@pytest.mark.parametrize(
    ("word", "lines"),
    [
        ("seed", ["seed: 0                # all random numbers depend on it"]),
        ("memory.images", ["  images: 200    # real images kept"]),
        ("method.selection", ["# method=er"]),
        ("optimizer.lr", ["# optimizer=adam", "# optimizer=sgd"]),
        (
            "method.gan.n_critic",
            [
                "# gan=dcgan",
                "# steps of the critic per step of the generator. A higher value gives the generator better gradients",
                "n_critic: 2",
            ],
        ),
        ("method.gan.critic.hidden", ["# gan=mlp", "  hidden: [512, 256]  # width of each hidden layer"]),
        ("gan@method.gan=mlp", ["lambda_gp: 10.0       # weight of the gradient penalty"]),
        (
            "method.gan",
            ["gan=mlp  # WGAN-GP of two multi-layer perceptrons: fast, and good enough for digits and MNIST."],
        ),
        ("hydra/launcher.n_jobs", ["# hydra/launcher=joblib"]),
        ("", ["seed: 0                # all random numbers depend on it"]),
    ],
)
def test_a_key_is_shown_with_its_comment(word: str, lines: list[str]) -> None:
    said = explanation(word).splitlines()
    assert all(any(shown.startswith(line) for shown in said) for line in lines), said


def test_the_comment_above_a_key_is_shown_with_it_and_not_with_the_key_before() -> None:
    """Choices that have a key follow each other with an empty line between them."""
    said = explanation("method.n_replay").split("\n\n")
    assert {part.splitlines()[0] for part in said} >= {"# method=er", "# method=der"}
    assert all(part.count("n_replay:") == 1 for part in said)
    assert explanation("method.online") == f"# method=ewc\n{said_of('ewc', 'online')}"
    assert explanation("method.decay").splitlines()[0] == "# method=continual_backprop"


def said_of(method: str, key: str) -> str:
    return next(line for line in files_of("method")[method].read_text().splitlines() if line.startswith(f"{key}:"))


@pytest.mark.parametrize(
    "file",
    [
        *(file for group in groups() if group not in UNEXPLAINED for file in files_of(group).values()),
        CONF / "config.yaml",
    ],
    ids=lambda file: f"{file.parent.name}/{file.stem}",
)
def test_each_key_has_one_comment_beside_it_or_above_it(file: Path) -> None:
    """What it is and what raising it does: tables of the pages are made from it."""
    text = top() if file.stem == "config" else file.read_text()
    lines, node = text.splitlines(), yaml.safe_load(text) or {}
    found = {setting.key: setting for setting in settings_of(text, "x.")}
    paths = {path for path in paths_of(node) if path.split(".")[0] != "defaults"}
    leaves = {path for path in paths if not any(other.startswith(f"{path}.") for other in paths)}
    assert {f"x.{path}" for path in leaves} <= found.keys()
    assert max(map(len, lines)) <= 120
    for setting in found.values():
        assert setting.meaning, setting
        if setting.key.startswith("x."):  # others are choices in the defaults
            assert yaml.safe_load(setting.value) == value_at(node, setting.key), setting


def test_the_keys_of_hydra_are_left_out() -> None:
    assert "\nhydra:" not in explanation("")


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("method=err", "method=err: no such method; did you mean 'er'?"),
        ("method.strenght", "method.strenght: no such key; did you mean 'method.strength'?"),
        ("method.gan.n_critc", "method.gan.n_critc: no such key; did you mean 'method.gan.n_critic'?"),
        ("memory.imges", "memory.imges: no such key; did you mean 'memory.images'?"),
        ("methd", "methd: no such key; did you mean 'method'?"),
        ("er", "er: no such key; did you mean 'method=er'?"),
        ("methd=er", "methd=er: there is no group 'methd'; did you mean 'method'?"),
        ("method=../config", "method=../config: is a path, not a name"),
        ("method=", "method=: no such method; choose from agem"),
        ("=", "=: there is no group ''; choose from"),
        ("seed.x", "seed.x: no such key"),
        ("--nosuch", "--nosuch: no such key"),
    ],
)
def test_what_there_is_not_is_one_line(word: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {said}")
    assert err.count("\n") == 1
