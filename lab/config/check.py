"""The check of a config, which finds all of its problems before a data set is read or a model is built."""

import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from lab.config.annotations import (
    annotation_of,
    annotations_of,
    describe_annotation,
    element_annotation,
    fits_annotation,
    node_kinds,
)
from lab.config.groups import GROUPS, SEARCH_GROUPS, Group
from lab.config.settings import POLICY, SETTINGS, Policy, Settings
from lab.config.targets import locate
from lab.config.trust import locate_trusted, unsafe_argument_problems
from lab.errors import ConfigError
from lab.text import suggest

OPEN_NODES = ("paths", "search", "sweep")  # top-level keys whose mappings are not the node of a group
NODE_KEYS = ("_target_", "_partial_", "_args_", "_recursive_", "_convert_")  # Hydra's own keys, which are not arguments
MENTIONED_KEY = re.compile(r"\$\{(?:oc\.select:)?([A-Za-z_]\w*)(?![\w.]*:)")  # the first key of an interpolation

KeyPath = tuple[str, ...]


def check_config(
    config: Mapping[str, Any],
    unresolved: Mapping[str, Any],
    find_group_problems: Callable[[str, Any], list[str]] | None = None,
    find_setting_problems: Callable[[dict[str, Any]], list[str]] | None = None,
) -> None:
    """Raises ConfigError with every problem found.

    config: resolved, as plain values.
    unresolved: the same config before interpolations were resolved. A top-level key that neither lab nor an
        interpolation reads is a problem.
    find_group_problems, find_setting_problems: check_group and check_settings, or memoised versions of them for many
        configs that share groups or settings; None for these themselves.
    """
    find_group_problems = find_group_problems or check_group
    problems = list(unread_key_problems(config, unresolved))
    problems += [
        f"the config has no group {name!r}; add it to the defaults list" for name in GROUPS if name not in config
    ]
    settings = {name: config[name] for name in (*SETTINGS, *POLICY) if name in config}
    problems += (find_setting_problems or check_settings)(settings)
    for name in GROUPS:
        if name in config:
            problems += find_group_problems(name, config[name])
    if problems:
        raise ConfigError(*problems)


def check_settings(config: Mapping[str, Any]) -> list[str]:
    """Problems of the settings and the policy: of their types or, where these are right, of their values."""
    problems = []
    for kind, names in ((Settings, SETTINGS), (Policy, POLICY)):
        problems += call_problems(kind, {name: config[name] for name in names if name in config}, ())
    if problems:
        return problems
    for kind in (Settings, Policy):
        try:
            kind.of(config)
        except ValueError as error:
            problems.append(str(error))
    return problems


def unread_key_problems(config: Mapping[str, Any], unresolved: Mapping[str, Any]) -> Iterator[str]:
    known = (*GROUPS, *OPEN_NODES, *SETTINGS, *POLICY)
    unknown = [name for name in config if name not in known]
    mentioned = {key for text in strings_in(unresolved) for key in MENTIONED_KEY.findall(text)} if unknown else ()
    for name in unknown:
        if name not in mentioned:
            yield f"nothing reads the key {name!r}; {suggest(name, (*known, 'experiment', 'debug', 'local'))}"


def strings_in(value: Any) -> Iterator[str]:
    """Every string in a nest of plain values, except for keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from strings_in(part)


def check_group(name: str, node: Any) -> list[str]:
    """Problems of a group's node and of all nodes in it."""
    group = (GROUPS | SEARCH_GROUPS)[name]
    dotted = ".".join(group.path)
    if not isinstance(node, Mapping) or "_target_" not in node:
        option = f"{name}={node}" if isinstance(node, str) else f"as the options of {name}= are"
        return [f"{dotted} is {node!r}, which is not a node with a _target_; choose an option of the group: {option}"]
    if group.partial == "required" and not node.get("_partial_"):
        return [f"{dotted} needs _partial_: true; the runner supplies the arguments that the config cannot"]
    if group.partial == "refused" and node.get("_partial_"):
        return [f"{dotted} must not be _partial_; the runner supplies nothing to it"]
    if any("${" in text for text in strings_in(node)):
        # Hydra would resolve it when it makes the object, after this check
        return [f"{dotted} holds the text '${{' after all interpolations are resolved; write the value itself"]
    return node_problems(node, group, group.path, Any)


