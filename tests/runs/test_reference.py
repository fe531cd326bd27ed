"""`reference=`: a joint run of the same benchmark, or one line that names what differs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import SMALL, Compose

from cl_bench.config import InputError
from cl_bench.config.compose import compose
from cl_bench.config.names import folder_of
from cl_bench.evaluation.scores import References
from cl_bench.record import load_results, to_json
from cl_bench.runs.loop import run
from cl_bench.runs.reference import differing, drawn_from_seed, references_of
from cl_bench.runs.setup import prepare


@pytest.fixture(scope="module")
def joint(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Finished joint runs, by what was set for them."""
    root = tmp_path_factory.mktemp("joint")
    found = {}
    for name in ("", "scenario=permuted scenario.n_tasks=2"):
        settings = compose(*SMALL, "method=joint", "trainer.epochs=1", f"output_root={root}", *name.split())
        run(settings)
        found[name] = folder_of(settings)
    return found


def asked(reference: Path, *overrides: str) -> list[float] | None:
    settings = compose(*SMALL, "method=er", f"reference={reference}", *overrides)
    return references_of(settings, prepare(settings)[0]).joint


def test_the_same_benchmark_is_taken_whatever_the_method_and_its_training(joint: dict[str, Path]) -> None:
    last = json.loads((joint[""] / "results.json").read_text())["R"][-1]
    assert asked(joint[""], "trainer.epochs=3", "network.hidden=[8]", "optimizer.lr=0.1") == last
    assert asked(joint[""], "seed=3") == last  # nothing of these tasks follows from the seed


@pytest.mark.parametrize(
    ("run_of", "overrides", "named"),
    [
        ("", "scenario=task_incremental", "scenario"),
        ("", "scenario=domain_incremental", "scenario"),
        ("", "scenario.kind=task", "scenario.kind=class, here task"),
        ("", "scenario.train_mask=all", "scenario.train_mask=seen, here all"),
        ("", "scenario.train_mask=current", "scenario.train_mask=seen, here current"),
        ("", "scenario.val_fraction=0.2", "scenario.val_fraction=0.0, here 0.2"),
        ("", "scenario.class_order=random", "scenario.class_order=fixed, here random"),
        ("", "scenario.class_order=[9,8,7,6,5,4,3,2,1,0]", "scenario.class_order=fixed, here [9,8,"),
        ("", "dataset.size=16", "dataset.size="),
        ("scenario=permuted scenario.n_tasks=2", "seed=1", "seed=0, here 1, which determines the permutations"),
        ("scenario=permuted scenario.n_tasks=2", "scenario.first_plain=true", "scenario.first_plain=false, here true"),
        ("scenario=permuted scenario.n_tasks=2", "scenario=rotated", "scenario=permuted, here rotated"),
    ],
)
def test_another_benchmark_is_refused_by_name(run_of: str, overrides: str, named: str, joint: dict[str, Path]) -> None:
    words = [*run_of.split(), *overrides.split()]
    words = [word for word in words if not (word == "scenario=permuted" and "scenario=rotated" in words)]
    with pytest.raises(InputError, match=r"^reference=") as error:
        asked(joint[run_of], *words)
    assert f": {named}" in str(error.value)
    assert "choose a run of the same tasks" in str(error.value)
    assert "\n" not in str(error.value)


def test_features_are_part_of_a_benchmark_and_where_images_lie_is_not(joint: dict[str, Path]) -> None:
    results = load_results(joint[""])
    settings = compose(*SMALL, "method=er")
    scenario, _ = prepare(settings)
    on_disk = settings | {"dataset": {**settings["dataset"], "on_disk": True}}
    assert differing(results, on_disk, scenario) == ""
    node = {"_target_": "cl_bench.data.features.Features", "backbone": "timm/x", "weights": None, "size": 32}
    on_features = settings | {"features": node, "weights": {"features": "1234"}}
    assert differing(results, on_features, scenario).startswith("features.")
    theirs = replace(results, config=on_features)
    assert differing(theirs, settings, scenario).startswith("features.")
    assert differing(theirs, on_features | {"features": node | {"weights": "/elsewhere"}}, scenario) == ""
    other = differing(theirs, on_features | {"weights": {"features": "5678"}}, scenario)
    assert other == "features.weights=1234, here 5678"
    assert differing(theirs, on_features | {"features": node | {"size": 64}}, scenario) == "features.size=32, here 64"


