"""The numbers of a run in MLflow."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

from filelock import FileLock
from pytorch_lightning.loggers import MLFlowLogger

from cl_bench.runs.trackers import About, Point, Tracker, without_paths

KEY = "cl_bench.key"  # the tag by which a run that goes on finds itself
AT_ONCE = 1000  # metrics that MLflow takes in one call


class MLflowLog(Tracker):
    """A run of MLflow, by Lightning's logger: curves, the configuration as parameters, figures and samples as
    artifacts, and final numbers under their plain names.

    Losses are PHASE/NAME over the mini-batches of the run. task/NAME is over the tasks from 0, and accuracy_on_stream
    over the images of a stream.

    experiment: the name of the experiment that has the run.
    uri: of the tracking server or store; None: the value of MLFLOW_TRACKING_URI, else `mlflow.db` in the output root.
    """

    title: ClassVar[str] = "MLflow"
    package: ClassVar[str | None] = "mlflow"

    def __init__(self, experiment: str = "cl_bench", uri: str | None = None) -> None:
        super().__init__()
        self.experiment, self.uri = experiment, uri

    def open(self, about: About, continued: bool) -> None:
        uri, place = self.uri or os.environ.get("MLFLOW_TRACKING_URI"), None
        if not uri:
            from sqlalchemy import URL

            root = about.output_root.absolute()
            uri = URL.create("sqlite", database=str(root / "mlflow.db")).render_as_string()  # a path may have a ?
            place = (root / "mlruns").as_uri()
        tags = {KEY: about.key, "cl_bench.group": about.group, "mlflow.source.name": "cl_bench"}
        tags |= dict.fromkeys((f"cl_bench.{tag}" for tag in about.tags), "true")

        def logger(run_id: str | None = None) -> MLFlowLogger:
            return MLFlowLogger(
                self.experiment, about.name, tracking_uri=uri, tags=tags, artifact_location=place, run_id=run_id
            )

        # of several runs that begin together one makes the local database and the experiment
        with FileLock(about.output_root / ".mlflow.lock") if place else nullcontext():
            self._lightning = logger()
            if continued and (found := self._find(about.key)):
                self._lightning = logger(found)
                self._lightning.experiment.update_run(found, status="RUNNING")
            else:
                self._lightning.log_hyperparams(without_paths({**about.config, "key": about.key}))

    def _find(self, key: str) -> str | None:
        """The newest run of this key."""
        client: Any = self._lightning._mlflow_client  # `experiment` would begin a run
        experiment = client.get_experiment_by_name(self.experiment)
        if experiment is None:
            return None
        newest = ["attributes.start_time DESC"]
        found = client.search_runs([experiment.experiment_id], f"tags.`{KEY}` = '{key}'", 1, 1, newest)
        return found[0].info.run_id if found else None

    def send(self, points: Sequence[Point]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, point.at) for point in points for name, value in point.values.items()]
        for i in range(0, len(metrics), AT_ONCE):
            self._lightning.experiment.log_batch(self._lightning.run_id, metrics[i : i + AT_ONCE])

    def send_picture(self, name: str, picture: Path, task: int) -> None:
        folder = name.partition("/")[0] if name.startswith("figures/") else "samples"
        self._lightning.experiment.log_artifact(self._lightning.run_id, str(picture), folder)

    def end(self, final: Mapping[str, float]) -> None:
        self._lightning.log_metrics(dict(final))

    def stop(self, failed: bool) -> None:
        self._lightning.finalize("failed" if failed else "success")
