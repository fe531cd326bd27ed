"""Other people's packages: found without an import, chosen by name, refused in one line when something is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import cl_bench
from cl_bench.__main__ import main
from cl_bench.config import InputError
from cl_bench.config.checks import check_settings
from cl_bench.config.compose import compose
from cl_bench.config.declared import methods_with
from cl_bench.config.names import CONF, folder_of, key_of, options_of
from cl_bench.config.plugins import allowed, conf_folders
from cl_bench.data.datasets import load
from cl_bench.evaluation.scores import Score
from cl_bench.manual import files_of
from cl_bench.record import load_results
from cl_bench.runs.loop import run
from cl_bench.runs.setup import checked, prepare

QUICK = [
    "trainer.epochs=1",
    "trainer.threads=1",
    "trainer.accelerator=cpu",
    "network.hidden=[16]",
    "trainer.progress=false",
]
CALM = """
from __future__ import annotations
from typing import TYPE_CHECKING, Any
from torch import nn
from cl_bench.config import Share
from cl_bench.methods.finetune import Finetune
if TYPE_CHECKING:
    from cl_bench.networks.optimizers import Optimizer

class Calm(Finetune):
    kinds = ("class", "task")

    def __init__(self, problem: Any, network: nn.Module, optimizer: Optimizer, *, calm: Share) -> None:
        super().__init__(problem, network, optimizer)
        self.calm = calm

class Other: ...

