"""The pages under docs/ say what the code does: keys, kinds, numbers, pictures, commands and examples are checked."""

from __future__ import annotations

import doctest
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import test_contract as contract
import yaml
from conftest import METHODS, Compose, there
from example_records import generated, task_record

import cl_bench
from cl_bench.config.compose import compose
from cl_bench.config.declared import declared
from cl_bench.config.names import CONF, options_of
from cl_bench.config.schema import target
from cl_bench.data.problem import Problem
from cl_bench.evaluation.judge import generated_metrics
from cl_bench.evaluation.metrics import continual_metrics
from cl_bench.manual import settings_of
from cl_bench.runs.loop import run
from cl_bench.verify import rewritten

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
IGNORED = {"outputs", "data", "wandb", "build", "dist"}
PAGES = sorted(
    page
    for page in ROOT.rglob("*.md")
    if not any(part in IGNORED or part.startswith(".") for part in page.relative_to(ROOT).parts)
)
SECTIONS = ["Idea", "Formulas", "Settings", "Differences from the paper", "Kept between tasks", "Our numbers"]
FENCE = re.compile(r"^( *)```.*?^\1```$", re.MULTILINE | re.DOTALL)

of_pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
of_methods = pytest.mark.parametrize("method", METHODS)


def page_of(method: str) -> str:
    page = DOCS / "methods" / f"{method}.md"
    assert page.is_file(), f"method={method} has no page {page.relative_to(ROOT)}"
    return page.read_text()


def sections(text: str) -> dict[str, str]:
    """The text under each heading of the second level; what stands before them under ''."""
    parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)
    return {"": parts[0]} | dict(zip(parts[1::2], parts[2::2], strict=True))


def read(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text())


# --------------------------------------------------------------------------------------------- of methods


@of_methods
def test_each_method_has_a_page_of_the_same_form(method: str) -> None:
    parts = sections(page_of(method))
    assert list(parts) == ["", *SECTIONS]
    assert f"`method={method}`" in parts[""]
    kinds = target(read(CONF / "method" / f"{method}.yaml"), "method").kinds
    named = {"class": "class-", "task": "task-", "domain": "domain-"}
    assert {kind for kind, word in named.items() if word in parts[""]} == set(kinds)


@of_methods
def test_each_key_of_a_method_is_in_the_table_of_its_page(method: str) -> None:
    """What is in the table is what the YAML says: below."""
    text = sections(page_of(method))["Settings"]
    has_keys = any(settings_of((CONF / "method" / f"{method}.yaml").read_text()))
    assert (f"<!-- keys of method={method} -->" if has_keys else "The method has no settings.") in text


@pytest.mark.parametrize("file", [*CONF.glob("gan/*.yaml"), *CONF.glob("generator/*.yaml")], ids=lambda file: file.stem)
def test_each_generator_is_named(file: Path) -> None:
    parts = sections((DOCS / "generators.md").read_text())
    assert f"`{file.stem}`" in parts["" if file.parent.name == "gan" else "Masked generators"]


@of_pages
def test_tables_are_those_of_the_data_and_of_the_comments(page: Path) -> None:
    """`cl-bench verify --tables` makes them again."""
    text = page.read_text()
    assert text == rewritten(text)


def test_groups_that_all_methods_share_have_their_table() -> None:
    text = "".join(page.read_text() for page in PAGES)
    for words in ("trainer label_smoothing", "optimizer", "scheduler", "memory", "features", "gan@method.gan"):
        assert f"<!-- keys of {words} -->" in text


@of_methods
def test_no_number_of_ours_is_typed_by_hand(method: str) -> None:
    """What an older version measured, and is in no table, stands last and says so."""
    text = sections(page_of(method))["Our numbers"]
    made = f"<!-- results of method={method} -->"
    assert text.count(made) == 1
    before, _, after = text.partition(made)
    by_hand = after.partition("<!-- end of results -->")[2].partition("\nAn older version ")[0]
    assert not re.search(r"(?<!\d)\.\d{3}", before + by_hand)


def test_no_number_of_ours_is_typed_into_an_experiment() -> None:
    for file in CONF.glob("experiment/**/*.yaml"):
        assert not re.search(r"\b[Oo]urs\b[^.;]*\.\d{3}", file.read_text()), file


# ----------------------------------------------------------------------------------------------- of pages


