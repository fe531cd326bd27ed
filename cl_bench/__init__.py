"""Continual-learning experiments, one command or one call each. See README.md for the tour, docs/api.md for Python."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cl_bench.api import Run, evaluate, load, results, run

__version__ = "0.2.0"
__all__ = ["Run", "evaluate", "load", "results", "run"]


def __getattr__(name: str) -> Any:
    """What is in `cl_bench.api`, imported when it is asked for: every command imports this package first."""
    if name not in __all__:
        raise AttributeError(f"module 'cl_bench' has no attribute {name!r}")
    from cl_bench import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
