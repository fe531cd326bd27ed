"""The notebook runs from top to bottom, and its committed outputs are those of its cells."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import cl_bench

NOTEBOOK = Path(__file__).parents[1] / "examples" / "quickstart.ipynb"


def test_the_notebook_runs_and_shows_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("pandas")
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(Path(cl_bench.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    )
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    committed = [cell.copy() for cell in notebook.cells]
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    nbformat.validate(notebook)
    for before, now in zip(committed, notebook.cells, strict=True):
        if now.cell_type == "code":
            kinds = [[output.output_type, *sorted(output.get("data", {}))] for output in now.outputs]
            assert kinds == [[output.output_type, *sorted(output.get("data", {}))] for output in before.outputs]
            assert "stderr" not in {output.get("name") for output in now.outputs}
    er, finetune = (cl_bench.results(tmp_path, where=f"method={method}").ACC.mean() for method in ("er", "finetune"))
    assert er > 0.6 > 0.3 > finetune


def test_the_notebook_is_small() -> None:
    assert NOTEBOOK.stat().st_size < 60_000
