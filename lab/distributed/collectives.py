"""Collective operations of a distributed run. In a run of one process they return at once.

Every rank must call the same functions in the same order.
"""

import atexit
import os
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist

T = TypeVar("T")


def get_world_size() -> int:
    """The number of processes that train this model."""
    return dist.get_world_size() if dist.is_initialized() else 1


def get_rank() -> int:
    """The rank of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def local_slice(examples: int, rank: int, world: int) -> tuple[slice, float]:
    """The slice of a batch that belongs to one rank, and the weight of its mean in the mean over all ranks.

    examples: number of examples in the batch.  world: world size.
    The weight differs from 1 where the parts are not equal. Raises ValueError for fewer examples than ranks.
    """
    if examples < world:
        raise ValueError(f"a batch of {examples} for {world} processes; give data.batch_size, or hardware.processes")
    start, stop = (examples * (rank + n) // world for n in range(2))
    return slice(start, stop), (stop - start) * world / examples


def leave_process_group() -> None:
    """Leave the process group before the process exits."""
    dist.destroy_process_group()
    # gloo's threads abort the process if the interpreter shuts down before they end
    atexit.register(os._exit, 0)


def broadcast(value: T, src: int = 0) -> T:
    """The value of rank `src`, on every rank."""
    if get_world_size() == 1:
        return value
    objects: list[Any] = [value]
    dist.broadcast_object_list(objects, src=src)
    return objects[0]


def first_reason(reason: T | None) -> T | None:
    """The reason of the lowest rank that has one, on every rank; None if no rank has any."""
    if get_world_size() == 1:
        return reason
    # on the CPU, to avoid waiting for a device
    lowest = torch.tensor(get_world_size() if reason is None else get_rank())
    dist.all_reduce(lowest, dist.ReduceOp.MIN)
    return None if int(lowest) == get_world_size() else broadcast(reason, int(lowest))


def all_gather(value: T) -> list[T]:
    """Every rank's value, in order of rank."""
    if get_world_size() == 1:
        return [value]
    values: list[Any] = [None] * get_world_size()
    dist.all_gather_object(values, value)
    return values


def all_reduce_mean(tensor: Tensor) -> Tensor:
    """The mean over all ranks; the tensor may be on the CPU or on a GPU."""
    if get_world_size() == 1:
        return tensor
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total / get_world_size()


def full_tensor(tensor: T) -> T:
    """A DTensor, gathered or reduced into a full tensor; any other value unchanged."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor  # type: ignore[attr-defined]


@torch.no_grad()
def broadcast_buffers(model: nn.Module) -> None:
    """Copy the buffers of rank 0 to every rank, as each rank has running statistics of its own examples."""
    if get_world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)
