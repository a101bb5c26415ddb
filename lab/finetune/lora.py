"""LoRA: train a change of low rank to each weight, and leave the weight itself as it was.

Source: Hu et al. 2021, arXiv:2106.09685, eq. 3 and sec. 4.1.
"""

from pathlib import Path

from torch import nn

from lab.finetune.groups import train_only
from lab.models.blocks import head_name, match_names
from lab.models.low_rank import EMBED, LoRA, adapt_tensor, adaptable_tensors, adapted_tensors, is_transposed


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
    from lab.finetune.peft import load_adapter  # which builds on this module

    head = head_name(model, head)
    for module, name in choose_targets(model, targets, head, train_head):
        weight = module.get_parameter(name)
        adapt_tensor(module, name, LoRA(weight, rank, alpha, is_transposed(module), isinstance(module, EMBED)))
    if adapter:
        load_adapter(model, Path(adapter))
    parts = [parameter for *_, part in adapted_tensors(model) for parameter in part.parameters()]
    return train_only(model, {"lora": parts, "head": model.get_submodule(head).parameters() if train_head else []})


def choose_targets(
    model: nn.Module, targets: list[str] | None, head: str, train_head: bool
) -> list[tuple[nn.Module, str]]:
    """The weights to adapt, each a module and the name of its tensor."""
    found = {name: module for name, module in model.named_modules() if adaptable_tensors(module)}
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
        names = match_names(list(found), targets, "module that LoRA can adapt")
        if not names:
            raise ValueError(f"targets={targets} names nothing to adapt; null is every weight before the head")
    return [(found[name], tensor) for name in names for tensor in adaptable_tensors(found[name])]