def untyped(problem, network, optimizer): ...
"""
Plugin = Callable[..., Path]


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plugin]:
    """`plugin("calm_plugin", {"method/calm": "_target_: ..."})`: an installed package, as a wheel leaves it."""

    def installed(package: str, conf: dict[str, str], code: str = CALM, entry: bool = True) -> Path:
        site = tmp_path / f"site-{package}"
        (site / package).mkdir(parents=True)
        (site / package / "__init__.py").write_text("")
        (site / package / "code.py").write_text(code)
        for name, text in conf.items():
            file = site / package / "conf" / f"{name}.yaml"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        if entry:
            information = site / f"{package}-1.2.3.dist-info"
            information.mkdir()
            (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2.3\n")
            (information / "entry_points.txt").write_text(f"[cl_bench.plugins]\nany = {package}\n")
        monkeypatch.syspath_prepend(site)
        return site

    yield installed
    for name in [name for name in sys.modules if name.partition(".")[0].endswith("_plugin")]:
        del sys.modules[name]


YAML = {"method/calm": "# Nothing new.\n_target_: calm_plugin.code.Calm\ncalm: 0.5  # how much\n"}


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line with which a command line is refused."""
    assert main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_an_installed_plugin_is_chosen_by_name(
    plugin: Plugin, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = plugin("calm_plugin", YAML)
    assert "calm" in options_of("method")
    out = f"output_root={tmp_path / 'outputs'}"
    assert main(["method=calm", *QUICK, out]) == 0
    settings = compose("method=calm", *QUICK, out)
    results = json.loads((folder_of(settings) / "results.json").read_text())
    found = results["provenance"]["plugins"]["calm_plugin"]
    assert (found["version"], found["commit"]) == ("1.2.3", None)
    capsys.readouterr()
    assert "did you mean 'calm'" in refused(capsys, "method=clam")
    assert refused(capsys, "method=calm", "method.calm=2").startswith("error: method.calm=2: input should be less than")
    assert "did you mean 'method.calm'" in refused(capsys, "method=calm", "method.clam=1")
    assert "does not work in scenario=domain" in refused(capsys, "method=calm", "scenario=domain_incremental")
    (site / "calm_plugin" / "code.py").write_text(CALM + "\n")
    changed = run(settings | {"resume": False}).provenance["plugins"]["calm_plugin"]
    assert changed["digest"] != found["digest"]


def test_help_lists_it_and_imports_nothing(plugin: Plugin, tmp_path: Path) -> None:
    """Neither the plugin nor torch; what a results file names is no reason to import it either."""
    site = plugin("calm_plugin", YAML, code="raise SystemExit('imported')")
    (site / "calm_plugin" / "__init__.py").write_text("raise SystemExit('imported')")
    code = "import sys; from cl_bench.__main__ import main; main(['--help'])"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    shown = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert "bic, calm, clnp" in shown.stdout
    assert "torch" not in [line.rpartition("|")[2].strip() for line in shown.stderr.splitlines()]


def test_code_that_nobody_allowed_is_not_imported(plugin: Plugin, capsys: pytest.CaptureFixture[str]) -> None:
    plugin("calm_plugin", YAML, entry=False)
    line = refused(capsys, "method=finetune", "method._target_=calm_plugin.code.Calm")
    assert line.startswith(
        "error: method._target_=calm_plugin.code.Calm: not a part of cl_bench; plugins=[calm_plugin]"
    )
    assert "entry point cl_bench.plugins" in line
    assert "calm_plugin.code" not in sys.modules
    results = compose("method=finetune") | {"method": {"_target_": "calm_plugin.code.Calm", "calm": 0.5}}
    with pytest.raises(InputError, match="not a part of"):
        run(results)
    assert "calm_plugin.code" not in sys.modules


def test_a_folder_and_a_package_named_on_the_command_line(
    plugin: Plugin,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    conf = plugin("calm_plugin", YAML, entry=False) / "calm_plugin" / "conf"
    monkeypatch.chdir(tmp_path)
    given = ["plugins=[calm_plugin]", "method=calm", *QUICK]
    assert main(["--config-dir", str(conf), *given]) == 0
    assert main([f"hydra.searchpath=[file://{conf}]", *given]) == 0  # the same run
    assert len(list(tmp_path.glob("outputs/*/*/results.json"))) == 1
    capsys.readouterr()
    assert "not a part of cl_bench; plugins=[calm_plugin]" in refused(capsys, f"--config-dir={conf}", "method=calm")
    (folder,) = (file.parent for file in tmp_path.glob("outputs/*/*/results.json"))
    with pytest.raises(InputError, match=r"not a part of cl_bench; plugins=\[calm_plugin\]"):  # the file alone says so
        cl_bench.load(folder).model()
    assert type(cl_bench.load(folder, plugins=["calm_plugin"]).model()).__name__ == "Calm"


PARTS = """
from __future__ import annotations
from dataclasses import dataclass
from pathlib import Path
from typing import Any
import torch
from cl_bench.config import Rate
from cl_bench.data.datasets import Dataset
from cl_bench.runs.loggers import CSVLog

class Lines(CSVLog):
    def write(self, rows: Any) -> None:
        super().write(rows)
        with (self._folder / "lines.txt").open("a") as file:
            file.writelines(f"{row.phase} {row.name}\\n" for row in rows)

@dataclass(frozen=True)
class Signs:
    lr: Rate

    def __call__(self, parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.Rprop(parameters, lr=self.lr)

def squares(*, gray: int) -> Dataset:
    x = torch.zeros(40, 1, 8, 8, dtype=torch.uint8)
    x[::2, :, 2:6, 2:6] = gray
    y = torch.tensor([0, 1]).repeat(20)
    return Dataset("squares", x, y, x, y, n_classes=2, class_names=("square", "nothing"))
"""


def test_its_logger_optimizer_and_data_set_in_a_sequence(plugin: Plugin, tmp_path: Path) -> None:
    conf = {
        "logger/lines": "# Lines.\n_target_: parts_plugin.code.Lines\n",
        "optimizer/signs": "# By signs.\n_target_: parts_plugin.code.Signs\nlr: 0.01  # step size\n",
        "dataset/squares": "# Squares.\n_target_: parts_plugin.code.squares\ngray: 200  # of a square\n",
    }
    plugin("parts_plugin", conf, code=PARTS)
    chosen = ["logger=lines", "optimizer=signs", "optimizer.lr=0.02", f"output_root={tmp_path / 'outputs'}"]
    sets = ["scenario=sequence", "scenario.kind=task", "scenario.datasets=[digits,squares]"]
    assert main(["method=finetune", *QUICK, *chosen, *sets]) == 0
    (folder,) = tmp_path.glob("outputs/*/*")
    results = load_results(folder)
    assert results.classes[1] == ["squares"]
    assert "square" in results.class_names
    assert "train loss" in (folder / "lines.txt").read_text().splitlines()
    with pytest.raises(InputError, match=r"^scenario\.datasets: .* did you mean 'squares'\?$"):
        run(compose("method=finetune", *QUICK, *chosen, *sets[:2], "scenario.datasets=[digits,sqares]"))


def test_explain_shows_the_files_of_plugins(plugin: Plugin) -> None:
    plugin("calm_plugin", YAML)
    assert files_of("method")["calm"].parent.parent.name == "conf"
    assert "ewc" in files_of("method")


def test_which_packages_are_allowed_is_no_part_of_a_runs_key(plugin: Plugin) -> None:
    plugin("calm_plugin", YAML)
    assert key_of(compose("method=calm")) == key_of(compose("method=calm", "plugins=[calm_plugin]"))
    assert key_of(compose("method=calm")) != key_of(compose("method=calm", "method.calm=1.0"))


@pytest.mark.parametrize(
    "given", ["5", "calm", "null", "[5]", "[nosuch]", "['']", "['..']", "['a b']", "{a: 1}", "[a,5]"]
)
def test_what_is_no_package(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, f"plugins={given}").startswith("error: plugins")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("calm_plugin.code.Nothing", "does not exist"),
        ("calm_plugin.nowhere.Calm", "does not exist"),
        ("calm_plugin.code.Other", "is not of type Method"),
        ("calm_plugin.code.untyped", "is not of type Method"),
        ("calm_plugin.code.Finetune", "not a part of calm_plugin"),
        ("calm_plugin.code.kinds.x", "does not exist"),
        ("calm_plugin", "is not PACKAGE.MODULE.NAME"),
        ("calm_plugin.", "is not PACKAGE.MODULE.NAME"),
        ("calm_plugin..code", "is not PACKAGE.MODULE.NAME"),
        ("calm_plugin_too.code.Calm", "not a part of cl_bench or calm_plugin"),
    ],
)
def test_a_target_that_is_not_there_or_of_another_kind(path: str, said: str, plugin: Plugin) -> None:
    plugin("calm_plugin", {"method/calm": f"_target_: {path}\n"})
    with pytest.raises(InputError) as error:
        checked(compose("method=calm"))
    assert str(error.value).startswith(f"method._target_={path}: ")
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import nowhere_at_all", "can't be imported (ModuleNotFoundError: No module named 'nowhere_at_all')"),
        ("def (", "can't be imported (SyntaxError: "),
        ("1 / 0", "can't be imported (ZeroDivisionError: "),
        ("from cl_bench.methods.base import Nothing", "can't be imported (ImportError: "),
        ("import os\nos.nothing", "can't be imported (AttributeError: "),
        ("raise SystemExit(3)", "can't be imported (SystemExit: 3)"),
    ],
)
def test_a_plugin_that_cannot_be_imported(
    code: str, said: str, plugin: Plugin, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin("calm_plugin", YAML, code=code)
    line = refused(capsys, "method=calm")
    assert line.startswith("error: method._target_=calm_plugin.code.Calm: ")
    assert said in line


def test_yaml_that_is_none_is_named(plugin: Plugin, capsys: pytest.CaptureFixture[str]) -> None:
    site = plugin("calm_plugin", {"method/calm": "_target_: [\n"})
    line = refused(capsys, "method=calm")
    assert str(site / "calm_plugin" / "conf" / "method" / "calm.yaml") in line
    check_settings(compose("method=finetune"))  # what nobody chose is not read


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "its file method/calm.yaml must have _target_: PACKAGE.MODULE.NAME"),
        ("- calm\n", "method/calm.yaml must have keys (KEY: VALUE), not a list"),
        ("calm\n", "method/calm.yaml must have keys (KEY: VALUE), not a str"),
    ],
)
def test_yaml_that_names_no_class(text: str, said: str, plugin: Plugin, capsys: pytest.CaptureFixture[str]) -> None:
    plugin("calm_plugin", {"method/calm": text})
    line = refused(capsys, "method=calm")
    assert line.startswith("error: method=calm: ")
    assert said in line


