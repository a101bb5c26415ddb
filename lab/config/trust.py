"""Which `_target_` a config may name. A config is data that may come from someone else; SECURITY.md has the rule.

A dotted path is judged before anything of it is imported, since importing a module runs it. What it leads to is judged
again then: by where it is defined, and by what it makes.
"""

import importlib.util
import inspect
import re
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, get_type_hints

from lab.config.annotations import NodeKinds
from lab.config.groups import (
    FACTORY_LIBRARIES,
    GROUPS,
    LIBRARIES,
    LIBRARY_FUNCTIONS,
    SEARCH_GROUPS,
    UNSAFE_ARGUMENTS,
    Group,
)
from lab.config.targets import is_project_source, locate, missing_module
from lab.errors import ConfigError
from lab.text import suggest

ALL_GROUPS = (*GROUPS.values(), *SEARCH_GROUPS.values())
RUN_FILES = ("status.json", "manifest.json", "plan.jsonl")  # a directory with one of these is a run or a sweep
TARGET_LINE = re.compile(r"^\s*_target_: *([\w.]+) *(?:#.*)?$", re.MULTILINE)


def locate_trusted(path: str, group: Group, kinds: NodeKinds) -> Any:
    """The class or function that a node's `_target_` names, imported only where the config may name it.

    kinds: the nodes that the annotation of the node's argument allows. Raises ConfigError for any other path.
    """
    if not may_import(path):
        target = find_loaded(path)
        if target is not None and is_beside(target, kinds.classes):
            return target
        if path.startswith("lab."):  # lab's own modules may be imported; a name that is missing is told
            locate(path)
        elif target is None and (problem := missing_module(path)):
            raise ConfigError(problem)
        raise ConfigError(describe_refusal(path, group, kinds))
    target = locate(path)
    if not is_trusted(target, path, group, kinds):
        raise ConfigError(describe_refusal(path, group, kinds))
    return target


def may_import(path: str) -> bool:
    """Whether a dotted path may be imported to see what it leads to."""
    return is_in_library(path) or is_lab_path(path) or is_project_path(path)


def is_trusted(target: Any, path: str, group: Group, kinds: NodeKinds) -> bool:
    """Whether a config may call `target`, which it names by `path`, for a node of `group`."""
    module = str(getattr(target, "__module__", ""))
    if is_local(module) or is_lab_part(target, group.package):
        return True
    is_class = inspect.isclass(target)
    if is_in_library(module):
        made = target if is_class else made_by_library(target)
    elif is_own_source(module) or any(is_lab_part(target, other.package) for other in ALL_GROUPS):
        made = target if is_class else returned_class(target)
    else:  # a class of another package that a module of the project imports
        made = target if is_class and is_project_path(path.rpartition(".")[0], whole=True) else None
        if top_package(module) in {"lab", *map(top_package, LIBRARIES), *sys.stdlib_module_names}:
            return False
    if made is None:
        return False
    # checks the MRO, as issubclass() of a protocol or an abstract class may accept any class with the right methods
    if set(kinds.classes) & set(inspect.getmro(made)):
        return True
    return kinds.is_open and is_of_kind(made, group)


def made_by_library(function: Any) -> type | None:
    """The class of the objects that a function of a library makes: one of the library's own, or of a function that
    LIBRARY_FUNCTIONS lists. None for any other: most functions with the right annotation are no factories."""
    name = f"{function.__module__}.{getattr(function, '__qualname__', '')}"
    if name in LIBRARY_FUNCTIONS:
        return locate("torch.nn.Module")
    if not any(name.startswith(f"{library}.") for library in FACTORY_LIBRARIES):
        return None
    made = returned_class(function)
    is_own = made is not None and top_package(made.__module__) == top_package(function.__module__)
    return made if is_own and made is not None and is_in_library(made.__module__) else None


def returned_class(function: Any) -> type | None:
    """The class that a function is annotated to return; None where it is no class, or unknown."""
    try:
        made = get_type_hints(function).get("return")
    except Exception:  # annotations that cannot be evaluated
        return None
    return made if inspect.isclass(made) else None


def is_of_kind(made: type, group: Group) -> bool:
    """Whether objects of the class `made` belong to `group`."""
    base = locate(group.base_class) if group.base_class else None
    if base is not None and issubclass(made, base):
        return True
    return bool(group.methods) and all(hasattr(made, name) for name in group.methods)


def is_in_library(path: str) -> bool:
    """Whether a dotted path lies in a module, or is an object, that LIBRARIES lists."""
    return any(f"{path}.".startswith(f"{library}.") for library in LIBRARIES)


def is_lab_path(path: str) -> bool:
    return any(group.package and f"{path}.".startswith(f"{group.package}.") for group in ALL_GROUPS)


def is_lab_part(target: Any, package: str | None) -> bool:
    """Whether `target` is a class of this package of lab's, or one of its functions that a YAML in conf/ names. The
    other functions there do parts' inner work, such as writing and fetching files."""
    module = str(getattr(target, "__module__", ""))
    if package is None or not f"{module}.".startswith(f"{package}."):
        return False
    return inspect.isclass(target) or f"{module}.{getattr(target, '__qualname__', '')}" in configured_targets()


@cache
def configured_targets() -> frozenset[str]:
    """Every `_target_` in lab's own configs."""
    folder = Path(str(resources.files("lab.conf")))
    return frozenset(
        name for path in folder.glob("**/*.yaml") for name in TARGET_LINE.findall(path.read_text(encoding="utf-8"))
    )


def find_loaded(path: str) -> Any:
    """The class at a dotted path of modules that are imported already; None for anything else. It runs no code, not
    even a module's `__getattr__`."""
    parts = path.split(".")
    for end in range(len(parts) - 1, 0, -1):
        if module := sys.modules.get(".".join(parts[:end])):
            value = vars(module).get(parts[end]) if end == len(parts) - 1 else None
            return value if inspect.isclass(value) else None
    return None


