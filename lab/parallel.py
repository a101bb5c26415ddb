"""Several processes that train one model, each on its part of every batch. All is as with one where there is only one.

Source: replicas with averaged gradients are Li et al. 2020, arXiv:2006.15704; one model in shards is Zhao et al. 2023,
arXiv:2304.11277, as torch's fully_shard.
"""

import atexit
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from inspect import signature
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lab.models.blocks import block_names

Model = Callable[..., Any]
T = TypeVar("T")


class Nothing(AbstractContextManager[None]):
    """A context that does nothing, which takes less than contextlib's."""

    def __exit__(self, *_: object) -> None:
        return None


NOTHING = Nothing()


def world() -> int:
    """How many processes train this model."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def share(examples: int, rank: int, world: int) -> tuple[slice, float]:
    """Where in a batch the examples of process `rank` of `world` are, and what their mean counts in a mean over the
    processes: more or less than 1 where the shares are not even. Raises ValueError where there is not one for each."""
    if examples < world:
        raise ValueError(f"a batch of {examples} for {world} processes; give data.batch_size, or hardware.processes")
    start, stop = (examples * (rank + n) // world for n in range(2))
    return slice(start, stop), (stop - start) * world / examples


def leave() -> None:
    """Have no more to do with the others, at the end of this process."""
    dist.destroy_process_group()
    # gloo's threads abort a process that is taken apart before they have ended
    atexit.register(os._exit, 0)


# what all do together: each of these has to be called by every process, in the same order


def from_first(value: T, first: int = 0) -> T:
    """The value that rank 0 has, or the rank `first`, in every process."""
    if world() == 1:
        return value
    box: list[Any] = [value]
    dist.broadcast_object_list(box, src=first)
    return box[0]


def from_any(value: T | None) -> T | None:
    """The value of the lowest rank that has one; None where none has."""
    if world() == 1:
        return value
    first = torch.tensor(world() if value is None else rank())  # on the CPU: no waiting for a device
    dist.all_reduce(first, dist.ReduceOp.MIN)
    return None if int(first) == world() else from_first(value, int(first))


def gathered(value: T) -> list[T]:
    """Every rank's value, in order."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    dist.all_gather_object(values, value)
    return values


def mean(tensor: Tensor) -> Tensor:
    """Over the processes, of one with a device's own kind."""
    if world() == 1:
        return tensor
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total / world()


def in_full(tensor: T) -> T:
    """A tensor whole that is in shards or parts of a sum; anything else as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor  # type: ignore[attr-defined]


@torch.no_grad()
def first_buffers(model: nn.Module) -> None:
    """Give every process the buffers of rank 0: each has running statistics of its own examples."""
    if world() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


# replicas


def shared(model: nn.Module, before: Model) -> Model:
    """A callable as `model`, whose backward passes, each inside `averaging`, leave the mean of all processes' gradients
    in the parameters that require one now; `model` itself where it is alone or in shards.

    For the first step of a phase, after which `settled` gives one for the others.  before: what either gave last for
    the model, which is not to be called any more.
    """
    if world() == 1 or sharded(model):
        return model
    if isinstance(before, DistributedDataParallel):
        before._remove_autograd_hooks()  # whether or not Python has collected it
    return ByHand(model)


class ByHand:
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
                dist.all_reduce(parameter.grad.div_(world()))


def settled(model: Model) -> Model:
    """What `shared` gave, after its first step, the gradients still there: as a replica that averages while the
    backward pass is under way (Li et al. 2020, sec. 3.2)."""
    if not isinstance(model, ByHand):
        return model
    unused = any(p.requires_grad and p.grad is None for p in model.model.parameters())
    # buffers go from rank 0 to the others where they are scored; in every step that would be in the way of losses that
    # call the model twice
    replica: Any = DistributedDataParallel
    still = next(
        name for name in ("forward_sync_buffers", "broadcast_buffers") if name in signature(replica).parameters
    )
    return replica(model.model, find_unused_parameters=unused, **{still: False})


def averaging(model: Model, last: bool = True) -> AbstractContextManager[None]:
    """For a backward pass, with its forward pass.  last: of a step, the one that averages what all have added up."""
    if isinstance(model, ByHand) and last:
        return model.averaging()
    if isinstance(model, DistributedDataParallel) and not last:
        return model.no_sync()
    return NOTHING


def synchronise_statistics(model: nn.Module) -> None:
    """Have batch normalisations on CUDA take their statistics from all processes' examples, as one process would."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
                module._modules[name] = nn.SyncBatchNorm.convert_sync_batchnorm(child)
            elif isinstance(child, nn.BatchNorm2d) and type(child).__module__.startswith("timm."):
                from timm.layers.norm_act import convert_sync_batchnorm  # its own have an activation inside

                module._modules[name] = convert_sync_batchnorm(child)


