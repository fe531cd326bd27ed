"""No attribute of an object is set by another: what an object is told, it is told in a call."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import cl_bench

ROOT = Path(cl_bench.__file__).parent
Function = ast.FunctionDef | ast.AsyncFunctionDef
GRADIENT = "torch's optimizers read a gradient there"
CONFIG = "a configuration of Hydra's, which is not frozen yet"
EXCEPTIONS: dict[str, dict[str, str]] = {  # by file: the target, and why
    "__main__.py": {
        "parser.error": "argparse has no other way to say it in one line",
        "config.trainer.progress": CONFIG,
        "next((action for action in parser._actions if action.dest == 'version')).version": "Hydra has its own",
    },
    "api.py": {"GlobalHydra.instance().hydra": "Hydra's global, put back as it was"},
    "config/search_path.py": {"ConfigStore.__deepcopy__": "half of a second of --help were copies that nobody changes"},
    "data/pictures.py": {"Image.MAX_IMAGE_PIXELS": "PIL has no other switch"},
    "methods/gem.py": {"p.grad": GRADIENT},
    "methods/hat.py": {"embedding.grad": GRADIENT},
    "methods/la_maml.py": {"weight.grad": GRADIENT},
    "methods/si.py": {"weight.grad": GRADIENT},
    "networks/optimizers.py": {"p.grad": GRADIENT},
    "methods/parts/importance.py": {"module.training": "`train(mode)` would set the parts of the module too"},
    "networks/masks.py": {"ctx.slope": "torch's place for what `backward` needs"},
    "process.py": {
        "sys.stdout": "Python's place for it",
        "sys.stderr": "Python's place for it",
        "logging.raiseExceptions": "Python's only switch",
    },
    "report/dashboard.py": {"made.entity": "known only once W&B has been asked"},
    "runs/console.py": {"console.width": "a narrow terminal's own width would cut numbers"},
    "runs/fit.py": {
        "torch.backends.cudnn.deterministic": "torch's only switch",
        "trainer.strategy.optimizers": "Lightning would keep them, and with them the images, after the phase",
        "module.trainer": "Lightning would keep them, and with them the images, after the phase",
    },
    "runs/progress.py": dict.fromkeys(
        ("self._phase.done", "self._phase.seconds", "self._phase.n_steps"), "a line of its own table"
    ),
    "runs/watch.py": {"trainer.should_stop": "Lightning's switch"},
    "sweep/jobs.py": {"config.hydra.overrides.task": CONFIG},
    "sweep/launch.py": {"settings.n_jobs": CONFIG},
}


def own_nodes(function: ast.AST) -> Iterator[ast.AST]:
    """What stands in a function or module itself, not in a function inside it."""
    for child in ast.iter_child_nodes(function):
        if not isinstance(child, Function | ast.Lambda):
            yield child
            yield from own_nodes(child)


def targets(node: ast.AST) -> list[ast.expr]:
    """The expressions that a statement binds, parts of tuples one by one."""
    if isinstance(node, ast.Assign | ast.Delete):
        found = list(node.targets)
    elif isinstance(node, ast.AugAssign | ast.AnnAssign | ast.For | ast.AsyncFor | ast.comprehension | ast.NamedExpr):
        found = [node.target]
    elif isinstance(node, ast.withitem) and node.optional_vars:
        found = [node.optional_vars]
    else:
        found = []
    flat: list[ast.expr] = []
    while found:
        target = found.pop()
        if isinstance(target, ast.Tuple | ast.List):
            found += target.elts
        else:
            flat.append(target.value if isinstance(target, ast.Starred) else target)
    return flat


def made_in(function: ast.AST) -> set[str]:
    """The names that are bound to what a class makes: `name = Class(...)`, with a capital letter, or `cls(...)`."""
    names = set()
    for node in own_nodes(function):
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Call):
            called = node.value.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            if name == "cls" or name[:1].isupper():
                names |= {target.id for target in targets(node) if isinstance(target, ast.Name)}
    return names


def set_from_outside(source: str) -> list[str]:
    """The targets `other.attribute` of a source, where `other` is neither the object itself nor made in that function.

    `setattr(other, ...)` counts as one.
    """
    found = []
    tree = ast.parse(source)
    for function in [tree, *(node for node in ast.walk(tree) if isinstance(node, Function))]:
        own = {"self", "cls", *made_in(function)}
        for node in own_nodes(function):
            owners = [target for target in targets(node) if isinstance(target, ast.Attribute)]
            found += [ast.unparse(target) for target in owners if ast.unparse(target.value) not in own]
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("setattr", "delattr"):
                found += [] if ast.unparse(node.args[0]) in own else [ast.unparse(node)]
    return found


@pytest.mark.parametrize("file", sorted(ROOT.rglob("*.py")), ids=lambda file: str(file.relative_to(ROOT)))
def test_no_attribute_of_one_object_is_set_by_another(file: Path) -> None:
    allowed = EXCEPTIONS.get(str(file.relative_to(ROOT)), {})
    assert set(set_from_outside(file.read_text())) == set(allowed)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def f(self, gan):\n self.a = 1\n gan.allowed = self.a", ["gan.allowed"]),
        ("def f(self):\n self.gan.mix, self.b = 1, 2", ["self.gan.mix"]),
        ("def f(x):\n y = Thing(x)\n y.a = 1\n x.a += 1", ["x.a"]),
        ("def f(x):\n y = x.part()\n y.a = 1", ["y.a"]),
        ("def f(x):\n for x.step in range(3): pass", ["x.step"]),
        ("def f(x):\n def g():\n  y = Thing()\n y.a = 1", ["y.a"]),
        ("def f(x):\n setattr(x, 'a', 1)", ["setattr(x, 'a', 1)"]),
        ("def f(cls):\n del cls.a\n thing[0] = 1", []),
    ],
)
def test_what_is_set_from_outside_is_found(source: str, found: list[str]) -> None:
    assert set_from_outside(source) == found
