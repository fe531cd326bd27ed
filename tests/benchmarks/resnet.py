"""ResNet-18 on images like those of CIFAR-10: images per second of ours and of a loop written by hand. No test.

    python tests/benchmarks/resnet.py --data cifar10.npz [--device cuda] [--width 64] [--precision bf16-mixed]

Both fine-tune the same network, channels last, with the same optimizer on mini-batches of the same size, from images
that lie on the device as bytes. They take turns. The file is of `dataset=npz`.
"""

from __future__ import annotations

import argparse
import copy
import statistics

import gpu
import speed
import torch
import torch.nn.functional as F
from speed import Timing, now
from torch import nn

from cl_bench.config.compose import compose
from cl_bench.data.batches import Data
from cl_bench.methods.base import Classifier


def by_hand(network: nn.Module, data: Data, batch_size: int, steps: int, autocast: bool) -> Timing:
    """The loop."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    device = data.images.device.type
    network.train()
    began = now(data.images.device)
    order = torch.randperm(len(data)).to(device)
    for step in range(steps):
        first = step * batch_size % (len(data) - batch_size)
        rows = order[first : first + batch_size]
        x = data.images.index_select(0, rows).float().div_(255)
        with torch.autocast(device, torch.bfloat16, enabled=autocast):
            loss = F.cross_entropy(network(x), data.labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    seconds = now(data.images.device) - began
    return Timing(list(network.parameters()), steps, seconds, seconds)


def main() -> None:
    """Prints a line for each turn, then the medians."""
    parser = argparse.ArgumentParser(description="ResNet-18: images per second, ours and by hand")
    parser.add_argument("--data", required=True, help="file of dataset=npz, images of 32x32x3")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cpu", help="(default: %(default)s)")
    parser.add_argument("--width", type=int, default=64, help="(default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=128, help="(default: %(default)s)")
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="bf16-mixed")
    parser.add_argument("--iterations", type=int, default=200, help="(default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="turns counted (default: %(default)s)")
    args = parser.parse_args()

    torch.set_num_threads(1)
    gpu.check(args.device)
    settings = compose(
        *speed.settings_without("dataset=", "network.", "trainer.epochs="),
        f"trainer.accelerator={'gpu' if args.device == 'cuda' else 'cpu'}",
        "method=finetune",
        "scenario.n_tasks=1",
        "dataset=npz",
        f"dataset.path={args.data}",
        "network=resnet18",
        f"network.width={args.width}",
        f"trainer.batch_size={args.batch_size}",
        f"trainer.iterations={args.iterations}",
        f"trainer.precision={args.precision}",
    )
    scenario, method = speed.prepare_on(args.device, settings)
    assert isinstance(method, Classifier)
    task = scenario.tasks[0]
    ours, loops = [], []
    for turn in range(args.repeats + 1):  # the first isn't counted: it looks for the fastest kernels
        mine = speed.ours(settings, [task], copy.deepcopy(method), speed.learning("finetune"))
        theirs = by_hand(
            copy.deepcopy(method.network), task.train, args.batch_size, args.iterations, args.precision != "32-true"
        )
        rates = [timing.steps * args.batch_size / timing.training for timing in (mine, theirs)]
        print(f"turn {turn}: ours {rates[0]:,.0f} images/s, by hand {rates[1]:,.0f}")
        if turn:
            ours.append(rates[0])
            loops.append(rates[1])
    ratio = statistics.median(b / a for a, b in zip(ours, loops, strict=True))
    print(
        f"width {args.width}, batch {args.batch_size}, {args.precision}: ours {statistics.median(ours):,.0f} images/s, "
        f"by hand {statistics.median(loops):,.0f}, ratio of times {ratio:.2f}"
    )


if __name__ == "__main__":
    main()