# shards


def sharded(model: Any) -> bool:
    from torch.distributed.fsdp import FSDPModule

    return isinstance(model, FSDPModule)


def shard(model: nn.Module, groups: Sequence[Mapping[str, Any]], device: str) -> list[dict[str, Any]]:
    """Leave of each parameter a share in each process, block by block, in place; the groups with the parameters that
    take the places of theirs.

    What two blocks share is gathered with the whole model, not with a block.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    names = {id(p): name for name, p in model.named_parameters()}
    how: Any = {"mesh": init_device_mesh(device.split(":")[0], (world(),)), "reshard_after_forward": True}
    blocks = [model.get_submodule(name) for name in block_names(model)]
    owners = [id(p) for block in blocks for p in block.parameters()]
    for block in blocks:
        if block is not model and all(owners.count(id(p)) == 1 for p in block.parameters()):
            fully_shard(block, **how)
    fully_shard(model, **how)
    now = dict(model.named_parameters())
    return [{**group, "params": [now[names[id(p)]] for p in group["params"]]} for group in groups]


def whole(state: Any) -> Any:
    """The same nest of dicts, lists and tuples, its shards as whole tensors: on the CPU of rank 0, None elsewhere."""
    if isinstance(state, dict):
        return {key: whole(part) for key, part in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(map(whole, state))
    if world() > 1 and hasattr(state, "full_tensor"):
        full = state.full_tensor()
        return full.cpu() if rank() == 0 else None
    return state


def local(tensor: Tensor) -> Tensor:
    """This process's share of a tensor in shards; any other as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # type: ignore[operator]


def as_sharded(full: Any, like: Tensor) -> Any:
    """A whole tensor, which every process has, in shards as those of `like`, where that is in any."""
    if not (isinstance(full, Tensor) and hasattr(like, "placements") and full.shape == like.shape):
        return full
    from torch.distributed.tensor import distribute_tensor

    placed = full.to(like.device, like.dtype)
    return distribute_tensor(placed, like.device_mesh, like.placements, src_data_rank=None)  # type: ignore[attr-defined]


def load_weights(model: nn.Module, state: Mapping[str, Any]) -> None:
    """`model.load_state_dict`, of whole tensors."""
    if not sharded(model):
        model.load_state_dict(state)
        return
    own = model.state_dict()
    model.load_state_dict({name: as_sharded(value, own.get(name, value)) for name, value in state.items()})


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """`optimizer.load_state_dict`, of whole tensors."""
    optimizer.load_state_dict(state_in_shards(optimizer, state))


def state_in_shards(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> dict[str, Any]:
    if inner := getattr(optimizer, "inner", None):  # lab.optim.muon has an optimizer for each kind of weights
        return {**state, "inner": list(map(state_in_shards, inner, state["inner"]))}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    of = {
        number: {name: as_sharded(value, parameters[number]) for name, value in values.items()}
        for number, values in state["state"].items()
    }
    return {**state, "state": of}
