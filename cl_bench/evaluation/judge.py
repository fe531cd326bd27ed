"""What generated images are worth, next to real ones: FID per class and MeRGAN score.

Both need a network that knows the images. It learns the real training images of all tasks at once, belongs to
evaluation alone, and no method ever sees it.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property, partial, reduce
from importlib.util import find_spec
from operator import add
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from cl_bench import files
from cl_bench.data.batches import Batches, Data, at_once
from cl_bench.data.on_disk import blocks_of
from cl_bench.data.tasks import Scenario
from cl_bench.evaluation.or_nan import OrNaN
from cl_bench.methods.base import Method
from cl_bench.networks.cnn import CNN
from cl_bench.record import Generated, TaskRecord, to_json
from cl_bench.seeding import derive, seeded

log = logging.getLogger(__name__)

VERSION = 1  # of the network and its training: another one makes other files
STEPS = 1500  # mini-batches of the training, and for a small set
PASSES = 40  # over its images at most
BATCH_SIZE = 128
LEARNING_RATE = 3e-3  # at first; it falls to 0
FEATURES = 64  # fewer than the images of a class of digits, see `frechet_distance`
PER_CLASS = 1000  # images of a class that are looked at, at most
NUMBERS = 2**28  # of all images that are looked at together, at most: 1 GiB of float32
INCEPTION = "weights-inception-2015-12-05-6726825d.pth"  # as torch-fidelity calls them in the cache of torch.hub


class Judge:
    """Measures what a method generates. It is trained the first time that is needed, then read from a file.

    folder: for its files, shared by all runs on the same images; each names what the judge was trained on.
    """

    def __init__(self, scenario: Scenario, folder: Path) -> None:
        self.scenario, self.problem, self.folder = scenario, scenario.problem, folder
        largest = max(int(task.train.labels.bincount().max()) for task in scenario.tasks)
        fit = NUMBERS // (self.problem.n_outputs * math.prod(self.problem.image_shape))
        self.n = min(PER_CLASS, largest, max(fit, 2))
        """Images asked of each class: the same after every task, since FID depends on it."""
        self.or_nan = OrNaN()
        self._real: dict[tuple[int, int], Tensor] = {}

    @torch.no_grad()
    def measure(self, method: Method, after: int) -> tuple[Generated, Tensor] | None:
        """Numbers on the images of each class seen after learning task `after`, and a grid of some of them;
        nothing for a method that doesn't generate.

        What can't be measured is None: of a class with no image the score, of one with fewer than two, generated or
        real, the FID, of outputs not seen both. In the mean score a class without images counts 0: to have forgotten
        it must not pay.
        """
        began = time.monotonic()
        generated = method.generate(self.n)
        if generated is None:
            return None
        images, labels = generated
        seen = self.seen(after)
        spent = time.monotonic() - began
        accuracy = self.or_nan("the judge's accuracy", lambda: self.accuracy)
        began = time.monotonic() - spent  # the judge is trained or read the first time: not this task's time
        count = labels.bincount(minlength=self.problem.n_outputs).tolist()
        score, fid = ([math.nan] * self.problem.n_outputs for _ in range(2))
        for output in seen if math.isfinite(accuracy) else ():
            own, which = images[labels == output], f"class {self.problem.class_names[output]}"
            if len(own):
                score[output] = self.or_nan("MeRGAN score", partial(self.score, own, output), which)
                fid[output] = self.or_nan("FID", partial(self.fid, own, output, after), which)
        distances = [value for value in fid if math.isfinite(value)]
        scores = [score[output] if count[output] else 0.0 for output in seen]
        found = Generated(
            n=self.n,
            images=count,
            FID=to_json(fid),
            FID_mean=sum(distances) / len(distances) if distances else None,
            features="inception_v3" if self.sees_color else "judge",
            MeRGAN_score=to_json(score),
            MeRGAN_score_mean=to_json(sum(scores) / len(scores)),
            judge_accuracy=to_json(accuracy),
            seconds=time.monotonic() - began,
        )
        return found, grid(images, labels, seen)

    def score(self, images: Tensor, output: int) -> float:
        """The share of the images that the judge takes for this class."""
        return float((in_parts(self.network, images).argmax(1) == output).double().mean())

    def fid(self, images: Tensor, output: int, after: int) -> float:
        """The distance of as many generated images of a class as there are real ones, see `frechet_distance`."""
        real = self.real(output, after)
        return frechet_distance(real, in_parts(self.features, images[: len(real)]))

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
        """Images in [0, 1] -> (B, D): InceptionV3 for images in color where there are a GPU (a CPU takes a third of a
        second for each image) and its weights, else what the judge's last layer sees."""
        if not self.sees_color:
            return self.network.features
        with seeded(0, "inception"):  # its weights are drawn before they are read
            inception = FrechetInceptionDistance(2048).inception.to(self.device)
        return lambda x: inception((x * 255).byte())

    @cached_property
    def sees_color(self) -> bool:
        """Whether InceptionV3 is wanted and at hand."""
        weights = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION
        wanted = self.problem.image_shape[0] == 3 and self.device.type != "cpu"
        return wanted and find_spec("torch_fidelity") is not None and weights.exists()

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
                state = files.from_archive(file, self.device)
                network.load_state_dict(state["network"])
                return network.eval().requires_grad_(False), float(state["accuracy"])
            except FileNotFoundError:
                pass
            except Exception:  # load_state_dict raises what it likes
                log.warning("%s is damaged; the judge of generated images is trained again", file)
        with seeded(0, "judge"):  # what was loaded in part must leave nothing
            network = CNN(self.problem.image_shape, self.problem.n_outputs, hidden=FEATURES).to(self.device)
            train(network, self.scenario)
            accuracy = accuracy_of(network, self.scenario.tests)
        archive = files.to_archive({"network": network.state_dict(), "accuracy": accuracy})
        with suppress(OSError):  # on a full disk the next run trains a judge of its own
            self.folder.mkdir(parents=True, exist_ok=True)
            files.write(file, archive, fresh=file.with_suffix(f".{os.getpid()}.new"))
        return network.eval().requires_grad_(False), accuracy

    @property
    def key(self) -> str:
        """Names what the judge learns from: all images and labels of each task, and how the first ones are seen."""
        what = (VERSION, STEPS, self.problem.image_shape, self.problem.n_outputs, self.device.type)
        digest = hashlib.sha256(repr(what).encode())
        read: set[int] = set()  # tasks may share their images
        for data in everything(self.scenario):
            digest.update(repr((len(data), data.augment is not None)).encode())
            digest.update(data.labels.cpu().numpy().tobytes())
            for batch in data[torch.arange(min(len(data), 1000), device=data.labels.device)].batches():
                digest.update(batch.x.cpu().numpy().tobytes())
            for block in () if id(data.images) in read else blocks_of(data.images):
                digest.update(np.ascontiguousarray(block.cpu().numpy()).data)
            read.add(id(data.images))
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
    size = at_once(data.images.shape[1:], BATCH_SIZE)
    for chunk in Batches(data, batch_size=BATCH_SIZE, steps=steps, seed=derive(0, "judge batches")):
        for _, batch in chunk:
            optimizer.zero_grad()
            for x, y in zip(batch.x.split(size), batch.y.split(size), strict=True):
                (F.cross_entropy(network(x), y) * (len(y) / len(batch.y))).backward()
            optimizer.step()
            schedule.step()


