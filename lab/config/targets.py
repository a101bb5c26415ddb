"""The class or function that a `_target_` names, and whether a config may call it."""

import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

from lab.config.groups import GROUPS, Group
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
    local = [child.name for child in pkgutil.iter_modules([str(Path.cwd())])]
    raise ConfigError(f"_target_ {target}: no module {parts[0]!r}; {suggest(parts[0], [*local, 'lab', 'torch'])}")


def instantiate_node(node: Mapping[str, Any]) -> Any:
    """The object that a checked node makes; for a partial node, a callable that makes it."""
    from hydra.utils import instantiate

    return instantiate(dict(node), _convert_="all")


def is_trusted(target: Any, group: Group) -> bool:
    """Whether a config may call `target` for a node of `group`.

    Trusted are callables that make an object of the group's kind, lab's own code for the group, and the project's code.
    A config from someone else is data: it may choose among callables that make models, optimizers and so on, but it may
    not name a function that opens files, starts programs or unpickles.
    """
    if is_own_code(target, group):
        return True
    made = made_class(target)
    return made is not None and is_of_kind(made, group)


def is_trusted_as(target: Any, kinds: Sequence[type]) -> bool:
    """Whether a config may call `target` for an argument that takes an object of one of these classes.

    Trusted are classes that inherit from one of them, and functions annotated to return such a class. The function must
    lie in the top-level package of that class, as factories do, or the class must be of a group's kind.
    """
    made = made_class(target)
    # checks the MRO, as issubclass() of a protocol or an abstract class may accept any class with the right methods
    if made is None or not set(kinds) & set(inspect.getmro(made)):
        return False
    beside = top_package(str(getattr(target, "__module__", ""))) == top_package(made.__module__)
    return inspect.isclass(target) or beside or any(is_of_kind(made, group) for group in GROUPS.values())


def is_own_code(target: Any, group: Group) -> bool:
    """Whether `target` is lab's own code for the group, or the project's code in the working directory."""
    module = str(getattr(target, "__module__", ""))
    return is_local(module) or (group.package is not None and f"{module}.".startswith(f"{group.package}."))


def made_class(target: Any) -> type | None:
    """The class of the objects that `target` makes: itself, or its return annotation; None where it is unknown."""
    if inspect.isclass(target):
        return target
    for group in GROUPS.values():
        if f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', '')}" in group.functions:
            return base_class(group)
    try:
        made = get_type_hints(target).get("return")
    except Exception:  # annotations that cannot be evaluated
        return None
    return made if inspect.isclass(made) else None


def is_of_kind(made: type, group: Group) -> bool:
    """Whether objects of the class `made` belong to `group`."""
    base = base_class(group)
    if base is not None and issubclass(made, base):
        return True
    return bool(group.methods) and all(hasattr(made, name) for name in group.methods)


def base_class(group: Group) -> type | None:
    return locate(group.base_class) if group.base_class else None


def top_package(module: str) -> str:
    return module.partition(".")[0]


def is_local(module: str) -> bool:
    """Whether the module is the project's: its file lies in the working directory, but not in an installed package."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None or top_package(module) in {"lab", *sys.stdlib_module_names}:
        return False
    return is_project_source(Path(file)) and Path(file).resolve().is_relative_to(Path.cwd().resolve())


def is_project_source(path: Path) -> bool:
    """Whether `path` is Python source that is not part of an installed package."""
    return path.suffix == ".py" and not {"site-packages", "dist-packages"} & set(path.parts) and path.is_file()
