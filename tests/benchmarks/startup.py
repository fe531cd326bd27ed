"""Seconds from a command line to its answer: what a person waits for before there is work. No test.

    python tests/benchmarks/startup.py [--repeats 5] [--runs 100]

Each row is a process of its own, timed from outside; the commands take turns, after one turn that isn't counted and
leaves everything compiled to bytecode. First of all it makes what is asked for again: a run, and a sweep of tiny runs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

FIRST_STEP = """
import os, sys
from torch.optim.optimizer import register_optimizer_step_post_hook
from cl_bench.__main__ import main
register_optimizer_step_post_hook(lambda *_: os._exit(0))
sys.exit(main(sys.argv[1:]) or "it ended without a step")
"""
REFUSED = "import sys; from cl_bench.__main__ import main; sys.exit(main(sys.argv[1:]) - 1)"
RUN = ("-m", "cl_bench")
TINY = ("method=finetune", "network.hidden=[4]", "trainer.iterations=1", "trainer.threads=1")
BYTECODE = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}


def seconds(*arguments: str) -> float:
    """Of a Python process with these arguments, from its start to its end, which must be a good one."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], env=BYTECODE, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="seconds from a command line to its answer")
    parser.add_argument("--repeats", type=int, default=5, help="turns counted (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=100, help="of the sweep (default: %(default)s)")
    args = parser.parse_args()

    with TemporaryDirectory() as folder:
        once = (*RUN, *TINY, f"output_root={folder}/once")
        sweep = (*RUN, "-m", *TINY, f"output_root={folder}/sweep", f"seed=range({args.runs})")
        waits: dict[str, tuple[float, tuple[str, ...]]] = {
            "import cl_bench": (0.3, ("-c", "import cl_bench")),
            "--help": (1.5, (*RUN, "--help")),
            "a wrong value": (3, ("-c", REFUSED, "method=ewc", "method.strength=much")),
            "a scenario that a method has no meaning in": (3, ("-c", REFUSED, "method=packnet")),
            "default command, to its first step": (10, ("-c", FIRST_STEP, f"output_root={folder}/first")),
            "a finished run again": (2, once),
            f"a sweep of {args.runs} finished runs again": (20, sweep),
        }
        for command in (once, sweep):
            print(f"made in {seconds(*command):.0f} s: {' '.join(command[2:])}".replace(folder, "..."))
        assert len(list(Path(folder).glob("sweep/*/*/results.json"))) == args.runs
        turns = [{what: seconds(*command) for what, (_, command) in waits.items()} for _ in range(args.repeats + 1)][1:]

    table = Table("what", "median\ns", "\nmin-max", "limit\ns", caption="interpreter's start and end counted")
    for what, (limit, _) in waits.items():
        found = [turn[what] for turn in turns]
        table.add_row(what, f"{statistics.median(found):.2f}", f"{min(found):.2f}-{max(found):.2f}", f"{limit:g}")
    Console().print(table)


if __name__ == "__main__":
    main()