def nested_problems(value: Any, group: Group, path: KeyPath, annotation: Any) -> list[str]:
    """Problems of all nodes at or below `value`.  annotation: annotation of the value's parameter."""
    if isinstance(value, Mapping) and "_target_" in value:
        return node_problems(value, group, path, annotation)
    if not isinstance(value, Mapping | list):
        return []
    parts = value.items() if isinstance(value, Mapping) else enumerate(value)
    inner = element_annotation(annotation, Mapping if isinstance(value, Mapping) else list)
    return [problem for key, part in parts for problem in nested_problems(part, group, (*path, str(key)), inner)]


def node_problems(node: Mapping[str, Any], group: Group, path: KeyPath, annotation: Any) -> list[str]:
    """Problems of a node and of all nodes in it.

    annotation: annotation of the node's parameter. If it names classes, the node must make an object of one of them;
        if it is open, the node may also make an object of the group's kind.
    """
    where = ".".join(path)
    partial = bool(node.get("_partial_"))
    kinds = node_kinds(annotation, partial)
    try:
        target = locate_trusted(str(node["_target_"]), group, kinds)
    except ConfigError as error:
        problems = [f"{where}: {problem}" for problem in error.problems]
        return problems + arguments_problems(None, node, group, path)
    arguments = {key: value for key, value in node.items() if key not in NODE_KEYS}
    num_args = len(node.get("_args_") or ())
    if not partial:
        facts = group.facts if path == group.path else ()
        problems = call_problems(target, arguments, path, num_args, facts=facts)
    elif kinds.classes:  # the annotation tells which arguments the caller of the partial supplies
        positional = None if kinds.positional is None else num_args + kinds.positional
        problems = call_problems(target, arguments, path, positional)
    else:
        problems = call_problems(target, arguments, path, num_args + group.positional, group.by_name)
    problems += unsafe_argument_problems(target, node, where)
    return problems + arguments_problems(target, node, group, path)


def arguments_problems(target: Any, node: Mapping[str, Any], group: Group, path: KeyPath) -> list[str]:
    """Problems of the nodes in a node's arguments.  target: the node's callable; None where it cannot be trusted."""
    problems = []
    for key, value in node.items():
        if key == "_args_" and isinstance(value, list):
            for number, part in enumerate(value):
                annotation = annotation_of(target, number)
                problems += nested_problems(part, group, (*path, key, str(number)), annotation)
        elif isinstance(value, Mapping | list):
            problems += nested_problems(value, group, (*path, str(key)), annotation_of(target, str(key)))
    return problems


def call_problems(
    target: Any,
    arguments: Mapping[str, Any],
    path: KeyPath,
    positional: int | None = 0,
    supplied: Sequence[str] = (),
    facts: Sequence[str] = (),
) -> list[str]:
    """Problems of calling `target` with these arguments.

    positional: number of further arguments, given by position; None where it is unknown.
    supplied: names of further arguments, given by name.
    facts: names in `arguments` that are left out of the call if the target does not take them.
    """
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):  # written in C, without a signature
        return []
    named = [p for p in parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    names = [p.name for p in named]
    by_position = names[: positional or 0]
    taken = {*by_position, *supplied}
    problems = []
    annotations = annotations_of(target)
    for name, value in arguments.items():
        dotted = ".".join((*path, name))
        if name in by_position:
            problems.append(f"the runner supplies {dotted}; leave it out")
        elif name not in names and name in facts:
            continue
        elif name not in names and not open_ended:
            known = {*names, *facts} - taken
            problems.append(f"{dotted}: {callable_name(target)} takes no {name!r}; {suggest(name, known)}")
        elif value == "???":
            problems.append(f"{dotted} is missing; give {dotted}=...")
        elif name in annotations and not fits_annotation(value, annotations[name]):
            problems.append(f"{dotted}={as_typed(value)} is not {describe_annotation(annotations[name])}")
    required = [p.name for p in named if p.default is p.empty and p.name not in taken] if positional is not None else []
    for name in required:
        if name not in arguments:
            problems.append(f"{'.'.join((*path, name))} is missing; {callable_name(target)} needs it")
    return problems


def without_untaken_facts(node: Mapping[str, Any], group: Group) -> dict[str, Any]:
    """A group's node without the facts that its callable does not take.  node: checked node."""
    try:
        parameters = inspect.signature(locate(str(node["_target_"]))).parameters
    except (TypeError, ValueError):  # written in C, without a signature
        return dict(node)
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return dict(node)
    return {key: value for key, value in node.items() if key not in group.facts or key in parameters}


def callable_name(target: Any) -> str:
    return getattr(target, "__qualname__", str(target))


def as_typed(value: Any) -> str:
    """A value as it is typed on the command line."""
    return repr(value) if isinstance(value, str) else json.dumps(value)
