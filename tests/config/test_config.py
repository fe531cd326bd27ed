"""From YAML to checked objects: what is refused, and what a run's name depends on."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from annotated_types import Ge

from cl_bench.config import InputError, Positive
from cl_bench.config.checks import STREAM, check_settings
from cl_bench.config.compose import compose, named_loggers
from cl_bench.config.errors import nearest
from cl_bench.config.names import CONF, GROUPS, LATER, folder_of, key_of, name_of
from cl_bench.config.schema import GIVEN, build, by_name_alone, check, target, types_of
from cl_bench.config.training import OLD

NODES = [file for folder in (*GROUPS, "gan") for file in sorted((CONF / folder).glob("*.yaml")) if file.stem != "none"]


@dataclass
class Inner:
    x: float = 0.5


class Outer:
    def __init__(
        self,
        given: str,
        *,
        n: Positive,
        inner: Inner,
        pair: tuple[float, float] = (0.0, 1.0),
        way: Literal["a", "b"] = "a",
        steps: Positive | list[Positive] | None = None,
        share: Annotated[float, Ge(0)] = 0.0,
        flag: bool = False,
        free: Any = None,
        outer: Outer | None = None,
    ) -> None:
        self.given, self.n, self.inner, self.pair, self.way = given, n, inner, pair, way
        self.steps, self.share, self.flag, self.free = steps, share, flag, free


@pytest.fixture(autouse=True)
def _of_this_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if Inner were one of our own classes."""
    import cl_bench.networks.mlp as module

    monkeypatch.setattr(module, "Inner", Inner, raising=False)
    monkeypatch.setattr(Inner, "__module__", "cl_bench.networks.mlp")


INNER = {"_target_": "cl_bench.networks.mlp.Inner"}


def outer(**values: Any) -> Outer:
    return build(check({"n": 1, "inner": INNER} | values, "group", Outer), given="from the context")


def test_values_reach_the_constructor_with_their_types() -> None:
    built = outer(n=3, inner=INNER | {"x": 2}, pair=[1, 2.5], way="b", steps=[1, 2], share=1, flag=True, free={"k": 1})
    assert built.given == "from the context"
    assert (built.n, built.way, built.steps, built.flag, built.free) == (3, "b", [1, 2], True, {"k": 1})
    assert built.inner == Inner(2.0)
    assert built.pair == (1.0, 2.5)  # a list in YAML
    assert isinstance(built.share, float)  # 1 in YAML


def test_the_configuration_goes_before_the_context() -> None:
    assert outer(given="from the node").given == "from the node"


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"m": 1}, "group.m: no such key; choose from group.flag, group.free, group.given, group.inner, group.n, "),
        ({"pai": 1}, "group.pai: no such key; did you mean 'group.pair'?"),
        ({"n": 0}, "group.n=0: input should be greater than 0"),
        ({"n": 1.0}, "group.n=1.0: input should be a valid integer"),
        ({"n": True}, "group.n=true: input should be a valid integer"),
        ({"n": "1"}, "group.n=1: input should be a valid integer"),
        ({"n": None}, "group.n=null: input should be a valid integer"),
        ({"pair": [1]}, "group.pair=[1]: field required"),
        ({"pair": [1, "x"]}, 'group.pair=[1,"x"]: input should be a valid number'),
        ({"way": "c"}, "group.way=c: input should be 'a' or 'b'"),
        ({"steps": [0]}, "group.steps=[0]: input should be a valid integer or input should be greater than 0"),
        ({"share": float("nan")}, "group.share=nan: input should be a finite number"),
        ({"share": float("inf")}, "group.share=inf: input should be a finite number"),
        ({"flag": 1}, "group.flag=1: input should be a valid boolean"),
        ({"outer": 5}, "group.outer=5: has several keys; set one of them: group.outer.KEY=VALUE"),
        ({"inner": INNER | {"y": 1}}, "group.inner.y: no such key; choose from group.inner.x"),
        ({"inner": INNER | {"x": "1"}}, "group.inner.x=1: input should be a valid number"),
        ({"inner": {"_target_": "os.system"}}, "group.inner._target_=os.system: not a part of cl_bench"),
    ],
)
def test_what_is_refused(values: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError) as error:
        outer(**values)
    assert str(error.value).startswith(line)


def test_what_is_missing() -> None:
    with pytest.raises(InputError, match=r"^group\.inner: needs a value$"):
        build(check({"n": 1}, "group", Outer), given="")
    with pytest.raises(InputError, match=r"^n: needs a value$"):
        build(check({"inner": INNER}, "", Outer), given="")


@pytest.mark.parametrize(
    "path",
    [
        "os.system",
        "cl_bench",
        "cl_benchmark.x",
        "cl_bench.runs.folder.os",
        "cl_bench.runs.folder.contextmanager",
        "cl_bench.no.X",
        "cl_bench.networks.mlp.No",
        "",
        5,
    ],
)
def test_only_this_package_is_called(path: Any) -> None:
    with pytest.raises(InputError, match=r"^group\._target_="):
        target({"_target_": path}, "group")


