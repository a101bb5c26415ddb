"""No augmentation."""

from typing import Any

import torch


def none(batch: Any, generator: torch.Generator) -> Any:
    return batch
