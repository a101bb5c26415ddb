"""Gradient clipping by global norm, or none."""

from collections.abc import Callable, Iterable
from functools import partial

from torch import Tensor, nn

Clip = Callable[[Iterable[Tensor]], Tensor | None]


def make_clip(max_norm: float | None) -> Clip:
    """A function that scales the gradients of parameters in place, g <- g min(1, max_norm / |g|), and returns |g|, the
    norm of all gradients together before scaling. For a max_norm of None it does nothing and returns None.

    Source: Pascanu et al. 2013, arXiv:1211.5063, Alg. 1. torch adds 1e-6 to the denominator.
    """
    if max_norm is None:
        return no_clip
    if max_norm <= 0:
        raise ValueError(f"max_norm {max_norm} is not positive; give null for no clipping")
    return partial(nn.utils.clip_grad_norm_, max_norm=max_norm)


def no_clip(parameters: Iterable[Tensor]) -> None:
    """Leave the gradients as they are."""
    return None
