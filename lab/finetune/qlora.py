"""QLoRA: LoRA on weights that are kept in 4 bits.

Source: Dettmers et al. 2023, arXiv:2305.14314.
"""

from torch import nn

from lab.finetune.groups import ParameterGroups, train_only
from lab.models.blocks import head_name, is_within, match_names
from lab.models.quantized import QuantizedLinear, can_quantize


def qlora(
    model: nn.Module,
    rank: int = 16,
    alpha: float = 16.0,
    targets: list[str] | None = None,
    head: str | None = None,
    train_head: bool = True,
) -> ParameterGroups:
    """Each linear layer of the targets keeps its weight in 4 bits and gets a low-rank change, as `lora`. Two groups,
    `lora` and `head`.

    targets: patterns of module names; None for all linear layers before the head.  head, train_head: as `lora`.
    Raises ValueError for a pattern that matches no linear layer, and for a model without one that can be quantised;
    ImportError without bitsandbytes.
    """
    head = head_name(model, head)
    layers = {
        name: module
        for name, module in model.named_modules()
        if type(module) is nn.Linear and can_quantize(module) and not is_within(name, head)
    }
    names = list(layers) if targets is None else match_names(list(layers), targets, "linear layer before the head")
    if not names:
        raise ValueError(f"{type(model).__name__} has no linear layer before its head {head!r} that can be quantised")
    changes: list[nn.Parameter] = []
    for name in names:
        parent, _, child = name.rpartition(".")
        quantized = QuantizedLinear(layers[name], rank, alpha)
        setattr(model.get_submodule(parent), child, quantized)
        changes += quantized.change.parameters()
    return train_only(model, {"lora": changes, "head": model.get_submodule(head).parameters() if train_head else []})
