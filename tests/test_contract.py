"""What every method in conf/method promises, with no code of its own for it; with `--plugin PACKAGE`, every one in the
conf/method of an installed plugin."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import METHODS, Compose, Killed, killed_after, learn, there, without_clocks
from torchmetrics import Metric

import cl_bench
from cl_bench.config.compose import compose
from cl_bench.config.names import folder_of
from cl_bench.config.schema import target
from cl_bench.data.problem import Kind
from cl_bench.evaluation.judge import Given
from cl_bench.evaluation.scores import Score
from cl_bench.manual import files_of
from cl_bench.methods.base import Method
from cl_bench.record import Results
from cl_bench.runs.folder import RunFolder
from cl_bench.runs.loggers import MEASURED, Row, read
from cl_bench.runs.loop import run
from cl_bench.runs.setup import prepare
from cl_bench.runs.watch import Watch


def class_of(method: str) -> type[Method]:
    node = yaml.safe_load(files_of("method")[method].read_text())
    return target(node if "_target_" in node else compose(f"method={method}")["method"], "method")


KINDS: dict[str, tuple[Kind, ...]] = {method: class_of(method).kinds for method in METHODS}
ONE_BY_ONE = (
    "mer",
    "la_maml",
)  # a step for each image: but for their streams, which are short, these are longer checks
EVERY: list[Any] = [
    pytest.param(method, kind, marks=[pytest.mark.slow] * (method in ONE_BY_ONE))
    for method in METHODS
    for kind in KINDS[method]
]
# in the middle of a later task or phase
KILLS = [(method, KINDS[method][0], 7, ()) for method in METHODS if method not in ONE_BY_ONE]
CNN = ("network=cnn", "network.channels=[8,8]", "network.hidden=16")
VARIANTS = [
    ("dgr", "class", 9, ("gan@method.gan=acgan_mlp", "method.replay=fresh", "method.gan.generator.hidden=[16]")),
    (
        "dgm",
        "class",
        11,
        (
            "method.mask=weights",
            "generator@method.generator=dcgan",
            "method.generator.width=4",
            "scenario.val_fraction=0.2",
        ),
    ),
    ("mergan", "class", 11, ("method.way=alignment",)),
    ("er", "domain", 9, ("memory.per=task", "method.selection=random", "method.weighting=by_task")),
    ("si", "class", 7, ("network=resnet18", "network.width=2")),
    ("packnet", "task", 3, (*CNN, "optimizer=sgd", "optimizer.momentum=0.9")),  # as the second training begins
    ("hat", "task", 5, (*CNN, "optimizer=sgd", "optimizer.momentum=0.9")),
    ("pnn", "task", 5, (*CNN, "method.earlier=random")),
    ("progress_compress", "task", 7, (*CNN, "method.reinitialize=false", "optimizer.keep_state=true")),
    ("supsup", "domain", 5, (*CNN, "method.inference=binary", "method.kept=0.5", "optimizer=rmsprop")),
    ("den", "task", 12, ("optimizer=sgd", "optimizer.momentum=0.9", "method.sigma=0")),  # after growth, in a split
    ("wa", "class", 7, ("optimizer=sgd", "scheduler=multistep", "network=resnet32", "network.width=2")),
]
META = ("scenario.meta_classes=5", "method.pretraining=meta", "method.meta_steps=8", "method.trajectory_classes=2")
VARIANTS += [
    ("oml", "class", 2, META),  # in meta-training, and after it
    ("oml", "class", 4, (*META, "method.variant=anml", "optimizer=sgd", "optimizer.momentum=0.9")),
]
VARIANTS += [("slda", "domain", 2, ("method.first_task=true",)), ("ranpac", "task", 3, ("method.first_task=true",))]
STREAM = ("scenario.passes=online", "scenario.measure_every=100", "scenario.updates_per_batch=2")
BORDERLESS = [method for method in METHODS if not class_of(method).needs_borders]
WITHOUT_GRADIENTS = [method for method in METHODS if not class_of(method).trains]
STREAM_OF = {method: STREAM for method in BORDERLESS}
STREAM_OF |= {method: STREAM[:-1] for method in WITHOUT_GRADIENTS}  # these take in each image once
STREAM_OF |= {  # what these need in place of borders
    "ewc": (*STREAM, "method.online=true", "method.consolidate_every=7"),
    "si": (*STREAM, "method.consolidate_every=7"),
}
FEWER = "scenario.max_train=140"  # of 290 in a pair of digits: a kill needs no more
KILLS += [(method, KINDS[method][0], 23, (*STREAM_OF[method], FEWER)) for method in BORDERLESS]
# the first checkpoint, one between phases or tasks, a late one; and other kinds, which change a mask in what goes on
UNTRAINED = [method for method in METHODS if not class_of(method).trains]
LATE = {"mer": 9} | dict.fromkeys(UNTRAINED, 5)  # these make fewer checkpoints than others
MORE_KILLS = [(method, KINDS[method][0], after, ()) for method in METHODS for after in (1, 4, LATE.get(method, 12))]
MORE_KILLS += [(method, kind, 7, ()) for method in METHODS for kind in KINDS[method][1:]]
MORE_KILLS += [(method, KINDS[method][0], 7, ()) for method in METHODS if method in ONE_BY_ONE]
CONVOLUTIONS = [  # each as dear as ten others
    ("dgr", "class", 9, ("gan@method.gan=dcgan", "method.replay=fresh", *CNN, "method.generator=continue")),
    ("dgm", "task", 10, ("generator@method.generator=dcgan", "method.mask_position=before", "network=dcgan")),
]
MORE_VARIANTS = [
    ("ewc_gan", "class", 11, ("method.fisher=classifier",)),
    ("rwalk", "domain", 9, ("method.interval=2",)),
    ("lwf", "task", 9, ("method.weighting=share",)),
    ("der", "domain", 9, ("method.beta=0.5", "memory=30")),
    ("gss", "domain", 9, ("method.selection=random", "memory=30")),
    ("mir", "task", 9, ("network=resnet18", "network.width=2", "method.n_candidates=20", "method.n_replay=8")),
    ("er_ace", "domain", 9, ("memory=30", "method.n_replay=5")),
    ("pnn", "task", 3, ("method.init=previous", "optimizer=sgd", "optimizer.momentum=0.9")),
    ("si", "task", 9, ("optimizer.keep_state=true",)),
    ("clnp", "task", 6, (*CNN, "optimizer=sgd", "optimizer.momentum=0.9")),
    ("packnet", "task", 5, ("optimizer.keep_state=true", "optimizer=sgd", "optimizer.momentum=0.9")),
    ("icarl", "class", 7, ("method.answer=network",)),
    ("ewc", "class", 6, ("method.online=true", "method.fisher_labels=sampled", "method.fisher_samples=50")),
]
FACTORS = ("ogd", "class", 7, ("network.hidden=[200]", "method.samples=10"))  # smaller than the gradients
KILLS += [variant for variant in (FACTORS,) if variant[0] in METHODS]
MORE_KILLS += [variant for variant in (*VARIANTS, *MORE_VARIANTS, *CONVOLUTIONS) if variant[0] in METHODS]
GIVEN = [("supsup", "class"), ("ss_il", "class"), ("er_ace", "class")]
"""Where what was learned shows with the task given alone: supsup infers it, and digits that it never saw mislead it;
ss_il never trains new outputs against old ones, er_ace on images of memory alone."""
Whole = tuple[Results, dict[str, Any], list[Row]]  # results, last state, curves
UNINTERRUPTED: dict[tuple[str, ...], Whole] = {}


def state_of(settings: dict[str, Any]) -> dict[str, Any]:
    state = RunFolder(folder_of(settings), "").path / "checkpoints" / "task4.pt"
    return torch.load(state, weights_only=True)


def equal(a: Any, b: Any) -> bool:
    if torch.is_tensor(a):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    return a == b


@pytest.mark.parametrize(("method", "kind"), EVERY)
def test_it_learns_in_each_kind_it_declares(method: str, kind: str, small: Compose) -> None:
    settings = small(
        f"method={method}",
        f"scenario={kind}_incremental",
        "trainer.epochs=10",
        "trainer.chunk=32",  # the killed runs have small ones
        "optimizer.lr=0.01",
    )
    results = run(settings)
    assert results.status == "finished"
    R = results.R_task_masked if (method, kind) in GIVEN else results.R
    # the task just learned; five digits that share an output have a mean that is near to none of them
    assert there(there(R)[4][4]) > (0.65 if method in ("ncm", "simple_cil") and kind == "domain" else 0.75)
    assert results.masks.evaluation == {"class": "seen", "task": "own", "domain": "all"}[kind]
    assert run(settings).R == results.R  # the same command, the same numbers
    kept = json.loads((folder_of(settings) / "results.json").read_text())
    assert kept["metrics"]["ACC"] == results.metrics["ACC"]
    assert [record["task"] for record in kept["tasks"]] == [0, 1, 2, 3, 4]
    phases = [len(record["phases"]) for record in kept["tasks"]]
    assert max(phases) == target(settings["method"], "method", settings["plugins"]).n_phases
    again = cl_bench.load(folder_of(settings), settings["plugins"])  # rebuilt from its settings and its checkpoint
    assert cl_bench.evaluate(again).tolist() == results.R[4]


@pytest.mark.parametrize("method", BORDERLESS)
def test_it_learns_a_stream(method: str, small: Compose) -> None:
    """Of five pairs of digits, each image once, with nothing said of where one pair ends."""
    kind = KINDS[method][0]
    results = run(small(f"method={method}", f"scenario={kind}_incremental", "optimizer.lr=0.01", *STREAM_OF[method]))
    assert there(there(results.R)[4][4]) > 0.6
    assert there(results.metrics["online_accuracy"]) > 0.5
    assert {phase.phase for record in results.tasks[1:] for phase in record.phases} == {"stream"}
    assert there(results.metrics["A_AUC"]) > 0.2


def losses_of(settings: dict[str, Any]) -> list[Row]:
    """Every point of the curves."""
    return [row for row in read(folder_of(settings) / "log.csv") if row.phase != MEASURED]


@pytest.mark.parametrize(
    ("method", "kind", "after", "more"),
    [*KILLS, *(pytest.param(*kill, marks=pytest.mark.slow) for kill in MORE_KILLS)],
)
def test_killed_and_resumed_equals_uninterrupted(
    method: str, kind: str, after: int, more: tuple[str, ...], small: Compose
) -> None:
    """Killed right after its `after`-th checkpoint, whatever that falls on, and told to go on."""
    base = (f"method={method}", f"scenario={kind}_incremental", *more)
    if base not in UNINTERRUPTED:
        settings = small(*base, root="whole")
        UNINTERRUPTED[base] = run(settings), state_of(settings), losses_of(settings)
    whole, state, losses = UNINTERRUPTED[base]
    settings = small(*base, root="killed") | {"checkpoint_every": 0}
    with killed_after(after), pytest.raises(Killed):
        run(settings)
    resumed = run(settings)
    assert resumed.R == whole.R
    assert equal(state_of(settings)["method"], state["method"])
    assert losses_of(settings) == losses
    assert without_clocks(resumed) == without_clocks(whole)
    (folder_of(settings) / "results.json").unlink()  # as if killed after the last task, before its results were written
    assert without_clocks(run(settings)) == without_clocks(whole)


def learned(method: Method, scenario: Any, tasks: range, folder: Path) -> Method:
    for index in tasks:
        learn(method, scenario, index, folder, epochs=2)
    return method.eval()


def enough(method: str) -> int:
    """Tasks after which a method has trained with a past: two, or all of them."""
    return 5 if "joint" in method else 2


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(method, marks=[pytest.mark.slow] * (method in ONE_BY_ONE))
        for method in METHODS
        if "class" in KINDS[method]
    ],
)
@pytest.mark.parametrize("mask", ["all", "current"])
def test_it_learns_under_every_training_mask(method: str, mask: str, small: Compose, tmp_path: Path) -> None:
    if (method, mask) == ("icarl", "current"):
        pytest.skip("refused: its loss has no such mask")
    # wide: a narrow network that pushes the classes to come down from the start ends with dead units
    scenario, learner = prepare(
        small(f"method={method}", f"scenario.train_mask={mask}", "network.hidden=[200]", "optimizer.lr=0.003")
    )
    for index in range(enough(method)):
        learn(learner, scenario, index, tmp_path, epochs=20, chunk=32)
    score, last = Score(scenario), enough(method) - 1
    score.measure(learner, after=last)
    own = there(score.results().R_task_masked)  # "current" doesn't tell the new classes from the old
    assert there(own[last][last]) > 0.75


@pytest.mark.parametrize("method", METHODS)
def test_its_state_is_all_it_remembers(method: str, small: Compose, tmp_path: Path) -> None:
    """A fresh method that loads the state of a trained one answers the same and goes on the same."""
    settings = small(f"method={method}", f"scenario={KINDS[method][0]}_incremental")
    scenario, one = prepare(settings)
    last = min(enough(method), 4)
    learned(one, scenario, range(last), tmp_path)
    _, other = prepare(settings | {"seed": 99})
    torch.save(one.state_dict(), tmp_path / "state.pt")
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    other.eval()
    x = next(scenario.tests[0].batches()).x
    assert torch.equal(one(x, index=0), other(x, index=0))
    learned(one, scenario, range(last, last + 1), tmp_path)
    learned(other, scenario, range(last, last + 1), tmp_path)
    assert equal(dict(one.state_dict()), dict(other.state_dict()))


@pytest.mark.parametrize("method", METHODS)
def test_what_a_phase_needed_goes_when_it_ends(
    method: str, small: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images that aren't kept, and optimizers, without waiting for Python to look for circles, which it does seldom."""
    settings = small(f"method={method}", f"scenario={KINDS[method][0]}_incremental")
    scenario, one = prepare(settings)
    images: list[weakref.ref[torch.Tensor]] = []
    optimizers: list[weakref.ref[torch.optim.Optimizer]] = []
    began = Watch.on_train_start

    def and_note(watch: Watch, trainer: Any, module: Any) -> None:
        images.append(weakref.ref(trainer.train_dataloader.data.images))
        optimizers.extend(map(weakref.ref, trainer.optimizers))
        began(watch, trainer, module)

    monkeypatch.setattr(Watch, "on_train_start", and_note)
    gc.disable()
    try:
        learned(one, scenario, range(enough(method)), tmp_path)
        left = {image.data_ptr() for ref in images if (image := ref()) is not None}
        assert optimizers
        assert not any(ref() for ref in optimizers)
    finally:
        gc.enable()
    kept = {value.data_ptr() for value in one.state_dict().values() if torch.is_tensor(value)}
    assert left <= kept | {task.train.images.data_ptr() for task in scenario.tasks}


