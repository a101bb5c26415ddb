"""No augmentation."""

from typing import Any

import torch


def none(batch: Any, generator: torch.Generator) -> Any:
    """The batch as it is, of any kind."""
    return batch