def some(data: Data, n: int) -> Data:
    """n of the images, drawn at random."""
    return data[torch.randperm(len(data))[:n].to(data.labels.device)]


@torch.no_grad()
def accuracy_of(network: nn.Module, tests: Sequence[Data]) -> float:
    right = sum(int((network(batch.x).argmax(1) == batch.y).sum()) for test in tests for batch in test.batches())
    n = sum(map(len, tests))
    return right / n if n else math.nan


def frechet_distance(real: Tensor, generated: Tensor) -> float:
    """|m - m'|^2 + tr(S + S' - 2 (S S')^(1/2)), of the means m and covariances S of two sets of features, shapes
    (N, D) and (M, D) (Heusel et al., 2017).

    With no more samples than features the covariances are singular and the value too large, the more so the fewer
    they are: compare such values at equal N and M only.

    Raises ValueError for fewer than two samples, and for features that are not finite.
    """
    if min(len(real), len(generated)) < 2:
        raise ValueError(f"{len(real)} real and {len(generated)} generated images; at least two of each are needed")
    if not (real.isfinite().all() and generated.isfinite().all()):  # eigenvalues of NaN may kill the process
        raise ValueError("features of images are not finite")
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
    """The network's answers to many images, a hundred at a time or fewer."""
    return torch.cat([network(part.float()) for part in images.split(at_once(images.shape[1:], 100))])


def grid(images: Tensor, labels: Tensor, outputs: Sequence[int], columns: int = 8) -> Tensor:
    """The first images of each class, a row each, blank where there are fewer: (rows, columns, C, H, W)."""
    rows = images.new_zeros(len(outputs), columns, *images.shape[1:])
    for row, output in zip(rows, outputs, strict=True):
        own = images[labels == output][:columns]
        row[: len(own)] = own
    return rows


def generated_metrics(records: Sequence[TaskRecord], ends: Mapping[str, int]) -> dict[str, float | None]:
    """The means of what was generated: MeRGAN score (Wu et al., 2018) now and where accuracy has A5 and A10, and FID
    now; nothing where nothing was generated.

    records: of the tasks so far. ends: the task of A5 and that of A10, where these exist.
    """
    found = {record.task: record.generated for record in records if record.generated}
    if not found:
        return {}
    last = found[max(found)]
    after = {
        f"MeRGAN_score_{name}": found[task].MeRGAN_score_mean if task in found else None for name, task in ends.items()
    }
    return {"MeRGAN_score": last.MeRGAN_score_mean, **after, "FID": last.FID_mean}
