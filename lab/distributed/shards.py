"""Fully sharded data parallelism: each rank holds a shard of every parameter. Checkpoints hold full tensors.

Source: Zhao et al. 2023, arXiv:2304.11277, as torch's fully_shard.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lab.distributed.collectives import get_rank, get_world_size
from lab.models.blocks import block_names
from lab.nest import map_tensors

# further methods of models that compute with their own parameters (`lab.models.decoding`).
# forward may not call them, as each reshards the parameters at its end
FORWARD_METHODS = ("start", "advance", "attention_weights")


def is_sharded(model: Any) -> bool:
    from torch.distributed.fsdp import FSDPModule

    return isinstance(model, FSDPModule)


def shard_model(model: nn.Module, groups: Sequence[Mapping[str, Any]], device: str) -> list[dict[str, Any]]:
    """Replace each parameter in place by its shard on this rank, block by block. Returns the groups of the shards.

    Parameters that two blocks share are gathered with the whole model instead of a block.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    names = {id(p): name for name, p in model.named_parameters()}
    mesh = init_device_mesh(device.split(":")[0], (get_world_size(),))
    blocks = [model.get_submodule(name) for name in block_names(model)]
    owners = [id(p) for block in blocks for p in block.parameters()]
    for block in blocks:
        if block is not model and all(owners.count(id(p)) == 1 for p in block.parameters()):
            fully_shard(block, mesh=mesh, reshard_after_forward=True)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    for name in FORWARD_METHODS:
        if hasattr(model, name):
            register_fsdp_forward_method(model, name)
    shards = dict(model.named_parameters())
    return [{**group, "params": [shards[names[id(p)]] for p in group["params"]]} for group in groups]


def gather_state(state: Any) -> Any:
    """The same nest of dicts, lists and tuples, in which full tensors on the CPU replace shards on rank 0, and None
    replaces them on the other ranks. Tensors that are not sharded are unchanged."""
    return map_tensors(state, gather_tensor)


def gather_tensor(tensor: Tensor) -> Tensor | None:
    if get_world_size() == 1 or not hasattr(tensor, "full_tensor"):
        return tensor
    full = tensor.full_tensor()  # type: ignore[operator]
    return full.cpu() if get_rank() == 0 else None


def local_tensor(tensor: Tensor) -> Tensor:
    """This rank's shard of a DTensor; any other tensor unchanged."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # type: ignore[operator]


def distribute_like(value: Any, like: Tensor) -> Any:
    """A full tensor, equal on every rank, sharded like `like`; unchanged if `like` is not sharded."""
    if not (isinstance(value, Tensor) and hasattr(like, "placements") and value.shape == like.shape):
        return value
    from torch.distributed.tensor import distribute_tensor

    placed = value.to(like.device, like.dtype)
    return distribute_tensor(placed, like.device_mesh, like.placements, src_data_rank=None)  # type: ignore[attr-defined]


def load_model_state(model: nn.Module, state: Mapping[str, Any]) -> None:
    """`model.load_state_dict` for a state of full tensors."""
    if not is_sharded(model):
        model.load_state_dict(state)
        return
    own = model.state_dict()
    model.load_state_dict({name: distribute_like(value, own.get(name, value)) for name, value in state.items()})


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """`optimizer.load_state_dict` for a state of full tensors."""
    optimizer.load_state_dict(shard_optimizer_state(optimizer, state))


def shard_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> dict[str, Any]:
    """The state with its tensors sharded like the optimizer's parameters."""
    if optimizers := getattr(optimizer, "optimizers", None):  # lab.optim.muon.Muon holds several optimizers
        return {**state, "inner": list(map(shard_optimizer_state, optimizers, state["inner"]))}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    sharded = {
        number: {name: distribute_like(value, parameters[number]) for name, value in values.items()}
        for number, values in state["state"].items()
    }
    return {**state, "state": sharded}
