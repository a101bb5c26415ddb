"""What a callable can be given by name."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any


def accepted_arguments(make: Callable[..., Any], offered: Mapping[str, Any]) -> dict[str, Any]:
    """What a callable takes by name of what is offered, and a partial has not been given yet."""
    takes = inspect.signature(make).parameters
    given = make.keywords if isinstance(make, partial) else {}
    return {name: value for name, value in offered.items() if name in takes and name not in given}
