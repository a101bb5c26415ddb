"""No augmentation."""

from typing import Any

import torch


def none(batch: Any, generator: torch.Generator) -> Any:
    """The batch unchanged; it may be of any kind."""
    return batch