def altered(folder: Path, to: Path, **changes: Any) -> Path:
    to.mkdir()
    (to / "results.json").write_text(json.dumps(to_json(load_results(folder)) | changes))  # without a checksum
    return to


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"R": None}, "there is no finished run of 5 tasks in it (results.json is damaged (r: "),
        ({"status": "running"}, "there is no finished run of 5 tasks in it"),
        ({"n_test": [1] * 5}, "has other test images"),
        ({"measured_on": "validation images"}, "measured on validation images"),
        ({"classes": [["a", "b"]] * 5}, "has other classes in its tasks"),
        ({"R": [[None] * 5] * 5}, "has no accuracy on some of its tasks"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_results_that_tell_nothing_are_refused(
    changes: dict[str, Any], message: str, joint: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(InputError) as error:
        asked(altered(joint[""], tmp_path / "run", **changes))
    assert message.lower() in str(error.value).lower()


@pytest.mark.parametrize("method", ["cumulative", "separate"])
def test_a_reference_that_was_not_measured_after_each_task_is_refused(
    method: str, small: Compose, tmp_path: Path
) -> None:
    """Its last row is the end of a training on other tasks too, or of a network that knows the last task alone."""
    settings = small(f"method={method}", "measure_every=2", "trainer.epochs=1")
    run(settings)
    line = r"has no accuracy on some of its tasks: it was run with measure_every=2, and 1 is needed$"
    with pytest.raises(InputError, match=line):
        asked(folder_of(settings), "trainer.epochs=1")


def test_a_finished_run_takes_another_reference_or_none(small: Compose) -> None:
    references = [small(f"method={method}", "trainer.epochs=1") for method in ("joint", "separate")]
    for settings in references:
        run(settings)
    joint, separate = (f"reference={folder_of(settings)}" for settings in references)
    found = [set(run(small("method=er", "trainer.epochs=1", *chosen)).metrics) for chosen in ([joint], [separate], [])]
    assert [names - found[2] for names in found] == [
        {"intransigence"},
        {"plasticity_gap", "retention", "transfer"},
        set(),
    ]


def test_a_run_that_learned_one_task_after_another_is_no_reference(joint: dict[str, Path], tmp_path: Path) -> None:
    results = json.loads((joint[""] / "results.json").read_text())
    results["config"]["choices"]["method"] = "finetune"
    with pytest.raises(InputError, match=r"is a run of finetune, .*choose one of joint, cumulative or separate"):
        asked(altered(joint[""], tmp_path / "run", config=results["config"]))


def test_a_joint_run_is_a_line_in_the_pictures(joint: dict[str, Path], tmp_path: Path) -> None:
    """Of one that is measured in the end alone, what it reached there; of others their mean over the tasks so far."""

    def line(folder: Path) -> list[float | None] | None:
        settings = compose(*SMALL, "method=er", f"reference={folder}")
        return references_of(settings, prepare(settings)[0]).joint_line

    last = json.loads((joint[""] / "results.json").read_text())["R"][-1]
    assert line(joint[""]) == [pytest.approx(sum(last) / 5)] * 5
    R = [[None if i == 1 else 0.5 + 0.1 * i] * 5 for i in range(5)]
    found = line(altered(joint[""], tmp_path / "run", R=R))
    assert found == [0.5, None, *(pytest.approx(0.5 + 0.1 * i) for i in (2, 3, 4))]


def test_a_search_is_not_measured_against_test_images(joint: dict[str, Path]) -> None:
    settings = compose(*SMALL, f"reference={joint['']}", "scenario.val_fraction=0.2")
    scenario, _ = prepare(settings)
    assert references_of(settings | {"trial": {"first_tasks": None}}, scenario) == References()
    assert differing(load_results(joint[""]), settings, scenario)


@pytest.mark.parametrize(
    ("scenario", "drawn"),
    [
        ("class_incremental", ""),
        ("class_incremental scenario.class_order=random", "scenario.class_order"),
        ("permuted", "the permutations"),
        ("rotated", ""),
        ("rotated scenario.angles=random", "scenario.angles"),
        ("rotated scenario.angles=unsorted", "scenario.angles"),
        ("rotated scenario.max_train=5", "scenario.max_train"),
    ],
)
def test_what_follows_from_the_seed(scenario: str, drawn: str) -> None:
    assert drawn_from_seed(compose(*f"scenario={scenario}".split())["scenario"]) == drawn
