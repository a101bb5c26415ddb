"""Augmentations one after the other."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

Augmentation = Callable[[Any, torch.Generator], Any]


def chain(batch: Any, generator: torch.Generator, *, augmentations: Sequence[Augmentation]) -> Any:
    """Apply each of `augmentations` in turn, all drawing from one generator."""
    for augment in augmentations:
        batch = augment(batch, generator)
    return batch
