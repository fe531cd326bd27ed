"""Imports go down only."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import cl_bench

ROOT = Path(cl_bench.__file__).parent
LAYERS = [
    {"config"},
    {"files", "seeding", "process"},
    {"network_record"},
    {"config_record"},
    {"record"},
    {"networks"},
    {"data"},
    {"methods"},
    {"evaluation"},
    {"runs"},
    {"sweep"},
    {"report"},
    {"api", "manual"},
    {"use", "verify"},
    {"__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
FILES = sorted(file for file in ROOT.rglob("*.py") if file != ROOT / "__init__.py")


def layer_of(file: Path) -> str:
    return file.relative_to(ROOT).with_suffix("").parts[0]


def imported(file: Path) -> set[str]:
    """The modules, and the names in modules, that a file imports, anywhere in it."""
    modules = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {module for module in modules if module.startswith("cl_bench.")}


def imports(file: Path) -> set[str]:
    """The parts of this package that a file imports, anywhere in it."""
    parts = {module.split(".")[1] for module in imported(file)}
    return {part for part in parts if not part.startswith("__")}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_go_down_only(file: Path) -> None:
    own = layer_of(file)
    assert own in LEVEL, f"{own} has no layer yet: add it to the list"
    for other in imports(file) - {own}:
        assert LEVEL[other] < LEVEL[own], f"{own} must not import {other}"


def test_no_files_import_each_other() -> None:
    names = {file: ".".join(("cl_bench", *file.relative_to(ROOT).with_suffix("").parts)) for file in FILES}
    graph = {name: imported(file) & set(names.values()) for file, name in names.items()}
    assert list(TopologicalSorter(graph).static_order())  # raises CycleError with the files


def test_what_must_answer_at_once_imports_no_torch() -> None:
    import subprocess
    import sys

    modules = "cl_bench, cl_bench.__main__, cl_bench.api, cl_bench.manual, cl_bench.runs.folder"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_report_imports_nothing_that_is_slow() -> None:
    import subprocess
    import sys

    slow = {"torch", "pytorch_lightning", "hydra", "matplotlib", "scipy.stats", "pandas"}
    code = f"import sys, cl_bench.report.__main__; sys.exit(', '.join({slow} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.stderr.strip() == ""
