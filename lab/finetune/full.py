"""Train every parameter from where it is."""

from torch import nn

from lab.finetune.groups import train_only


def full(model: nn.Module) -> list[dict]:
    """One group of all parameters."""
    return train_only(model, {"all": model.parameters()})
