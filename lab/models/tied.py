"""Tied parameters: tensors that several modules of a model share, each under a name of its own."""

from collections import defaultdict

from torch import nn

from lab.models.blocks import is_within


def parameter_names(model: nn.Module) -> dict[int, list[str]]:
    """All names of each parameter, by its id; a tied parameter has several."""
    names: dict[int, list[str]] = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names[id(parameter)].append(name)
    return names


def shared_with(model: nn.Module, module: str) -> list[tuple[str, str]]:
    """The names of each parameter that a module shares with the rest of the model: inside of it, and outside."""
    pairs = []
    for names in parameter_names(model).values():
        inside = [name for name in names if is_within(name, module)]
        outside = [name for name in names if not is_within(name, module)]
        if inside and outside:
            pairs.append((inside[0], outside[0]))
    return pairs
