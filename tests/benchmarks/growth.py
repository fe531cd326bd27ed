"""What a task costs when many came before it: seconds and memory over 20 permuted tasks of MNIST. No test.

    python tests/benchmarks/growth.py --data-dir data [--methods ewc,gem] [--tasks 20] [--repeats 5]

Domain-incremental (PackNet, HAT, PNN, SupSup and CLNP: task-incremental, iCaRL: class-incremental); MLP 256-256 (CLNP:
1000-1000), mini-batches of 128, one thread. Time: all that learning a task takes; the second and the last task are
learned again and again, in turns, each from the state in which the method met it. Memory: of a process of its own with
a whole run, measuring included; what it held at its peak beyond what it held when the images were loaded. Linux only.
"""

from __future__ import annotations

import argparse
import copy
import re
import statistics
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.live import Live
from rich.table import Table
from speed import learning, ours, settings_without

from cl_bench.config.compose import compose
from cl_bench.data.problem import Task
from cl_bench.methods.base import Method
from cl_bench.runs.loop import run
from cl_bench.runs.setup import prepare

CONSTANT: dict[str, tuple[str, ...]] = {
    "finetune": (),
    "ewc": ("method.strength=1", "method.fisher_samples=6000"),
    "si": (),
    "mas": (),
    "rwalk": (),
    "lwf": (),
    "er": (),
    "der": (),
    "er_ace": (),
    "mir": (),
    "gss": (),
    "agem": (),
    "meta_regularized": (),
    "continual_backprop": (),
    "icarl": ("scenario.kind=class",),
    "wa": ("scenario.kind=class",),
    "bic": ("scenario.kind=class", "memory=400"),
    "lucir": ("scenario.kind=class",),
    "packnet": ("scenario.kind=task",),
    "hat": ("scenario.kind=task",),
    "progress_compress": (),
    "supsup": ("scenario.kind=task",),
    "clnp": ("scenario.kind=task", "scenario.val_fraction=0.1", "network.hidden=[1000,1000]", "method.l1=0.001"),
}
GROWING: dict[str, tuple[str, ...]] = {
    "gem": (),
    "ogd": ("method.samples=20",),
    "ss_il": ("scenario.kind=class",),
    "cumulative": (),
    "pnn": ("scenario.kind=task",),
    "den": ("scenario.kind=task",),
    "dgr": ("method.generator_steps=200",),
}
LIMIT, LIMIT_MB = 1.1, 600


def settings_of(name: str, args: argparse.Namespace, folder: str) -> dict[str, Any]:
    """The whole configuration of a run."""
    return compose(
        *settings_without("trainer.epochs="),
        "trainer.accelerator=cpu",
        f"trainer.iterations={args.iterations}",
        "scenario=permuted",
        f"scenario.n_tasks={args.tasks}",
        f"data_dir={args.data_dir}",
        f"output_root={folder}",
        f"method={name}",
        *(CONSTANT | GROWING)[name],
    )


def memory(settings: dict[str, Any]) -> tuple[float, list[float]]:
    """MB (2^20 bytes) that a run needs at its peak beside the images, and MB it keeps after each task."""
    prepared = prepare(settings)
    loaded = resident_mb("VmRSS")
    del prepared
    results = run(settings)
    return resident_mb("VmHWM") - loaded, [task.bytes_kept / 2**20 for task in results.tasks]


def resident_mb(field: str) -> float:
    """What this process holds in memory (VmRSS), or the most that it has held (VmHWM)."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 2**10


def seconds(settings: dict[str, Any], repeats: int) -> list[tuple[float, float]]:
    """Of the second task and of the last, turn by turn, after a turn that isn't counted."""
    scenario, method = prepare(settings)
    met: list[tuple[Task, Method]] = []
    for task in scenario.tasks:
        if task.index in (1, len(scenario.tasks) - 1):
            met.append((task, copy.deepcopy(method)))
        ours(settings, [task], method, learning("finetune"))
    turns = [
        [ours(settings, [t], copy.deepcopy(m), learning("finetune")).whole for t, m in met] for _ in range(repeats + 1)
    ]
    return [(a, b) for a, b in turns[1:]]


def cells(name: str, args: argparse.Namespace) -> list[str]:
    """Of the table, for this method."""
    with TemporaryDirectory() as folder, ProcessPoolExecutor(1, get_context("spawn")) as alone:
        settings = settings_of(name, args, folder)
        peak, kept = alone.submit(memory, settings).result()
    turns = seconds(settings, args.repeats)
    second, last = (statistics.median(column) for column in zip(*turns, strict=True))
    ratios = [b / a for a, b in turns]
    ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
    slope = f"{1000 * (last - second) / (args.tasks - 2):+.1f}"
    return [f"{second:.2f}", f"{last:.2f}", ratio, slope, f"{kept[1]:.1f}  {kept[-1]:.1f}", f"{peak:.0f}"]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="time and memory per task against the number of tasks")
    parser.add_argument("--data-dir", default="data", help="folder of MNIST/raw (default: %(default)s)")
    parser.add_argument("--methods", default=",".join(CONSTANT | GROWING), help="(default: %(default)s)")
    parser.add_argument("--tasks", type=int, default=20, help="(default: %(default)s)")
    parser.add_argument("--iterations", type=int, default=200, help="mini-batches per task (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="turns counted (default: %(default)s)")
    args = parser.parse_args()
    unknown = set(args.methods.split(",")) - set(CONSTANT | GROWING)
    if unknown or args.tasks < 3 or args.repeats < 1:
        parser.error(f"no such method: {', '.join(unknown)}" if unknown else "--tasks: at least 3; --repeats: 1")

    torch.set_num_threads(1)
    caption = f"limits: ratio {LIMIT} (not of {', '.join(GROWING)}); peak {LIMIT_MB} MB beyond the images loaded"
    heads = ("method", "task 2\ns", f"task {args.tasks}\ns", "ratio, median\n(min-max)", "slope\nms/task")
    heads += ("kept, MB, task 2\nand last", "peak\nMB")
    table = Table(*heads, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=caption)
    with Live(table) as live:
        for name in args.methods.split(","):
            row = cells(name, args)
            table.add_row(name, *row)
            if not live.console.is_terminal:  # a file has the table at the end alone
                print(name, *row, sep="  ", flush=True)


if __name__ == "__main__":
    main()
