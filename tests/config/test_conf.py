"""Every file under conf/ and sweeps/ works with the real configuration."""

from __future__ import annotations

import shutil
from itertools import product
from pathlib import Path

import pytest
import yaml
from hydra.errors import HydraException
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from cl_bench.__main__ import parsed
from cl_bench.config import InputError
from cl_bench.config.checks import check_settings
from cl_bench.config.compose import compose
from cl_bench.config.declared import declared
from cl_bench.config.names import CONF, options_of
from cl_bench.config.schema import target
from cl_bench.config.tuned import described

GROUPS = ("method", "scenario", "network", "optimizer", "trainer", "logger")
SWEEPS = sorted((Path(__file__).parents[2] / "sweeps").glob("*.yaml"))


@pytest.mark.parametrize(("group", "name"), [(group, name) for group in GROUPS for name in options_of(group)])
def test_every_choice_composes_and_names_its_constructor(group: str, name: str) -> None:
    settings = compose(f"{group}={name}")
    assert callable(target(settings[group], group))
    assert settings["choices"].get(group, name) == name


@pytest.mark.parametrize("name", options_of("experiment"))
def test_every_experiment_composes(name: str) -> None:
    assert compose(f"experiment={name}")["choices"]["experiment"] == name


@pytest.mark.parametrize("name", options_of("tuned"))
def test_tuned_values_are_picked_up_by_themselves_and_lose_to_the_command_line(name: str) -> None:
    method, dataset, *scenario = Path(name).name.split("-")
    chosen = [f"method={method}", f"dataset={dataset}", *(f"scenario={one}" for one in scenario)]
    tuned = yaml.safe_load((CONF / "tuned" / f"{name}.yaml").read_text())
    group, key = next((group, key) for group, values in tuned.items() if group != "tuned_on" for key in values)
    assert compose(*chosen)[group][key] == tuned[group][key]
    assert compose(*chosen, f"{group}.{key}=7")[group][key] == 7


@pytest.mark.parametrize("name", options_of("tuned"))
def test_tuned_values_are_of_the_method_and_were_chosen_on_validation_images(name: str) -> None:
    """A search writes such a file; how long is trained stands in conf/benchmark, for all methods. What nobody chose has
    no label."""
    text = (CONF / "tuned" / f"{name}.yaml").read_text()
    tuned = yaml.safe_load(text)
    assert set(tuned) <= {"method", "optimizer", "tuned_on"}
    if "# Not chosen by a search" in text:
        assert "tuned_on" not in tuned
        return
    assert tuned["tuned_on"] == "all_tasks"
    assert "# Chosen on validation images of all tasks" in text
    assert "# python -m cl_bench " in text or "seed 10 with\n# " in text  # what chose it, or under what


@pytest.mark.parametrize("name", options_of("benchmark"))
def test_every_method_trains_as_long_as_the_others_on_a_benchmark(name: str) -> None:
    composed = [compose(f"method={method}", f"dataset={name}") for method in options_of("method")]
    composed = [settings for settings in composed if declared(settings, "trains")]  # others take in each image once
    assert all(settings["trainer"] == composed[0]["trainer"] for settings in composed)
    own = ("generator_epochs", "generator_steps")
    assert {settings["method"][key] for settings in composed for key in own if key in settings["method"]} == {None}


def test_a_run_knows_what_it_picked_up() -> None:
    chosen = ("method=ewc", "dataset=digits", "scenario=domain_incremental")
    settings = compose(*chosen)
    picked = settings["choices"]["picked_up"]
    assert picked["benchmark/digits"] == {"trainer.epochs": 100, "trainer.batch_size": 64}
    assert settings["tuned_on"] == picked["tuned/scenario/ewc-digits-domain_incremental"]["tuned_on"] == "all_tasks"
    assert f"method.strength={settings['method']['strength']}" in described(picked)
    given = compose(*chosen, "method.strength=0.5", "trainer.epochs=3")
    assert given["choices"]["picked_up"] == {"benchmark/digits": {"trainer.batch_size": 64}}
    assert "tuned_on" not in given
    assert not compose("method=er", "dataset=mnist")["choices"]["picked_up"]


def test_a_tuned_file_that_says_how_long_is_trained_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(CONF, tmp_path / "conf")
    (tmp_path / "conf" / "tuned" / "er-digits.yaml").write_text("# @package _global_\ntrainer: {epochs: 500}\n")
    monkeypatch.setattr("cl_bench.config.compose.CONF", tmp_path / "conf")
    with pytest.raises(InputError, match=r"conf/tuned/er-digits.yaml: trainer.epochs: .* method, optimizer"):
        compose("method=er")


def accepted(*words: str) -> None:
    """Goes as far with a command line as can be gone without images; raises what a person would be told."""
    flags, overrides = parsed(words)
    assert not flags
    check_settings(compose(*overrides))


def command_lines(file: Path) -> list[list[str]]:
    """What W&B's own agent would put for ${args_no_hyphens}, for each point of the grid."""
    parameters = yaml.safe_load(file.read_text())["parameters"]
    choices = {key: [one["value"]] if "value" in one else one["values"] for key, one in parameters.items()}
    points = [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]
    filled = [{"args": {key: {"value": value} for key, value in point.items()}} for point in points]
    return [create_sweep_command_args(one)["args_no_hyphens"] for one in filled]


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_every_sweep_drives_the_real_command_line(file: Path) -> None:
    sweep = yaml.safe_load(file.read_text())
    assert sweep["command"] == ["${env}", "python", "-m", "cl_bench", "${args_no_hyphens}"]
    assert sweep["method"] == "grid"
    lines = command_lines(file)
    assert len({tuple(line) for line in lines}) == len(lines) > 1
    for line in lines:
        if "seed=0" in line:  # the other seeds differ in nothing else
            accepted(*line)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ("method.no_such_key=1", HydraException),
        ("method.strength=much", InputError),
        ("method.strength=None", InputError),  # as the agent writes YAML's null
        ("method=packnet", InputError),
        ("sed=1", HydraException),
    ],
)
def test_a_sweep_that_the_command_line_would_refuse_is_found(wrong: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        accepted("method=ewc", "logger=wandb", wrong)
