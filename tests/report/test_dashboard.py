"""The comparison workspace, built without a server; `test_loggers.py` checks that runs log what it shows."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
import wandb
import wandb_workspaces.workspaces as ws
from wandb_workspaces.workspaces import internal

from cl_bench.config.names import CONF
from cl_bench.report.dashboard import Place, main, parsed, specification, workspace


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("asked a server")

    for name in ("Api", "login", "init"):
        monkeypatch.setattr(wandb, name, refuse)


def titles_of(made: ws.Workspace) -> list[str]:
    return [vars(panel)["title"] for section in made.sections for panel in section.panels]


def dry_run(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main([*words, "--dry-run"]) == 0
    return json.loads(capsys.readouterr().out)["section"]


def test_dry_run_writes_a_specification_that_wandb_reads_back(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["project=p", "entity=me", "--dry-run"]) == 0
    spec = json.loads(capsys.readouterr().out)
    view = {"entity": "me", "project": "p", "displayName": "n", "name": "", "id": "", "spec": spec}
    made = ws.Workspace._from_model(internal.View.model_validate(view))
    titles = titles_of(made)
    assert titles == titles_of(workspace(Place("p")))
    assert len(titles) > 10
    assert all(titles)


def test_each_part_of_the_comparison_has_its_panels(capsys: pytest.CaptureFixture[str]) -> None:
    sections = dry_run(capsys, "project=p")["panelBankConfig"]["sections"]
    shown = {
        section["name"]: [(panel["viewType"], panel["config"]) for panel in section["panels"]] for section in sections
    }
    assert ("task", ["task/ACC"]) in [(c.get("xAxis"), c.get("metrics")) for _, c in shown["Accuracy"]]
    transfer = [(kind, config["metrics"]) for kind, config in shown["Forgetting and transfer"]]
    assert ("Run History Line Plot", ["task/forgetting"]) in transfer
    assert ("Bar Chart", ["BWT", "FWT"]) in transfer
    [(kind, config)] = shown["Accuracy matrices"]
    assert (kind, config["mediaKeys"]) == ("Media Browser", ["figures/accuracy_matrix"])
    assert shown["Generated images"][0][1]["mediaKeys"] == ["task/samples"]
    axes = [(config.get("xAxis"), config.get("yAxis")) for _, config in shown["Cost"]]
    assert ("summary:seconds", "summary:ACC") in axes
    assert ("summary:bytes_kept", "summary:ACC") in axes


def test_runs_are_grouped_by_method_within_scenario_and_data_set(capsys: pytest.CaptureFixture[str]) -> None:
    [runs] = dry_run(capsys, "project=p")["runSets"]
    names = [f"choices.value.{group}" for group in ("dataset", "scenario", "method")]
    assert runs["grouping"] == [{"section": "config", "name": name} for name in names]
    assert all((CONF / name.rpartition(".")[2]).is_dir() for name in names)  # the nouns of the command line


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["projct=p"], "projct: no such key; did you mean 'project'?"),
        ([], "project: needs a value"),
        (["project="], "project=: can't be read; type KEY=VALUE, see --help"),
        (["p"], "p: can't be read; type KEY=VALUE, see --help"),
    ],
)
def test_a_wrong_word_is_one_line(words: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    for more in ([], ["--dry-run"]):
        assert main([*words, *more]) == 1
        assert capsys.readouterr() == ("", f"error: {line}\n")


def test_without_the_extra_it_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    assert main(["project=p", "--dry-run"]) == 1
    assert "pip install 'cl_bench[dashboard]'" in capsys.readouterr().err


def test_without_a_key_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb, "login", lambda **_: False)
    assert main(["project=p"]) == 1
    assert capsys.readouterr().err == "error: there is no W&B key: wandb login gives one, --dry-run needs none\n"


def test_it_is_saved_where_it_was_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[Any] = []
    monkeypatch.setattr(wandb, "login", lambda **_: True)
    monkeypatch.setattr(ws.Workspace, "save", lambda self: saved.append(self))
    assert main(["project=p", "entity=team", "name=Ours"]) == 0
    assert [(one.entity, one.project, one.name) for one in saved] == [("team", "p", "Ours")]

    def fail(self: ws.Workspace) -> None:
        raise RuntimeError("no such\nproject")

    monkeypatch.setattr(ws.Workspace, "save", fail)
    assert main(["project=p", "entity=team"]) == 1
    assert capsys.readouterr().err == "error: project=p: W&B did not take the workspace (no such project)\n"


def test_help_names_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"{key}=" in said for key in Place.__dataclass_fields__)
    assert parsed(["project=p"]).name in said


def test_two_specifications_differ_in_nothing_but_the_ids_of_their_panels() -> None:
    def without_ids(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without_ids(one) for key, one in value.items() if key != "__id__"}
        return [without_ids(one) for one in value] if isinstance(value, list) else value

    one, other = (specification(workspace(Place("p"))) for _ in range(2))
    assert without_ids(one) == without_ids(other)
