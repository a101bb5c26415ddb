"""Hydra's set-up for lab: the search path of configs, the experiments and the resolvers."""

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import yaml
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.config_store import ConfigNode, ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lab.config.hydra_trust import use_trusted_loader
from lab.config.messages import readable_error
from lab.config.studies import find_study_files, is_study_file
from lab.data.image_files import class_folders
from lab.data.table_columns import find_columns
from lab.errors import ConfigError
from lab.yaml_aliases import check_yaml_aliases

PLUGIN_PATH = str(Path(__file__).parent.parent / "hydra_app" / "plugins")
if PLUGIN_PATH not in sys.path:  # Hydra finds lab's sweeper and launcher there, in the package hydra_plugins
    sys.path.append(PLUGIN_PATH)


class LabSearchPath(SearchPathPlugin):
    """Puts the working directory's `./conf` before lab's own configs."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        own = Path.cwd() / "conf"
        if own.is_dir():
            search_path.prepend("working directory", f"file://{own}", anchor=SearchPathQuery(provider="main"))


def register_with_hydra(resolvers: Mapping[str, Callable[..., Any]] = {}) -> None:
    """Register lab's search path, experiments and resolvers. Call this before Hydra composes.

    resolvers: resolvers by name, in addition to RESOLVERS.
    """
    warnings.filterwarnings("ignore", "The version_base parameter is deprecated")  # in Hydra 1.4; 1.3 needs it
    warnings.filterwarnings("ignore", r"register_new_resolver\(\) is deprecated")  # in OmegaConf 2.4; 2.3 needs it
    Plugins.instance().register(LabSearchPath)
    use_trusted_loader()
    for name, path in find_experiments().items():
        store_experiment(name, path)
    for name, function in {**RESOLVERS, **resolvers}.items():
        OmegaConf.register_new_resolver(name, function, replace=True)


class ExperimentNode(ConfigNode):
    """An experiment in Hydra's store. Its file is read when it is asked for, so that a broken one harms no other."""

    def __init__(self, option: str, group: str, path: Path):
        self.name, self.group, self.package, self.provider, self.path = option, group, "_global_", "experiments", path

    # a property in place of the attribute of ConfigNode, which Hydra reads, and sets to a copy that it may change
    @property
    def node(self) -> DictConfig:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Raises ConfigError where the file is not a mapping in YAML."""
        try:
            check_yaml_aliases(self.path)
            node = OmegaConf.load(self.path)
        except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException) as error:
            raise ConfigError(f"{self.path} cannot be read: {error}") from error
        if not isinstance(node, DictConfig):
            raise ConfigError(f"{self.path} is a list; an experiment is a mapping of groups and keys")
        return node

    @node.setter
    def node(self, copy: DictConfig) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        pass  # each access gives a new one


def store_experiment(name: str, path: Path) -> None:
    """Add an experiment `<study>/<name>` to Hydra's store."""
    group, _, option = f"experiment/{name}".rpartition("/")
    folder: Any = ConfigStore.instance().repo
    for part in group.split("/"):
        folder = folder.setdefault(part, {})
    folder[f"{option}.yaml"] = ExperimentNode(f"{option}.yaml", group, path)
    # Hydra lists only options that lie directly in a group; under this name glob(*) and completion find them too
    ConfigStore.instance().repo["experiment"][f"{name}.yaml"] = folder[f"{option}.yaml"]


def find_experiments() -> dict[str, Path]:
    """The file of each experiment by its name, `<study>/<name>`, without ablations and papers' claims."""
    return {name: path for name, path in find_study_files().items() if not is_study_file(path)}


def subfolders(path: str) -> ListConfig:
    """The names of the folders in `path` that are not hidden, sorted: the classes of an image folder. They are not a
    plain list, which Hydra's `--resolve` cannot write into a config."""
    if not Path(path).is_dir():
        raise FileNotFoundError(f"no folder {path}; expected is {path}/<class>/<image>")
    return ListConfig(class_folders(Path(path)))


def table_width(file: str, target: Any, numbers: Any, categories: Any) -> int:
    """The number of inputs that a table gives (`lab.data.table_columns`)."""
    lists = [list(names) if names is not None else None for names in (numbers, categories)]
    try:
        return find_columns(file, target if isinstance(target, str) else list(target), *lists).width
    except ValueError as error:
        raise ConfigError(f"data: {error}") from error


def count_outputs(classes: Any, targets: Any) -> int:
    """The number of classes; without them, of the columns to predict."""
    if classes is not None:
        return len(classes)
    return 1 if isinstance(targets, str) else len(targets)


def without_hydra_node(root: DictConfig) -> DictConfig:
    """A copy without Hydra's own node; a config that has none is given as it is."""
    return root if "hydra" not in root else OmegaConf.masked_copy(root, [str(key) for key in root if key != "hydra"])


def check_text_keys(value: Any, path: str = "") -> None:
    """Raises ConfigError for a key that is no text, which no file of a run could hold as it is."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            if not isinstance(key, str):
                raise ConfigError(f"{path or 'the config'}: the key {key!r} is no text; quote it: '{key}'")
            check_text_keys(part, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for place, part in enumerate(value):
            check_text_keys(part, f"{path}[{place}]")


def plain_config(config: DictConfig) -> dict[str, Any]:
    """The config without Hydra's own node, resolved to plain values.

    Raises ConfigError for missing values, and for an interpolation that cannot be resolved.
    """
    own = without_hydra_node(config)
    unresolved = OmegaConf.to_container(own, resolve=False)
    check_text_keys(unresolved)
    missing = list(missing_keys(unresolved))
    if missing:
        raise ConfigError(*(f"{key} is missing; give {key.partition('[')[0]}=..." for key in missing))
    try:
        return cast(dict[str, Any], OmegaConf.to_container(own, resolve=True))
    except OmegaConfBaseException as error:
        raise ConfigError(readable_error(error)) from error


def missing_keys(value: Any, path: str = "") -> Iterator[str]:
    """The paths of all values that are ???, as `data.folder` and `data.shape[0]`.

    value: plain values with unresolved interpolations. OmegaConf.missing_keys resolves interpolations, and fails where
        one of them leads to a missing value.
    """
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from missing_keys(part, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from missing_keys(part, f"{path}[{number}]")
    elif value == "???":
        yield path


RESOLVERS: dict[str, Callable[..., Any]] = {
    "lab.subfolders": subfolders,
    "lab.table_width": table_width,
    "lab.outputs": count_outputs,
    "lab.len": len,
}
