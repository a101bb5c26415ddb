"""Word dropout: tokens replaced by the unknown one."""

from typing import Any

import torch
from torch import Tensor

from lab.nest import describe_shapes

NUM_SPECIAL = 4  # ids below it are padding, the unknown token, and the ends of a text


def word_dropout(
    batch: Any, generator: torch.Generator, *, rate: float = 0.1, unknown: int = 1
) -> tuple[dict[str, Tensor], Any]:
    """Replace each token by `unknown` with probability `rate` (Iyyer et al. 2015, doi:10.3115/v1/P15-1162); special
    tokens stay.

    batch: ({"input_ids": (B, L) int64, ...}, targets). Raises ValueError for any other.
    """
    match batch:
        case ({"input_ids": Tensor() as ids} as inputs, targets):
            drawn = torch.rand(ids.shape, generator=generator, device=generator.device).to(ids.device)
            return {**inputs, "input_ids": torch.where((drawn < rate) & (ids >= NUM_SPECIAL), unknown, ids)}, targets
    raise ValueError(f"word_dropout is for token ids: it takes batches with input_ids; got {describe_shapes(batch)}")
