"""The class or function that a `_target_` names. Whether a config may name it: lab.config.trust."""

import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from lab.errors import ConfigError
from lab.text import suggest


def locate(target: str) -> Any:
    """Import the class or function `target`. Raises ConfigError with the nearest name where it does not exist."""
    module, attributes = import_longest(target)
    value: Any = module
    for name in attributes:
        if not hasattr(value, name):
            known = [other for other in dir(value) if not other.startswith("_")]
            if isinstance(value, ModuleType) and hasattr(value, "__path__"):
                known += [child.name for child in pkgutil.iter_modules(value.__path__)]
            raise ConfigError(f"_target_ {target}: no {name!r} in {value.__name__}; {suggest(name, known)}")
        value = getattr(value, name)
    if not callable(value):
        raise ConfigError(f"_target_ {target} is a {type(value).__name__}, not a class or a function")
    return value


def import_longest(target: str) -> tuple[ModuleType, list[str]]:
    """Import the longest prefix of a dotted path that is a module. Returns it and the attribute names after it."""
    parts = target.split(".")
    if not all(part.isidentifier() for part in parts):
        raise ConfigError(f"_target_ {target!r} is not a dotted path")
    for end in range(len(parts), 0, -1):
        name = ".".join(parts[:end])
        try:
            return importlib.import_module(name), parts[end:]
        except ModuleNotFoundError as error:
            # try the parent if the module itself is missing; report an error if a module that it imports is missing
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise ConfigError(f"_target_ {target}: importing it failed: {error}") from error
        except Exception as error:
            raise ConfigError(f"_target_ {target}: importing it failed: {type(error).__name__}: {error}") from error
    raise ConfigError(missing_module(target) or f"_target_ {target}: no module {parts[0]!r}")


def missing_module(target: str) -> str | None:
    """The problem of a path that is no dotted path, or whose top-level module does not exist; None where it does.
    Imports nothing."""
    top, *rest = target.split(".")
    if not all(part.isidentifier() for part in (top, *rest)):
        return f"_target_ {target!r} is not a dotted path"
    try:
        if top in sys.modules or importlib.util.find_spec(top):
            return None
    except (ImportError, ValueError, AttributeError):
        pass
    local = [child.name for child in pkgutil.iter_modules([str(Path.cwd())])]
    return f"_target_ {target}: no module {top!r}; {suggest(top, [*local, 'lab', 'torch'])}"


def instantiate_node(node: Mapping[str, Any]) -> Any:
    """The object that a checked node makes; for a partial node, a callable that makes it."""
    from hydra.utils import instantiate

    return instantiate(dict(node), _convert_="all")


def is_project_source(path: Path) -> bool:
    """Whether `path` is Python source that is not part of an installed package."""
    return path.suffix == ".py" and not {"site-packages", "dist-packages"} & set(path.parts) and path.is_file()
