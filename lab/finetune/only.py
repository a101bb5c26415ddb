"""Train the parameters that patterns name, freeze the others."""

from torch import nn

from lab.finetune.groups import train_only
from lab.models.blocks import match_names


def only(model: nn.Module, match: list[str]) -> list[dict]:
    """A group for each pattern (`layer3.*`, `*.bias`), of the parameters whose names it matches; one that two patterns
    match is of the later group.

    Raises ValueError that lists the parameters' names for a pattern that matches none.
    """
    named = dict(model.named_parameters())
    what = f"parameter of {type(model).__name__}"
    return train_only(model, {p: [named[name] for name in match_names(list(named), [p], what)] for p in match})
