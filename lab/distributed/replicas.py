"""Data parallelism: one replica of the model in each rank, gradients averaged."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from inspect import signature
from typing import Any

import torch
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lab.distributed.collectives import NOTHING, get_world_size
from lab.distributed.shards import Model, is_sharded


def wrap_for_first_step(model: nn.Module, before: Model) -> Model:
    """A callable as `model`, whose backward passes, each inside `averaging`, leave the mean of all processes' gradients
    in the parameters that require one now; `model` itself where it is alone or in shards.

    For the first step of a phase, after which `settled` gives one for the others.  before: what either gave last for
    the model, which is not to be called any more.
    """
    if get_world_size() == 1 or is_sharded(model):
        return model
    if isinstance(before, DistributedDataParallel):
        before._remove_autograd_hooks()  # whether or not Python has collected it
    return ManualAverage(model)


class ManualAverage:
    """A replica that averages once a backward pass is over: until then nobody knows which parameters it leaves out."""

    def __init__(self, model: nn.Module):
        self.model = model

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.model(*args, **kwargs)

    @contextmanager
    def averaging(self) -> Iterator[None]:
        yield
        training = [p for p in self.model.parameters() if p.requires_grad]
        used = torch.tensor([p.grad is not None for p in training], dtype=torch.uint8)
        dist.all_reduce(used, dist.ReduceOp.MAX)
        for parameter, is_used in zip(training, used.tolist(), strict=True):
            if is_used:
                if parameter.grad is None:  # another process's examples took another way
                    parameter.grad = torch.zeros_like(parameter)
                dist.all_reduce(parameter.grad.div_(get_world_size()))


def wrap_ddp(model: Model) -> Model:
    """What `shared` gave, after its first step, the gradients still there: as a replica that averages while the
    backward pass is under way (Li et al. 2020, sec. 3.2)."""
    if not isinstance(model, ManualAverage):
        return model
    unused = any(p.requires_grad and p.grad is None for p in model.model.parameters())
    # buffers go from rank 0 to the others where they are scored; in every step that would be in the way of losses that
    # call the model twice
    replica: Any = DistributedDataParallel
    still = next(
        name for name in ("forward_sync_buffers", "broadcast_buffers") if name in signature(replica).parameters
    )
    return replica(model.model, find_unused_parameters=unused, **{still: False})


def average_gradients(model: Model, last: bool = True) -> AbstractContextManager[None]:
    """For a backward pass, with its forward pass.  last: of a step, the one that averages what all have added up."""
    if isinstance(model, ManualAverage) and last:
        return model.averaging()
    if isinstance(model, DistributedDataParallel) and not last:
        return model.no_sync()
    return NOTHING


def convert_sync_batchnorm(model: nn.Module) -> None:
    """Have batch normalisations on CUDA take their statistics from all processes' examples, as one process would."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
                module._modules[name] = nn.SyncBatchNorm.convert_sync_batchnorm(child)
            elif isinstance(child, nn.BatchNorm2d) and type(child).__module__.startswith("timm."):
                from timm.layers.norm_act import convert_sync_batchnorm  # its own have an activation inside

                module._modules[name] = convert_sync_batchnorm(child)
