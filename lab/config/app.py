"""Hydra, set up for lab: where configs are looked for, what run directories are called, what errors say."""

import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from importlib import resources
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_module
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import OverrideParseException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lab.config.errors import ConfigError
from lab.config.redact import redacted_text
from lab.names import nearest

PLUGINS = str(Path(__file__).parent.parent / "_hydra")
if PLUGINS not in sys.path:  # where Hydra finds the package hydra_plugins with lab's sweeper and launcher
    sys.path.append(PLUGINS)


class LabSearchPath(SearchPathPlugin):
    """`./conf` of the working directory in front of lab's own."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        own = Path.cwd() / "conf"
        if own.is_dir():
            search_path.prepend("working directory", f"file://{own}", anchor=SearchPathQuery(provider="main"))


def register(resolvers: Mapping[str, Callable[..., Any]] = {}) -> None:
    """Tell Hydra about lab. To be called before Hydra composes.  resolvers: beside RESOLVERS, by their names."""
    warnings.filterwarnings("ignore", "The version_base parameter is deprecated")  # by Hydra 1.4; 1.3 wants it
    warnings.filterwarnings("ignore", r"register_new_resolver\(\) is deprecated")  # by OmegaConf 2.4; 2.3 has no other
    Plugins.instance().register(LabSearchPath)
    for name, path in experiments().items():
        group, _, option = f"experiment/{name}".rpartition("/")
        store = ConfigStore.instance()
        store.store(option, OmegaConf.load(path), group, "_global_", "experiments")
        # Hydra lists only the options that lie in a group itself; under this name glob(*) and completion find them too
        store.repo["experiment"][f"{name}.yaml"] = store.load(f"experiment/{name}.yaml")
    for name, function in {**RESOLVERS, **resolvers}.items():
        OmegaConf.register_new_resolver(name, function, replace=True)


def experiments() -> dict[str, Path]:
    """`<study>/<name>` to its file, of lab's own studies and, in front of them, those of the working directory."""
    found: dict[str, Path] = {}
    for folder in (resources.files("lab.experiments"), Path.cwd() / "experiments"):
        root = Path(str(folder))
        found |= {p.relative_to(root).with_suffix("").as_posix(): p for p in sorted(root.glob("**/*.yaml"))}
    return found


def subfolders(path: str) -> list[str]:
    """The names of the folders in `path`, sorted: the classes of an image folder."""
    if not Path(path).is_dir():
        raise FileNotFoundError(f"no folder {path}; expected is {path}/<class>/<image>")
    return sorted(entry.name for entry in Path(path).iterdir() if entry.is_dir())


def plain_config(config: DictConfig) -> dict[str, Any]:
    """Resolved plain values of everything but Hydra's own node. Raises ConfigError where one cannot be resolved."""
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    missing = list(missing_keys(OmegaConf.to_container(own, resolve=False)))
    if missing:
        raise ConfigError(*(f"{key} is missing; give {key}=..." for key in missing))
    try:
        return cast(dict[str, Any], OmegaConf.to_container(own, resolve=True))
    except OmegaConfBaseException as error:
        raise ConfigError(readable(error)) from error


def missing_keys(value: Any, prefix: str = "") -> Iterator[str]:
    """The dotted paths of the values that are still ???."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from missing_keys(part, f"{prefix}{key}.")
    elif value == "???":
        yield prefix.removesuffix(".")


RESOLVERS: dict[str, Callable[..., Any]] = {
    "lab.subfolders": subfolders,
    "lab.len": len,
}


def explain(error: Exception, overrides: list[str]) -> str:
    """A composition error as the next thing to type. `overrides` are those of the command line."""
    text = readable(error)
    if isinstance(error, OverrideParseException):
        quote = "quote a value with spaces, brackets, commas or letters beyond ASCII: 'key=\"value\"'"
        return f"cannot read the override {redacted_text(str(error.override))!r}: {text.splitlines()[1]}; {quote}"
    if match := re.search(r"Could not find '([^']+)'", text):
        wanted = match[1]
        group, _, option = wanted.partition("/") if wanted.startswith("experiment/") else wanted.rpartition("/")
        listed = text.partition("Available options in")[2].splitlines()[1:]
        known = [line.strip() for line in listed if line.startswith("\t") and "," not in line]
        return f"no option {option!r} in the group {group!r}; {nearest(option, known)}"
    if match := re.search(r"Could not override '([^']+)'|Key '([^']+)' is not in struct", text):
        full = re.search(r"full_key: (\S+)", text)
        key = full[1] if full else match[1] or match[2]
        return f"no key {key!r}; {nearest_key(key, overrides)}"
    return text


def nearest_key(key: str, overrides: list[str]) -> str:
    """The key nearest to one that does not exist, in the config that the other overrides give."""
    for kept in ([o for o in overrides if "." not in o.partition("=")[0] and not o.startswith(key)], []):
        try:
            running = GlobalHydra.instance().is_initialized()
            with nullcontext() if running else initialize_config_module("lab.conf", version_base="1.3"):
                config = compose("train", overrides=[o for o in kept if not o.startswith("hydra")])
        except Exception:  # the other overrides are wrong as well: suggest from the defaults
            continue
        parent, _, last = key.rpartition(".")
        node = OmegaConf.select(config, parent) if parent else config
        if not OmegaConf.is_dict(node):
            return nearest(key, keys(config))
        names = [str(name) for name in node if not str(name).startswith("_")]
        if parent:
            return nearest(last, names, prefix=f"{parent}.")
        return nearest(last, [*names, "experiment", "debug", "local"])
    return "lab train --cfg job shows what there is"


def keys(config: DictConfig, prefix: str = "") -> Iterator[str]:
    for name in config:
        yield f"{prefix}{name}"
        if OmegaConf.is_dict(config._get_node(name)):
            yield from keys(config[name], f"{prefix}{name}.")


def readable(error: BaseException) -> str:
    """What a person needs of an error's message and its causes': what our own code said, else what Hydra and OmegaConf
    did, without the lines that only say where in OmegaConf it arose."""
    said: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConfigError | OSError):
            return str(cause)
        if str(cause) not in "\n".join(said):
            said.append(str(cause).strip())
        cause = cause.__cause__ or cause.__context__
    noise = ("object_type=", "reference_type=")
    return "\n".join(line for text in said for line in text.splitlines() if not line.strip().startswith(noise))
