"""Train every parameter from where it is."""

from torch import nn


def full(model: nn.Module) -> list[dict]:
    """One group of all parameters."""
    return [{"params": list(model.parameters())}]