@pytest.mark.parametrize("method", [method for method in METHODS if method not in ("gem", "agem", "ss_il")])
def test_no_network_sees_more_large_images_at_once_than_a_few_mini_batches(
    method: str, small: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In evaluation, validation, importances, herding, replay and the judge: images count as large here when there are
    more than 5 of them. A step may join replayed images to its own, and what is drawn beside them. Not held to it: gem
    agem and ss_il, whose own settings say of how many old images they take a gradient at once."""
    largest: dict[str, int] = {}
    call = torch.nn.Module.__call__

    def counted(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        if args and torch.is_tensor(args[0]) and args[0].dim() > 1 and not isinstance(module, Metric | Given):
            name = type(module).__name__
            largest[name] = max(largest.get(name, 0), len(args[0]))
        return call(module, *args, **kwargs)

    settings = small(
        f"method={method}",
        f"scenario={KINDS[method][0]}_incremental",
        "scenario.n_tasks=2",
        "scenario.val_fraction=0.3",
        "trainer.batch_size=8",
        "trainer.iterations=2",
    )
    monkeypatch.setattr("cl_bench.data.batches.AT_ONCE", 5 * 64)
    monkeypatch.setattr(torch.nn.Module, "__call__", counted)
    monkeypatch.setattr("cl_bench.evaluation.judge.BATCH_SIZE", 8)
    assert run(settings).status == "finished"
    assert max(largest.values()) <= 3 * 8, largest
