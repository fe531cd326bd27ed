"""`cl-bench explain`: what the configuration says of itself."""

from __future__ import annotations

import pytest

from cl_bench.config.names import CONF
from cl_bench.manual import explanation, files_of, groups, main


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
        ("seed", ["seed: 0                # every random draw follows from it"]),
        ("memory.images", ["  images: 200    # real images kept"]),
        ("method.selection", ["# method=er"]),
        ("optimizer.lr", ["# optimizer=adam", "# optimizer=sgd"]),
        ("method.gan.n_critic", ["# gan=dcgan", "n_critic: 2           # critic steps per generator step"]),
        ("method.gan.critic.hidden", ["# gan=mlp", "  hidden: [512, 256]  # width of each hidden layer"]),
        ("gan@method.gan=mlp", ["lambda_gp: 10.0       # weight of the gradient penalty"]),
        ("method.gan", ["gan=mlp  # WGAN-GP of two multi-layer perceptrons: quick, good enough for digits and MNIST."]),
        ("hydra/launcher.n_jobs", ["# hydra/launcher=joblib"]),
        ("", ["seed: 0                # every random draw follows from it"]),
    ],
)
def test_a_key_is_shown_with_its_comment(word: str, lines: list[str]) -> None:
    said = explanation(word).splitlines()
    assert all(any(shown.startswith(line) for shown in said) for line in lines), said


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