def is_beside(target: Any, classes: Sequence[type]) -> bool:
    """Whether the class `target` inherits from one of these and lies in the same top-level package, one that has no
    list of its own. The project's code took that package in when it wrote the annotation."""
    package = top_package(target.__module__)
    bases = set(classes) & set(inspect.getmro(target))
    listed = {"lab", *map(top_package, LIBRARIES), *sys.stdlib_module_names}
    return package not in listed and any(top_package(base.__module__) == package for base in bases)


def top_package(module: str) -> str:
    return module.partition(".")[0]


def is_local(module: str) -> bool:
    """Whether an imported module is the project's, in the working directory."""
    return is_own_source(module) and Path(str(sys.modules[module].__file__)).resolve().is_relative_to(
        Path.cwd().resolve()
    )


def is_own_source(module: str) -> bool:
    """Whether an imported module is source code of the user's: in the working directory, or elsewhere on Python's path
    but in no installed package, such as a project that is installed as editable."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None or top_package(module) in {"lab", *sys.stdlib_module_names}:
        return False
    return is_own_file(Path(file))


def is_project_path(path: str, whole: bool = False) -> bool:
    """Whether a dotted path leads to a module of the user's own source code, found without importing it.

    whole: whether all of the path must be the module, instead of a module and attributes.
    """
    file, rest = find_source(path)
    if file is None or not is_own_file(file):
        return False
    if file.name == "__init__.py" and rest and any(file.parent.glob(f"{rest[0]}*")):
        return False  # the import would take a folder or a compiled module, such as x.so or x.pyc
    return not (whole and rest)


def find_source(path: str) -> tuple[Path | None, list[str]]:
    """The file of the longest prefix of a dotted path that is a module, and the names after it; None where there is
    no such file outside of the standard library and lab. Imports nothing."""
    top, *rest = path.split(".")
    if top in {"lab", *sys.stdlib_module_names} or not all(part.isidentifier() for part in (top, *rest)):
        return None, rest
    if top in sys.modules:
        module = sys.modules[top]
        origin, folders = getattr(module, "__file__", None), list(getattr(module, "__path__", []))
    else:
        try:
            spec = importlib.util.find_spec(top)
        except (ImportError, ValueError, AttributeError):
            return None, rest
        origin, folders = (spec.origin, list(spec.submodule_search_locations or [])) if spec else (None, [])
    for number in range(len(rest), 0, -1):
        for folder in folders:
            base = Path(folder).joinpath(*rest[:number])
            for file in (base.with_name(f"{base.name}.py"), base / "__init__.py"):
                if file.is_file():
                    return file, rest[number:]
    return Path(origin) if origin else None, rest


def is_own_file(file: Path) -> bool:
    """Whether a file is source code that lies neither in an installed package nor in the directory of a run or a
    sweep."""
    if not is_project_source(file):
        return False
    folders = [folder for folder in file.resolve().parents if folder != Path.cwd().resolve()]
    return not any((folder / name).exists() for folder in folders for name in RUN_FILES)


def unsafe_argument_problems(target: Any, node: Mapping[str, Any], where: str) -> list[str]:
    """Problems of arguments by which a library would open what the config gives."""
    module = str(getattr(target, "__module__", ""))
    refused = UNSAFE_ARGUMENTS.get(top_package(module), ()) if is_in_library(module) else ()
    if not refused:
        return []
    names = [p.name for p in inspect.signature(target).parameters.values()]
    arguments = dict(zip(names, node.get("_args_") or (), strict=False)) | dict(node)
    problems = [f"{where}.{name}: a config must not set it, since {module} opens what it names" for name in refused]
    problems = [problem for problem, name in zip(problems, refused, strict=True) if arguments.get(name) is not None]
    if ":" in str(arguments.get("model_name", "")):
        problems.append(f"{where}.model_name={arguments['model_name']!r} is not the name of a model of {module}'s own")
    return problems


def describe_refusal(path: str, group: Group, kinds: NodeKinds) -> str:
    own = [f"one of {group.package}"] if group.package else []
    names = [kind.__name__ for kind in kinds.classes] + ([group.name] if kinds.is_open else [])
    libraries = ", ".join(sorted({top_package(library) for library in LIBRARIES}))
    made = f"a class that makes a {' or '.join(names)} (of {libraries}: those in SECURITY.md)"
    near = suggest(path, LIBRARIES)
    hint = f"; {near}" if near.startswith("did you mean") else ""
    return (
        f"_target_ {path} is not one to be run from a config: it must be {', or '.join([*own, made])}, or lie in the "
        f"working directory: import a class of another package in a module of yours, and name it there{hint}"
    )


def check_code_outside(config: Any, directory: Path) -> None:
    """Raises ConfigError where the saved config of a run or a sweep names code that came with it: code below the first
    folder in the working directory that leads to `directory`."""
    root, real = Path.cwd().resolve(), directory.resolve()
    if not real.is_relative_to(root) or real == root:
        return
    folder = root / real.relative_to(root).parts[0]
    for path in sorted(targets_in(config)):
        file, _ = find_source(path)
        if file is not None and file.resolve().is_relative_to(folder):
            raise ConfigError(
                f"{directory} names the code {path}, which lies beside it in {folder.name}/; if you trust that code, "
                "move it into your project"
            )


def targets_in(value: Any) -> set[str]:
    """Every `_target_` in a nest of plain values."""
    own = {str(value["_target_"])} if isinstance(value, Mapping) and "_target_" in value else set()
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return own.union(*(targets_in(part) for part in parts if isinstance(part, dict | list)))
