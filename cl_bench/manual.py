"""`cl-bench explain method=er`: the YAML files with their comments, for people who have no checkout."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from cl_bench.config import InputError
from cl_bench.config.errors import nearest
from cl_bench.config.explain import paths_of
from cl_bench.config.names import CONF, check_name

SWEEPS = "sweeps"  # W&B sweeps lie beside the configuration
USAGE = """\
Explains what can be chosen and set, by the comments of the configuration.

  cl-bench explain                   all groups, and the keys outside them
  cl-bench explain method            the choices of a group
  cl-bench explain method=er         a choice, with all its keys
  cl-bench explain method.strength   a key, in every choice that has it
  cl-bench explain sweeps=n_gen      a W&B sweep; > n_gen.yaml keeps it for `wandb sweep`"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the explanation of each word and returns the exit code; what there isn't is one line on stderr."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if {"-h", "--help"} & set(words):
        print(USAGE)
        return 0
    try:
        print("\n\n".join(explanation(word) for word in words or [""]))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def explanation(word: str) -> str:
    """What the configuration says of a group, a choice (GROUP=NAME) or a dotted key; of '' all that is outside groups.

    Raises InputError for what there isn't.
    """
    top = (CONF / "config.yaml").read_text().partition("\nhydra:")[0]
    if not word:
        return top
    group, equals, choice = word.partition("=")
    group = group.partition("@")[0]  # gan@method.gan
    if equals and group not in groups():
        raise InputError(f"{word}: there is no group '{group}'{nearest(group, groups())}")
    if equals:
        check_name(group, choice)
        files = files_of(group)
        if choice not in files:
            raise InputError(f"{word}: no such {group}{nearest(choice, files)}")
        return files[choice].read_text().rstrip()
    if group in groups():
        return "\n".join(f"{group}={name}  {first_comment(file)}" for name, file in files_of(group).items())
    group, _, key = word.partition(".")
    places = [(group, key), key.partition(".")[::2]] if group in groups() else []  # method.gan.n_critic is gan.n_critic
    known = set() if places else {*paths_of(yaml.safe_load(top))} - {"defaults"}
    for inner, rest in places:
        if inner in groups() and not rest:
            return explanation(inner)
        own = {f"{inner}={name}": file.read_text() for name, file in files_of(inner).items()} if rest else {}
        if found := {name: part for name, text in own.items() if (part := lines_of(text, rest))}:
            return "\n".join(f"# {name}\n{part}" for name, part in found.items())
        paths = {path for text in own.values() for path in paths_of(yaml.safe_load(text))}
        known |= paths if inner == group else {f"{inner}.{path}" for path in paths}
    if found := "" if places else lines_of(top, word):
        return found
    if places:
        raise InputError(f"{word}: no such key{nearest(key, known, f'{group}.')}")
    choices = [f"{name}={word}" for name in groups() if word in files_of(name)]
    near = f"; did you mean '{choices[0]}'?" if choices else nearest(word, known | {*groups()})
    raise InputError(f"{word}: no such key{near}")


def groups() -> list[str]:
    """The folders of the configuration that hold choices, by their names on the command line."""
    below = {file.parent.relative_to(CONF).as_posix() for file in CONF.rglob("*.yaml")} - {"."}
    names = {name for name in below if not (CONF / name).parent.is_relative_to(CONF / "experiment")}
    return sorted({*names, "experiment", SWEEPS})


def files_of(group: str) -> dict[str, Path]:
    """The file of each choice of a group."""
    top = CONF.parent / SWEEPS if group == SWEEPS else CONF / group
    return {file.relative_to(top).with_suffix("").as_posix(): file for file in sorted(top.rglob("*.yaml"))}


def first_comment(file: Path) -> str:
    """What a file says of itself first."""
    lines = (line for line in file.read_text().splitlines() if line.startswith("# ") and "@package" not in line)
    return next(lines, "")


def lines_of(text: str, key: str) -> str:
    """The lines of a YAML file that set a dotted key, with their comments; '' where there is no such key.

    >>> print(lines_of("a: 1\\nb:  # of two\\n  c: 2  # the first\\n  d: 3\\n", "b.c"))
      c: 2  # the first
    """
    node, start, end = yaml.compose(text), 0, len(text.splitlines())
    for name in key.split("."):
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        starts = [own.start_mark.line for own, _ in pairs]
        place = next((i for i, (own, _) in enumerate(pairs) if own.value == name), None)
        if place is None:
            return ""
        start, end = starts[place], [*starts, end][place + 1]
        node = pairs[place][1]
    return "\n".join(text.splitlines()[start:end]).rstrip()
