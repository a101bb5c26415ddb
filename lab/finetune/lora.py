"""LoRA: train a change of low rank to each weight, and leave the weight itself as it was.

Source: Hu et al. 2021, arXiv:2106.09685, eq. 3 and sec. 4.1.
"""

import math
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized, register_parametrization

from lab.finetune.groups import train_only
from lab.models.blocks import head_name, matching


def lora(
    model: nn.Module,
    rank: int = 8,
    alpha: float = 16.0,
    targets: list[str] | None = None,
    head: str | None = None,
    train_head: bool = True,
    adapter: str | None = None,
) -> list[dict]:
    """Each weight W of the targets becomes W + alpha / rank * B A. Groups: `lora`, the A's and B's, and `head`.

    targets: patterns over the names of modules (`layer3.*`, `*.attn.qkv`): linear layers, convolutions, attention,
    recurrent layers and embeddings; None: all of them that are neither embeddings nor in the head.  head: a submodule's
    name; None: the model's last block. With train_head it is trained whole, and no target; else it stays as it is.
    adapter: a folder of peft's or of `lab adapter` to start from, of the same rank, alpha and targets.

    The weights are parametrized, not the modules wrapped: what reads a weight past its module's forward, as attention
    does, finds the changed one. Its price is that a step computes B A and the whole weight's gradient, and that the
    dropout on A's input, which some of the paper's runs use, cannot be had.
    Raises ValueError for a rank below 1, an alpha that is not positive, and a pattern that matches nothing, with what
    there is.
    """
    from lab.finetune.adapter import load_adapter  # which builds on this module

    head = head_name(model, head)
    for module, name in chosen(model, targets, head, train_head):
        weight = module.get_parameter(name)
        adapt(module, name, LoRA(weight, rank, alpha, transposed(module), isinstance(module, EMBED)))
    if adapter:
        load_adapter(model, Path(adapter))
    parts = [parameter for *_, part in adapted(model) for parameter in part.parameters()]
    return train_only(model, {"lora": parts, "head": model.get_submodule(head).parameters() if train_head else []})


class LoRA(nn.Module):
    """From a weight W to W + scale * up @ down; up is the paper's B, (out, rank), down its A, (rank, in).

    A convolution's weight counts as the matrix (out, in / groups * kernel): down convolves to `rank` channels, up
    mixes them. As the authors' code, A starts Kaiming-uniform and B at zero; an embedding's A at zero, B normal.
    transposed: W is (in, out).
    """

    scale: Tensor

    def __init__(self, weight: Tensor, rank: int, alpha: float, transposed: bool = False, embedding: bool = False):
        super().__init__()
        if rank < 1:
            raise ValueError(f"rank {rank} is not at least 1")
        if alpha <= 0:
            raise ValueError(f"alpha {alpha} is not positive; the change would stay at zero, or go uphill")
        rows, columns = weight.shape[0], weight[0].numel()
        fan_in, fan_out = (rows, columns) if transposed else (columns, rows)
        self.down = nn.Parameter(weight.new_zeros(rank, fan_in))
        self.up = nn.Parameter(weight.new_zeros(fan_out, rank))
        self.register_buffer("scale", weight.new_tensor(alpha / rank))
        # there or not there: read from the keys of a state, and without waiting for a GPU
        self.register_buffer("transposed", torch.tensor(True) if transposed else None)
        if embedding:
            nn.init.normal_(self.up)
        else:
            nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        return changed(weight, self.down, self.up, self.scale, self.transposed is not None)


def changed(weight: Tensor, down: Tensor, up: Tensor, scale: Tensor, transposed: bool) -> Tensor:
    change = up @ down
    # the weight comes first: the sum takes its memory format
    return weight + scale * (change.T if transposed else change).reshape(weight.shape)


