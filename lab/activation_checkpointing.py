"""Activations of a block computed again in the backward pass, not kept for it.

Source: Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost, arXiv:1604.06174, sec. 4.
"""

import random
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lab.models.blocks import block_names


def checkpoint_blocks(model: nn.Module) -> list[str]:
    """Have each block of a model keep its inputs alone for the backward pass; the blocks' names. Gradients, running
    statistics and what is drawn from generators are the same in every bit.

    A block that is a single layer is left as it is: to compute it again saves nothing. The model's class and the keys
    of its state stay; a deep copy checkpoints its own blocks.
    """
    names = [name for name in block_names(model) if any(True for _ in model.get_submodule(name).children())]
    for name in names:
        block = model.get_submodule(name)
        block.forward = partial(forward_checkpointed, block, block.forward)  # as a partial it is copied with the block
    return names


def forward_checkpointed(block: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    contexts = partial(recompute_contexts, block)
    return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)


def recompute_contexts(block: nn.Module) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    return nullcontext(), RecomputeState(block)


class RecomputeState(AbstractContextManager[None]):
    """Inside, a block finds the buffers and the generators of NumPy and Python (torch sees to its own) that it found in
    its forward pass, and what it does to them is lost: running statistics move once a step."""

    def __init__(self, block: nn.Module):
        self.found = [(module, copy_states(module._buffers)) for module in block.modules() if module.training]
        self.generators = random.getstate(), numpy.random.get_state()

    def __enter__(self) -> None:
        self.after = [dict(module._buffers) for module, _ in self.found]
        self.generators_after = random.getstate(), numpy.random.get_state()
        for module, buffers in self.found:  # copies of copies: there may be a second backward pass
            module._buffers.update(copy_states(buffers))
        set_states(*self.generators)

    def __exit__(self, *_: object) -> None:
        for (module, _buffers), now in zip(self.found, self.after, strict=True):
            module._buffers.update(now)
        set_states(*self.generators_after)


def copy_states(buffers: dict[str, Tensor | None]) -> dict[str, Tensor | None]:
    return {name: None if buffer is None else buffer.clone() for name, buffer in buffers.items()}


def set_states(python: Any, numpys: Any) -> None:
    random.setstate(python)
    numpy.random.set_state(numpys)
