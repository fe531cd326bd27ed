"""Published numbers, our runs beside them, and the tables that are made of both."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from conftest import there

from cl_bench import __main__, verify
from cl_bench.config import InputError
from cl_bench.config.names import options_of
from cl_bench.evaluation.statistics import Estimate
from cl_bench.report import published
from cl_bench.report.published import Cell, Row, cells, keep, kept, ours
from cl_bench.report.published_tables import line_of, markdown, results_table
from cl_bench.verify import rewritten

FAMILIES = sorted(cells())
QUICK = "dataset=digits method=finetune trainer.iterations=2 network.hidden=[4] scenario=class_incremental"


def row(seed: int, accuracy: float, **more: Any) -> Row:
    values = {"experiment": "split_mnist", "overrides": ("method=er",), "key": "0a"} | more
    return Row(
        **values,
        seed=seed,
        version="0.1.0",
        commit="",
        date="2026-01-01",
        device="cpu",
        seconds=1.5,
        metrics={"ACC": accuracy},
    )


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of results with one family, `quick`, of two cells on one experiment."""
    folder = tmp_path / "results"
    (folder / "published").mkdir(parents=True)
    cell = {"experiment": "split_mnist", "overrides": QUICK.split(), "seeds": [0, 1]}
    texts = [cell | {"value": 0.5, "range": [0.0, 1.0], "source": "Somebody (2020)"}, cell | {"metric": "BWT"}]
    (folder / "published" / "quick.yaml").write_text(yaml.safe_dump(texts))
    monkeypatch.setattr(published, "RESULTS", folder)
    cells.cache_clear()
    yield folder
    cells.cache_clear()


# ------------------------------------------------------------------------------------ what is in the repository


def test_there_are_sixty_numbers_and_each_experiment_has_its_own() -> None:
    known = [cell for content in cells().values() for cell in content]
    assert len(known) >= 60
    assert {cell.experiment for cell in known} <= set(options_of("experiment"))
    assert len({(cell.configuration, cell.metric) for cell in known}) == len(known)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_run_that_is_kept_belongs_to_a_cell(family: str) -> None:
    for row in kept(family):
        assert any(row.of(cell) for cell in cells()[family]), row
        assert all(abs(value) <= 1 for value in row.metrics.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_kept_run_is_one_of_todays_configuration(family: str) -> None:
    """One cell of each experiment; all of them: below."""
    content = cells()[family]
    assert not verify.stale(family, list({cell.experiment: cell for cell in content}.values()))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_cell_can_be_composed_and_every_kept_run_is_of_today(family: str) -> None:
    assert not verify.stale(family, cells()[family])
    for cell in cells()[family]:
        assert verify.composed(cell.configuration)["choices"]["method"] == cell.method


# ------------------------------------------------------------------------------------------------ values


@pytest.mark.parametrize(
    ("mean", "half", "verdict"),
    [
        (0.75, None, "inside"),
        (0.6996, 0.001, "inside"),  # as printed: .700
        (0.69, 0.005, "below"),
        (0.69, 0.02, "below, not clearly"),
        (0.83, 0.02, "above"),
        (0.83, 0.04, "above, not clearly"),
    ],
)
def test_where_a_mean_lies(mean: float, half: float | None, verdict: str) -> None:
    cell = Cell(experiment="n_gen", range=(0.7, 0.8))
    assert cell.verdict(Estimate(mean, half, n=3)) == verdict
    assert Cell(experiment="n_gen").verdict(Estimate(mean, half, n=3)) == ""


def test_what_has_not_run_says_so() -> None:
    assert Cell(experiment="n_gen").verdict(None) == "not run here"
    assert Cell(experiment="n_gen", device="gpu").verdict(None) == "not run here: needs a GPU"


def test_the_mean_is_over_the_runs_of_the_cell() -> None:
    cell = Cell(experiment="split_mnist", overrides=("method=er",), seeds=(0, 1))
    rows = [row(0, 0.5), row(1, 0.7), row(2, 0.1), row(0, 0.9, experiment="n_gen"), row(1, 0.2, overrides=())]
    found = there(ours(cell, rows))
    assert (found.mean, found.n) == (pytest.approx(0.6), 2)
    assert ours(cell.model_copy(update={"metric": "BWT"}), rows) is None


def test_a_table_by_hand() -> None:
    cell = Cell(experiment="split_mnist", overrides=("method=er",), value=0.5, range=(0, 1), source="A (2020)")
    assert line_of(cell, None)[2:] == [".500", ".000 to 1.000", "", "0 of 3", "not run here"]
    assert markdown([(cell, [row(0, 0.5), row(1, 0.7)])]).splitlines()[2:] == [
        "| `split_mnist` `method=er` | `ACC` | .500 | .000 to 1.000 | .600 ± 1.271 | 2 of 3 | inside | 1 |",
        "",
        "1. Published: A (2020).",
    ]


def test_a_number_of_an_older_version_is_shown_until_there_is_one_of_todays() -> None:
    cell = Cell(experiment="split_mnist", overrides=("method=er",), before=".61 ± .02, 2 seeds")
    assert line_of(cell, None)[4:] == ["", "0 of 3", "measured before: .61 ± .02, 2 seeds"]
    assert line_of(cell, Estimate(0.6, None, n=1))[4:] == [".600", "1 of 3", ""]


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ({"experiment": "n_gen", "sedes": [0]}, "0.sedes: Extra inputs are not permitted"),
        ({"experiment": "n_gen", "value": 1.5}, "0.value: Input should be less than or equal to 1"),
        ({"experiment": "n_gen", "value": 0.5}, "0: Value error, source: is needed for a published value"),
        ({"experiment": "n_gen", "range": [1, 0]}, "0: Value error, range: the first number is above the second"),
        ({"experiment": "n_gen", "seeds": []}, "0.seeds: Tuple should have at least 1 item"),
    ],
)
def test_a_wrong_file_is_one_line(own: Path, cell: dict, reason: str) -> None:
    (own / "published" / "quick.yaml").write_text(yaml.safe_dump([cell]))
    with pytest.raises(InputError, match=r"quick\.yaml") as error:
        cells()
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("line", "number"),
    [
        (b"split_mnist,,x,0a,0.1.0,,2026-01-01,cpu,1.5,0.5", 3),
        (b"split_mnist,,0", 3),
        (b"split_mnist,,0," + b"0" * 10**6, 2),  # the csv module has a limit
        (b"split_mnist,,0,caf\xe9", 1),  # no UTF-8
    ],
)
def test_a_damaged_file_of_runs_is_named_with_its_line(own: Path, line: bytes, number: int) -> None:
    keep("quick", [row(0, 0.5)])
    file = own / "quick.csv"
    file.write_bytes(file.read_bytes() + line + b"\n")
    with pytest.raises(InputError, match=rf"quick\.csv: line {number} is damaged"):
        kept("quick")


