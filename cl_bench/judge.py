"""What generated images are worth, next to real ones: FID per class and MeRGAN score.

Both need a network that knows the images. It learns the real training images of all tasks at once, belongs to
evaluation alone, and no method ever sees it.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, reduce
from importlib.util import find_spec
from operator import add
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from cl_bench.data.batches import Batches, Data
from cl_bench.data.scenarios import Scenario
from cl_bench.methods.base import Method
from cl_bench.networks.cnn import CNN
from cl_bench.seeding import derive, seeded

VERSION = 1  # of the network and its training: another one makes other files
STEPS = 1500  # mini-batches of the training, and for a small set
PASSES = 40  # over its images at most
BATCH_SIZE = 128
LEARNING_RATE = 3e-3  # at first; it falls to 0
FEATURES = 64  # fewer than the images of a class of digits, see `frechet_distance`
PER_CLASS = 1000  # images of a class that are looked at, at most
INCEPTION = "weights-inception-2015-12-05-6726825d.pth"  # as torch-fidelity calls them in the cache of torch.hub


class Judge:
    """Measures what a method generates. It is trained the first time that is needed, then read from a file.

    folder: for its files, shared by all runs on the same images; each names what the judge was trained on.
    """

    def __init__(self, scenario: Scenario, folder: Path) -> None:
        self.scenario, self.problem, self.folder = scenario, scenario.problem, folder
        largest = max(int(task.train.labels.bincount().max()) for task in scenario.tasks)
        self.n = min(PER_CLASS, largest)
        """Images asked of each class: the same after every task, since FID depends on it."""
        self._real: dict[tuple[int, int], Tensor] = {}

    @torch.no_grad()
    def measure(self, method: Method, after: int) -> tuple[dict[str, Any], Tensor] | None:
        """Numbers on the images of each class seen after learning task `after`, and a grid of some of them;
        nothing for a method that doesn't generate.

        A class with no image has no score, with fewer than two no FID (None). Outputs not seen have neither. In
        the mean score a class without images counts 0: to have forgotten it must not pay.
        """
        began = time.monotonic()
        generated = method.generate(self.n)
        if generated is None:
            return None
        images, labels = generated
        seen = self.seen(after)
        spent = time.monotonic() - began
        network, features = self.network, self.features  # trained or read the first time: not this task's time
        began = time.monotonic() - spent
        score: list[float | None] = [None] * self.problem.n_outputs
        fid: list[float | None] = [None] * self.problem.n_outputs
        for output in seen:
            own = images[labels == output]
            if len(own):
                score[output] = float((in_parts(network, own).argmax(1) == output).double().mean())
            if len(own) > 1:
                real = self.real(output, after)
                fid[output] = frechet_distance(real, in_parts(features, own[: len(real)]))
        distances = [value for value in fid if value is not None]
        record = {
            "n": self.n,
            "images": labels.bincount(minlength=self.problem.n_outputs).tolist(),
            "FID": fid,
            "FID_mean": sum(distances) / len(distances) if distances else None,
            "features": "judge" if features is network.features else "inception_v3",
            "MeRGAN_score": score,
            "MeRGAN_score_mean": sum(value or 0.0 for value in score) / len(seen),
            "judge_accuracy": self.accuracy,
            "seconds": time.monotonic() - began,
        }
        return record, grid(images, labels, seen)

    def seen(self, after: int) -> list[int]:
        """The outputs of tasks 0 to `after`."""
        return sorted({output for outputs in self.problem.outputs[: after + 1] for output in outputs})

    def real(self, output: int, after: int) -> Tensor:
        """Features of the first n real training images of a class, in equal parts from the tasks so far that have
        it, shape (n, D) or fewer."""
        tasks = [task for task in range(after + 1) if output in self.problem.outputs[task]]
        for task in tasks:
            if (task, output) not in self._real:
                data = self.scenario.tasks[task].train
                rows = (data.labels == output).nonzero().squeeze(1)[: self.n]
                self._real[task, output] = torch.cat([self.features(x) for x, *_ in data[rows].batches(100)])
        return torch.cat([self._real[task, output][: -(-self.n // len(tasks))] for task in tasks])[: self.n]

    @property
    def network(self) -> CNN:
        return self._trained[0]

    @property
    def accuracy(self) -> float:
        """Of the judge on the real test images of all tasks: no generated image can be expected to do better."""
        return self._trained[1]

    @cached_property
    def features(self) -> Callable[[Tensor], Tensor]:
        """Images in [0, 1] -> (B, D): InceptionV3 for images in colour where there are a GPU (a CPU takes a third of a
        second for each image) and its weights, else what the judge's last layer sees."""
        weights = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION
        wanted = self.problem.image_shape[0] == 3 and self.device.type != "cpu"
        if not (wanted and find_spec("torch_fidelity") and weights.exists()):
            return self.network.features
        with seeded(0, "inception"):  # its weights are drawn before they are read
            inception = FrechetInceptionDistance(2048).inception.to(self.device)
        return lambda x: inception((x * 255).byte())

    @property
    def device(self) -> torch.device:
        return self.scenario.tasks[0].train.labels.device

    @cached_property
    def _trained(self) -> tuple[CNN, float]:
        """The judge and its accuracy; whoever finishes first leaves the file, whole."""
        with seeded(0, "judge"):
            network = CNN(self.problem.image_shape, self.problem.n_outputs, hidden=FEATURES).to(self.device)
            file = self.folder / f"{self.key}.pt"
            try:
                state = torch.load(file, map_location=self.device, weights_only=True)
                network.load_state_dict(state["network"])
                accuracy = float(state["accuracy"])
            except Exception:  # there is none, or torch and pickle raise anything on a damaged one
                train(network, self.scenario)
                accuracy = accuracy_of(network, self.scenario.tests)
                state = {"network": network.state_dict(), "accuracy": accuracy}
                fresh = file.with_suffix(f".{uuid4().hex}")
                try:
                    self.folder.mkdir(parents=True, exist_ok=True)
                    torch.save(state, fresh)
                    fresh.replace(file)
                except (OSError, RuntimeError):  # torch makes the one of the other
                    fresh.unlink(missing_ok=True)  # on a full disk the next run trains a judge of its own
        return network.eval().requires_grad_(False), accuracy

    @property
    def key(self) -> str:
        """Names what the judge learns from: the labels of each task, and its first images as they are seen."""
        what = (VERSION, STEPS, self.problem.image_shape, self.problem.n_outputs, self.device.type)
        digest = hashlib.sha256(repr(what).encode())
        for data in everything(self.scenario):
            digest.update(data.labels.cpu().numpy().tobytes())
            digest.update(next(data.batches(1000)).x.cpu().numpy().tobytes())
        return digest.hexdigest()[:16]


