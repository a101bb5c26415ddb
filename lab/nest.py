"""Nests of tuples, lists and dicts that hold tensors, such as a batch."""

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor


def map_tensors(nest: Any, function: Callable[[Tensor], Any]) -> Any:
    """The same nest with `function` applied to its tensors; other values are unchanged."""
    if isinstance(nest, Tensor):
        return function(nest)
    if isinstance(nest, tuple | list):
        parts = [map_tensors(part, function) for part in nest]
        return type(nest)(*parts) if hasattr(nest, "_fields") else type(nest)(parts)
    if isinstance(nest, dict):
        return {key: map_tensors(part, function) for key, part in nest.items()}
    return nest


def iterate_leaves(nest: Any) -> Iterator[Any]:
    """The values in a nest, in the order of `map_tensors`. None means that a value is absent, and is skipped."""
    if isinstance(nest, tuple | list | dict):
        for part in nest.values() if isinstance(nest, dict) else nest:
            yield from iterate_leaves(part)
    elif nest is not None:
        yield nest


def describe_shapes(nest: Any) -> str:
    """A nest as text for messages, `(uint8[64, 3, 32, 32], int64[64])`, with the first four parts of each container."""
    if isinstance(nest, Tensor):
        return f"{str(nest.dtype).removeprefix('torch.')}{list(nest.shape)}"
    if isinstance(nest, tuple | list):
        return f"({', '.join(map(describe_shapes, nest[:4]))}{', ...' if len(nest) > 4 else ''})"
    if isinstance(nest, dict):
        parts = [f"{key}: {describe_shapes(part)}" for key, part in list(nest.items())[:4]]
        return f"{{{', '.join(parts)}{', ...' if len(nest) > 4 else ''}}}"
    return type(nest).__name__
