"""The annotations of a callable's parameters: the plain values and the nodes that they allow."""

import collections.abc
import inspect
import sys
import types
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

SCALARS = (bool, int, float, complex, str, bytes, None, type(None))
# packages and classes of data: a parameter that takes data does not entitle a config to construct or open it
DATA_PACKAGES = ("numpy", "pandas", "pyarrow", "PIL")
DATA_CLASSES = ("torch.Tensor",)


@dataclass(frozen=True)
class NodeKinds:
    """The nodes that an annotation allows as the value of its parameter.

    classes: classes of the objects that the node (if it is partial, the callable that it gives) may return.
    is_open: whether objects of other classes are allowed too, as with `Any`, `Callable`, a protocol or `Path`.
    positional: number of positional arguments that a partial node's callable is called with; None where unknown.
    """

    classes: tuple[type, ...]
    is_open: bool
    positional: int | None = None


def node_kinds(annotation: Any, partial: bool) -> NodeKinds:
    """The nodes that `annotation` allows.

    partial: whether the node is partial; only then does X in `Callable[..., X]` count as a class.
    """
    classes: list[type] = []
    counts: set[int | None] = set()
    is_open = False
    for option in union_options(annotation):
        results = [option]
        if partial and not is_scalar(option):
            arguments = get_args(option) if get_origin(option) is collections.abc.Callable else ()
            results = union_options(arguments[1]) if arguments else [Any]
            counts.add(len(arguments[0]) if arguments and isinstance(arguments[0], list) else None)
        for result in results:
            if (kind := named_class(result)) is not None:
                classes.append(kind)
            elif not is_scalar(result):
                is_open = True
    return NodeKinds(tuple(classes), is_open or not classes, counts.pop() if len(counts) == 1 else None)


def named_class(annotation: Any) -> type | None:
    """The class whose instances `annotation` asks for; None for stdlib classes, protocols and classes of data."""
    kind = get_origin(annotation) or annotation
    if not inspect.isclass(kind) or getattr(kind, "_is_protocol", False):
        return None
    if kind.__module__.partition(".")[0] in {*sys.stdlib_module_names, *DATA_PACKAGES}:
        return None
    ancestors = {f"{ancestor.__module__}.{ancestor.__qualname__}" for ancestor in inspect.getmro(kind)}
    return None if ancestors & set(DATA_CLASSES) else kind


def is_scalar(annotation: Any) -> bool:
    return annotation in SCALARS or get_origin(annotation) is Literal


def union_options(annotation: Any) -> list[Any]:
    return list(get_args(annotation)) if get_origin(annotation) in (Union, types.UnionType) else [annotation]


def element_annotation(annotation: Any, container: type) -> Any:
    """The annotation of the elements of a list, or of the values of a mapping.

    annotation: annotation of the list or mapping.  container: `list` or `Mapping`.
    """
    elements: list[Any] = []
    for option in union_options(annotation):
        origin, arguments = get_origin(option), get_args(option)
        is_mapping = inspect.isclass(origin) and issubclass(origin, Mapping)
        is_iterable = inspect.isclass(origin) and issubclass(origin, collections.abc.Iterable) and not is_mapping
        if container is Mapping and is_mapping and len(arguments) == 2:
            elements.append(arguments[1])
        elif container is not Mapping and is_iterable and arguments:
            elements += [argument for argument in arguments if argument is not Ellipsis]
        elif not is_scalar(option):
            elements.append(Any)
    return Union[tuple(elements)] if elements else Any  # noqa: UP007


def annotation_of(target: Any, argument: str | int) -> Any:
    """The annotation of an argument; Any where there is none.

    target: callable that takes the argument; None where it is unknown.  argument: name or position.
    """
    if target is None:
        return Any
    try:
        parameters = list(signature_of(target).parameters.values())
    except (TypeError, ValueError):  # written in C, without a signature
        return Any
    if isinstance(argument, int):
        by_position = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        matching = by_position[argument : argument + 1] or [p for p in parameters if p.kind is p.VAR_POSITIONAL]
    else:
        by_name = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        matching = [p for p in by_name if p.name == argument] or [p for p in parameters if p.kind is p.VAR_KEYWORD]
    return annotations_of(target).get(matching[0].name, Any) if matching else Any


def annotations_of(target: Any) -> dict[str, Any]:
    """The annotations of a callable's parameters by name; empty if any of them cannot be evaluated."""
    try:
        return hints_of(target.__init__ if inspect.isclass(target) else target)
    except Exception:  # names that are imported only for the type checker
        return {}


def answers_kept(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The function, which is asked once about whatever can be a key."""
    kept = lru_cache(1000)(function)
    return lambda target: kept(target) if isinstance(target, Hashable) else function(target)


signature_of, hints_of = answers_kept(inspect.signature), answers_kept(get_type_hints)


def fits_annotation(value: Any, annotation: Any) -> bool:
    """Whether a plain value is allowed by `annotation`. True where that cannot be decided from the annotation."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if isinstance(value, Mapping) and "_target_" in value:
        return True
    if origin in (Union, types.UnionType):
        return any(fits_annotation(value, option) for option in inner)
    if origin is Literal:
        return value in inner
    if annotation is None or annotation is type(None):
        return value is None
    if annotation in (bool, str):
        return isinstance(value, annotation)
    if annotation in (int, float):
        return isinstance(value, int if annotation is int else (int, float)) and not isinstance(value, bool)
    container = origin or annotation
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


ANNOTATION_WORDS = {
    "int": "whole number",
    "float": "number",
    "bool": "true or false",
    "str": "string",
    "NoneType": "null",
    "Any": "value",
    "dict": "mapping",
}


def describe_annotation(annotation: Any, plural: bool = False) -> str:
    """An annotation in words.  plural: whether to use the plural, without an article."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        options = [option for option in inner if getattr(option, "__name__", "") != "Tensor"]
        return " or ".join(describe_annotation(option, plural) for option in options)
    if origin is Literal:
        return " or ".join(map(str, inner))
    if inspect.isclass(origin) and issubclass(origin, Sequence):
        item = describe_annotation(inner[0], plural=True) if inner else "values"
        count = f"{len(inner)} " if origin is tuple and inner[-1] is not Ellipsis else ""
        return f"lists of {count}{item}" if plural else f"a list of {count}{item}"
    word = ANNOTATION_WORDS.get(getattr(origin or annotation, "__name__", ""), str(annotation))
    if word in ("true or false", "null") or word not in ANNOTATION_WORDS.values():
        return word
    return f"{word}s" if plural else f"a {word}"
