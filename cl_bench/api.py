"""From Python what the command line does: `import cl_bench`, then `cl_bench.run("method=er", "dataset=digits")`.

No torch is imported before something is trained, rebuilt or asked to answer.
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
    """Trains and measures what a command line of these words would, or goes on with it; a finished run answers at once.

    Args:
        overrides: as typed behind `python -m cl_bench`, one text each: "method=er", "memory=100", "seed=1".
            With `hparams_search=NAME` the search comes first, and the run is that with the best values.

    Raises InputError, in one line, for what can't be done, and KnownError when a run fails by its numbers. Ctrl-C
    saves the run before it interrupts; the same call goes on from there.
    """
    from cl_bench.sweep.jobs import carried_out

    for override in overrides:
        if not isinstance(override, str) or override.startswith("-"):
            raise InputError(f"{override!r}: is no override; give texts such as 'method=er', and no flags")
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
    """The run that left this folder, finished or not. What the folder says causes no import.

    Args:
        plugins: packages whose code its model may need, as in `plugins=[...]`; installed plugins need not be named.

    Raises InputError for a folder without results that can be read.
    """
    return Run(as_path(folder, "folder"), [plugins] if isinstance(plugins, str) else plugins)


def results(
    folders: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = "outputs", where: str | Sequence[str] = ()
) -> pd.DataFrame:
    """A row for each finished run below some folders: its name, method, dataset, scenario and seed, the settings in
    which the runs differ, every metric, and its folder. Copies of one run are one row.

    Args:
        folders: where to look, at any depth.
        where: only these runs, as behind `--where` of the report: "method=er,der", or several such texts.

    Raises InputError for a folder that isn't there, a condition that nothing meets, and without pandas.
    """
    from cl_bench.report.labels import differing
    from cl_bench.report.runs import read, select

    pandas = imported_pandas()
    wanted = [where] if isinstance(where, str) else where
    if not isinstance(wanted, list | tuple) or not all(isinstance(condition, str) for condition in wanted):
        raise InputError(f"where={where!r}: is no condition; give texts such as 'method=er,der'")
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
    """The accuracy of a run's model on the test images of each task, shape (T,), or on those that all tasks share,
    shape (1,), as the run measured it.

    Args:
        run: of which the model is.
        dataset: another data set with the same classes and images of the same shape, cut into the same tasks: a name
            as behind `dataset=`, an .npz or .csv file of your own, or a folder of pictures with a folder per class.
        after: the task after which the model is taken, 0 for the first; None for the last one learned.

    Raises InputError when that can't be.
    """
    if not isinstance(run, Run):
        raise InputError(f"run={run!r}: is no run; give what cl_bench.run or cl_bench.load returned")
    node = None if dataset is None else node_of(str(as_path(dataset, "dataset")), run.config)
    return run._trained(after).accuracies(node, run.classes)


class Run:
    """What a run left in its folder. A notebook shows it as its accuracy matrix and its metrics.

    folder: where it lies. name: DATASET-SCENARIO-METHOD-seedS. status: finished, running or failed.
    config: its settings by group, as `results.json` holds them. classes: the names of the classes of each task.
    metrics: every metric by its name, NaN where it isn't defined.
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
        """R[i, j] is the accuracy on task j after learning task i, shape (T, T); NaN where it was not measured. It
        has one column, shape (T, 1), where all tasks share one test set."""
        import numpy as np

        return np.array(self._results.R, dtype=float)

    def history(self) -> pd.DataFrame:
        """The rows of its log.csv: step, task, phase, name, value. The losses have the phase of their training, what
        is measured after a task the phase `task`. Raises InputError without log.csv or pandas."""
        from cl_bench.runs.curves import Row, read

        pandas, log = imported_pandas(), self.folder / "log.csv"
        if not log.is_file():
            raise InputError(f"{log}: is missing; the folder was moved, or not all of it was copied")
        return pandas.DataFrame(read(log), columns=list(Row._fields))

    def model(self, after: int | None = None) -> Method:
        """The trained method, a torch module in evaluation mode: `model(x, index=None)`, logits of images in [0, 1].
        The same object each time, on the CPU until it is moved. Without a checkpoint it is that of `keep_models`, which
        lacks what is kept for learning on.

        Args:
            after: the task after which it is taken, 0 for the first; None for the last one learned.

        Raises InputError when it isn't there: two checkpoints are kept, or all with `keep_checkpoints=null`.
        """
        return self._trained(after, whole=True).method.eval()

    def predict(
        self, images: Any, task: int | None = None, after: int | None = None, top: int | None = None
    ) -> np.ndarray:
        """The names of the classes that the model sees in some images, shape (N,), by the mask of evaluation: after
        task i, classes of tasks 0 to i answer in class-incremental learning.

        Args:
            images: uint8, or floats in [0, 1]; (N, C, H, W), (N, H, W, C), or (N, H, W) where they are gray. Or a
                picture file, a folder of them, in natural order, or a list of such paths: each picture's center square
                is resized to the images of the run.
            task: of which task they are; needed in task-incremental learning. They are seen as it sees them: with its
                order of the pixels, turned by its angle.
            after: as in `model`, whose device is the one that works.
            top: so many classes for each image, the best first, shape (N, top).

        Raises InputError for images of another shape or type.
        """
        return self._asked(images, task, after, lambda trained, x: trained.answers(x, task, top))

    def scores(self, images: Any, task: int | None = None, after: int | None = None) -> np.ndarray:
        """How sure the model is of each output, shape (N, n_outputs): the softmax of what it answers by, which need not
        be a probability (iCaRL answers by cosines); 0 for outputs that may not answer. Arguments as in `predict`."""
        return self._asked(images, task, after, lambda trained, x: trained.scores(x, task))

    @property
    def class_names(self) -> list[str]:
        """What each output stands for."""
        return list(self._results.class_names)

    def export(
        self, file: str | os.PathLike[str] | None = None, task: int | None = None, after: int | None = None
    ) -> Path:
        """Writes the model as a graph of torch alone, and returns the file: float images (N, C, H, W) in [0, 1] to
        logits (N, n_outputs), those that may not answer at the lowest value. Its labels.json is inside.

        Args:
            file: None for `models/taskN/model.pt2` in the folder of the run.
            task, after: as in `predict`.

        Raises InputError for a model that is no such graph, with the reason.
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
            raise InputError(f"task: this run is task-incremental; say of which task the images are{tasks}")
        if task is not None and not is_one_of(task, range(len(self.classes))):
            raise InputError(f"task={task}: there is no such task{tasks}")

    def _trained(self, after: int | None, whole: bool = False) -> Trained:
        learned = len(self._results.tasks)
        after = learned - 1 if after is None else after
        if not is_one_of(after, range(learned)):
            known = f"0 to {learned - 1} are" if learned else "none is"
            raise InputError(f"after={after}: is no task that is learned; {known}")
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
        return f"is no folder of one run; load one below it, such as {below[0].parent}, or cl_bench.results(...) of all"
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