def test_the_nearest_choice() -> None:
    assert nearest("fintune", ["ewc", "finetune"]) == "; did you mean 'finetune'?"
    assert nearest("xyz", ["b", "a"], "group.") == "; choose from group.a, group.b"
    assert nearest("xyz", []) == ""
    assert nearest("adamW", ["adam", "adamw"]) == "; did you mean 'adamw'?"
    assert nearest("x", map(str, range(1000, 2234))).endswith("1008, 1009, ... (1,234 in total)")


@pytest.mark.parametrize("file", NODES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_yaml_names_every_parameter_and_explains_itself(file: Path) -> None:
    """Everything legal is in the YAML, so nobody needs a +; its values are legal; it begins with what it is."""
    text = file.read_text()
    assert text.startswith("# ")

    def compare(node: dict[str, Any], where: str) -> None:
        parameters = inspect.signature(target(node, where)).parameters.values()
        keywords = {one.name for one in parameters if one.kind == one.KEYWORD_ONLY}
        nodes = {key for key, value in node.items() if isinstance(value, dict)}
        chosen = {
            choice.strip("/") for default in node.get("defaults", []) if default != "_self_" for choice in default
        }
        for one in parameters:
            if one.kind == one.KEYWORD_ONLY and one.default is not one.empty and one.name in node:
                default = list(one.default) if isinstance(one.default, tuple) else one.default
                assert node[one.name] == default, f"{where}.{one.name}: the YAML alone says what it is"
        if keywords:  # what comes before the * is given by the run
            assert set(node) - nodes - {"_target_", "defaults"} == keywords - nodes - chosen, where
        for key in nodes:
            compare(node[key], f"{where}.{key}")

    node = yaml.safe_load(text)
    if file.parent.name == "scenario":  # keys of any scenario
        node = {key: value for key, value in node.items() if key not in types_of(STREAM, "scenario")}
    if "loggers" in node:
        node["loggers"] = named_loggers(node["loggers"])
    compare(node, file.stem)
    check({key: value for key, value in node.items() if key != "defaults" and value != "???"}, file.stem)


def test_how_images_come_can_be_set_in_any_scenario() -> None:
    keys = yaml.safe_load((CONF / "config.yaml").read_text())["scenario"]
    assert keys.keys() == types_of(STREAM, "scenario").keys()
    assert keys["passes"] == "epochs"


def test_every_top_key_has_a_comment() -> None:
    lines = (CONF / "config.yaml").read_text().splitlines()
    keys = [key for key in compose() if key not in (*GROUPS, "choices")]
    for key in keys:
        assert any(re.match(rf"{key}: .*# .+", line) for line in lines), key


WITHOUT_EFFECT = [
    "output_root=elsewhere",
    "data_dir=elsewhere",
    "resume=false",
    "checkpoint_every=0",
    "debug=true",
    "reference=elsewhere",
    "logger=wandb",
    "trainer.chunk=7",
    "trainer.log_every=1",
    "trainer.progress=false",
]
WITH_EFFECT = [
    "seed=1",
    "method=ewc",
    "dataset=mnist",
    "scenario=task_incremental",
    "network.hidden=[400]",
    "method=finetune optimizer.lr=0.1",
    "trainer.epochs=3",
    "trainer.precision=bf16-mixed",
    "method.optimizer.lr=0.1",
]


def test_what_changes_no_number_keeps_the_key() -> None:
    assert key_of(compose(*WITHOUT_EFFECT)) == key_of(compose())
    own = ("dataset=npz", "dataset.path=mine.npz")
    assert key_of(compose(*own, "dataset.on_disk=true")) == key_of(compose(*own))
    steps = ("experiment=gpm_permuted", "scenario=permuted", "trainer.iterations=9")  # it sets epochs, which go unread
    assert compose(*steps)["trainer"]["epochs"] == compose("dataset=mnist")["trainer"]["epochs"]


def test_what_changes_a_number_changes_the_key() -> None:
    keys = {key_of(compose(*overrides.split())) for overrides in (*WITH_EFFECT, "method=finetune", "method=dgm")}
    assert len(keys) == len(WITH_EFFECT) + 2


CAME_LATER: list[tuple[str, tuple[str, ...], Any]] = [  # where it is found, and a value that changes numbers
    ("measure_every", (), 2),
    ("continue_from", (), "somewhere"),
    ("evaluate_every", (), 10),
    ("evaluate_unit", (), "epochs"),
    ("evaluate_on", (), "validation"),
    ("scenario.max_train", ("scenario=permuted",), 100),
    ("scenario.max_train", ("scenario=class_incremental",), 100),
    ("scenario.meta_classes", (), 4),
    ("scenario.base", ("scenario.n_tasks=null", "scenario.classes_per_task=2"), 4),
    ("dataset.normalize", ("dataset=mnist",), True),
    *(
        ("dataset.classes", (f"dataset={name}",), [1, 2])
        for name in ("digits", "mnist", "fashion_mnist", "svhn", "cifar10", "cifar100")
    ),
    *(
        (f"dataset.{key}", (f"dataset={name}", "dataset.path=my"), value)
        for name in ("npz", "image_folder")
        for key, value in (("classes", ["a", "b"]), ("augment", True), ("mean", [0.5]), ("std", [0.5]))
    ),
    ("method.answer", ("method=icarl",), "network"),
    ("method.consolidate_every", ("method=ewc",), 100),
    ("method.fisher_rate", ("method=ewc",), 0.5),
    ("method.consolidate_every", ("method=si",), 100),
    ("optimizer.nesterov", ("method=er", "optimizer=sgd", "optimizer.momentum=0.9"), True),
    ("trainer.patience", (), 3),
    ("trainer.gradient_clip", (), 1.0),
    ("trainer.freeze_batch_norm", (), True),
    ("label_smoothing", (), 0.1),
    ("scheduler", (), {"_target_": "cl_bench.networks.schedules.Cosine", "warmup": 0.0, "floor": 0.0}),
    ("trainer.callbacks", (), [{"_target_": "mine.Callback"}]),
]


@pytest.mark.parametrize(("where", "more", "value"), CAME_LATER)
def test_a_setting_that_came_later_moves_no_key_until_it_is_set(where: str, more: tuple[str, ...], value: Any) -> None:
    """The keys of runs that were made before there was such a setting."""
    group, _, key = where.rpartition(".")
    settings = compose(*more)
    node = settings[group] if group else settings
    assert node[key] == LATER[node.get("_target_", "")][key]
    before = {name: value for name, value in node.items() if name != key}
    assert key_of(settings) == key_of(settings | {group: before} if group else before)
    now = before | {key: value}
    assert key_of(settings) != key_of(settings | {group: now} if group else now)


def test_each_setting_that_came_later_is_on_the_list() -> None:
    assert sorted(key for later in LATER.values() for key in later) == sorted(
        where.rpartition(".")[2] for where, *_ in [*CAME_LATER, *(("optimizer." + name,) for name in OLD)]
    )


@pytest.mark.parametrize("gamma", [0.1, 0.2])
def test_sgd_with_milestones_is_now_a_scheduler_and_has_the_key_that_it_had(gamma: float) -> None:
    """A run from before there was one, too, is checked as it is written now."""
    milestones = ["scheduler=multistep", "scheduler.milestones=[0.5]", f"scheduler.gamma={gamma}"]
    now, plain = compose("method=finetune", "optimizer=sgd", *milestones), compose("method=finetune", "optimizer=sgd")
    then = {key: value for key, value in plain.items() if key != "scheduler"}
    then["optimizer"] = plain["optimizer"] | {"milestones": [0.5], "gamma": gamma}
    assert key_of(now) == key_of(then) != key_of(plain)
    assert check_settings(then)["scheduler"] == check_settings(now)["scheduler"]
    assert check_settings(then)["optimizer"] == check_settings(now)["optimizer"]
    assert "scheduler" not in check_settings(then | {"optimizer": then["optimizer"] | {"milestones": []}})
    with pytest.raises(InputError, match=r"^optimizer\.milestones: no such key"):
        check_settings(then | {"scheduler": now["scheduler"]})  # not both
    warm = compose("method=finetune", "optimizer=sgd", *milestones, "scheduler.warmup=0.1")
    assert key_of(warm) != key_of(now) != key_of(compose("method=finetune", "optimizer=adam", *milestones))


def test_what_a_run_gives_is_no_key_and_no_advice() -> None:
    """All parameters that have a position, but those of optimizers and the like, are on the list."""
    for file in NODES:
        group, node = file.parent.name, yaml.safe_load(file.read_text())
        if group in ("optimizer", "scheduler", "logger", "gan"):
            continue
        types = types_of(node["_target_"], group)
        given = types.keys() - by_name_alone(node["_target_"], group)
        assert given <= set(GIVEN[group])
        for key in given:
            with pytest.raises(InputError, match=rf"^{group}\.{key}: no such key") as caught:
                check({"_target_": node["_target_"], key: 3}, group)
            assert not given & set(re.findall(rf"{group}\.(\w+)", str(caught.value).partition(":")[2]))
    mine = {"_target_": "cl_bench.methods.dgm.DGM", "optimizer": 3}  # a key of this one
    with pytest.raises(InputError, match=r"^method\.optimizer=3: has several keys"):
        check(mine, "method")


def test_where_a_run_lives() -> None:
    settings = compose("method=ewc", "seed=3", "output_root='~/here'")
    assert folder_of(settings) == Path.home() / "here/digits-class_incremental-ewc" / f"seed3-{key_of(settings)}"
    several = compose("scenario=sequence", "scenario.datasets=[mnist,some/own.npz]", "method=joint")
    assert name_of(several) == "mnist+own-sequence-joint"