@pytest.mark.parametrize("text", ["a: [\n", "- a\n", ""])
def test_a_broken_file_of_a_plugin_is_in_nobodys_way(text: str, plugin: Plugin, tmp_path: Path) -> None:
    """It is named where it is chosen; elsewhere it is no suggestion."""
    site = plugin("bad_plugin", {"dataset/odd": text, "method/odd": text})
    assert load("digits", tmp_path).name == "digits"
    with pytest.raises(InputError, match=r"^scenario.datasets: there is no dataset 'digts'; did you mean 'digits'\?$"):
        load("digts", tmp_path)
    with pytest.raises(InputError, match=r"^dataset=odd: |^scenario.datasets: there is no dataset 'odd'") as caught:
        load("odd", tmp_path)
    assert not text or str(site / "bad_plugin" / "conf" / "dataset" / "odd.yaml") in str(caught.value)
    assert "\n" not in str(caught.value)
    others = methods_with("needs_borders", False)
    assert "er" in others
    assert "odd" not in others


def test_answers_of_another_width_are_refused(plugin: Plugin, tmp_path: Path) -> None:
    """One number for each image would stand for every output."""
    narrow = "    def forward(self, x: Any, index: Any = None) -> Any:\n        return self.network(x)[:, :1]\n\n"
    plugin("calm_plugin", YAML, code=CALM.replace("class Other", f"{narrow}class Other"))
    with pytest.raises(InputError, match=r"^method: its forward returns the shape \(\d+, 1\) for .* 10 outputs"):
        run(compose("method=calm", *QUICK, f"output_root={tmp_path}"))


