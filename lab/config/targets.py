"""From a dotted path in the config to the class or function it names, if that is one to be trusted."""

import importlib
import importlib.util
import inspect
import pkgutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

from lab.errors import ConfigError
from lab.text import suggest

# where lab's own things of each group are defined
OWN_PACKAGES = {
    "model": "lab.models",
    "data": "lab.data",
    "augment": "lab.augment",
    "task": "lab.tasks",
    "optimizer": "lab.optim",
    "schedule": "lab.optim",
    "finetune_strategy": "lab.finetune",
    "regularize": "lab.regularize",
    "hardware": "lab.hardware",
    "logger": "lab.record.tensorboard",
}
# what a class must have to be of a group that has no base class
REQUIRED_METHODS = {
    "data": ("batches", "val", "test"),
    "task": ("loss", "score"),
    "regularize": ("state_dict", "load_state_dict", "step"),
}
# functions that make what a config may ask for, and are neither ours nor annotated with what they make
TRUSTED_FUNCTIONS = {"torchvision.models._api.get_model", "timm.models._factory.create_model"}


def locate(target: str) -> Any:
    """Import what `target` names. Raises ConfigError with the nearest name where there is no such thing."""
    module, rest = import_longest(target)
    found: Any = module
    for part in rest:
        if not hasattr(found, part):
            known = [name for name in dir(found) if not name.startswith("_")]
            if isinstance(found, ModuleType) and hasattr(found, "__path__"):
                known += [child.name for child in pkgutil.iter_modules(found.__path__)]
            raise ConfigError(f"_target_ {target}: no {part!r} in {found.__name__}; {suggest(part, known)}")
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
    raise ConfigError(f"_target_ {target}: no module {parts[0]!r}; {suggest(parts[0], [*here, 'lab', 'torch'])}")


def is_trusted(found: Any, group: str) -> bool:
    """Whether a config may have `found` called for `group`.

    That is what gives an object of the group's kind, lab's own code for the group, and code of the project in the
    working directory. A config from someone else is data: it may choose among things that make models, optimizers and
    so on, but name no function that opens files, starts programs or unpickles.
    """
    module = str(getattr(found, "__module__", ""))
    if f"{module}.".startswith(f"{OWN_PACKAGES[group]}.") or is_local(module):
        return True
    if f"{module}.{getattr(found, '__qualname__', '')}" in TRUSTED_FUNCTIONS:
        return True
    if inspect.isclass(found):
        return is_of_kind(found, group)
    try:
        made = get_type_hints(found).get("return")
    except Exception:  # annotations that cannot be evaluated say nothing
        return False
    return inspect.isclass(made) and is_of_kind(made, group)


def is_of_kind(made: type, group: str) -> bool:
    """Whether objects of the class `made` are what `group` takes."""
    methods = REQUIRED_METHODS.get(group)
    return issubclass(made, base_classes(group)) or (
        methods is not None and all(hasattr(made, name) for name in methods)
    )


def base_classes(group: str) -> tuple[type, ...]:
    """The base classes of a group's objects, where they have one."""
    from torch import nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    bases = {"optimizer": Optimizer, "schedule": LRScheduler} | dict.fromkeys(("model", "augment", "task"), nn.Module)
    return (bases[group],) if group in bases else ()


def is_local(module: str) -> bool:
    """Whether the module's file lies in the working directory, in no installed package and no standard library."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None or module.partition(".")[0] in sys.stdlib_module_names or module.partition(".")[0] == "lab":
        return False
    return is_project_source(Path(file)) and Path(file).resolve().is_relative_to(Path.cwd().resolve())


def is_project_source(path: Path) -> bool:
    """Whether `path` is Python source that is not part of an installed package."""
    return path.suffix == ".py" and not {"site-packages", "dist-packages"} & set(path.parts) and path.is_file()
