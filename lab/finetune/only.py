"""Train the parameters whose names match patterns, freeze the others."""

from torch import nn

from lab.finetune.groups import ParameterGroups, train_only
from lab.models.blocks import match_names


def only(model: nn.Module, match: list[str]) -> ParameterGroups:
    """A group for each pattern, with the parameters whose names it matches.

    match: patterns (`layer3.*`, `*.bias`); a parameter that two of them match belongs to the later group.
    Raises ValueError that lists the parameters' names for a pattern that matches none.
    """
    by_name = dict(model.named_parameters(remove_duplicate=False))  # a tied parameter goes by each of its names
    noun = f"parameter of {type(model).__name__}"
    groups = {pattern: [by_name[name] for name in match_names(list(by_name), [pattern], noun)] for pattern in match}
    return train_only(model, groups)
