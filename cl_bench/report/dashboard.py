"""The comparison of methods as a W&B workspace: `python -m cl_bench.report.dashboard project=NAME`.

What runs log is named in `wandb_log.WandbLog`; here is what is drawn of it. With --dry-run nothing is sent: the
specification of the workspace is printed as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cl_bench.config import InputError
from cl_bench.config.arguments import answered
from cl_bench.config.schema import build, check
from cl_bench.process import as_process

if __name__ == "__main__":  # at once: what follows takes its time
    as_process("cl_bench.report.dashboard")

if TYPE_CHECKING:
    import wandb_workspaces.workspaces as ws

LOSSES = {
    "Loss of the classifier": "(train|retrain|solver|stream)/loss",
    "Losses of the generator": "(gan|generator)/(wasserstein|discriminator|generator|error)",
}
"""PHASE/NAME of what methods log while they train, as regular expressions."""

USAGE = """\
Makes a W&B workspace that compares the methods of a project.

  python -m cl_bench.report.dashboard project=NAME
      entity=NAME   user or team that owns the project; your default if left out
      name=TEXT     of the workspace (Methods compared)
      --dry-run     print its specification as JSON, and send nothing"""


@dataclass(frozen=True)
class Place:
    """Where the workspace goes, as typed; USAGE explains the keys."""

    project: str
    entity: str = ""
    name: str = "Methods compared"


def main(arguments: Sequence[str] | None = None) -> int:
    """Saves or prints the workspace and returns the exit code; what goes wrong is one line on stderr."""
    return answered(dashboard, arguments, USAGE)


def dashboard(words: Sequence[str]) -> None:
    place = parsed(word for word in words if word != "--dry-run")
    if "--dry-run" in words:
        print(json.dumps(specification(workspace(place)), indent=1))
    else:
        save(place)


def parsed(words: Any) -> Place:
    """The KEY=VALUE of a command line. Raises InputError for anything else."""
    values = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not value:
            raise InputError(f"{word}: can't be read; type KEY=VALUE, see --help")
        values[key] = value
    return build(check(values, "", Place))


def workspace(place: Place) -> ws.Workspace:
    """The panels. A line or bar is a method in one scenario on one data set, the mean over its runs.

    Raises InputError where wandb-workspaces is not installed.
    """
    try:
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
    except ImportError:
        raise InputError("the dashboard needs wandb-workspaces: pip install 'cl_bench[dashboard]'") from None

    def over_tasks(title: str, *names: str, **how: Any) -> wr.LinePlot:
        return wr.LinePlot(
            title=title,
            x="task",
            y=[f"task/{name}" for name in names],
            title_x="after task (from 0)",
            groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
            **how,
        )

    def bars(title: str, *names: str) -> wr.BarPlot:
        return wr.BarPlot(title=title, metrics=list(names), groupby_aggfunc="mean", groupby_rangefunc="stddev")

    def against_accuracy(title: str, cost: str) -> wr.ScatterPlot:
        return wr.ScatterPlot(title=title, x=wr.SummaryMetric(cost), y=wr.SummaryMetric("ACC"), log_x=True)

    def pictures(title: str, key: str) -> wr.MediaBrowser:
        return wr.MediaBrowser(title=title, media_keys=[key], num_columns=4)

    share = {"range_y": (0, 1)}
    sections = {
        "Accuracy": [
            over_tasks("ACC: mean accuracy on the tasks so far", "ACC", **share),
            over_tasks("Accuracy on the first task", "accuracy/0", **share),
            bars("ACC after the last task", "ACC"),
            wr.LinePlot(
                title="Accuracy on what came, of a stream",
                x="accuracy_on_stream/images",
                y=["accuracy_on_stream/accuracy"],
                groupby_aggfunc="mean",
                groupby_rangefunc="stddev",
                range_y=(0, 1),
            ),
        ],
        "Forgetting and transfer": [
            over_tasks("Forgetting", "forgetting"),
            bars("Forgetting after the last task", "forgetting"),
            bars("Backward (BWT) and forward (FWT) transfer", "BWT", "FWT"),
        ],
        "Accuracy matrices": [
            pictures("Accuracy on each task (column) after each task (row)", "figures/accuracy_matrix")
        ],
        "Generated images": [
            pictures("Samples after each task, a row for each class", "task/samples"),
            over_tasks("FID, mean over classes (compare at equal numbers of images)", "FID"),
            over_tasks(
                "MeRGAN score: generated images that a classifier of real ones gets right", "MeRGAN_score", **share
            ),
        ],
        "Cost": [
            against_accuracy("ACC against seconds of training", "seconds"),
            against_accuracy("ACC against bytes kept between tasks", "bytes_kept"),
            against_accuracy("ACC against peak memory, MB", "peak_memory_mb"),
            over_tasks("Seconds of training per task", "seconds"),
            over_tasks("Bytes kept", "bytes_kept"),
            over_tasks("Capacity reserved by the tasks so far", "capacity/reserved"),
        ],
        "Losses": [
            wr.LinePlot(title=f"{what}, over mini-batches of the run", x="step", metric_regex=names)
            for what, names in LOSSES.items()
        ],
    }
    return ws.Workspace(
        entity=place.entity,
        project=place.project,
        name=place.name,
        sections=[ws.Section(name=name, panels=panels, is_open=True) for name, panels in sections.items()],
        settings=ws.WorkspaceSettings(max_runs=100),
        runset_settings=ws.RunsetSettings(
            # in this order the runs list is a tree, where one click hides another data set or scenario
            groupby=[ws.Config(f"choices.{group}") for group in ("dataset", "scenario", "method")],
            pinned_columns=["summary:ACC", "summary:BWT", "summary:forgetting", "summary:seconds", "config:seed.value"],
        ),
    )


def specification(made: ws.Workspace) -> dict[str, Any]:
    """The workspace as W&B stores it, in plain values."""
    view = made._to_model()  # what its `save` sends; there is no public way to it
    return view.spec.model_dump(by_alias=True, exclude_none=True, mode="json")


def save(place: Place) -> None:
    """Sends the workspace to W&B, which says where it is. Raises InputError when that fails."""
    import wandb

    made = workspace(place)
    wandb.setup(wandb.Settings(silent=False))
    try:
        if not wandb.login(prompt=False):
            raise InputError("there is no W&B key: wandb login gives one, --dry-run needs none")
        made.entity = place.entity or str(wandb.Api().default_entity)
        made.save()
    except InputError:
        raise
    except Exception as error:  # of the network, or the project's
        reason = " ".join(str(error).split())
        raise InputError(f"project={place.project}: W&B did not take the workspace ({reason})") from None
