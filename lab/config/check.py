"""Everything that can be said against a config before a data set is read or a model is built."""

import inspect
import json
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from lab.config.settings import POLICY, SETTINGS, Policy, Settings
from lab.config.targets import OWN_PACKAGES, is_trusted, locate
from lab.errors import ConfigError
from lab.text import suggest

GROUPS = tuple(OWN_PACKAGES)
# what the runner hands to a partial node's callable: so many arguments by position, others by name where it has them
SUPPLIED: dict[str, tuple[int, tuple[str, ...]]] = {
    "augment": (2, ()),  # batch, generator
    "optimizer": (1, ()),  # parameter groups
    "schedule": (1, ("steps", "T_max", "total_steps")),  # optimizer; by torch's names for the run's length
    "finetune_strategy": (1, ()),  # model
    "regularize": (0, ("model", "monitor", "steps", "steps_per_epoch")),
    "logger": (1, ()),  # directory
}
OPEN_NODES = ("paths", "search", "sweep")
SPECIAL = ("_target_", "_partial_", "_args_", "_recursive_", "_convert_")

KeyPath = tuple[str, ...]


def check_config(
    config: Mapping[str, Any], source: str, of_group: Callable[[str, Any], list[str]] | None = None
) -> None:
    """Raises ConfigError with every problem found.

    config: resolved, as plain values.  source: the same as YAML before interpolations were resolved; a key at the top
    level that is neither ours nor interpolated somewhere is one that nothing reads.  of_group: check_group, or the same
    with a memory, where many configs share their groups.
    """
    of_group = of_group or check_group
    problems = list(unread_keys(config, source))
    problems += [
        f"the config has no group {name!r}; add it to the defaults list" for name in GROUPS if name not in config
    ]
    for kind, names in ((Settings, SETTINGS), (Policy, POLICY)):
        problems += call_problems(kind, {name: config[name] for name in names if name in config}, ())
    if not problems:
        problems += policy_problems(config)
    for name in GROUPS:
        if name in config:
            problems += of_group(name, config[name])
    if problems:
        raise ConfigError(*problems)


def policy_problems(config: Mapping[str, Any]) -> list[str]:
    """What is wrong with the policy's values, their types being right."""
    try:
        Policy.of(config)
    except (TypeError, ValueError) as error:
        return [str(error)]
    return []


def unread_keys(config: Mapping[str, Any], source: str) -> Iterator[str]:
    known = (*GROUPS, *OPEN_NODES, *SETTINGS, *POLICY)
    for name in config:
        if name not in known and f"${{{name}" not in source:
            yield f"nothing reads the key {name!r}; {suggest(name, (*known, 'experiment', 'debug', 'local'))}"


def check_group(group: str, node: Any) -> list[str]:
    if not isinstance(node, Mapping) or "_target_" not in node:
        return [f"{group} is {node!r}; expected is a node with a _target_, as the options of {group}= are"]
    if group in SUPPLIED and not node.get("_partial_") and group != "augment":
        return [f"{group} needs _partial_: true; the runner supplies the arguments that the config cannot"]
    if group not in SUPPLIED and node.get("_partial_"):
        return [f"{group} must not be _partial_; the runner supplies nothing to it"]
    return [problem for path, inner in target_nodes(node, (group,)) for problem in check_node(group, inner, path)]


def target_nodes(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Mapping[str, Any]]]:
    """Every node with a `_target_` at or below `value`, with where it is."""
    if isinstance(value, Mapping):
        if "_target_" in value:
            yield path, value
        for key, part in value.items():
            yield from target_nodes(part, (*path, str(key)))
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from target_nodes(part, (*path, str(number)))


def check_node(group: str, node: Mapping[str, Any], path: KeyPath) -> list[str]:
    where = ".".join(path)
    try:
        target = locate(str(node["_target_"]))
    except ConfigError as error:
        return [f"{where}: {problem}" for problem in error.problems]
    if not is_trusted(target, group):
        return [
            f"{where}: _target_ {node['_target_']} is not one to be run from a config: it must be one of {OWN_PACKAGES[group]}, "
            f"or a class that makes a {group}, or a function annotated to return one, or lie in the working directory"
        ]
    arguments = {key: value for key, value in node.items() if key not in SPECIAL}
    positional, supplied = SUPPLIED.get(group, (0, ())) if node.get("_partial_") else (0, ())
    return call_problems(target, arguments, path, positional + len(node.get("_args_") or ()), supplied)


