"""The keys of training: what they do in a run, that it goes on with them after a kill, and what refuses them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import METHODS, Compose, Killed, killed_after, learn, made, without_clocks
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from cl_bench.config import InputError
from cl_bench.config.checks import check_settings
from cl_bench.config.compose import compose
from cl_bench.config.declared import declared
from cl_bench.config.names import file_of, folder_of
from cl_bench.config.training import OFF
from cl_bench.data.batches import Batches
from cl_bench.data.problem import Task
from cl_bench.evaluation.scores import Score
from cl_bench.methods.base import Fit, Learner, Method
from cl_bench.methods.parts.one_by_one import gradient
from cl_bench.networks.schedules import Cosine, Plateau
from cl_bench.record import Phase
from cl_bench.runs.folder import RunFolder
from cl_bench.runs.loggers import MEASURED, Row, read
from cl_bench.runs.loop import run
from cl_bench.runs.recorder import Recorder
from cl_bench.seeding import derive

TWO = ("scenario.n_tasks=2", "scenario.val_fraction=0.2")
NORMS = ("network=dcgan", "network.width=4", "network.depth=2", "network.norm=batch")
PLATEAU = file_of("scheduler", "plateau")
ON = {  # each key at a value that does something
    "scheduler": ("scheduler=cosine",),
    "trainer.patience": ("trainer.patience=2",),
    "trainer.gradient_clip": ("trainer.gradient_clip=0.1",),
    "trainer.freeze_batch_norm": ("trainer.freeze_batch_norm=true",),
    "label_smoothing": ("label_smoothing=0.2",),
}


def said_of(method: str, name: str) -> Any:
    """What the class of a method declares."""
    return declared({"method": file_of("method", method), "plugins": []}, name)


def kind_of(method: str) -> str:
    return said_of(method, "kinds")[0]


def same(a: Any, b: Any) -> bool:
    if torch.is_tensor(a):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return a == b


# ------------------------------------------------------------------------------------------- early stopping


def learned(method: Method, task: Task, fit: Any) -> list[Phase]:
    method.learn_task(task, fit)
    return fit.checkpoint.phases


@pytest.mark.parametrize(
    ("accuracies", "epochs", "best"),
    [
        ([0.5, 0.6, 0.6, 0.5], 4, 2),  # the first of equals, and two without a better one
        ([0.9, 0.1, 0.2], 3, 1),
        ([0.1, 0.2, 0.1, 0.3, 0.4], 5, 5),  # to the end
        ([0.1, 0.2, 0.3, 0.2, 0.1], 5, 3),
    ],
)
@pytest.mark.parametrize("chunk", [2, 1000])
def test_it_ends_as_if_the_phase_had_ended_at_its_best(
    accuracies: list[float], epochs: int, best: int, chunk: int, tmp_path: Path
) -> None:
    """Mini-batches follow from (seed, epoch), so a shorter training is the beginning of a longer one."""
    states, steps, left = [], [], list(accuracies)
    for trainer in ({"epochs": 5, "patience": 2, "chunk": chunk}, {"epochs": best}):
        scenario, method = made("si", "scenario=domain_incremental", "optimizer.keep_state=true", *TWO)
        phases = learn(method, scenario, 0, tmp_path, learned, lambda module: left.pop(0), **trainer)
        states.append(method.state_dict())
        steps.append([phase.steps for phase in phases])
    per_epoch = -(-len(scenario.tasks[0].train) // 128)
    assert steps == [[epochs * per_epoch], [best * per_epoch]]
    assert same(*states)
    assert left == []


@pytest.mark.parametrize("method", ["er", "packnet", "dgr"])
def test_it_never_looks_at_validation_images_of_the_past(
    method: str, small: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the last validation in the record is that of the weights that are kept."""
    looked: list[tuple[int, int, float | None]] = []

    def validation(self: Score, learner: Any, after: int, first: int = 0, of: Any = Score.validation) -> Any:
        looked.append((first, after, of(self, learner, after, first)))
        return looked[-1][2]

    monkeypatch.setattr(Score, "validation", validation)
    monkeypatch.setattr(Recorder, "validate", Recorder.validate_current)  # that of the record has all tasks so far
    chosen = (f"scenario={kind_of(method)}_incremental", "trainer.patience=1", "trainer.epochs=4")
    results = run(small(f"method={method}", *chosen, *TWO))
    assert {(first, after) for first, after, _ in looked} == {(0, 0), (1, 1)}
    for record in results.tasks:
        phase = record.phases[0]
        assert phase.validation[-1] == (phase.steps, max(accuracy for _, accuracy in phase.validation))


