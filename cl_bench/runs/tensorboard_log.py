"""The numbers of a run in TensorBoard's format, in the folder of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger

from cl_bench.runs.trackers import About, Point, Tracker, without_paths


class TensorBoardLog(Tracker):
    """Event files in `tensorboard/` of the run's folder, written by Lightning's logger: `tensorboard --logdir outputs`.

    Losses are PHASE/NAME over the mini-batches of the run. task/NAME is over the tasks from 0, and accuracy_on_stream
    over the images of a stream. A finished run has its hyper-parameters and final numbers there.
    """

    title: ClassVar[str] = "TensorBoard"
    package: ClassVar[str | None] = "tensorboard"

    def open(self, about: About, continued: bool) -> None:
        self._config = without_paths({**about.config, "key": about.key})
        self._lightning = TensorBoardLogger(about.folder, name="tensorboard", version="", default_hp_metric=False)

    def send(self, points: Sequence[Point]) -> None:
        for point in points:
            self._lightning.log_metrics(point.values, point.at)
        self._lightning.experiment.flush()  # else a kill loses points that log.csv has, and they are not sent again

    def send_picture(self, name: str, picture: Path, task: int) -> None:
        with Image.open(picture) as image:
            pixels = np.asarray(image.convert("RGB"))
        self._lightning.experiment.add_image(name, pixels, task, dataformats="HWC")

    def end(self, final: Mapping[str, float]) -> None:
        self._lightning.log_hyperparams(self._config, dict(final))

    def stop(self, failed: bool) -> None:
        self._lightning.finalize("failed" if failed else "success")
