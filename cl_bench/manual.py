"""`cl-bench explain method=er`: the YAML files with their comments, for people who have no checkout."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from cl_bench.config import InputError
from cl_bench.config.errors import nearest
from cl_bench.config.explain import paths_of
from cl_bench.config.names import CONF, check_name, conf_of

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
    name, equals, choice = word.partition("=")
    group = name.partition("@")[0]  # gan@method.gan
    if equals and group not in groups():
        raise InputError(f"{word}: there is no group '{group}'{nearest(group, groups())}")
    if equals:
        check_name(group, choice)
        files = files_of(group)
        if choice not in files:
            raise InputError(f"{word}: no such {group}{nearest(choice, files)}")
        return "\n\n".join(filter(None, [files[choice].read_text().rstrip(), of_every_choice(group)]))
    if group in groups():
        return "\n".join(f"{group}={name}  {first_comment(file)}" for name, file in files_of(group).items())
    group, _, key = word.partition(".")
    return of_group(group, key) if group in groups() else of_top(word)


def of_top(word: str) -> str:
    """The lines of a key outside all groups; of '' all of these keys."""
    text = (CONF / "config.yaml").read_text().partition("\nhydra:")[0]
    if found := lines_of(text, word) if word else text:
        return found
    if choices := [f"{group}={word}" for group in groups() if word in files_of(group)]:
        raise InputError(f"{word}: no such key; did you mean '{choices[0]}'?")
    raise InputError(f"{word}: no such key{nearest(word, {*keys_of(text), *groups()})}")


def of_group(group: str, key: str) -> str:
    """The lines of a key in each choice of a group that has it."""
    known = set()
    for place, rest in ((group, key), key.partition(".")[::2]):  # method.gan.n_critic is gan.n_critic
        if place in groups() and not rest:
            return explanation(place)
        texts = {f"{place}={name}": file.read_text() for name, file in files_of(place).items()} if rest else {}
        if found := {name: part for name, text in texts.items() if (part := lines_of(text, rest))}:
            return "\n".join(f"# {name}\n{part}" for name, part in found.items())
        if place == group and (part := of_every_choice(f"{group}.{rest}")):
            return f"# any {group}\n{part}"
        known |= {path if place == group else f"{place}.{path}" for text in texts.values() for path in keys_of(text)}
    raise InputError(f"{group}.{key}: no such key{nearest(key, known, f'{group}.')}")


def of_every_choice(key: str) -> str:
    """The lines of keys that a group has whatever is chosen, those of a stream in `scenario`; '' where it has none."""
    return lines_of((CONF / "config.yaml").read_text(), key)


def keys_of(text: str) -> list[str]:
    """The dotted keys of a YAML file that can be set."""
    return [path for path in paths_of(yaml.safe_load(text)) if path != "defaults"]


def groups() -> list[str]:
    """The folders of the configuration that hold choices, by their names on the command line; those of installed
    plugins are among them."""
    below = {file.parent.relative_to(conf).as_posix() for conf in conf_of().values() for file in conf.rglob("*.yaml")}
    names = {name for name in below - {"."} if not name.startswith("experiment/")}
    return sorted({*names, "experiment", SWEEPS})


def files_of(group: str) -> dict[str, Path]:
    """The file of each choice of a group."""
    tops = [CONF.parent / SWEEPS] if group == SWEEPS else [conf / group for conf in conf_of().values()]
    found = {file.relative_to(top).with_suffix("").as_posix(): file for top in tops for file in top.rglob("*.yaml")}
    return dict(sorted(found.items()))


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
