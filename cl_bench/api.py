"""cl_bench in Python: `import cl_bench`, then `cl_bench.run("method=er", "dataset=digits")`.

torch is imported only when something is trained, rebuilt or predicted.
"""

from __future__ import annotations

import math
import os
import signal
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_bench.config import InputError, Stopped
from cl_bench.config.errors import no_such_folder
from cl_bench.files import Damaged
from cl_bench.record import load_results
from cl_bench.runs.asked import alone, as_path, by_itself, composed_of, is_one_of, node_of, places_of
from cl_bench.runs.folder import RunFolder
from cl_bench.runs.models import Models

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from rich.console import Console

    from cl_bench.methods.base import Method
    from cl_bench.runs.trained import Trained

NAMED = ("method._target_", "dataset._target_", "scenario._target_")  # their names are columns of their own


def run(*overrides: str) -> Run:
    """Trains and measures like the command line with the same settings. Continues an interrupted run, and loads a
    finished run.

    Args:
        overrides: settings of `python -m cl_bench`, one text each: "method=er", "memory=100", "seed=1". With
            `hparams_search=NAME` the search runs first, and the returned run has the best values.

    Raises InputError with one line for wrong settings, and KnownError if the numbers of a run fail. Ctrl-C saves the
    run before it stops. The same call continues it.
    """
    from cl_bench.sweep.jobs import carried_out

    for override in overrides:
        if not isinstance(override, str) or override.startswith("-"):
            raise InputError(f"{override!r}: is not a setting; give texts such as 'method=er', without flags")
    with by_itself():
        settings = composed_of(overrides)
        try:
            return Run(carried_out(settings, overrides)[1], settings["plugins"])
        except Stopped as stop:
            if stop.signal == signal.SIGINT:
                raise KeyboardInterrupt from stop
            signal.raise_signal(stop.signal)  # now it does what it would have done
            raise


def load(folder: str | os.PathLike[str], plugins: str | Sequence[str] = ()) -> Run:
    """The run in this folder, finished or not. The content of the folder never causes an import.

    Args:
        plugins: packages whose code the model may need, as in `plugins=[...]`. Installed plugins need not be named.

    Raises InputError if the folder has no results that can be read.
    """
    return Run(as_path(folder, "folder"), [plugins] if isinstance(plugins, str) else plugins)


def results(
    folders: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = "outputs", where: str | Sequence[str] = ()
) -> pd.DataFrame:
    """A row for each finished run below some folders. The columns are name, method, dataset, scenario, seed, the
    settings in which the runs differ, every metric, and the folder. Copies of one run are one row.

    Args:
        folders: where to search, at any depth.
        where: only these runs, as with `--where` of the report: "method=er,der", or several such texts.

    Raises InputError for a missing folder, a condition that no run satisfies, and without pandas.
    """
    from cl_bench.report.labels import differing
    from cl_bench.report.runs import read, select

    pandas = imported_pandas()
    wanted = [where] if isinstance(where, str) else where
    if not isinstance(wanted, list | tuple) or not all(isinstance(condition, str) for condition in wanted):
        raise InputError(f"where={where!r}: is not a condition; give texts such as 'method=er,der'")
    tops = folders if isinstance(folders, Iterable) and not isinstance(folders, str) else [folders]
    found, unread, _ = read([as_path(top, "folders") for top in tops])
    for folder in unread:
        if folder.damaged:
            warnings.warn(f"not read: {folder.folder}: {folder.reason}", stacklevel=2)
    finished = [run for run in select(found, wanted) if run.finished]
    finished.sort(key=lambda run: (run.dataset, run.scenario, run.method, run.seed, str(run.folder)))
    named = ("method", "dataset", "scenario", "seed")
    keys = [key for key in differing([run.config for run in finished]) if key not in NAMED]
    metrics = dict.fromkeys(name for run in finished for name in run.results.metrics)
    rows = [
        {
            "name": run.results.name,
            **{name: getattr(run, name) for name in named},
            **{key: as_cell(run.config.get(key)) for key in keys},
            **{name: as_number(run.number(name)) for name in metrics},
            "folder": str(run.folder),
        }
        for run in finished
    ]
    return pandas.DataFrame(rows, columns=["name", *named, *keys, *metrics, "folder"])


