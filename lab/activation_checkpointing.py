"""Activation checkpointing: the backward pass recomputes a block's activations instead of storing them.

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
    """Make each block of a model store only its inputs for the backward pass, in place. Returns the blocks' names.

    Gradients, running statistics and random draws stay the same bit for bit. A block that is a single layer is left
    unchanged, as recomputing it saves nothing. The model's class and the keys of its state dict stay the same. A deep
    copy checkpoints its own blocks.
    """
    names = [name for name in block_names(model) if any(True for _ in model.get_submodule(name).children())]
    for name in names:
        block = model.get_submodule(name)
        # a partial, as a deep copy of the model copies it too
        block.forward = partial(run_checkpointed, block, block.forward)
    return names


def run_checkpointed(block: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    contexts = partial(make_recompute_contexts, block)
    return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)


def make_recompute_contexts(block: nn.Module) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    return nullcontext(), RecomputeState(block)


class RecomputeState(AbstractContextManager[None]):
    """The context of a recomputation. Inside it, the block's buffers and the generators of Python and NumPy are as they
    were in the forward pass (torch restores its own generators). On exit, changes to them are undone, so that running
    statistics are updated once a step."""

    def __init__(self, block: nn.Module):
        self.buffers_before = [(module, copy_buffers(module._buffers)) for module in block.modules() if module.training]
        self.generators_before = random.getstate(), numpy.random.get_state()

    def __enter__(self) -> None:
        self.buffers_after = [dict(module._buffers) for module, _ in self.buffers_before]
        self.generators_after = random.getstate(), numpy.random.get_state()
        for module, buffers in self.buffers_before:  # copied again, as there may be a second backward pass
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