def test_a_gan_is_trained_to_its_end(small: Compose) -> None:
    chosen = ("method=dgr", "trainer.patience=1", "trainer.epochs=8", "optimizer.lr=0.5")
    settings = small(*chosen, *TWO, "method.generator_epochs=8")
    solver, generator = run(settings).tasks[0].phases
    assert solver.steps < generator.steps
    assert solver.steps % (generator.steps // 8) == 0
    curves = [row for row in read(folder_of(settings) / "log.csv") if row.task == 0]
    assert max(row.step for row in curves if row.phase == "solver") == solver.steps  # the last window is a short one
    assert max(row.step for row in curves if row.phase == "generator") == solver.steps + generator.steps


# ------------------------------------------------------------------------------------------------- clipping


def test_gradients_are_clipped_as_torch_clips_them(tmp_path: Path) -> None:
    scenario, method = made("finetune", "scenario=domain_incremental", "optimizer=sgd", "optimizer.momentum=0.9")
    network, data = copy.deepcopy(method.network), scenario.tasks[0].train
    learn(method, scenario, 0, tmp_path, gradient_clip=0.5, epochs=1, batch_size=32)
    theirs = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    norms = []
    for chunk in Batches(data, batch_size=32, steps=data.n_batches(32), seed=derive(0, "batches", 0, 0)):
        for _, batch in chunk:
            loss = F.cross_entropy(network(batch.x), batch.y)
            theirs.zero_grad()
            loss.backward()
            norms.append(float(nn.utils.clip_grad_norm_(network.parameters(), 0.5)))
            theirs.step()
    assert min(norms) < 0.5 < max(norms)
    for p, q in zip(method.network.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(p, q)


@pytest.fixture
def stepped() -> Iterator[list[tuple[torch.optim.Optimizer, float, float]]]:
    """Each step of any optimizer: its step size, and the norm of the gradients that it followed."""
    found: list[tuple[torch.optim.Optimizer, float, float]] = []

    def note(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        found.append((optimizer, optimizer.param_groups[0]["lr"], float(nn.utils.get_total_norm(gradients))))

    hook = register_optimizer_step_post_hook(note)
    yield found
    hook.remove()


CLIPPED = ("gem", "continual_backprop", "dgr", "oml")
META = ("scenario.meta_classes=5", "method.meta_steps=3", "method.trajectory_classes=2")


@pytest.mark.parametrize(
    "method",
    [method if method in CLIPPED else pytest.param(method, marks=pytest.mark.slow) for method in METHODS],
)
def test_each_optimizer_of_each_method_follows_clipped_gradients(
    method: str, tmp_path: Path, stepped: list[tuple[torch.optim.Optimizer, float, float]]
) -> None:
    if "trainer.gradient_clip" in said_of(method, "refused") or not said_of(method, "trains"):
        return
    more = META if method == "oml" else ()
    scenario, learner = made(method, f"scenario={kind_of(method)}_incremental", "scenario.val_fraction=0.2", *more)
    for task in range(5) if method in ("joint", "joint_gan") else (0, 1):
        learn(learner, scenario, task, tmp_path, iterations=3, gradient_clip=1e-3)
    of_bic = torch.optim.LBFGS  # fits two numbers when a task ends
    norms = [norm for optimizer, _, norm in stepped if not isinstance(optimizer, of_bic)]
    assert 0.99e-3 < max(norms) < 1.01e-3


def test_what_a_method_set_as_a_gradient_stays_its_own(tmp_path: Path) -> None:
    """Of SI the path: w = - sum g dtheta, with g as it was before it was clipped."""
    scenario, method = made("si", "scenario=domain_incremental", "optimizer=sgd", "optimizer.lr=0.1")
    weights, found = list(method.weights.values()), []

    def path(learner: Any, task: Task, fit: Fit) -> None:
        def step(batch: Any, optimizer: Any) -> dict[str, Tensor]:
            found.append(torch.stack([g.norm() for g in gradient(learner.loss(batch), weights)]).norm())
            return learner.train_step(batch, optimizer)

        fit(learner, task.train, phase="train", step=step, steps=1)

    learn(method, scenario, 0, tmp_path, path, gradient_clip=0.01)
    assert sum(float(w.sum()) for w in method.path) == pytest.approx(0.1 * 0.01 * float(found[0]), rel=1e-3)
    assert found[0] > 0.1


# -------------------------------------------------------------------------------------------------- others


def test_a_schedule_is_of_the_method_and_not_of_its_gan(
    tmp_path: Path, stepped: list[tuple[torch.optim.Optimizer, float, float]]
) -> None:
    scenario, method = made("dgr", "scenario.n_tasks=2")
    rates: dict[bool, set[float]] = {}
    learn(method, scenario, 0, tmp_path, schedule=Cosine(warmup=0.0, floor=0.0))
    of_gan = set(method.gan.parameters())
    for optimizer, rate, _ in stepped:
        rates.setdefault(optimizer.param_groups[0]["params"][0] in of_gan, set()).add(rate)
    assert len(rates[True]) == 1
    assert len(rates[False]) == 2 * scenario.tasks[0].train.n_batches(128)


@pytest.mark.parametrize("method", ["er", pytest.param("mir", marks=pytest.mark.slow)])
def test_frozen_statistics_stay_as_the_first_task_left_them(method: str, small: Compose) -> None:
    """While the weights of the normalization learn, and a look at validation images in between changes nothing."""
    states: dict[str, list[dict[str, Tensor]]] = {}
    for freeze in ("true", "false"):
        chosen = (f"method={method}", *NORMS, *TWO, f"trainer.freeze_batch_norm={freeze}")
        settings = small(*chosen, root=freeze)
        run(settings)
        folder = RunFolder(folder_of(settings), "").path / "checkpoints"
        states[freeze] = [torch.load(folder / f"task{task}.pt", weights_only=True)["method"] for task in (0, 1)]
    (first, second), (plain, other) = states["true"], states["false"]
    statistics = [name for name in first if "running_" in name or "num_batches" in name]
    assert statistics
    assert all(torch.equal(first[name], second[name]) for name in statistics)
    assert not any(torch.equal(plain[name], other[name]) for name in statistics)
    assert same(first, plain)
    layers = [name.removesuffix("running_mean") for name in statistics if name.endswith("running_mean")]
    assert layers
    assert not any(torch.equal(first[f"{layer}weight"], second[f"{layer}weight"]) for layer in layers)


@pytest.mark.parametrize(
    "method", [m if m in ("er", "gem", "lucir") else pytest.param(m, marks=pytest.mark.slow) for m in METHODS]
)
def test_mini_batches_of_one_image(method: str, small: Compose) -> None:
    chosen = (f"method={method}", f"scenario={kind_of(method)}_incremental", "scenario.val_fraction=0.2")
    more = META if method == "oml" else ("scenario.n_tasks=2",)
    results = run(small(*chosen, *more, "trainer.batch_size=1", "trainer.iterations=5"))
    assert results.status == "finished"


# ------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("method", METHODS)
def test_a_method_says_which_keys_have_no_meaning_with_it(method: str) -> None:
    refused = said_of(method, "refused") if said_of(method, "trains") else OFF
    assert refused.keys() <= OFF.keys()
    for key in refused:
        settings = compose(f"method={method}", f"scenario={kind_of(method)}_incremental", *ON[key])
        with pytest.raises(InputError, match=rf"^{ON[key][0]}: method={method} \w+ .*; set {key}=\w+(\.0)?$"):
            check_settings(settings)
        if key == "trainer.patience" and "scheduler" not in refused:
            plateau = settings | {"trainer": settings["trainer"] | {"patience": None}, "scheduler": PLATEAU}
            with pytest.raises(InputError, match=rf"^scheduler\.monitor=val_accuracy: method={method} .*=train_loss$"):
                check_settings(plateau)


def test_a_network_trained_on_the_first_task_alone_follows_the_keys_there(small: Compose) -> None:
    """As that of fine-tuning does; the sums that follow have no schedule, no losses and no early stop."""
    keys = (*ON["trainer.gradient_clip"], *ON["label_smoothing"], "trainer.patience=1", "trainer.epochs=5")
    plateau = ("scheduler=plateau", "scheduler.warmup=0.3", "scheduler.monitor=train_loss")
    slda = ("method=slda", "method.first_task=true")
    states: list[Any] = []
    for chosen in (("method=finetune", *plateau), (*slda, *plateau), slda):
        settings = small(*keys, "optimizer.lr=0.1", *chosen, *TWO)
        results = run(settings)
        checkpoints = RunFolder(folder_of(settings), "").path / "checkpoints"
        states.append(torch.load(checkpoints / "task0.pt", weights_only=True)["method"])
        states.append(results.tasks[0].phases[0].steps)
    of_network = [{k: v for k, v in state.items() if k.startswith("network.")} for state in states[::2]]
    assert same(of_network[0], of_network[1])
    assert states[1] == states[3]
    assert not same(of_network[1], of_network[2])
    frozen = (*ON["trainer.freeze_batch_norm"], *NORMS, "method.first_task=true")
    with pytest.raises(InputError, match=r"^trainer.freeze_batch_norm=true: method=slda trains nothing after the"):
        run(small("method=slda", *frozen, *TWO))


def test_a_loss_that_nobody_logs_is_no_silent_plateau(tmp_path: Path) -> None:
    scenario, method = made("finetune")
    plateau = Plateau(warmup=0.0, monitor="train_loss", factor=0.5, patience=1)

    def unlogged(learner: Learner, task: Task, fit: Fit) -> None:
        fit(learner, task.train, phase="train", step=lambda batch, optimizer: {})

    with pytest.raises(InputError, match=r"^scheduler\.monitor=train_loss: Finetune does not log 'loss'"):
        learn(method, scenario, 0, tmp_path, unlogged, schedule=plateau)


# --------------------------------------------------------------------------------------------- after a kill

KILLED = {
    "cosine": ("scheduler=cosine", "scheduler.warmup=0.3"),
    "multistep": (
        "scheduler=multistep",
        "optimizer=sgd",
        "optimizer.momentum=0.9",
        "optimizer.nesterov=true",
        "optimizer.keep_state=true",
    ),
    "plateau": ("scheduler=plateau", "scheduler.patience=1", "trainer.epochs=4", "optimizer.lr=0.1"),
    "train_loss": ("scheduler=plateau", "scheduler.patience=1", "scheduler.monitor=train_loss", "optimizer.lr=0.3"),
    "others": ("optimizer=adamw", "optimizer.weight_decay=0.5", *ON["trainer.gradient_clip"], *ON["label_smoothing"]),
    "patience": ("trainer.patience=1", "trainer.epochs=5", "optimizer.lr=0.1"),
    "freeze_batch_norm": (*ON["trainer.freeze_batch_norm"], *NORMS),
}


def all_of(settings: dict[str, Any]) -> tuple[Any, list[Row], Any]:
    """What is known of a run: its results, its curves, and all of its method."""
    results, folder = without_clocks(run(settings)), folder_of(settings)
    state = torch.load(max((folder / "checkpoints").glob("task*.pt")), weights_only=True)
    return results, [row for row in read(folder / "log.csv") if row.phase != MEASURED], state["method"]


EVERY = [pytest.param(method, "patience", marks=pytest.mark.slow) for method in METHODS if method != "er"]


@pytest.mark.parametrize(("method", "key"), [*(("er", key) for key in KILLED), *EVERY])
def test_a_run_goes_on_after_kills_in_the_middle_of_phases(method: str, key: str, small: Compose) -> None:
    """Killed after checkpoints until none is left, two or three chunks apart."""
    if f"trainer.{key}" in said_of(method, "refused") or not said_of(method, "trains"):
        return
    more = (*META, "scenario.n_tasks=5") if method == "oml" else ()
    chosen = (
        f"method={method}",
        f"scenario={kind_of(method)}_incremental",
        *TWO,
        "trainer.chunk=2",
        *KILLED[key],
        *more,
    )
    results, curves, state = all_of(small(*chosen, root="whole"))
    settings, kills = small(*chosen, root="killed") | {"checkpoint_every": 0}, 0
    while kills < 100:
        try:
            with killed_after(2 + kills % 2, "save_phase"):
                run(settings)
            break
        except Killed:
            kills += 1
    assert kills > 2
    again, curves_again, state_again = all_of(settings)
    assert again == results
    assert curves_again == curves
    assert same(state_again, state)
