"""Gradient clipping by global norm, or none."""

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn

Clip = Callable[[Iterable[Tensor]], Tensor | None]


def make_clip(max_norm: float | None) -> Clip:
    """A function of parameters that clips their gradients in place and gives the norm before (Pascanu et al. 2013,
    arXiv:1211.5063); with None, one that does neither."""
    if max_norm is None:
        return no_clip
    if max_norm <= 0:
        raise ValueError(f"max_norm {max_norm} is not positive; leave it null not to clip")
    return partial(nn.utils.clip_grad_norm_, max_norm=max_norm)


def no_clip(parameters: Iterable[torch.Tensor]) -> None:
    return None
