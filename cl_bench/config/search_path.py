"""Hydra looks for configuration in the packages of installed plugins, after our own."""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from cl_bench.config.plugins import conf_folders


class InstalledPlugins(SearchPathPlugin):
    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for package, conf in conf_folders().items():
            search_path.append(f"plugin {package}", f"file://{conf}")


def with_plugins() -> None:
    """From now on Hydra, in this process, composes with the files of installed plugins."""
    Plugins.instance().register(InstalledPlugins)
