"""`cl-bench explain method=er`: the YAML files with their comments, for people who have no checkout."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

import yaml

from cl_bench.config import InputError
from cl_bench.config.arguments import answered
from cl_bench.config.errors import nearest
from cl_bench.config.explain import paths_of
from cl_bench.config.names import CONF, check_name, conf_of

SWEEPS = "sweeps"  # W&B sweeps lie beside the configuration
USAGE = """\
Prints the choices and keys of the configuration, with their comments.

  cl-bench explain                   all groups, and the keys outside them
  cl-bench explain method            the choices of a group
  cl-bench explain method=er         a choice, with all its keys
  cl-bench explain method.strength   a key, in every choice that has it
  cl-bench explain sweeps=n_gen      a W&B sweep; add > n_gen.yaml to save it for `wandb sweep`"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the explanation of each word and returns the exit code; what there isn't is one line on stderr."""
    return answered(lambda words: print("\n\n".join(map(explanation, words or [""]))), arguments, USAGE)


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
    text = top()
    if found := lines_of(text, word) if word else text:
        return found
    if choices := [f"{group}={word}" for group in groups() if word in files_of(group)]:
        raise InputError(f"{word}: no such key; did you mean '{choices[0]}'?")
    raise InputError(f"{word}: no such key{nearest(word, {*keys_of(text), *groups()})}")


def top() -> str:
    """The YAML outside of all groups, without Hydra's own."""
    return (CONF / "config.yaml").read_text().partition("\nhydra:")[0]


def of_group(group: str, key: str) -> str:
    """The lines of a key in each choice of a group that has it."""
    known = set()
    for place, rest in ((group, key), key.partition(".")[::2]):  # method.gan.n_critic is gan.n_critic
        if place in groups() and not rest:
            return explanation(place)
        texts = {f"{place}={name}": file.read_text() for name, file in files_of(place).items()} if rest else {}
        if found := {name: part for name, text in texts.items() if (part := lines_of(text, rest))}:
            return "\n\n".join(f"# {name}\n{part}" for name, part in found.items())
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
    """The lines of a YAML file that set a dotted key, with their comments, also those above; '' where it isn't there.

    >>> print(lines_of("a: 1\\nb:  # of two\\n  # the first\\n  c: 2\\n  d: 3  # the second\\n", "b.c"))
      # the first
      c: 2
    """
    lines = text.splitlines()
    node, start, end = yaml.compose(text), 0, len(lines)
    for name in key.split("."):
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        starts = [own.start_mark.line - len(above(lines, own)) for own, _ in pairs]
        place = next((i for i, (own, _) in enumerate(pairs) if own.value == name), None)
        if place is None:
            return ""
        start, end = starts[place], [*starts, end][place + 1]
        node = pairs[place][1]
    return "\n".join(lines[start:end]).rstrip()


def above(lines: Sequence[str], key: yaml.Node) -> list[str]:
    """The lines of comment right above a key, which are of it; those that begin a file are of the file."""
    line = key.start_mark.line
    indent = len(lines[line]) - len(lines[line].lstrip())
    found = list(takewhile(lambda text: text.startswith(" " * indent + "#"), reversed(lines[:line])))[::-1]
    return found if len(found) < line else []


# ------------------------------------------------------------------------------------- as tables of a page


class Setting(NamedTuple):
    """A key that can be set: as it is typed, its value as the file has it, what its comment says."""

    key: str
    value: str
    meaning: str


def settings_of(text: str, prefix: str = "") -> Iterator[Setting]:
    """The keys of a YAML file, with a prefix, in their order; those that stand in its defaults are choices of groups.

    >>> text = "a: 1.0  # how far\\nb:\\n  # of two\\n  # things\\n  c: [2]\\n"
    >>> [tuple(setting) for setting in settings_of(text, "x.")]
    [('x.a', '1.0', 'how far'), ('x.b.c', '[2]', 'of two things')]
    """
    lines = text.splitlines()

    def below(node: yaml.Node, path: str) -> Iterator[Setting]:
        for key, value in node.value if isinstance(node, yaml.MappingNode) else []:
            if key.value == "defaults":
                chosen = (entry for entry in value.value if isinstance(entry, yaml.MappingNode))
                yield from (setting for entry in chosen for setting in below(entry, "") if " " not in setting.key)
            elif isinstance(value, yaml.MappingNode) and not value.flow_style:
                yield from below(value, f"{path}{key.value}.")
            elif key.value != "_target_":
                group = key.value.removeprefix("/")  # typed with the place where it belongs
                name = f"{group}@{prefix}{group}" if group != key.value else f"{path}{key.value}"
                last = value if value.end_mark.line == key.end_mark.line else key
                beside = lines[key.end_mark.line][last.end_mark.column :].lstrip(": ")
                meaning = " ".join(line.strip(" #") for line in [*above(lines, key), beside]).strip()
                yield Setting(name, text[value.start_mark.index : value.end_mark.index], meaning)

    return below(yaml.compose(text), prefix)


def settings_named(word: str) -> dict[str, list[Setting]]:
    """By each choice the keys that a word names: GROUP=NAME, all choices of a GROUP, or by '' a key outside of groups
    and all below it. A group that belongs somewhere else is GROUP@PLACE.

    Raises InputError for what there isn't.
    """
    name, _, choice = word.partition("=")
    group, _, place = name.partition("@")
    if group in groups():
        explanation(word)  # refuses a choice that there isn't
        files = {own: file for own, file in files_of(group).items() if choice in ("", own)}
        return {own: list(settings_of(file.read_text(), f"{place or group}.")) for own, file in files.items()}
    of_top(word)
    return {"": [setting for setting in settings_of(top()) if f"{setting.key}.".startswith(f"{word}.")]}


def keys_table(words: str) -> str:
    """The keys that words name, as a Markdown table. Choices of a group share a row where a key means the same."""
    lines = ["| key | default | meaning |", "|---|---|---|"]
    for word in words.split():
        found = settings_named(word)
        keys: dict[str, dict[str, dict[str, list[str]]]] = {}  # by meaning, by value: of which choices
        for choice, settings in found.items():
            for key, value, meaning in settings:
                keys.setdefault(key, {}).setdefault(meaning, {}).setdefault(value, []).append(f"`{choice}`")
        for key, meanings in keys.items():
            for meaning, values in meanings.items():
                defaults = (
                    ("must be given" if value == "???" else f"`{value}`")
                    + (f" ({', '.join(choices)})" if len(choices) < len(found) else "")
                    for value, choices in values.items()
                )
                lines.append(f"| `{key}` | {', '.join(defaults)} | {styled(meaning)} |")
    return "\n".join(lines)


TYPED = re.compile(
    r"(?:(?<![^(])|(?<=[.;|] ))(?:[a-z0-9][\w.-]*|[A-Z])(?=:| \||$)"  # a choice, before what it means or between bars
    r"|[\w./@]*[=_][\w./=@\[\],]*[\w\]]|\bnull\b"
)


def styled(comment: str) -> str:
    """A comment as a cell of a Markdown table: what can be typed as code, bars escaped.

    >>> print(styled("what answers. mean: the nearest | net: as in a_b, c=1; null: both"))
    what answers. `mean`: the nearest \\| `net`: as in `a_b`, `c=1`; `null`: both
    """
    return TYPED.sub(lambda word: f"`{word[0]}`", comment).replace("|", "\\|")
