"""Nests of tuples, lists and dicts that hold tensors, such as a batch."""

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor


def map_tensors(nest: Any, function: Callable[[Tensor], Any]) -> Any:
    """The same nest with `function` applied to its tensors; anything else in it stays as it is."""
    if isinstance(nest, Tensor):
        return function(nest)
    if isinstance(nest, tuple | list):
        parts = [map_tensors(part, function) for part in nest]
        return type(nest)(*parts) if hasattr(nest, "_fields") else type(nest)(parts)
    if isinstance(nest, dict):
        return {key: map_tensors(part, function) for key, part in nest.items()}
    return nest


def iterate_leaves(nest: Any) -> Iterator[Any]:
    """What a nest holds, in the order of `map_tensors`. None stands for an absent value and is left out."""
    if isinstance(nest, tuple | list | dict):
        for part in nest.values() if isinstance(nest, dict) else nest:
            yield from iterate_leaves(part)
    elif nest is not None:
        yield nest