def test_runs_are_kept_and_read_again(own: Path) -> None:
    keep("quick", [row(1, 0.25), row(0, 0.5)])
    keep("quick", [row(1, 0.75)])  # run again: it takes the place of the older one
    assert kept("quick") == [row(0, 0.5), row(1, 0.75)]
    keep("quick", [])
    assert len(kept("quick")) == 2


def test_a_page_gets_its_table_and_keeps_the_rest(own: Path) -> None:
    begin, end = "<!-- results of quick -->", "<!-- end of results -->"
    page = f"before\n\n{begin}\nold\n{end}\n\n<!-- keys of memory -->\n<!-- end of keys -->\nafter `{begin}`\n"
    made = rewritten(page)
    assert made.startswith(f"before\n\n{begin}\n\n| experiment |")
    assert "\n| `memory.images` | `200` | " in made
    assert made.endswith(f"\n\n<!-- end of keys -->\nafter `{begin}`\n")
    assert rewritten(made) == made
    for wrong, reason in {
        page.replace("quick", "quikc"): "results of quikc: there is no such family; did you mean 'quick'",
        page.replace(f"{end}\n", ""): "results of quick -->: has no end, ",
        page.replace("keys of memory", "keys of memroy"): "memroy: no such key; did you mean 'memory'",
        page.replace("keys of memory", "keys of method=err"): "method=err: no such method; did you mean 'er'",
    }.items():
        with pytest.raises(InputError, match=reason):
            rewritten(wrong)


def test_the_table_of_a_method_has_what_is_measured_or_published_and_follows_the_runs(own: Path) -> None:
    """The cells of `own` are of finetune: one is published, the other is ours alone."""
    assert results_table("method=er") == "No number is published or measured yet."
    columns = [line.split(" | ")[1] for line in results_table("method=finetune").splitlines() if line.startswith("| `")]
    assert columns == ["`ACC`"]
    run = row(0, 0.25, overrides=tuple(QUICK.split()))
    keep("quick", [dataclasses.replace(run, metrics={"ACC": 0.25, "BWT": -0.125})])
    lines = results_table("method=finetune").splitlines()
    assert "| `ACC` | .500 | .000 to 1.000 | .250 | 1 of 2 | inside | 1 |" in lines[2]
    assert "| `BWT` |  |  | -.125 | 1 of 2 |  |  |" in lines[3]


