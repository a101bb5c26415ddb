"""Several processes that train one model, each on its part of every batch. All is as with one where there is only one.

Source: replicas with averaged gradients are Li et al. 2020, arXiv:2006.15704; one model in shards is Zhao et al. 2023,
arXiv:2304.11277, as torch's fully_shard.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lab.distributed.collectives import get_rank, get_world_size
from lab.models.blocks import block_names

Model = Callable[..., Any]


# what all do together: each of these has to be called by every process, in the same order


# replicas


# shards


def is_sharded(model: Any) -> bool:
    from torch.distributed.fsdp import FSDPModule

    return isinstance(model, FSDPModule)


def shard_model(model: nn.Module, groups: Sequence[Mapping[str, Any]], device: str) -> list[dict[str, Any]]:
    """Leave of each parameter a share in each process, block by block, in place; the groups with the parameters that
    take the places of theirs.

    What two blocks share is gathered with the whole model, not with a block.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    names = {id(p): name for name, p in model.named_parameters()}
    how: Any = {"mesh": init_device_mesh(device.split(":")[0], (get_world_size(),)), "reshard_after_forward": True}
    blocks = [model.get_submodule(name) for name in block_names(model)]
    owners = [id(p) for block in blocks for p in block.parameters()]
    for block in blocks:
        if block is not model and all(owners.count(id(p)) == 1 for p in block.parameters()):
            fully_shard(block, **how)
    fully_shard(model, **how)
    now = dict(model.named_parameters())
    return [{**group, "params": [now[names[id(p)]] for p in group["params"]]} for group in groups]


def gather_state(state: Any) -> Any:
    """The same nest of dicts, lists and tuples, its shards as whole tensors: on the CPU of rank 0, None elsewhere."""
    if isinstance(state, dict):
        return {key: gather_state(part) for key, part in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(map(gather_state, state))
    if get_world_size() > 1 and hasattr(state, "full_tensor"):
        full = state.full_tensor()
        return full.cpu() if get_rank() == 0 else None
    return state


def local_tensor(tensor: Tensor) -> Tensor:
    """This process's share of a tensor in shards; any other as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # type: ignore[operator]


def distribute_like(full: Any, like: Tensor) -> Any:
    """A whole tensor, which every process has, in shards as those of `like`, where that is in any."""
    if not (isinstance(full, Tensor) and hasattr(like, "placements") and full.shape == like.shape):
        return full
    from torch.distributed.tensor import distribute_tensor

    placed = full.to(like.device, like.dtype)
    return distribute_tensor(placed, like.device_mesh, like.placements, src_data_rank=None)  # type: ignore[attr-defined]


def load_model_state(model: nn.Module, state: Mapping[str, Any]) -> None:
    """`model.load_state_dict`, of whole tensors."""
    if not is_sharded(model):
        model.load_state_dict(state)
        return
    own = model.state_dict()
    model.load_state_dict({name: distribute_like(value, own.get(name, value)) for name, value in state.items()})


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """`optimizer.load_state_dict`, of whole tensors."""
    optimizer.load_state_dict(shard_optimizer_state(optimizer, state))


def shard_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> dict[str, Any]:
    if inner := getattr(optimizer, "inner", None):  # lab.optim.muon has an optimizer for each kind of weights
        return {**state, "inner": list(map(shard_optimizer_state, inner, state["inner"]))}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    of = {
        number: {name: distribute_like(value, parameters[number]) for name, value in values.items()}
        for number, values in state["state"].items()
    }
    return {**state, "state": of}