def everything(scenario: Scenario) -> Iterator[Data]:
    """The training images of each task, then the test images."""
    yield from (task.train for task in scenario.tasks)
    yield from scenario.tests


@torch.enable_grad()
def train(network: nn.Module, scenario: Scenario) -> None:
    """Cross-entropy over every output, on the training images of all tasks at once."""
    most = STEPS * BATCH_SIZE // len(scenario.tasks)  # of a task; no more are ever looked at
    # one at a time: a list of them would be a second copy of all
    data = reduce(add, (task.train if len(task.train) <= most else some(task.train, most) for task in scenario.tasks))
    steps = min(STEPS, PASSES * math.ceil(len(data) / BATCH_SIZE))
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    for chunk in Batches(data, batch_size=BATCH_SIZE, steps=steps, seed=derive(0, "judge batches")):
        for _, batch in chunk:
            loss = F.cross_entropy(network(batch.x), batch.y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def some(data: Data, n: int) -> Data:
    """n of the images, drawn at random."""
    return data[torch.randperm(len(data))[:n].to(data.labels.device)]


@torch.no_grad()
def accuracy_of(network: nn.Module, tests: Sequence[Data]) -> float:
    right = sum(int((network(batch.x).argmax(1) == batch.y).sum()) for test in tests for batch in test.batches())
    return right / sum(map(len, tests))


def frechet_distance(real: Tensor, generated: Tensor) -> float:
    """|m - m'|^2 + tr(S + S' - 2 (S S')^(1/2)), of the means m and covariances S of two sets of features, shapes
    (N, D) and (M, D) (Heusel et al., 2017).

    With no more samples than features the covariances are singular and the value too large, the more so the fewer
    they are: compare such values at equal N and M only.
    """
    distance = FrechetInceptionDistance(Given(real.shape[1]))
    distance.update(real.cpu().double(), real=True)
    distance.update(generated.cpu().double(), real=False)
    return float(distance.compute())


class Given(nn.Identity):
    """The feature network of features that are there already, `num_features` of them."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features


def in_parts(network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """The network's answers to many images, a hundred at a time."""
    return torch.cat([network(part) for part in images.float().split(100)])


def grid(images: Tensor, labels: Tensor, outputs: Sequence[int], columns: int = 8) -> Tensor:
    """The first images of each class, a row each, blank where there are fewer: (rows, columns, C, H, W)."""
    rows = images.new_zeros(len(outputs), columns, *images.shape[1:])
    for row, output in zip(rows, outputs, strict=True):
        own = images[labels == output][:columns]
        row[: len(own)] = own
    return rows


def generated_metrics(records: Sequence[Mapping[str, Any]], ends: Mapping[str, int]) -> dict[str, float]:
    """The means of what was generated: MeRGAN score (Wu et al., 2018) now and where accuracy has A5 and A10, and FID
    now; nothing where nothing was generated.

    records: of the tasks so far. ends: the task of A5 and that of A10, where these exist.
    """
    means = {record["task"]: record["generated"] for record in records if record.get("generated")}
    if not means:
        return {}
    last = means[max(means)]
    after = {
        f"MeRGAN_score_{name}": means[task]["MeRGAN_score_mean"] if task in means else math.nan
        for name, task in ends.items()
    }
    fid = math.nan if last["FID_mean"] is None else last["FID_mean"]
    return {"MeRGAN_score": last["MeRGAN_score_mean"], **after, "FID": fid}
