"""The scripts of this folder still start: a refused setting is seen before somebody has a quiet machine."""

from __future__ import annotations

import argparse
import runpy
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SCRIPTS = sorted(path.name for path in HERE.glob("*.py") if not path.name.startswith("test_"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_says_what_it_takes(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(HERE / script), run_name="__main__")
    assert ended.value.code == 0
    assert "usage: " in capsys.readouterr().out


def test_the_experiments_of_growth_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    growth = runpy.run_path(str(HERE / "growth.py"))
    args = argparse.Namespace(iterations=200, tasks=20, data_dir="data")
    for name in growth["CONSTANT"] | growth["GROWING"]:
        settings = growth["settings_of"](name, args, "outputs")
        assert settings["trainer"]["iterations"] == 200, name
