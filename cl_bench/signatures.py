"""Typed signatures, read from the source: to import a method is to import torch, too long a wait for a slip of the pen.

What is found here is what `inspect` finds after the import, but for types from outside the package that nothing has
imported yet: `Built` stands for them. No code of the package runs, but for its type aliases.
"""

from __future__ import annotations

import ast
import builtins
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PACKAGE = __name__.partition(".")[0]


class Built:
    """What has keys of its own in a configuration, and no value: a network, an optimiser."""


def parameters(path: str) -> dict[str, Any]:
    """The type of each parameter of the class or function `path`, by name.

    Raises LookupError where there is no such thing.
    """
    module, found = _find(*_split(path))
    if isinstance(found, ast.ClassDef):
        fields = [node for node in found.body if isinstance(node, ast.AnnAssign)]
        if any("dataclass" in ast.dump(decorator) for decorator in found.decorator_list):
            return {ast.unparse(field.target): _evaluated(field.annotation, module) for field in fields}
        module, found = _member(module, found, "__init__")
    if not isinstance(found, ast.FunctionDef):
        raise LookupError(path)
    known = [*found.args.args, *found.args.kwonlyargs]
    return {one.arg: _evaluated(one.annotation, module) for one in known if one.arg != "self"}


def constant(path: str, name: str) -> Any:
    """What the class `path`, or one that it comes from, says in plain numbers and words that its `name` is.

    Raises LookupError where it doesn't.
    """
    module, found = _find(*_split(path))
    _, value = _member(module, found, name)
    return ast.literal_eval(value)


def _split(path: str) -> tuple[str, str]:
    module, _, name = path.rpartition(".")
    return module, name


@cache
def _definitions(module: str) -> dict[str, ast.AST]:
    """What a module of the package defines, and the statements by which it imports, by name."""
    if module.partition(".")[0] != PACKAGE:
        raise LookupError(module)
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None:
        raise LookupError(module)
    return _names(ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body)


def _names(body: list[ast.stmt]) -> dict[str, ast.AST]:
    names: dict[str, ast.AST] = {}
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names[node.name] = node
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.name: node for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {ast.unparse(target): node.value for target in targets}
    return names


def _find(module: str, name: str) -> tuple[str, ast.AST]:
    """Where in the package a name is defined, and how."""
    found = _definitions(module)[name]
    return _find(str(found.module), name) if isinstance(found, ast.ImportFrom) else (module, found)


def _member(module: str, owner: ast.AST, name: str) -> tuple[str, Any]:
    """A method or a constant of a class, or of the first of those that it comes from that has it."""
    if not isinstance(owner, ast.ClassDef):
        raise LookupError(name)
    own = _names(owner.body)
    if name in own:
        return module, own[name]
    for base in owner.bases:
        try:
            return _member(*_find(module, ast.unparse(base)), name)
        except LookupError:  # a base from outside
            continue
    raise LookupError(name)


def _evaluated(annotation: ast.expr | None, module: str) -> Any:
    if annotation is None:
        return Any
    return eval(compile(ast.Expression(_Undotted().visit(annotation)), module, "eval"), {}, _Types(module))


class _Undotted(ast.NodeTransformer):
    """nn.Module and the like become Built."""

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        return ast.copy_location(ast.Name("Built", ast.Load()), node)


class _Types(dict[str, Any]):
    """What a name means in the annotations of a module."""

    def __init__(self, module: str) -> None:
        super().__init__(Built=Built)
        self.module = module

    def __missing__(self, name: str) -> Any:
        if hasattr(builtins, name):
            return getattr(builtins, name)
        found = _definitions(self.module).get(name)
        if isinstance(found, ast.ImportFrom) and found.module:
            if found.module in sys.modules:
                return getattr(sys.modules[found.module], name)
            return _Types(found.module)[name] if found.module.partition(".")[0] == PACKAGE else Built
        return _evaluated(found, self.module) if isinstance(found, ast.expr) else Built
