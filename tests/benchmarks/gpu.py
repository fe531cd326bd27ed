"""Training steps of ours over those of loops written by hand on a GPU, and runs that share it. No test.

    python tests/benchmarks/gpu.py --data-dir data [--methods ewc,hat] [--repeats 5] [--runs 8] [--keep]
    python tests/benchmarks/gpu.py --device cpu --methods ewc --repeats 1 --runs 0     tries the script out

The experiment of `speed.py` with everything on the device, and its comparison: the loops of `tests/reference` make
what they need (networks, random numbers, masks) on the device of their images, and their clock waits for it.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

import speed
import torch
from rich.console import Console
from rich.table import Table
from two_runs import compare as compare_runs

from cl_bench.report.timings import keep_ratios


def check(device: str) -> None:
    """Ends the script where `cuda` is asked for and there is no GPU."""
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("--device=cuda: there is no CUDA device here; try --device=cpu")


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description="training time on a GPU over that of a loop written by hand")
    parser.add_argument("--data-dir", default="data", help="folder of MNIST/raw (default: %(default)s)")
    parser.add_argument("--methods", default=",".join(speed.BY_HAND), help="(default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="turns counted (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=8, help="that share the GPU; 0: none (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=50, help="of each task of theirs (default: %(default)s)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="(default: %(default)s)")
    parser.add_argument("--keep", action="store_true", help="write the ratios into results/timings_gpu.csv")
    args = parser.parse_args()
    if args.keep and args.device != "cuda":
        parser.error("--keep: keeps what a GPU needs; speed.py keeps times of a CPU")

    torch.set_num_threads(1)
    check(args.device)
    heads = ("what", "part", "by hand\nms/step", "ours\nms/step", "ratio\nmedian", "\nmin-max")
    table = Table(*heads, title=torch.cuda.get_device_name() if args.device == "cuda" else "CPU")
    for name in args.methods.split(","):
        try:
            mine, loops = speed.compare(name, args.data_dir, args.repeats, args.device)
        except RuntimeError as error:  # another order of sums, and a GAN learns something else
            table.add_row(name, f"{error}"[:60])
            continue
        for what, theirs in loops.items():
            called = f"{name}, {what}" if what else name
            found = [speed.ratio(called, part, mine, theirs) for part in speed.PARTS]
            for one in found:
                table.add_row(*speed.row(one))
            if args.keep:
                keep_ratios([replace(one, machine=torch.cuda.get_device_name()) for one in found], "gpu")
    Console().print(table)
    if args.runs:
        accelerator = "gpu" if args.device == "cuda" else "cpu"
        Console().print(compare_runs(args.runs, args.data_dir, args.epochs, accelerator, args.repeats))


if __name__ == "__main__":
    main()
