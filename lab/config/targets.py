"""From a dotted path in the config to the class or function it names, if that is one to be trusted."""

import importlib
import importlib.util
import inspect
import pkgutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

from lab.config.errors import ConfigError
from lab.names import nearest

# functions that make what a config may ask for, and are neither ours nor annotated with what they make
LISTED = {
    "torchvision.models.get_model",
    "timm.create_model",
    "timm.models.create_model",
    "torch.optim.swa_utils.get_ema_multi_avg_fn",
}


def locate(target: str) -> Any:
    """Import what `target` names. Raises ConfigError with the nearest name where there is no such thing."""
    module, rest = import_longest(target)
    found: Any = module
    for part in rest:
        if not hasattr(found, part):
            known = [name for name in dir(found) if not name.startswith("_")]
            if isinstance(found, ModuleType) and hasattr(found, "__path__"):
                known += [child.name for child in pkgutil.iter_modules(found.__path__)]
            raise ConfigError(f"_target_ {target}: no {part!r} in {found.__name__}; {nearest(part, known)}")
        found = getattr(found, part)
    if not callable(found):
        raise ConfigError(f"_target_ {target} is a {type(found).__name__}, not a class or a function")
    return found


def import_longest(target: str) -> tuple[ModuleType, list[str]]:
    parts = target.split(".")
    if not all(part.isidentifier() for part in parts):
        raise ConfigError(f"_target_ {target!r} is not a dotted path")
    for end in range(len(parts), 0, -1):
        name = ".".join(parts[:end])
        try:
            return importlib.import_module(name), parts[end:]
        except ModuleNotFoundError as error:
            # the module itself is not there: try its parent; something that it imports is not: say so
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise ConfigError(f"_target_ {target}: importing it failed: {error}") from error
        except Exception as error:
            raise ConfigError(f"_target_ {target}: importing it failed: {type(error).__name__}: {error}") from error
    here = [child.name for child in pkgutil.iter_modules([str(Path.cwd())])]
    raise ConfigError(f"_target_ {target}: no module {parts[0]!r}; {nearest(parts[0], [*here, 'lab', 'torch'])}")


def trusted(found: Any, kinds: tuple[type, ...]) -> bool:
    """Whether calling `found` gives one of `kinds`, or is code of lab or of the project in the working directory.

    kinds: the classes that the slot takes. A config from someone else is data: it may choose among things that make
    models, optimizers and so on, but name no function that opens files or unpickles.
    """
    module = getattr(found, "__module__", "") or ""
    if module.partition(".")[0] == "lab" or f"{module}.{found.__qualname__}" in LISTED:
        return True
    if inspect.isclass(found):
        return issubclass(found, kinds) or is_local(module)
    try:
        made = get_type_hints(found).get("return")
    except Exception:  # annotations that cannot be evaluated say nothing
        made = None
    return is_local(module) or (inspect.isclass(made) and issubclass(made, kinds))


def is_local(module: str) -> bool:
    """Whether the module's file lies in the working directory, outside its virtual environments."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return False
    path = Path(file).resolve()
    return path.is_relative_to(Path.cwd().resolve()) and "site-packages" not in path.parts
