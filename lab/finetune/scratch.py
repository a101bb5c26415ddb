"""Train every parameter from a random start."""

from typing import Any

from torch import nn


def scratch(model: nn.Module) -> list[dict]:
    """One group of all parameters. Pretrained weights, if the model carries any, are dropped first.

    Raises ValueError where they cannot be: a module that owns parameters but no `reset_parameters`.
    """
    if getattr(model, "pretrained", False):
        for name, module in model.named_modules():
            reset: Any = getattr(module, "reset_parameters", None)
            if reset:
                reset()
            elif any(True for _ in module.parameters(recurse=False)):
                raise ValueError(
                    f"{name or type(model).__name__} cannot be reset to train from scratch; leave model.weights null"
                )
    return [{"params": list(model.parameters())}]
