"""Features of images from a frozen network, computed once for each image and kept in a cache.

Features replace images: a scenario of features has float32 images of shape (N, width, 1, 1). So every method can learn
from them, with any network for flat input. A memory that keeps them counts the bytes of features.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cl_bench.config import InputError, Side
from cl_bench.config.weights import digest_of, weights_file
from cl_bench.data.batches import Data
from cl_bench.data.cache import alone
from cl_bench.data.on_disk import in_memory
from cl_bench.data.tasks import Scenario
from cl_bench.data.views import Pictures
from cl_bench.files import write
from cl_bench.networks.backbones import Backbone

log = logging.getLogger(__name__)

AT_ONCE = 1024
"""Images whose features are in one file of the cache. An interruption loses the work on at most this number."""

EVERY = 30.0  # seconds between two lines about the progress


class Features:
    """The features of images from a frozen network.

    They are kept below data_dir/.cache/features, in a folder for each backbone, size and weights, by a digest of the
    image. So another order, scenario or seed finds them there. Files have checksums, and a damaged file is made again.
    If two runs need new features, one waits for the other.

    Args:
        data_dir: where data sets are.
        backbone, weights, size: see `Backbone`.
    """

    def __init__(self, data_dir: Path, *, backbone: str, weights: str | None = None, size: Side | None) -> None:
        self.backbone, self.width = Backbone("features", backbone, weights, size), 0
        file = weights_file("features", backbone, weights)
        digest = digest_of("features", backbone, file, str(data_dir / ".cache"))
        self.folder = data_dir / ".cache" / "features" / f"{backbone.replace('/', '-')}-{size or 'own'}-{digest}"

    def __call__(self, x: Tensor) -> Tensor:
        """The features of float images in [0, 1], (B, C, H, W), as images (B, width, 1, 1), without the cache."""
        return self.backbone.to(x.device)(x)[:, :, None, None]

    def of(self, *sets: Tensor, device: torch.device | str = "cpu") -> list[Tensor]:
        """The features of several sets of images, uint8 (N, C, H, W): float32 (N, width) each, on the CPU.

        Raises InputError if the cache cannot be written, and for image sizes that the network does not accept.
        """
        self.width = self.backbone.try_out(sets[0].shape[1:])
        images = [image for part in sets for image in part.numpy()]
        names = [name_of(image) for image in images]
        first = {name: index for index, name in reversed(list(enumerate(names)))}
        known = self._known(first)
        if len(known) < len(first):
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                waits = partial(log.info, "features: another run works on %s; waiting for it", self.folder)
                with alone(self.folder / "lock", waits):
                    known = self._known(first, repair=True)
                    missing = {name: images[index] for name, index in first.items() if name not in known}
                    known |= self._work_out(missing, torch.device(device))
            except OSError as error:
                raise InputError(
                    f"data_dir: can't write features to {self.folder} ({error.strerror or error})"
                ) from error
        table = np.empty((len(names), self.width), np.float32)
        for row, name in enumerate(names):
            table[row] = known[name]
        return list(torch.from_numpy(table).split([len(part) for part in sets]))

    def _known(self, wanted: Iterable[bytes], *, repair: bool = False) -> dict[bytes, np.ndarray]:
        """The features that the cache has of these images, by digest. repair: whether to remove damaged files."""
        wanted, known = set(wanted), {}
        for file in sorted(self.folder.glob("*.npz")):
            try:
                with np.load(file, allow_pickle=False) as content:  # a zip archive: reading looks at its checksums
                    names = [name.tobytes() for name in content["names"]]
                    if not wanted.isdisjoint(names):
                        rows = content["features"]
                        if rows.shape != (len(names), self.width) or rows.dtype != np.float32:
                            raise ValueError("not what was written")
                        known |= {name: row for name, row in zip(names, rows, strict=True) if name in wanted}
            except Exception as error:  # numpy and zipfile raise many classes of errors for a damaged file
                if repair:
                    log.warning("features: %s is damaged (%s); it is made again", file, type(error).__name__)
                    file.unlink(missing_ok=True)
        return known

    def _work_out(self, images: dict[bytes, np.ndarray], device: torch.device) -> dict[bytes, np.ndarray]:
        """Computes the features of these images and writes them to the cache."""
        backbone, known, began, said = self.backbone.to(device), {}, time.monotonic(), time.monotonic()
        if images:
            log.info("features: %s images are computed once; they are kept in %s", f"{len(images):,}", self.folder)
        for names in in_groups(images):
            # always the same number of images at once, so that features do not depend on the other images
            x = torch.from_numpy(np.stack([images[name] for name in names]))
            together = backbone.at_once(x.shape[1:], device)
            filled = torch.cat([x, x[:1].expand(-len(x) % together, -1, -1, -1)])
            parts = [backbone(part.to(device) / 255).cpu() for part in filled.split(together)]
            rows = torch.cat(parts)[: len(x)].float().numpy()
            content = BytesIO()
            np.savez(content, names=np.frombuffer(b"".join(names), np.uint8).reshape(len(names), -1), features=rows)
            file = self.folder / f"{blake2b(b''.join(names), digest_size=16).hexdigest()}.npz"
            write(file, lambda path, content=content: path.write_bytes(content.getbuffer()))
            known |= dict(zip(names, rows, strict=True))
            if time.monotonic() - said > EVERY:
                said = time.monotonic()
                rate = len(known) / (said - began)
                log.info("features: %s of %s images, %.0f a second", f"{len(known):,}", f"{len(images):,}", rate)
        return known


def in_groups(images: dict[bytes, np.ndarray]) -> Iterable[list[bytes]]:
    """Names of at most `AT_ONCE` images of one shape."""
    shapes: dict[tuple[int, ...], list[bytes]] = {}
    for name, image in images.items():
        shapes.setdefault(image.shape, []).append(name)
    for names in shapes.values():
        yield from (names[start : start + AT_ONCE] for start in range(0, len(names), AT_ONCE))


def name_of(image: np.ndarray) -> bytes:
    """The digest of an image, uint8 (C, H, W), which is its name in the cache."""
    return blake2b(image.tobytes(), digest_size=16, key=repr(image.shape).encode()).digest()


def as_features(scenario: Scenario, features: Features, device: torch.device | str) -> Scenario:
    """The scenario with features instead of images.

    Features are computed from the images as tasks show them, permuted or rotated, rounded to 256 levels.
    Raises InputError for augmented images, because each image has only one row of features.
    """
    problem = scenario.problem
    if problem.augment is not None:
        raise InputError(
            "dataset.augment=true: features are computed once for each image (features=...); set "
            "dataset.augment=false, or network=pretrained without features"
        )
    if problem.image_shape[0] not in (1, 3):
        raise InputError(f"features: need gray or color images, and these have {problem.image_shape[0]} channels")
    sets: list[Data] = list(scenario.tests)
    for task in scenario.tasks:
        sets += [task.train, task.val, *([task.meta] if task.meta else [])]
    found = iter(features.of(*map(as_seen, sets), device=device))

    def there(data: Data) -> Data:
        return replace(data, images=next(found)[:, :, None, None], view=None, augment=None)

    tests = [there(test) for test in scenario.tests]
    tasks = []
    for task in scenario.tasks:
        train, val = there(task.train), there(task.val)
        tasks.append(replace(task, train=train, val=val, meta=task.meta and there(task.meta)))
    pictures = Pictures(problem.image_shape, problem.view, features)
    shape = (features.width, 1, 1)
    problem = replace(problem, image_shape=shape, mean=None, std=None, view=None, pictures=pictures)
    return Scenario(problem, tasks, tests)


def as_seen(data: Data) -> Tensor:
    """The images, uint8 (N, C, H, W), after the view of their task."""
    if data.view is None or not len(data):  # without validation images: a view may need at least one image
        return in_memory(data.images, "features")
    return torch.cat([(batch.x * 255).round().to(torch.uint8) for batch in data.batches()])
