"""Activation checkpointing: a block's activations are recomputed in the backward pass instead of kept for it.

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
    """Make each block of a model keep only its inputs for the backward pass, in place; returns the blocks' names.

    Gradients, running statistics and the draws of generators are the same in every bit. A block that is a single layer
    is left as it is: recomputing it saves nothing. The model's class and the keys of its state stay the same; a deep
    copy checkpoints its own blocks.
    """
    names = [name for name in block_names(model) if any(True for _ in model.get_submodule(name).children())]
    for name in names:
        block = model.get_submodule(name)
        block.forward = partial(run_checkpointed, block, block.forward)  # a deep copy copies a partial with it
    return names


def run_checkpointed(block: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    contexts = partial(make_recompute_contexts, block)
    return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)


def make_recompute_contexts(block: nn.Module) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    return nullcontext(), RecomputeState(block)


class RecomputeState(AbstractContextManager[None]):
    """The context of a recomputation: the block sees the buffers and the generators of Python and NumPy (torch restores
    its own) as they were in its forward pass, and its changes to them are undone, so that running statistics move once
    a step."""

    def __init__(self, block: nn.Module):
        self.buffers_before = [(module, copy_buffers(module._buffers)) for module in block.modules() if module.training]
        self.generators_before = random.getstate(), numpy.random.get_state()

    def __enter__(self) -> None:
        self.buffers_after = [dict(module._buffers) for module, _ in self.buffers_before]
        self.generators_after = random.getstate(), numpy.random.get_state()
        for module, buffers in self.buffers_before:  # copied once more: there may be a second backward pass
            module._buffers.update(copy_buffers(buffers))
        restore_generators(*self.generators_before)

    def __exit__(self, *_: object) -> None:
        for (module, _buffers), buffers in zip(self.buffers_before, self.buffers_after, strict=True):
            module._buffers.update(buffers)
        restore_generators(*self.generators_after)


def copy_buffers(buffers: dict[str, Tensor | None]) -> dict[str, Tensor | None]:
    return {name: None if buffer is None else buffer.clone() for name, buffer in buffers.items()}


def restore_generators(python_state: Any, numpy_state: Any) -> None:
    random.setstate(python_state)
    numpy.random.set_state(numpy_state)