# ----------------------------------------------------------------------------------------------- the command


def test_what_is_missing_runs_and_is_compared(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run, compared, kept; asked again, nothing is run."""
    commands: list[list[str]] = []

    def in_this_process(command: list[str], **_: object) -> SimpleNamespace:
        commands.append(command)
        return SimpleNamespace(returncode=__main__.main(command[3:]))

    monkeypatch.setattr(verify, "subprocess", SimpleNamespace(run=in_this_process))
    root = f"output_root={tmp_path / 'outputs'}"
    assert verify.main(["--no-run", root]) == 1  # nothing is there, and that is said
    assert "0 of 2   not run here" in capsys.readouterr().out
    assert not commands
    assert verify.main(["split_mnist", root, "--keep", "--seeds", "0"]) == 0
    page = tmp_path / "README.md"
    page.write_text("<!-- results of quick -->\n<!-- end of results -->\n")
    monkeypatch.chdir(tmp_path)
    assert verify.main(["split_mnist", root, "--keep", "--tables"]) == 0  # now seed 1
    assert "| 2 of 2 | inside | 1 |" in page.read_text()
    assert [command[-2] for command in commands] == ["seed=0", "seed=1"]
    assert "2 of 2   inside" in capsys.readouterr().out
    rows = kept("quick")
    assert [row.seed for row in rows] == [0, 1]
    assert all({"ACC", "BWT"} <= row.metrics.keys() for row in rows)
    assert not verify.stale("quick", cells()["quick"])
    keep("quick", [row(0, 0.5, overrides=("method=lwf",)), row(5, 0.5, overrides=cells()["quick"][0].overrides)])
    assert verify.main(["split_mnist", root, "--keep"]) == 0  # without the run of no cell, and that of another key
    assert kept("quick") == rows
    assert verify.main([root]) == 0
    assert len(commands) == 2
    run = next((tmp_path / "outputs").glob("*/seed0-*/results.json")).parent
    later = shutil.copytree(run, run.with_name("seed0-00000000")) / "results.json"  # newer, and another key
    found = json.loads(later.read_text())
    del found["sha256"]  # of what is changed here
    later.write_text(json.dumps(found | {"config": found["config"] | {"evaluate_every": 5}}))
    assert verify.main(["--no-run", root]) == 0
    monkeypatch.setenv("HOME", str(tmp_path))
    capsys.readouterr()
    assert verify.main(["--no-run", "output_root='~/outputs'"]) == 0  # as a run finds it
    assert not capsys.readouterr().err  # a copy is none that differs
    own_R = found["R"]
    later.write_text(json.dumps(found | {"R": [[0.25, *own_R[0][1:]], *own_R[1:]]}))
    assert verify.main(["--no-run", root]) == 0
    assert f"{run}: has the configuration and seed of {later.parent}, which is newer" in capsys.readouterr().err


def test_a_key_of_the_experiments_method_is_no_unknown_one(tmp_path: Path) -> None:
    """method=dgm, which the configuration has where no experiment says another, has no such key."""
    words = ["mnist_360/er", "method.n_replay=16", "--no-run", f"output_root={tmp_path}"]
    assert verify.main(words) == 1  # not run here


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["splt_mnist"], "splt_mnist: there is no published number of this experiment; did you mean 'split_mnist'?"),
        *(
            (["--seeds", seeds], f"--seeds={seeds}: must be whole numbers from 0 on, e.g. 0,1,2")
            for seeds in ("a", "", "0,-1", "1,", "9" * 23)
        ),
        (
            ["three_scenarios/er", "dataset=digits", "--keep"],
            "dataset=digits: makes a run that differs from three_scenarios/er, but would be kept under this name; "
            "leave out --keep",
        ),
        (["--budget", "tpu"], "argument --budget: invalid choice: 'tpu' (choose from 'cpu', 'gpu'); see --help"),
        (["*/b50_5"], "--budget=cpu: */b50_5 needs a GPU; choose gpu"),
        (["split_mnist", "seed=3"], "seed=3: set the seeds with --seeds 3"),
        (
            ["split_mnist", "--tables"],
            "--tables: use it alone or with --keep",
        ),
        (["split_mnist", "sede=1", "--no-run"], "sede: no such key; did you mean 'seed'?"),
    ],
)
def test_a_wrong_word_is_one_line(words: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify.main(words) == 1
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", f"error: {reason}\n")
