"""Files that are read back are what was written, or are not used."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cl_bench import files
from cl_bench.config import InputError
from cl_bench.files import Damaged, from_archive, load_json, sealed, to_archive, write

STATE = {"weights": {"a": torch.arange(1000.0)}, "step": 3, "name": "x"}


def test_an_archive_comes_back(tmp_path: Path) -> None:
    write(tmp_path / "state.pt", to_archive(STATE))
    found = from_archive(tmp_path / "state.pt")
    assert torch.equal(found["weights"]["a"], STATE["weights"]["a"])
    assert (found["step"], found["name"]) == (3, "x")
    assert os.listdir(tmp_path) == ["state.pt"]
    with pytest.raises(FileNotFoundError):
        from_archive(tmp_path / "nothing.pt")
    with pytest.raises(FileNotFoundError):
        from_archive(tmp_path)


@pytest.mark.parametrize("odd", [np.arange(3), Path("here"), lambda: 3])
def test_what_could_not_be_read_again_is_not_written(odd: Any) -> None:
    """Such as an array that a method keeps in `get_extra_state`: each checkpoint of the run would be damaged."""
    with pytest.raises(
        InputError, match=r"^checkpoint: could not be read again, because of a type in the state \(.+\); .*"
    ):
        to_archive(STATE | {"method": {"_extra_state": {"mine": odd}}})


def test_no_changed_bit_of_an_archive_changes_a_number(tmp_path: Path) -> None:
    """Every 97th byte of the file, one after another: it is damaged, or holds what it held."""
    file = tmp_path / "state.pt"
    write(file, to_archive(STATE))
    sound, damaged = file.read_bytes(), 0
    for place in range(0, len(sound), 97):
        content = bytearray(sound)
        content[place] ^= 16
        file.write_bytes(content)
        try:
            found = from_archive(file)
        except Damaged:
            damaged += 1
        else:
            assert torch.equal(found["weights"]["a"], STATE["weights"]["a"])
            assert (found["step"], found["name"]) == (3, "x")
    assert damaged > len(sound) / 97 / 2


@pytest.mark.parametrize("length", [0, 1, 700, -1])
def test_an_archive_cut_short_is_damaged(length: int, tmp_path: Path) -> None:
    file = tmp_path / "state.pt"
    write(file, to_archive(STATE))
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(Damaged):
        from_archive(file)


CONTENT: dict[str, Any] = {"R": [[0.1 + 0.2, None]], "name": "ü", "n": 10**20, "nothing": {}}


def read_back(file: Path, content: Any, **how: Any) -> Any:
    file.write_text(json.dumps(content, **how), encoding="utf-8")
    return load_json(file)


def test_sealed_content_comes_back_from_a_file_however_it_is_spaced(tmp_path: Path) -> None:
    file = tmp_path / "file.json"
    assert read_back(file, sealed(CONTENT), indent=1) == CONTENT
    assert read_back(file, sealed(CONTENT), sort_keys=True, ensure_ascii=False) == CONTENT
    assert read_back(file, CONTENT) == CONTENT  # of an older version
    assert read_back(file, [1]) == [1]


@pytest.mark.parametrize(
    "change",
    [{"R": [[0.3, None]]}, {"R": [[0.1 + 0.2, 0.0]]}, {"name": "u"}, {"more": 1}, {files.CHECKSUM: None}],
)
def test_changed_content_is_damaged(change: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(Damaged, match=r"^file\.json is damaged \(wrong checksum\)$"):
        read_back(tmp_path / "file.json", {**sealed(CONTENT), **change})


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), "\ud800", {"\udfff": 1}, 10**40])
def test_what_cannot_be_written_again_is_damaged_whatever_its_checksum(value: Any, tmp_path: Path) -> None:
    for content in ({"R": value}, sealed({"R": value})):
        with pytest.raises(Damaged, match="incomplete JSON"):
            read_back(tmp_path / "file.json", content)
    assert read_back(tmp_path / "file.json", sealed({"R": "\U0001f600 \\ud800"})) == {"R": "\U0001f600 \\ud800"}


def test_a_file_that_cannot_be_written_leaves_the_old_one_alone(tmp_path: Path) -> None:
    def full(file: Path) -> None:
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    file = tmp_path / "file"
    write(file, lambda fresh: fresh.write_bytes(b"old"))
    with pytest.raises(OSError, match="No space"):
        write(file, full)
    assert file.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]