@pytest.mark.parametrize(
    ("number", "line", "reason"),
    [
        (1, 'kinds = ("clas",)', "kinds=('clas',): input should be 'class', 'task' or 'domain'"),
        (2, 'kinds = "class"', "kinds='class': input should be a valid tuple"),
        (3, 'refused = ("label_smoothing",)', "refused=('label_smoothing',): input should be a valid dictionary"),
        (4, 'refused = {"label_smothing": "no"}', "refused has 'label_smothing', which is no key; did you mean"),
        (5, 'unread = {"kalm": {}}', "unread has 'kalm', which is no key; did you mean 'calm'?"),
        (6, 'trains = "never"', "trains='never': input should be a valid boolean"),
    ],
)
def test_a_wrong_class_attribute_of_a_method_is_one_line(
    number: int, line: str, reason: str, plugin: Plugin, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"says{number}_plugin"
    code = CALM.replace('kinds = ("class", "task")', line)
    plugin(name, {"method/calm": f"_target_: {name}.code.Calm\ncalm: 0.5\n"}, code=code)
    said = refused(capsys, "method=calm", "dataset=digits", f"plugins=[{name}]")
    assert said.startswith(f"error: method._target_={name}.code.Calm: {reason}")


def test_answers_that_are_no_numbers_are_refused(plugin: Plugin, tmp_path: Path) -> None:
    """The first NaN would be the highest: chance, and no word of it. One of an output that may not answer is none."""
    body = "    def forward(self, x: Any, index: Any = None) -> Any:\n        logits = self.network(x)\n"
    body += "        logits[{rows}, {column}] = float('nan')\n        return logits\n\n"
    for rows, column in (":", 9), ("2", 0):
        wrong = body.format(rows=rows, column=column)
        plugin(f"nan{column}_plugin", {}, code=CALM.replace("class Other", f"{wrong}class Other"), entry=False)
        settings = compose("method=finetune", *QUICK, f"output_root={tmp_path}", f"plugins=[nan{column}_plugin]")
        settings["method"] = {"_target_": f"nan{column}_plugin.code.Calm", "calm": 0.5}
        scenario, method = prepare(settings)
        if column == 9:
            Score(scenario).measure(method, after=0)
        else:
            with pytest.raises(InputError, match=r"^method: its forward returns NaN for [1-9]\d* answers"):
                Score(scenario).measure(method, after=0)
            with pytest.raises(InputError, match="forward returns NaN"):
                Score(scenario).right(method, 0, {0: scenario.tests[0]})
            with pytest.raises(InputError, match="forward returns NaN"):
                Score(scenario).on_stream(method, 0, torch.ones(10, dtype=torch.bool))


@pytest.mark.parametrize("name", ["finetune", "calm"])
def test_a_name_that_two_packages_have_is_refused_where_it_is_chosen(
    name: str, plugin: Plugin, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin("calm_plugin", YAML | {f"method/{name}": YAML["method/calm"]})
    plugin("other_plugin", {f"method/{name}": "_target_: other_plugin.code.Calm\ncalm: 1.0\n"})
    owners = "cl_bench and calm_plugin and other_plugin" if name == "finetune" else "calm_plugin and other_plugin"
    assert refused(capsys, f"method={name}").startswith(f"error: method={name}: {owners} each have conf/method/")
    check_settings(compose("method=er"))


def test_a_plugin_that_is_declared_and_not_there_is_in_nobodys_way(plugin: Plugin) -> None:
    site = plugin("calm_plugin", YAML)
    (site / "calm_plugin").rename(site / "gone")
    assert conf_folders() == {}
    check_settings(compose("method=er"))


def test_a_plugin_inside_a_namespace_package(plugin: Plugin) -> None:
    site = plugin("calm_plugin", YAML)
    (site / "calm_plugin" / "__init__.py").unlink()
    assert conf_folders() == {"calm_plugin": site / "calm_plugin" / "conf"}
    checked(compose("method=calm"))


def test_ours_is_always_allowed() -> None:
    assert allowed([])[0] == "cl_bench"
    assert not conf_folders() or CONF not in conf_folders().values()
