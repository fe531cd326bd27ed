"""Hydra looks for configuration in the packages of installed plugins, after our own."""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from cl_bench.config.plugins import conf_folders


class InstalledPlugins(SearchPathPlugin):
    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for package, conf in conf_folders().items():
            search_path.append(f"plugin {package}", f"file://{conf}")


def with_plugins() -> None:
    """From now on Hydra, in this process, composes with the files of installed plugins.

    Its store of structured configurations, of which there is one, it would copy with each look at a group, 180 times
    for --help. Nothing is ever written to a copy, so the store stands for its copies.
    """
    Plugins.instance().register(InstalledPlugins)
    ConfigStore.__deepcopy__ = lambda store, _: store  # type: ignore[attr-defined]