def anchors(page: Path) -> set[str]:
    """What a Git host makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> list[str]:
    """The relative links of a page."""
    text = re.sub(r"`[^`\n]*`", "", FENCE.sub("", page.read_text()))
    found = re.findall(r"\]\(([^)\s]+)[^)]*\)", text) + re.findall(r"^\[[^]]+\]:\s*(\S+)", text, re.MULTILINE)
    found += re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
    return [link for link in found if not re.match(r"[a-z]+:", link)]


@of_pages
def test_no_relative_link_is_broken(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        aim = (page.parent / path).resolve() if path else page
        assert aim.exists(), f"{link}: there is no such file"
        assert aim.is_relative_to(ROOT.resolve()), f"{link}: leads out of the repository"
        assert not anchor or anchor in anchors(aim), f"{link}: there is no such heading"


def test_each_page_is_linked_from_the_index() -> None:
    index = DOCS / "README.md"
    linked = {(index.parent / link.partition("#")[0]).resolve() for link in links(index)}
    assert {page for page in PAGES if page.is_relative_to(DOCS)} - {index} <= linked


@of_pages
def test_formulas_survive_markdown(page: Path) -> None:
    """Markdown reads a line before mathematics does: an escape is eaten, a star or an underscore may be emphasis."""
    text = page.read_text()
    for fence in FENCE.finditer(text):
        assert fence[0].count("\n\n") == 0 or not fence[0].startswith("```math"), f"a blank line ends {fence[0]}"
    text = re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))
    for formula in re.findall(r"\$([^$\n]+)\$", text):
        assert not re.search(r"\\[^a-zA-Z]|[*<>]|[)}\]]_|^\s|\s$", formula), formula
        assert formula.count("{") == formula.count("}"), formula
    assert text.count("$") % 2 == 0


def test_the_version_is_the_same_everywhere() -> None:
    assert read(ROOT / "CITATION.cff")["version"] == cl_bench.__version__
    assert cl_bench.__version__ in (ROOT / "CHANGELOG.md").read_text()


def commands(page: Path) -> list[list[str]]:
    """The arguments of each `python -m cl_bench` on a page, in a block or in a line."""
    text = page.read_text().replace("\\\n", " ")
    found = re.findall(r"^\s*python -m cl_bench( .*)?$|`python -m cl_bench( [^`]*)`", text, re.MULTILINE)
    return [shlex.split("".join(one), comments=True) for one in found]


@pytest.mark.parametrize(
    ("page", "arguments"),
    [(page, arguments) for page in PAGES if page.is_relative_to(DOCS) for arguments in commands(page)],
    ids=lambda one: one.stem if isinstance(one, Path) else " ".join(one),
)
def test_every_command_can_be_typed(page: Path, arguments: list[str], request: pytest.FixtureRequest) -> None:
    """Each value of a sweep with the first of the others composes, and the method has a meaning in the scenario."""
    if page.stem.startswith("adding_"):
        request.getfixturevalue("examples")
    given = [one for one in arguments if one not in ("-m", "--config-dir", "conf")]  # where `examples` puts all files
    choices = [re.split(r",(?![^\[{]*[\]}])", one.partition("=")[2]) for one in given]
    names = [one.partition("=")[0] for one in given]
    assert "-m" in arguments or all(len(values) == 1 for values in choices), "a sweep needs -m"
    most = max((len(values) for name, values in zip(names, choices, strict=True) if name != "seed"), default=1)
    for n in range(most):
        settings = compose(
            *(  # ~KEY has no value
                f"{key}={values[min(n, len(values) - 1)]}" if "=" in typed else typed
                for typed, key, values in zip(given, names, choices, strict=True)
            )
        )
        assert settings["scenario"]["kind"] in declared(settings, "kinds")


def test_what_newcomers_from_elsewhere_are_told_can_be_typed() -> None:
    """Spans of code in the column of cl_bench, but those that name a key of a method without the method."""
    page = (DOCS / "coming_from.md").read_text()
    cells = [line.rstrip(" |").rpartition(" | ")[2] for line in page.splitlines() if line.startswith("|")]
    spans = [span for cell in cells for span in re.findall(r"`([^`]+)`", cell) if not span.startswith("method.")]
    typed = [one for one in map(str.split, spans) if all(re.fullmatch(r"[\w.]+=(?!.*\.\.\.).+", word) for word in one)]
    assert len(typed) > 20
    for words in typed:
        scenario = compose(*words)["scenario"]
        assert not (scenario.get("n_tasks") and scenario.get("classes_per_task")), words


# ------------------------------------------------------------------------------------- pictures, sessions


def test_pictures_of_masks() -> None:
    """Six classes, two per task."""
    page = (DOCS / "scenarios.md").read_text()
    pictures = re.findall(r"```text\n(\w+), ([\w=-]+), after (\d) of 3\n(.*?)```", page, re.DOTALL)
    assert len(pictures) == 6
    pairs = ((0, 1), (2, 3), (4, 5))
    for when, what, after, picture in pictures:
        if when == "training":
            problem = Problem("class", (1, 8, 8), pairs, what.removeprefix("train_mask="))
        else:
            kind = what.removesuffix("-incremental")
            problem = Problem(kind, (1, 8, 8), (pairs[0],) * 3 if kind == "domain" else pairs)
        rule = problem.rules["train" if when == "training" else when]
        # of a replayed image the classes that were current with it, see `Classifier.active`
        mask = problem.mask("own" if rule == "current" else rule, int(after) - 1)
        for task, row in re.findall(r"task (\d)((?: +[#.])+)", picture):
            assert [sign == "#" for sign in row.split()] == mask[int(task) - 1].tolist(), (what, task)


def session(page: Path) -> None:
    """Runs the Python sessions of a page, one after another."""
    blocks = re.findall(r"```python\n(>>> .*?)```", page.read_text(), re.DOTALL)
    test = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, page.name, str(page), 0)
    result = doctest.DocTestRunner().run(test)
    assert result.attempted
    assert not result.failed


def test_worked_example_of_the_metrics() -> None:
    session(DOCS / "metrics.md")


def test_the_api_is_as_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    session(DOCS / "api.md")


def test_each_metric_is_on_the_page() -> None:
    page = (DOCS / "metrics.md").read_text()
    ends = {"A5": 0, "A10": 1}
    of_generator = generated_metrics([task_record(0, generated=generated([], []))], ends)
    names = [*continual_metrics(2, [5, 5], [0.9, 0.9]), *of_generator]
    headings = set(chain(*(heading.split(", ") for heading in re.findall(r"^### (.+)$", page, re.MULTILINE))))
    assert set(names) <= headings | set(re.findall(r"`(\w+)`", page)), "no such heading"
    assert {"ACC", "A5", "A10", "intransigence", "MeRGAN_score"} <= set(names)


# ----------------------------------------------------------------------------------------------- examples


def written(page: str, folder: Path) -> list[Path]:
    """The files that a page shows, below a folder; their names."""
    shown = re.findall(r"^\*\*`([^`]+)`\*\*\n\n```\w+\n(.*?)```$", (DOCS / page).read_text(), re.M | re.S)
    for name, text in shown:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return [Path(name) for name, _ in shown]


@pytest.fixture
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The files of the pages about adding something: a data set as if it were ours, the method beside it."""
    shutil.copytree(CONF, tmp_path / "conf")
    written("adding_a_method.md", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    names = written("adding_a_dataset.md", tmp_path)
    assert not any((ROOT / name).exists() for name in names)
    modules = [".".join(name.with_suffix("").parts) for name in names if name.suffix == ".py"]
    for place in ("compose", "names"):
        monkeypatch.setattr(f"cl_bench.config.{place}.CONF", tmp_path / "conf")
    for module in modules:
        package = import_module(module.rpartition(".")[0])
        folder = tmp_path / Path(*module.split(".")[:-1])
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    yield
    for module in (*modules, "anchor"):
        sys.modules.pop(module, None)


@pytest.fixture
def anchor(tmp_path: Path, small: Compose, monkeypatch: pytest.MonkeyPatch) -> Iterator[Compose]:
    """`small` with the method of the page, which lies in a folder of a person's own and is known to the contract."""
    assert written("adding_a_method.md", tmp_path) == [Path("anchor.py"), Path("conf/method/anchor.yaml")]
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(contract.KINDS, "anchor", ("class", "task", "domain"))
    yield partial(small, "plugins=[anchor]", f"hydra.searchpath=[file://{tmp_path / 'conf'}]")
    sys.modules.pop("anchor", None)


@pytest.mark.parametrize("kind", ["class", "task", "domain"])
def test_the_method_of_the_page_learns(anchor: Compose, kind: str) -> None:
    contract.test_it_learns_in_each_kind_it_declares("anchor", kind, anchor)


def test_the_method_of_the_page_goes_on_after_a_kill(anchor: Compose, tmp_path: Path) -> None:
    contract.test_killed_and_resumed_equals_uninterrupted("anchor", "task", 7, (), anchor)
    contract.test_its_state_is_all_it_remembers("anchor", anchor, tmp_path)


def test_the_method_of_the_page_forgets_less(anchor: Compose) -> None:
    common = ("scenario=domain_incremental", "trainer.epochs=10", "optimizer.lr=0.01")
    plain = there(run(anchor("method=finetune", *common)).metrics["BWT"])
    assert there(run(anchor("method=anchor", *common)).metrics["BWT"]) > plain


def test_the_method_of_the_page_is_a_page_long_and_needs_three_files_to_read(tmp_path: Path) -> None:
    written("adding_a_method.md", tmp_path)
    assert len([line for line in (tmp_path / "anchor.py").read_text().splitlines() if line.strip()]) <= 35
    page = (DOCS / "adding_a_method.md").read_text()
    files = re.findall(r"\]\(\.\./(\S+)\)", page[page.index("Three files") : page.index("## An example")])
    assert len(files) == 3
    assert sum(len((ROOT / file).read_text().splitlines()) for file in files) <= 400


def test_the_data_sets_of_the_page(
    examples: None, small: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    session(DOCS / "adding_a_dataset.md")
    assert "bars" in options_of("dataset")
    for command in commands(DOCS / "adding_a_dataset.md"):
        if {"dataset=npz", "dataset=bars"} & {*command}:  # of others the page has no files
            results = run(small(*command, "trainer.iterations=100", "trainer.batch_size=16"))
            assert there(results.R[-1][-1]) > 0.9  # the task just learned
