"""Augmentations one after the other."""

from collections.abc import Callable, Sequence
from typing import Any

import torch


def chain(
    batch: Any, generator: torch.Generator, *, augmentations: Sequence[Callable[[Any, torch.Generator], Any]]
) -> Any:
    """Apply each of `augmentations` in turn, all drawing from one generator. Each checks the batch that reaches it."""
    for augment in augmentations:
        batch = augment(batch, generator)
    return batch
