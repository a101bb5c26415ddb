"""The arguments that a callable takes by name."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any


def accepted_arguments(make: Callable[..., Any], offered: Mapping[str, Any]) -> dict[str, Any]:
    """The offered arguments that are parameters of the callable, except for those that a partial holds already."""
    parameters = inspect.signature(make).parameters
    held = make.keywords if isinstance(make, partial) else {}
    return {name: value for name, value in offered.items() if name in parameters and name not in held}