def call_problems(
    target: Any, arguments: Mapping[str, Any], path: KeyPath, positional: int = 0, supplied: Sequence[str] = ()
) -> list[str]:
    """What is wrong with calling `target` with these arguments, beside `positional` ones and those `supplied`."""
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):  # written in C, without a signature
        return []
    named = [p for p in parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    names = [p.name for p in named]
    taken = {*names[:positional], *supplied}
    problems = []
    hints = annotations_of(target)
    for name, value in arguments.items():
        dotted = ".".join((*path, name))
        if name in names[:positional]:
            problems.append(f"{dotted} is for the runner to give; leave it out")
        elif name not in names and not open_ended:
            problems.append(f"{dotted}: {callable_name(target)} takes no {name!r}; {suggest(name, set(names) - taken)}")
        elif value == "???":
            problems.append(f"{dotted} is missing; give {dotted}=...")
        elif name in hints and not fits_annotation(value, hints[name]):
            problems.append(f"{dotted}={as_typed(value)} is not {describe_annotation(hints[name])}")
    for p in named:
        if p.default is p.empty and p.name not in arguments and p.name not in taken:
            problems.append(f"{'.'.join((*path, p.name))} is missing; {callable_name(target)} needs it")
    return problems


def callable_name(target: Any) -> str:
    return getattr(target, "__qualname__", str(target))


def annotations_of(target: Any) -> dict[str, Any]:
    try:
        return get_type_hints(
            target.__init__ if inspect.isclass(target) and target not in (Settings, Policy) else target
        )
    except Exception:  # names that exist for the type checker alone say nothing here
        return {}


def fits_annotation(value: Any, hint: Any) -> bool:
    """Whether a plain value can stand for the annotation. What an annotation leaves open fits."""
    origin, inner = get_origin(hint), get_args(hint)
    if isinstance(value, Mapping) and "_target_" in value:
        return True
    if origin in (Union, types.UnionType):
        return any(fits_annotation(value, option) for option in inner)
    if origin is Literal:
        return value in inner
    if hint is None or hint is type(None):
        return value is None
    if hint in (bool, str):
        return isinstance(value, hint)
    if hint in (int, float):
        return isinstance(value, int if hint is int else (int, float)) and not isinstance(value, bool)
    container = origin or hint
    if not inspect.isclass(container) or container is object:
        return True
    if issubclass(container, Mapping):
        return isinstance(value, Mapping)
    if container in (list, tuple, set) or issubclass(container, Sequence):
        if not isinstance(value, list):
            return False
        if container is tuple and inner and inner[-1] is not Ellipsis:
            return len(value) == len(inner) and all(map(fits_annotation, value, inner))
        return not inner or all(fits_annotation(part, inner[0]) for part in value)
    return container.__name__ != "Tensor"


def as_typed(value: Any) -> str:
    """A value as one types it."""
    return repr(value) if isinstance(value, str) else json.dumps(value)


ANNOTATION_WORDS = {
    "int": "whole number",
    "float": "number",
    "bool": "true or false",
    "str": "string",
    "NoneType": "null",
    "Any": "value",
    "dict": "mapping",
}


def describe_annotation(hint: Any, many: bool = False) -> str:
    """An annotation in words.  many: in the plural, without an article."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        options = [option for option in inner if getattr(option, "__name__", "") != "Tensor"]
        return " or ".join(describe_annotation(option, many) for option in options)
    if origin is Literal:
        return " or ".join(map(str, inner))
    if inspect.isclass(origin) and issubclass(origin, Sequence):
        item = describe_annotation(inner[0], many=True) if inner else "values"
        count = f"{len(inner)} " if origin is tuple and inner[-1] is not Ellipsis else ""
        return f"lists of {count}{item}" if many else f"a list of {count}{item}"
    word = ANNOTATION_WORDS.get(getattr(origin or hint, "__name__", ""), str(hint))
    if word in ("true or false", "null") or word not in ANNOTATION_WORDS.values():
        return word
    return f"{word}s" if many else f"a {word}"
