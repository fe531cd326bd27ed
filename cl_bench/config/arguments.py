"""Command lines of argparse, whose errors are one line like all others."""

from __future__ import annotations

import argparse
from typing import NoReturn

from cl_bench.config.errors import InputError


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see --help")
