"""Whether frozen normalisations keep their running statistics or let them follow the data, noted on the model."""

from torch import nn

MOVING_STATISTICS = "lab_moving_statistics"  # attribute of a model; copies of the model keep it


def set_moving_statistics(model: nn.Module, moving: bool) -> None:
    """moving: normalisations below a frozen module train on each batch's statistics and update their running ones."""
    setattr(model, MOVING_STATISTICS, moving)


def has_moving_statistics(model: nn.Module) -> bool:
    return getattr(model, MOVING_STATISTICS, False)
