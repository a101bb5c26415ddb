"""How Hydra reads the YAML files of configs: each once, for as long as it stays as it is. One whose aliases would grow
beyond measure is refused."""

import copy
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult

from lab.user_cache import file_stamp
from lab.yaml_aliases import check_yaml_aliases

# by source and path: the stamp of each file, and what Hydra made of it
FILES_READ: dict[tuple[str, str, Path], tuple[tuple[int, ...], ConfigResult]] = {}


def read_files_once() -> None:
    """Have Hydra's sources of files and of packages load configs by `load_config_once`, from now on."""
    Plugins.instance()  # registers the sources of configs
    for scheme in ("file", "pkg"):
        source: Any = SourcesRegistry.instance().types[scheme]
        if not hasattr(source, "load_config_anew"):
            source.load_config_anew, source.load_config = source.load_config, load_config_once


def load_config_once(self: Any, config_path: str) -> ConfigResult:
    """As `load_config` of Hydra's sources. Raises ConfigError for a file whose aliases grow beyond measure."""
    name = self._normalize_file_name(config_path)
    path = Path(self.path, name) if self.scheme() == "file" else resources.files(self.path).joinpath(name)
    if not isinstance(path, Path) or not path.is_file():  # in an archive, or absent
        return self.load_config_anew(config_path)
    key, stamp = (self.provider, self.path, path), file_stamp(path)
    if key not in FILES_READ or FILES_READ[key][0] != stamp:
        check_yaml_aliases(path)
        FILES_READ[key] = stamp, self.load_config_anew(config_path)
    found = FILES_READ[key][1]
    return replace(found, config=copy.deepcopy(found.config), header=dict(found.header))  # Hydra changes what it gets