def merged(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of the plain model that computes the same as the one with LoRA's or DoRA's weights in `state`."""
    from lab.finetune.dora import rescaled  # which builds on this module

    plain: dict[str, Tensor] = {}
    for key, value in state.items():
        found = PARAMETRIZED.fullmatch(key)
        if found is None or f"{(parts := found['parts'])}.0.down" not in state:
            plain[key] = value
        elif found["of"] == "original":
            down, up, scale = (state[f"{parts}.0.{name}"] for name in ("down", "up", "scale"))
            turned = f"{parts}.0.transposed" in state
            weight = changed(value, down, up, scale, turned)
            if f"{parts}.1.magnitude" in state:
                weight = rescaled(weight, state[f"{parts}.1.magnitude"], turned)
            plain[found["module"] + found["tensor"]] = weight
    return plain


PARAMETRIZED = re.compile(r"(?P<parts>(?P<module>(?:.*\.)?)parametrizations\.(?P<tensor>\w+))\.(?P<of>.+)")


def chosen(model: nn.Module, targets: list[str] | None, head: str, train_head: bool) -> list[tuple[nn.Module, str]]:
    """The weights to adapt, each a module and the name of its tensor."""
    found = {name: module for name, module in model.named_modules() if weights(module)}
    if train_head:
        found = {name: module for name, module in found.items() if not f"{name}.".startswith(f"{head}.")}
    if targets is None:
        names = [
            name
            for name, module in found.items()
            if not isinstance(module, EMBED) and not f"{name}.".startswith(f"{head}.")
        ]
        if not names:
            raise ValueError(f"{type(model).__name__} has no module before its head {head!r} that LoRA can adapt")
    else:
        names = matching(list(found), targets, "module that LoRA can adapt")
        if not names:
            raise ValueError(f"targets={targets} names nothing to adapt; null is every weight before the head")
    return [(found[name], tensor) for name in names for tensor in weights(found[name])]


def weights(module: nn.Module) -> list[str]:
    """The names of a module's own tensors that LoRA can adapt. Those that are parametrized already are none."""
    patterns = [pattern for kinds, pattern in ADAPTED if isinstance(module, kinds)] or ["weight"] * transposed(module)
    own = [name for name, p in module.named_parameters(recurse=False) if p.is_floating_point()]
    return [name for name in own if any(fnmatchcase(name, pattern) for pattern in patterns)]


EMBED = nn.Embedding
ADAPTED = (
    ((nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, EMBED), "weight"),
    ((nn.MultiheadAttention,), "*proj_weight"),
    ((nn.RNNBase, nn.RNNCellBase), "weight_*"),
)


def transposed(module: nn.Module) -> bool:
    """Whether a module's weight is (in, out): an embedding's, or that of Hugging Face's Conv1D, a linear layer."""
    kinds = [f"{kind.__module__}.{kind.__name__}" for kind in type(module).__mro__]
    return isinstance(module, EMBED) or "transformers.pytorch_utils.Conv1D" in kinds


def adapt(module: nn.Module, name: str, part: nn.Module) -> None:
    """Parametrize the tensor of that name by `part`."""
    register_parametrization(module, name, part)
    if isinstance(module, nn.RNNBase):
        # it computes with a list of its tensors, gathered once: from now on gathered at each call
        for attribute, instead in GATHERED.items():
            setattr(type(module), attribute, instead)  # a class of this module alone, made by register_parametrization
        vars(module).pop("_flat_weights", None)


def adapted(model: nn.Module) -> list[tuple[str, nn.Module, str, LoRA]]:
    """Every weight that LoRA has adapted: the module's name, the module, the tensor's name, and what adapts it."""
    return [
        (name, module, tensor, parts[0])
        for name, module in model.named_modules()
        if is_parametrized(module)
        for tensor, parts in module.parametrizations.items()  # type: ignore[union-attr,operator]
        if isinstance(parts[0], LoRA)
    ]


GATHERED = {
    "_flat_weights": property(
        lambda module: [getattr(module, name) for name in module._flat_weights_names], lambda module, value: None
    ),
    **dict.fromkeys(("_init_flat_weights", "_update_flat_weights", "flatten_parameters"), lambda module: None),
}
