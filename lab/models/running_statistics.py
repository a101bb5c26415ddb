"""A model's attribute that tells whether frozen normalisations update their running statistics."""

from torch import nn

MOVING_STATISTICS = "lab_moving_statistics"  # attribute of a model; copies of the model keep it


def set_moving_statistics(model: nn.Module, moving: bool) -> None:
    """Set whether normalisations inside frozen modules update their running statistics in training.

    moving: True to normalise by each batch and update the running statistics; False to normalise by the running ones.
    """
    setattr(model, MOVING_STATISTICS, moving)


def has_moving_statistics(model: nn.Module) -> bool:
    return getattr(model, MOVING_STATISTICS, False)
