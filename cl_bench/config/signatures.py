"""Typed signatures, read from source: to import a method is to import torch, too long a wait for a slip of the pen.

What is plain to read is here as an import would show it, but for types from outside the package that nothing has
imported yet, for which `Built` stands. The rest raises LookupError, and is left to the import.
"""

from __future__ import annotations

import ast
import sys
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_type_hints

PACKAGE = __name__.partition(".")[0]


class Built:
    """A network, an optimizer: in a configuration it has keys of its own, and no plain value will do."""


def parameters(path: str) -> dict[str, Any]:
    """The type of each parameter of the class or function `path`, by name. Raises LookupError, see above."""
    module, found = _constructor(path)
    if isinstance(found, ast.ClassDef):
        return _fields(module, found)
    if not isinstance(found, ast.FunctionDef) or found.args.vararg or found.args.kwarg:
        raise LookupError(path)
    known = [argument for argument in (*found.args.args, *found.args.kwonlyargs) if argument.arg != "self"]
    return {argument.arg: _evaluated(argument.annotation, module) if argument.annotation else Any for argument in known}


def by_name_alone(path: str) -> set[str]:
    """The parameters of the class or function `path` that no position stands for. Raises LookupError, see above."""
    _, found = _constructor(path)
    return {argument.arg for argument in found.args.kwonlyargs} if isinstance(found, ast.FunctionDef) else set()


def _constructor(path: str) -> tuple[str, ast.AST]:
    """What is called to make the class or function `path`: a function, or the class itself of a dataclass."""
    module, found = _find(*_split(path))
    if isinstance(found, ast.ClassDef) and not any("dataclass" in ast.dump(name) for name in found.decorator_list):
        return _member(module, found, "__init__")
    return module, found


def constant(path: str, name: str) -> Any:
    """The `name` of the class `path`, or of one that it comes from. Raises LookupError, see above."""
    _, value = _member(*_find(*_split(path)), name)
    try:
        return ast.literal_eval(value)
    except ValueError:
        raise LookupError(name) from None


def _fields(module: str, owner: ast.AST) -> dict[str, Any]:
    """Those of a dataclass, after those of the one that it comes from."""
    if not isinstance(owner, ast.ClassDef):
        raise LookupError(module)
    known: dict[str, Any] = {}
    for base in owner.bases:
        known |= _fields(*_find(module, ast.unparse(base)))
    own = [node for node in owner.body if isinstance(node, ast.AnnAssign)]
    return known | {ast.unparse(field.target): _evaluated(field.annotation, module) for field in own}


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
            names |= {alias.name: node for alias in node.names if not alias.asname}
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {ast.unparse(target): node.value for target in targets}
    return names


def _find(module: str, name: str) -> tuple[str, ast.AST]:
    """Where in the package a name is defined, and how."""
    found = _definitions(module)[name]
    return _find(str(found.module), name) if isinstance(found, ast.ImportFrom) else (module, found)


def _member(module: str, owner: ast.AST, name: str) -> tuple[str, Any]:
    """A method or a constant of a class, or of the nearest that it comes from."""
    if not isinstance(owner, ast.ClassDef):
        raise LookupError(name)
    own = _names(owner.body)
    if name in own:
        return module, own[name]
    for base in owner.bases:
        with suppress(LookupError):
            return _member(*_find(module, ast.unparse(base)), name)
    raise LookupError(name)


def _evaluated(annotation: ast.expr, module: str) -> Any:
    text = ast.unparse(_Undotted().visit(annotation))
    try:
        place = SimpleNamespace(__annotations__={"it": text})
        return get_type_hints(place, {}, _Types(module), include_extras=True)["it"]
    except (NameError, TypeError):
        raise LookupError(text) from None


class _Undotted(ast.NodeTransformer):
    """nn.Module and its like become Built."""

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        if ast.unparse(node.value) != "nn":
            raise LookupError(ast.unparse(node))
        return ast.copy_location(ast.Name("Built", ast.Load()), node)


class _Types(dict[str, Any]):
    """What a name means in the annotations of a module; KeyError for a name of Python's own."""

    def __init__(self, module: str) -> None:
        super().__init__(Built=Built)
        self.module = module

    def __missing__(self, name: str) -> Any:
        found = _definitions(self.module)[name]
        if isinstance(found, ast.expr):
            return _evaluated(found, self.module)
        if isinstance(found, ast.ImportFrom):
            origin = str(found.module)
            if origin in sys.modules:
                return vars(sys.modules[origin])[name]
            if origin.partition(".")[0] == PACKAGE:
                return _Types(origin)[name]
        return Built
