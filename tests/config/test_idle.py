"""Keys that nothing reads beside other settings: they change no run, and a line says so."""

from __future__ import annotations

import pytest
from conftest import METHODS

from cl_bench.__main__ import main
from cl_bench.config import InputError
from cl_bench.config.compose import compose
from cl_bench.config.declared import declared, unread_in
from cl_bench.config.idle import WHOLE, unread, without_effect
from cl_bench.config.names import key_of
from cl_bench.config.training import at

UNREAD = [  # a command, what is typed beside it, and the setting by which nothing reads that
    ("method=er memory.bytes=20000", "memory.images=77", "memory.bytes=20000"),
    ("method=ewc", "method.decay=0.5", "method.online=false"),
    ("method=ewc", "method.fisher_rate=0.5", "method.consolidate_every=null"),
    (
        "method=ewc method.online=true scenario.passes=online method.consolidate_every=5",
        "method.fisher_samples=9",
        "method.consolidate_every=5",
    ),
    ("method=dgr", "method.temperature=5", "method.labels=hard"),
    ("method=dgr", "method.ratio=0.5", "method.replay=fixed"),
    ("method=mergan", "method.lambda_ra=5", "method.way=replay"),
    ("method=ogd method.space=inputs", "method.gradients=all", "method.space=inputs"),
    ("method=ogd", "method.energy=[0.9,0.9]", "method.space=gradients"),
    ("method=la_maml method.variant=c_maml", "method.rate_lr=9", "method.variant=c_maml"),
    ("method=mer method.algorithm=7", "method.beta=0.5", "method.algorithm=7"),
    ("method=gss method.selection=random", "method.n_compared=3", "method.selection=random"),
    ("method=lwf scenario=task_incremental", "method.new_outputs=zero", "scenario.kind=task"),
    ("method=supsup scenario=task_incremental", "method.inference=binary", "scenario.kind=task"),
    ("method=oml method.pretraining=joint", "method.inner_lr=3", "method.pretraining=joint"),
    ("method=er scenario.passes=online", "optimizer.keep_state=true", "scenario.passes=online"),
    ("method=er optimizer=sgd", "optimizer.keep_state=true", "optimizer.momentum=0"),
    ("method=lucir method.ranking_weight=0", "method.margin=3", "method.ranking_weight=0"),
    ("method=dgr method.replay=fresh", "method.n_gen=55", "method.replay=fresh"),
    ("method=lwf scenario.train_mask=all", "method.new_outputs=zero", "scenario.train_mask=all"),
    ("method=dgm method.mask=weights", "method.mask_position=before", "method.mask=weights"),
    ("method=dgm method.generator_epochs=2", "trainer.epochs=7", "method.generator_epochs=2"),
    ("method=dgm method.generator_steps=2", "trainer.iterations=7", "method.generator_steps=2"),
    ("method=den scenario=task_incremental method.tau=1e30", "method.new_units=7", "method.tau=1e+30"),
    ("method=oml method.pretraining=joint", "method.inner_steps=2", "method.pretraining=joint"),
    ("method=er scenario=task_incremental", "scenario.train_mask=all", "scenario.kind=task"),
    ("method=ncm", "scenario.train_mask=all", "method.first_task=false"),
    ("method=ncm", "optimizer=sgd", "method.first_task=false"),
    ("method=ncm", "trainer.epochs=7", "method.first_task=false"),
    ("method=la_maml", "optimizer=sgd", "method.variant=la_maml"),
    ("method=dgm", "optimizer=sgd", "method.optimizer"),
    ("method=er scenario=blurry scenario.disjoint=1", "scenario.stray=0.3", "scenario.disjoint=1"),
    ("method=er scenario=rotated scenario.max_angle=0", "scenario.angles=even", "scenario.max_angle=0"),
]
OWN_OPTIMIZERS = ("joint", "separate", "pnn", "den", "clnp", "supsup", "progress_compress", "mer", "la_maml")