def evaluate(run: Run, dataset: str | os.PathLike[str] | None = None, after: int | None = None) -> np.ndarray:
    """The accuracy of a run's model on the test images of each task, shape (T,). If all tasks share one test set, the
    shape is (1,).

    Args:
        run: the run whose model is measured.
        dataset: another data set with the same classes and images of the same shape, split into the same tasks: a name
            as in `dataset=`, your own .npz or .csv file, or a folder with one folder of pictures per class.
        after: the task after which the model is taken, counted from 0; None: the last task that was learned.

    Raises InputError if this is not possible.
    """
    if not isinstance(run, Run):
        raise InputError(f"run={run!r}: is not a run; give the result of cl_bench.run or cl_bench.load")
    node = None if dataset is None else node_of(str(as_path(dataset, "dataset")), run.config)
    return run._trained(after).accuracies(node, run.classes)


class Run:
    """A run and its folder. A notebook shows the accuracy matrix and the metrics.

    folder: its path. name: DATASET-SCENARIO-METHOD-seedS. status: finished, running or failed. config: its settings by
    group, as in `results.json`. classes: the names of the classes of each task. metrics: every metric by its name, NaN
    if it is not defined.
    """

    def __init__(self, folder: Path, plugins: Sequence[str] = ()) -> None:
        try:
            self._results = load_results(folder)
        except FileNotFoundError:
            raise InputError(f"{folder}: {missing(folder)}") from None
        except Damaged as error:
            raise InputError(f"{folder}: {error}") from None
        self.folder, self.plugins = folder.absolute(), list(plugins)  # whatever the working directory will be
        self.name = self._results.name
        self.status = self._results.status
        self.config = self._results.config
        self.classes = self._results.classes
        self.metrics = {name: as_number(value) for name, value in self._results.metrics.items()}
        self._models: dict[int, Trained] = {}

    @cached_property
    def R(self) -> np.ndarray:
        """R[i, j] is the accuracy on task j after learning task i, shape (T, T). A value that was not measured is NaN.
        If all tasks share one test set, there is one column, shape (T, 1).
        """
        import numpy as np

        return np.array(self._results.R, dtype=float)

    def history(self) -> pd.DataFrame:
        """The rows of log.csv: step, task, phase, name, value. Losses have the phase of their training. Values that are
        measured after a task have the phase `task`. Raises InputError without log.csv or pandas.
        """
        from cl_bench.runs.curves import Row, read

        pandas, log = imported_pandas(), self.folder / "log.csv"
        if not log.is_file():
            raise InputError(f"{log}: is missing; the folder was moved, or was not copied completely")
        return pandas.DataFrame(read(log), columns=list(Row._fields))

    def model(self, after: int | None = None) -> Method:
        """The trained method, a torch module in evaluation mode: `model(x, index=None)` gives the logits of images in
        [0, 1]. Each call returns the same object, on the CPU until you move it. Without a checkpoint it is the model of
        `keep_models`, which cannot learn further.

        Args:
            after: the task after which the model is taken, counted from 0; None: the last task that was learned.

        Raises InputError if it was not kept: a run keeps two checkpoints, or all with `keep_checkpoints=null`.
        """
        return self._trained(after, whole=True).method.eval()

    def predict(
        self, images: Any, task: int | None = None, after: int | None = None, top: int | None = None
    ) -> np.ndarray:
        """The predicted classes of some images, shape (N,), under the mask of evaluation: in class-incremental learning
        the classes of tasks 0 to i compete after task i.

        Args:
            images: uint8, or floats in [0, 1]; (N, C, H, W), (N, H, W, C), or (N, H, W) for gray images. Or a picture
                file, a folder of pictures in natural order, or a list of such paths. The center square of each picture
                is resized to the size of the run's images.
            task: the task of the images, needed in task-incremental learning. The images get the order of the pixels or
                the angle of this task.
            after: as in `model`. The device of this model is used.
            top: the number of classes for each image, the best first, shape (N, top).

        Raises InputError for images of another shape or type.
        """
        return self._asked(images, task, after, lambda trained, x: trained.answers(x, task, top))

    def scores(self, images: Any, task: int | None = None, after: int | None = None) -> np.ndarray:
        """The confidence of the model in each output, shape (N, n_outputs): the softmax of the scores that it
        classifies with. For iCaRL these are cosines, and their softmax is not a probability. Outputs that may not
        answer have 0. Arguments as in `predict`.
        """
        return self._asked(images, task, after, lambda trained, x: trained.scores(x, task))

    @property
    def class_names(self) -> list[str]:
        """The name of each output."""
        return list(self._results.class_names)

    def export(
        self, file: str | os.PathLike[str] | None = None, task: int | None = None, after: int | None = None
    ) -> Path:
        """Writes the model as a graph that needs only torch, and returns the file. The graph takes float images (N, C,
        H, W) in [0, 1] and gives logits (N, n_outputs). Outputs that may not answer have the lowest value. The file
        contains labels.json.

        Args:
            file: None for `models/taskN/model.pt2` in the folder of the run.
            task, after: as in `predict`.

        Raises InputError for a model that is not one graph, with the reason.
        """
        self._check_task(task)
        trained = self._trained(after)
        from cl_bench.runs.export import export

        name = "model.pt2" if task is None else f"model-of-task{task}.pt2"
        there = self.folder / "models" / f"task{trained.after}" / name if file is None else as_path(file, "file")
        export(trained, there, task)
        return there

    def _asked(
        self, images: Any, task: int | None, after: int | None, ask: Callable[[Trained, Any], np.ndarray]
    ) -> np.ndarray:
        """What the model says of images, or of picture files."""
        from cl_bench.data.pictures import pictures_in

        self._check_task(task)
        files = places_of(images)
        pictures = None if files is None else pictures_in(files)
        trained = self._trained(after)
        if pictures is None:
            return ask(trained, images)
        import numpy as np

        return np.concatenate([ask(trained, some) for some in trained.pictures(pictures)])

    def _check_task(self, task: int | None) -> None:
        tasks = f", 0 to {len(self.classes) - 1}"
        if self._results.kind == "task" and task is None:
            raise InputError(f"task: this run is task-incremental; give the task of the images{tasks}")
        if task is not None and not is_one_of(task, range(len(self.classes))):
            raise InputError(f"task={task}: there is no such task{tasks}")

    def _trained(self, after: int | None, whole: bool = False) -> Trained:
        learned = len(self._results.tasks)
        after = learned - 1 if after is None else after
        if not is_one_of(after, range(learned)):
            known = f"0 to {learned - 1} are" if learned else "none is"
            raise InputError(f"after={after}: is not a task that was learned; {known}")
        known = self._models.get(after)
        if known is None or (whole and not known.whole):
            folder, key = self.folder, self._results.key
            if not Models(folder, key).begun(after):
                RunFolder(folder, key).check_end(after)
            from cl_bench.runs.trained import Trained

            with alone():
                settings = {**self.config, "plugins": self.plugins}
                self._models[after] = Trained(settings, folder, key, int(after), whole=whole)
        return self._models[after]

    def _shown(self, **how: Any) -> Console:
        """The table that the command line prints."""
        from rich.console import Console

        from cl_bench.runs.console import show

        console = Console(file=StringIO(), force_jupyter=False, **how)  # else rich shows it itself
        show(self._results, self.folder, console)
        return console

    def __str__(self) -> str:
        file = self._shown().file
        assert isinstance(file, StringIO)
        return file.getvalue().rstrip()

    def __repr__(self) -> str:
        accuracy = self.metrics.get("ACC", math.nan)
        return f"<Run {self.name}: {self.status}, ACC {accuracy:.3f}, in {self.folder}>"

    def _repr_html_(self) -> str:
        return self._shown(record=True).export_html(inline_styles=True, code_format="<pre>{code}</pre>")


def missing(folder: Path) -> str:
    """Why there is no run in a folder."""
    below = sorted(folder.glob("**/results.json"))
    if below:
        return (
            f"is not the folder of one run; load one below it, such as {below[0].parent}, "
            "or cl_bench.results(...) of all"
        )
    return "has no results.json" if folder.is_dir() else no_such_folder(folder)


def as_cell(value: Any) -> Any:
    """A value of a configuration that pandas can group by."""
    from cl_bench.report.labels import as_typed

    return as_typed(value) if isinstance(value, list) else value


def as_number(value: float | None) -> float:
    return math.nan if value is None else value


def imported_pandas() -> Any:
    """Raises InputError where pandas isn't installed."""
    try:
        import pandas
    except ImportError:
        raise InputError("a DataFrame needs pandas: pip install 'cl_bench[pandas]'") from None
    return pandas
