"""What all ranks of a distributed run do together. In a run of one process each returns at once."""

import atexit
import os
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist

T = TypeVar("T")


class Nothing(AbstractContextManager[None]):
    """A context that does nothing, which takes less than contextlib's."""

    def __exit__(self, *_: object) -> None:
        return None


NOTHING = Nothing()


def get_world_size() -> int:
    """How many processes train this model."""
    return dist.get_world_size() if dist.is_initialized() else 1


def get_rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def local_slice(examples: int, rank: int, world: int) -> tuple[slice, float]:
    """Where in a batch the examples of process `rank` of `world` are, and what their mean counts in a mean over the
    processes: more or less than 1 where the shares are not even. Raises ValueError where there is not one for each."""
    if examples < world:
        raise ValueError(f"a batch of {examples} for {world} processes; give data.batch_size, or hardware.processes")
    start, stop = (examples * (rank + n) // world for n in range(2))
    return slice(start, stop), (stop - start) * world / examples


def leave_process_group() -> None:
    """Have no more to do with the others, at the end of this process."""
    dist.destroy_process_group()
    # gloo's threads abort a process that is taken apart before they have ended
    atexit.register(os._exit, 0)


def broadcast(value: T, first: int = 0) -> T:
    """The value that rank 0 has, or the rank `first`, in every process."""
    if get_world_size() == 1:
        return value
    box: list[Any] = [value]
    dist.broadcast_object_list(box, src=first)
    return box[0]


def first_reason(value: T | None) -> T | None:
    """The value of the lowest rank that has one; None where none has."""
    if get_world_size() == 1:
        return value
    first = torch.tensor(get_world_size() if value is None else get_rank())  # on the CPU: no waiting for a device
    dist.all_reduce(first, dist.ReduceOp.MIN)
    return None if int(first) == get_world_size() else broadcast(value, int(first))


def all_gather(value: T) -> list[T]:
    """Every rank's value, in order."""
    if get_world_size() == 1:
        return [value]
    values: list[Any] = [None] * get_world_size()
    dist.all_gather_object(values, value)
    return values


def all_reduce_mean(tensor: Tensor) -> Tensor:
    """Over the processes, of one with a device's own kind."""
    if get_world_size() == 1:
        return tensor
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total / get_world_size()


def full_tensor(tensor: T) -> T:
    """A tensor whole that is in shards or parts of a sum; anything else as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor  # type: ignore[attr-defined]


@torch.no_grad()
def broadcast_buffers(model: nn.Module) -> None:
    """Give every process the buffers of rank 0: each has running statistics of its own examples."""
    if get_world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)