@pytest.mark.parametrize(("command", "typed", "beside"), UNREAD)
def test_what_nothing_reads_changes_no_run_and_is_said(command: str, typed: str, beside: str) -> None:
    plain, other = compose(*command.split()), compose(*command.split(), typed)
    assert key_of(plain) == key_of(other)
    assert without_effect(unread_in(other), [*command.split(), typed]) == [f"{typed}: has no effect with {beside}"]
    assert without_effect(unread_in(plain), command.split()) == []


@pytest.mark.parametrize("method", OWN_OPTIMIZERS)
def test_moments_that_no_task_hands_on_are_no_setting(method: str) -> None:
    chosen = [f"method={method}", "scenario=task_incremental"]
    kept = compose(*chosen, "optimizer.keep_state=true")
    assert key_of(kept) == key_of(compose(*chosen))
    (line,) = without_effect(unread_in(kept), ["optimizer.keep_state=true"])
    assert line.startswith("optimizer.keep_state=true: has no effect ")


def test_an_optimizer_beside_a_method_that_has_its_own_is_no_setting() -> None:
    other = compose("method=dgm", "optimizer=sgd", "optimizer.lr=9")
    assert key_of(other) == key_of(compose("method=dgm"))
    (line,) = without_effect(unread_in(other), ["optimizer.lr=9"])
    assert line == "optimizer.lr=9: has no effect with method.optimizer"


@pytest.mark.parametrize("typed", ["network=cnn", "network.hidden=[5]", "optimizer=sgd", "scenario.train_mask=all"])
def test_what_a_method_never_reads_is_no_setting_of_it(typed: str) -> None:
    other = compose("method=joint_gan", typed)
    assert key_of(other) == key_of(compose("method=joint_gan"))
    assert without_effect(unread_in(other), [typed]) == [f"{typed}: has no effect with this method"]


@pytest.mark.parametrize("method", METHODS)
def test_a_method_speaks_of_keys_that_it_has(method: str) -> None:
    settings = compose(f"method={method}")
    for name, beside in declared(settings, "unread").items():
        for key in (name, *beside):
            group, last = key.split(".") if "." in key else ("method", key)
            assert key in WHOLE or last in settings[group], key


@pytest.mark.parametrize(
    ("values", "found"), [(..., {"method.a": "method.b=3"}), (None, {}), ((1, 3), {"method.a": "method.b=3"}), (2, {})]
)
def test_by_one_value_by_some_or_by_any(values: object, found: dict[str, str]) -> None:
    assert unread({"method": {"b": 3}}, {"a": {"b": values}}) == found


def test_the_line_comes_before_the_run(capsys: pytest.CaptureFixture[str], tmp_path: object) -> None:
    small = ("network.hidden=[8]", "trainer.iterations=1", "trainer.threads=1", f"output_root={tmp_path}")
    assert main(["method=ewc", "method.decay=0.5", *small]) == 0
    assert capsys.readouterr().err.startswith("warning: method.decay=0.5: has no effect with method.online=false\n")


def test_a_sweep_over_methods_goes_on() -> None:
    assert at(compose("method=dgr", "++method.temperature=1.5"), "method.temperature") == 2.0
    assert at(compose("method=dgr", "method.temperature=1.5", "method.labels=soft"), "method.temperature") == 1.5


@pytest.mark.parametrize("value", ["abc", "-5"])
def test_what_nothing_reads_must_be_a_value_all_the_same(value: str) -> None:
    with pytest.raises(InputError, match=r"^method\.decay"):
        compose("method=ewc", f"method.decay={value}")


def test_a_search_over_what_nothing_reads_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    space = ["hparams_search=strength", "~hparams_search.space.method.strength"]
    words = ["method=ewc", *space, "hparams_search.space.method.decay={low: 0.1, high: 0.9}"]
    assert main(words) == 1
    assert "hparams_search.space.method.decay: has no effect here" in capsys.readouterr().err
