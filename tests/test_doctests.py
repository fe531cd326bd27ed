"""The examples in docstrings give the numbers that they show."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import pytest

import cl_bench

ROOT = Path(cl_bench.__file__).parent
FILES = [file for file in sorted(ROOT.rglob("*.py")) if ">>>" in file.read_text()]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_examples(file: Path) -> None:
    module = import_module(".".join(file.relative_to(ROOT.parent).with_suffix("").parts))
    found = doctest.testmod(module)
    assert found.attempted
    assert not found.failed
