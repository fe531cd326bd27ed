"""Command lines whose errors are one line like all others."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from cl_bench.config.errors import InputError, KnownError, Stopped, out_of_memory


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see --help")


def answered(command: Callable[[Sequence[str]], None], words: Sequence[str] | None, help: str) -> int:
    """Does what a command does and returns the exit code; what goes wrong is one line on stderr."""
    words = sys.argv[1:] if words is None else words
    if {"-h", "--help"} & set(words):
        print(help)
        return 0
    try:
        command(words)
    except Exception as error:
        line = " ".join(str(error).split())
        if out_of_memory(error):
            line = f"out of memory; use smaller images or another machine ({line.rpartition(': ')[2]})"
        elif not isinstance(error, KnownError | OSError):
            raise
        print(f"error: {line}", file=sys.stderr)
        return 1
    except (Stopped, KeyboardInterrupt):
        print("stopped", file=sys.stderr)
        return 130
    return 0
