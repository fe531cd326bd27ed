"""The command line: `python -m cl_bench method=dgr dataset=mnist seed=0,1,2 -m`. No torch before there is work."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig

from cl_bench.config import CONF, InputError, check_top, explain, folder_of, plain


def job(config: Any) -> float | None:
    """One run of a command line: its average accuracy, at once when it is already there."""
    from cl_bench.results import read_results, show

    settings = plain(config, HydraConfig.get().runtime.choices)
    check_top(settings)
    folder = folder_of(settings)
    results = read_results(folder) if settings["resume"] else None
    if not results or results["status"] != "finished":
        from cl_bench.run import run

        results = run(settings)
    show(results, folder)
    return results["metrics"]["ACC"]


def main() -> None:
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors come here as they are
    overrides = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    debug = "debug=true" in [argument.lower() for argument in overrides]
    try:
        hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")(job)()
    except Exception as error:
        if debug:
            traceback.print_exc()
        signal = getattr(error, "signal", None)
        if signal is not None:
            print("stopped; everything is saved, and the same command goes on from here", file=sys.stderr)
            sys.exit(128 + signal)
        known = (
            isinstance(error, InputError) or type(error).__name__ == "Diverged" or isinstance(error, OSError)
        )
        line = explain(error, overrides) or (str(error) if known else None)
        if line is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
