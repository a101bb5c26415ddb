"""Data parallelism: one replica of the model on each rank, gradients averaged over the ranks.

Source: Li et al. 2020, arXiv:2006.15704.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from inspect import signature
from typing import Any

import torch
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lab.distributed.collectives import get_world_size
from lab.distributed.shards import is_sharded

Forward = Callable[..., Any]  # a model, or a wrapper that is called like it


def wrap_for_first_step(model: nn.Module, previous: Forward) -> Forward:
    """The model wrapped for the first step of a phase, in which `average_gradients` averages the gradients over all
    ranks after the backward pass. `model` itself in a run of one process, or if it is sharded.

    After the first step it is known which parameters get a gradient, and `wrap_ddp` wraps the model for the next steps.
    previous: previous wrapper of this model, which must not be called any more.
    """
    if get_world_size() == 1 or is_sharded(model):
        return model
    if isinstance(previous, DistributedDataParallel):
        previous._remove_autograd_hooks()  # otherwise they stay active until the wrapper is garbage-collected
    return ManualAverage(model)


class ManualAverage:
    """A replica that averages gradients after the backward pass, when it is known which parameters have a gradient."""

    def __init__(self, model: nn.Module):
        self.model = model

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.model(*args, **kwargs)

    @contextmanager
    def average(self) -> Iterator[None]:
        yield
        trainable = [p for p in self.model.parameters() if p.requires_grad]
        used = torch.tensor([p.grad is not None for p in trainable], dtype=torch.uint8)
        dist.all_reduce(used, dist.ReduceOp.MAX)
        for parameter, is_used in zip(trainable, used.tolist(), strict=True):
            if is_used:
                if parameter.grad is None:  # only the examples of another rank used this parameter
                    parameter.grad = torch.zeros_like(parameter)
                dist.all_reduce(parameter.grad.div_(get_world_size()))


def wrap_ddp(model: Forward) -> Forward:
    """The model of a `ManualAverage` as DistributedDataParallel, which averages gradients during the backward pass (Li
    et al. 2020, sec. 3.2); any other model unchanged. Call this after the first step, while it has gradients."""
    if not isinstance(model, ManualAverage):
        return model
    has_unused = any(p.requires_grad and p.grad is None for p in model.model.parameters())
    # buffers are broadcast only before scoring: a broadcast in every step fails for losses that call the model twice.
    # versions of torch differ in the option's name
    options = signature(DistributedDataParallel).parameters
    sync_buffers = next(name for name in ("forward_sync_buffers", "broadcast_buffers") if name in options)
    ddp: Any = DistributedDataParallel
    return ddp(model.model, find_unused_parameters=has_unused, **{sync_buffers: False})


def average_gradients(model: Forward, last: bool = True) -> AbstractContextManager[None]:
    """The context of a forward and backward pass.

    last: whether it is the last pass of a step, which averages the gradients that all passes of the step accumulated.
    """
    if isinstance(model, ManualAverage) and last:
        return model.average()
    if isinstance(model, DistributedDataParallel) and not last:
        return model.no_sync()
    return NOTHING_TO_AVERAGE


NOTHING_TO_AVERAGE = nullcontext()  # shared, as creating a context costs more than entering it


def convert_sync_batchnorm(model: nn.Module) -> None:
    """Replace BatchNorm layers in place by synchronised ones, which on CUDA compute their statistics over the examples
    of all ranks, as a single process would."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
                module._modules[name] = nn.SyncBatchNorm.convert_sync_batchnorm(child)
            elif isinstance(child, nn.BatchNorm2d) and type(child).__module__.startswith("timm."):
                from timm.layers.norm_act import convert_sync_batchnorm  # timm's BatchNorm layers contain an activation

                module._modules[name] = convert_sync_batchnorm(child)
