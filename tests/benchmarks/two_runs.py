"""Several runs at once, through the joblib launcher, against one after the other. No test: a clock proves nothing.

    python tests/benchmarks/two_runs.py --data-dir data [--at-once 2] [--epochs 50] [--repeats 3]

Split-MNIST by fine-tuning, MLP 256-256, one thread a run; a sweep of as many seeds as run at once. Throughput is that
of one run after the other, each a process too, over that at once: of whole sweeps, and of the training alone. What the
machine itself allows: the same by a loop written by hand, in as many processes. `gpu.py` has runs that share a GPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from rich.console import Console
from rich.table import Table
from speed import SETTINGS, by_hand, settings_of, weights_of
from startup import RUN, seconds

from cl_bench.runs.setup import prepare


def sweep(n: int, at_once: int, data_dir: str, epochs: int, accelerator: str) -> tuple[float, list[float]]:
    """Seconds of a sweep of n seeds, this many at once, and seconds of the training of each run."""
    settings = (f"trainer.epochs={epochs}", f"trainer.accelerator={accelerator}", f"data_dir={data_dir}")
    launcher = ("-m", "hydra/launcher=joblib", f"hydra.launcher.n_jobs={at_once}", f"seed=range({n})")
    with TemporaryDirectory() as folder:
        whole = seconds(*RUN, *launcher, "method=finetune", *SETTINGS, *settings, f"output_root={folder}")
        runs = [json.loads(file.read_text()) for file in Path(folder).glob("*/*/results.json")]
    assert [run["status"] for run in runs] == ["finished"] * n
    return whole, [run["seconds"] for run in runs]


def loop(data_dir: str, epochs: int) -> float:
    """Seconds of the loop by hand."""
    torch.set_num_threads(1)
    scenario, method = prepare(settings_of("finetune", data_dir))
    weights = weights_of(method)
    return sum(by_hand("finetune", scenario.tasks, weights)[""].training for _ in range(epochs))


def compare(n: int, data_dir: str, epochs: int, accelerator: str, repeats: int) -> Table:
    """The table, of n runs; each turn has them one after the other, then at once."""
    wholes, trainings = [], []
    for _ in range(repeats):
        one_by_one, alone = sweep(n, 1, data_dir, epochs, accelerator)
        at_once, together = sweep(n, n, data_dir, epochs, accelerator)
        wholes.append((one_by_one, at_once))
        trainings.append((sum(alone), max(together)))
    rows = {"whole sweeps": wholes, "training alone": trainings}
    if accelerator == "cpu":
        with ProcessPoolExecutor(n, get_context("spawn")) as pool:

            def loops(m: int, epochs: int = epochs) -> list[float]:
                return list(pool.map(loop, [data_dir] * m, [epochs] * m))

            loops(n, epochs=1)  # all are awake
            turns = [(n * max(loops(1)), max(loops(n))) for _ in range(repeats)]
        rows["a loop by hand"] = turns

    table = Table("of", "one by one\ns", f"{n} at once\ns", "throughput\nmedian", "\nmin-max", title=f"{n} runs")
    for what, turns in rows.items():
        ratios = [a / b for a, b in turns]
        one_by_one, at_once = (statistics.median(column) for column in zip(*turns, strict=True))
        spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
        table.add_row(what, f"{one_by_one:.1f}", f"{at_once:.1f}", f"{statistics.median(ratios):.2f}", spread)
    return table


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="throughput of runs at once over one after the other")
    parser.add_argument("--data-dir", default="data", help="folder of MNIST/raw (default: %(default)s)")
    parser.add_argument("--at-once", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=50, help="of each task (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="turns (default: %(default)s)")
    args = parser.parse_args()
    Console().print(compare(args.at_once, args.data_dir, args.epochs, "cpu", args.repeats))


if __name__ == "__main__":
    main()
