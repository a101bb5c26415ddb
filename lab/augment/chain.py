"""Several augmentations, one after the other."""

from collections.abc import Callable, Sequence
from typing import Any

import torch


def chain(
    batch: Any, generator: torch.Generator, *, augmentations: Sequence[Callable[[Any, torch.Generator], Any]]
) -> Any:
    """Apply `augmentations` in turn, with one generator for all. Each checks the batch that it receives: mixup and
    cutmix give floats, so randaugment comes before them."""
    for augment in augmentations:
        batch = augment(batch, generator)
    return batch
