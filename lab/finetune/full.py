"""Train every parameter from its current value."""

from torch import nn

from lab.finetune.groups import ParameterGroups, train_only


def full(model: nn.Module) -> ParameterGroups:
    """One group of all parameters."""
    return train_only(model, {"all": model.parameters()})
