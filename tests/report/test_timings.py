"""Training times beside loops written by hand, as data and as a table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cl_bench.config import InputError
from cl_bench.report import published
from cl_bench.report.timings import Ratio, keep_ratios, ratios, timings_table

SLOW = Ratio("er", "training", 2.0, 3.0, 1.5, 1.25, 2.0, repeats=3, date="2026-01-01", machine="a CPU, of 2020")
WHOLE = replace(SLOW, part="whole", ratio=1.75)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(published, "RESULTS", tmp_path)
    return tmp_path


def test_ratios_are_kept_and_take_the_place_of_older_ones() -> None:
    assert ratios() == []
    keep_ratios([SLOW, WHOLE])
    faster = replace(SLOW, ratio=0.5, date="2026-01-02")
    keep_ratios([faster])
    assert ratios() == [faster, WHOLE]


def test_a_row_for_each_loop_of_the_methods_named() -> None:
    by_sums = [replace(one, what="ewc, one penalty") for one in (SLOW, WHOLE)]
    keep_ratios([SLOW, WHOLE, *by_sums])
    row = "1.50 (1.25-2.00) | 1.75 (1.25-2.00) | 2.00 | 3, 2026-01-01 |"
    assert timings_table("ewc er").splitlines()[2:] == [f"| `ewc`, one penalty | {row}", f"| `er` | {row}"]
    assert timings_table("all").splitlines()[2:] == [f"| `er` | {row}", f"| `ewc`, one penalty | {row}"]
    with pytest.raises(InputError, match="timings of gem: it was not timed"):
        timings_table("er gem")


def test_times_on_a_gpu_are_kept_apart() -> None:
    keep_ratios([SLOW, WHOLE])
    on_gpu = [replace(SLOW, ratio=1.0, machine="a GPU")]  # and nothing of the whole
    keep_ratios(on_gpu, "gpu")
    assert (ratios(), ratios("gpu")) == ([SLOW, WHOLE], on_gpu)
    assert timings_table("gpu").splitlines()[2:] == ["| `er` | 1.00 (1.25-2.00) | not kept | 2.00 | 3, 2026-01-01 |"]


@pytest.mark.parametrize(
    "damage", ["er,training,2.0", "er,sum,2,3,1.5,1.2,2,3,,", "er,whole,x,3,1.5,1.2,2,3,,", "\xff"]
)
def test_a_damaged_file_is_named(folder: Path, damage: str) -> None:
    keep_ratios([SLOW])
    with (folder / "timings.csv").open("ab") as file:
        file.write(damage.encode("latin-1") + b"\n")
    with pytest.raises(InputError, match=r"timings\.csv: is damaged"):
        ratios()
