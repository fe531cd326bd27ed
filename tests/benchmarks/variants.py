"""What a training step gains from compilation, from bfloat16 and from channels last, and what is learned. No test.

    python tests/benchmarks/variants.py --data-dir data [--methods er,lwf] [--repeats 5] [--device cpu]

Methods: the experiment of `speed.py`, its networks compiled (`torch.compile`), on a GPU into CUDA graphs too.
ResNet-18: fine-tuning on the first two classes of CIFAR-10. The variants take turns; a gain is what a step takes
without over what it takes with. `gap`: between the weights that both end with, over their way; 0: bit for bit.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import gpu
import speed
import torch
from rich.console import Console
from rich.table import Table

from cl_bench.config.compose import compose
from cl_bench.data.problem import Task
from cl_bench.methods.base import Method
from cl_bench.methods.dgr import DGR
from cl_bench.runs.fit import Fit

# the others call layers one by one (hat), or watch them so that the compiler gives up (ewc, mas, rwalk)
METHODS = ("finetune", "si", "lwf", "er", "der", "gem", "agem", "icarl", "packnet", *speed.GANS)


class Variant(NamedTuple):
    """A way to train: the trainer's settings, the method before its first task, and whether it is compiled."""

    settings: dict[str, Any]
    method: Method
    compile: Literal["", "default", "reduce-overhead"] = ""

    def train(self, tasks: list[Task], learn: Callable[[Method, Task, Fit], None]) -> speed.Timing:
        """A copy of the method on these tasks."""
        method = copy.deepcopy(self.method)
        if self.compile:  # not before: a copy is not compiled
            networks = method.gan.children() if isinstance(method, DGR) else [method.get_submodule("network")]
            for network in networks:
                network.compile(mode=self.compile)
        return speed.ours(self.settings, tasks, method, learn)


def gains(
    variants: Mapping[str, Variant], tasks: list[Task], learn: Callable[[Method, Task, Fit], None], repeats: int
) -> list[list[str]]:
    """A row of the table for each variant, against the first. The first turn isn't counted: it compiles."""
    (first, plain), *others = variants.items()
    began = [p.detach().clone() for p in speed.weights_of(plain.method)]
    rows = [[first, *[""] * 4]]
    torch.compiler.reset()  # at a limit it would go on without compiling
    for name, variant in others:
        try:
            pairs = [(plain.train(tasks, learn), variant.train(tasks, learn)) for _ in range(repeats + 1)][1:]
        except RuntimeError as error:  # a second derivative, as GANs need, is none that can be compiled
            rows.append([name, str(error).split("\n")[0][:60], *[""] * 3])
            continue
        without, within = (list(column) for column in zip(*pairs, strict=True))
        _, _, ms_within, ms_without, gain, spread = speed.row(speed.ratio(name, "training", without, within))
        a, b = without[-1].weights, within[-1].weights
        gap = speed.gap(a, b, began)
        rows[0][1] = ms_without
        rows.append([name, ms_within, gain, spread, f"{gap:.1g}"])
    return rows


def of_method(name: str, args: argparse.Namespace) -> list[list[str]]:
    """Rows of a method of `speed.py`."""
    settings = speed.settings_of(name, args.data_dir, args.device)
    scenario, method = speed.prepare_on(args.device, settings)
    variants = {name: Variant(settings, method), "  compiled": Variant(settings, method, "default")}
    if args.device == "cuda":
        variants["  in CUDA graphs"] = Variant(settings, method, "reduce-overhead")
    return gains(variants, scenario.tasks, speed.learning(name), args.repeats)


def of_resnet(args: argparse.Namespace) -> list[list[str]]:
    """Rows of ResNet-18, which has channels last by itself."""
    settings = {
        precision: compose(
            *speed.settings_without("dataset=", "network.", "trainer.epochs="),
            "dataset=cifar10",
            f"trainer.accelerator={'gpu' if args.device == 'cuda' else 'cpu'}",
            "network=resnet18",
            f"network.width={args.width}",
            "method=finetune",
            f"trainer.iterations={args.iterations}",
            f"trainer.precision={precision}",
            f"data_dir={args.data_dir}",
        )
        for precision in ("32-true", "bf16-mixed")
    }
    scenario, method = speed.prepare_on(args.device, settings["32-true"])
    contiguous = copy.deepcopy(method).to(memory_format=torch.contiguous_format)
    variants = {
        "ResNet-18, channels first": Variant(settings["32-true"], contiguous),
        "  channels last": Variant(settings["32-true"], method),
        "  bf16": Variant(settings["bf16-mixed"], contiguous),
        "  bf16, channels last": Variant(settings["bf16-mixed"], method),
        "  bf16, channels last, compiled": Variant(settings["bf16-mixed"], method, "default"),
    }
    return gains(variants, scenario.tasks[:1], speed.learning("finetune"), args.repeats)


def main() -> None:
    """Prints the table."""
    methods = ",".join([*METHODS, "resnet18"])
    parser = argparse.ArgumentParser(description="what compilation, bfloat16 and channels last gain")
    parser.add_argument("--data-dir", default="data", help="folder of MNIST and CIFAR-10 (default: %(default)s)")
    parser.add_argument("--methods", default=methods, help="and networks, comma-separated (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="turns counted (default: %(default)s)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cpu", help="(default: %(default)s)")
    parser.add_argument("--width", type=int, default=64, help="of ResNet-18 (default: %(default)s)")
    parser.add_argument("--iterations", type=int, default=20, help="of ResNet-18, mini-batches (default: %(default)s)")
    args = parser.parse_args()
    unknown = set(args.methods.split(",")) - {*METHODS, "resnet18"}
    if unknown or args.repeats < 1:
        parser.error(f"no such method: {', '.join(sorted(unknown))}" if unknown else "--repeats: at least 1")

    torch.set_num_threads(1)
    gpu.check(args.device)
    table = Table("what", "ms/step", "gain\nmedian", "\nmin-max", "gap")
    for name in args.methods.split(","):
        for row in of_resnet(args) if name == "resnet18" else of_method(name, args):
            table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    main()
