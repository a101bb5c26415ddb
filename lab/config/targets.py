"""The class or function that a `_target_` names. Whether a config may name it: lab.config.trust."""

import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Mapping
from functools import cache, partial
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
    """The object that a checked node makes; for a partial node, a functools.partial that makes it.

    As Hydra's `instantiate` with `_convert_="all"`, which copies a node several times, 2 ms for a small one. A node of
    plain values needs no copy: Hydra judges its target once, and the rest takes microseconds.
    """
    from hydra.utils import instantiate

    return make(node) if is_plain(node) else plain_partials(instantiate(dict(node), _convert_="all"))


def own_error(error: Exception) -> Exception:
    """The error of a target, which Hydra wraps into one whose message has the whole node."""
    is_wrapped = type(error).__name__ == "InstantiationException"
    return error.__cause__ if is_wrapped and isinstance(error.__cause__, Exception) else error


def is_plain(value: Any) -> bool:
    """Whether a nest holds plain values, and no more of Hydra's keys than `_target_` and `_partial_`."""
    if isinstance(value, dict):
        names = {name for name in value if not isinstance(name, str) or name.startswith("_")}
        is_node = isinstance(value.get("_target_"), str) and isinstance(value.get("_partial_", False), bool)
        return (not names or (is_node and names <= {"_target_", "_partial_"})) and all(map(is_plain, value.values()))
    if isinstance(value, list):
        return all(map(is_plain, value))
    if isinstance(value, str):
        return "${" not in value and value != "???"
    return value is None or type(value) in (bool, int, float)


def make(value: Any) -> Any:
    """The nest with the object that each node in it makes."""
    from hydra.utils import get_object

    if isinstance(value, list):
        return [make(part) for part in value]
    if not isinstance(value, dict):
        return value
    if "_target_" not in value:
        return {name: make(part) for name, part in value.items()}
    let_hydra_judge(value["_target_"])
    target = get_object(value["_target_"])  # not kept, as a notebook may import its module anew
    arguments = {name: make(part) for name, part in value.items() if name not in ("_target_", "_partial_")}
    return partial(target, **arguments) if value.get("_partial_") else target(**arguments)


@cache
def let_hydra_judge(target: str) -> None:
    """Raises hydra's InstantiationException for a target that Hydra does not call."""
    from hydra.utils import instantiate

    instantiate({"_target_": target, "_partial_": True})


def plain_partials(value: Any) -> Any:
    """functools' partials in place of Hydra's, which run its target policy at each call (270 us) and do not pickle in
    Hydra 1.4."""
    if isinstance(value, partial):
        return partial(value.func, *value.args, **{name: plain_partials(v) for name, v in value.keywords.items()})
    return [plain_partials(part) for part in value] if isinstance(value, list) else value


def is_project_source(path: Path) -> bool:
    """Whether `path` is Python source that is not part of an installed package."""
    return path.suffix == ".py" and not {"site-packages", "dist-packages"} & set(path.parts) and path.is_file()
