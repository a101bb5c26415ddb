"""LoRA: train a low-rank change of each weight, and keep the weight itself fixed.

Source: Hu et al. 2021, arXiv:2106.09685, eq. 3 and sec. 4.1.
"""

from pathlib import Path

from torch import nn

from lab.finetune.groups import ParameterGroups, train_only
from lab.finetune.peft import load_adapter
from lab.models.blocks import head_name, is_within, match_names
from lab.models.low_rank import LoRA, adapt_tensor, adaptable_tensors, adapted_tensors, is_transposed
from lab.models.tied import parameter_names


def lora(
    model: nn.Module,
    rank: int = 8,
    alpha: float = 16.0,
    targets: list[str] | None = None,
    head: str | None = None,
    train_head: bool = True,
    adapter: str | None = None,
) -> ParameterGroups:
    """Each weight W of the targets becomes W + alpha / rank * B A. Two groups: `lora`, all A and B, and `head`.

    targets: patterns of module names (`layer3.*`, `*.attn.qkv`) for linear layers, convolutions, attention, recurrent
        layers and embeddings; None for all of these except embeddings and the head.
    head: name of a submodule; None for the model's last block.
    train_head: whether to train the whole head, which is then not a target; False to leave it unchanged.
    adapter: folder that peft or `lab adapter` wrote, to start from, with the same rank, alpha and targets.

    The weights are parametrized instead of wrapping the modules, so that code which reads a weight without calling its
    module, as attention does, gets the changed weight. The cost is that a step computes B A and the gradient of the
    whole weight, and that there is no dropout on A's input, which some of the paper's runs use.
    A weight that several modules share is adapted as the one tensor that it is: all of them see the same change,
    whichever of them is a target.
    Raises ValueError for a target that shares its weight with the trained head, for a rank below 1, an alpha that is
    not positive, and a pattern that matches no module; the message lists the modules that can be adapted.
    """
    head = head_name(model, head)
    names = parameter_names(model)
    for module, name in choose_targets(model, targets, head, train_head):
        if name not in module._parameters:  # adapted before, as that of another module that shares it
            continue
        weight = module.get_parameter(name)
        change = LoRA(weight, rank, alpha, is_transposed(module), isinstance(module, nn.Embedding))
        for owner in names[id(weight)]:
            place, _, tensor = owner.rpartition(".")
            if train_head and is_within(owner, head):
                raise ValueError(
                    f"{' and '.join(names[id(weight)])} are one tensor, which cannot be adapted and be trained with "
                    "the head too; give finetune_strategy.targets= without it, or finetune_strategy.train_head=false"
                )
            adapt_tensor(model.get_submodule(place), tensor, change)
    if adapter:
        load_adapter(model, Path(adapter))
    factors = [parameter for *_, change in adapted_tensors(model) for parameter in change.parameters()]
    return train_only(model, {"lora": factors, "head": model.get_submodule(head).parameters() if train_head else []})


def choose_targets(
    model: nn.Module, targets: list[str] | None, head: str, train_head: bool
) -> list[tuple[nn.Module, str]]:
    """The weights to adapt, each as its module and the name of its tensor."""
    adaptable = {name: module for name, module in model.named_modules() if adaptable_tensors(module)}
    if train_head:
        adaptable = {name: module for name, module in adaptable.items() if not is_within(name, head)}
    if targets is None:
        names = [
            name
            for name, module in adaptable.items()
            if not isinstance(module, nn.Embedding) and not is_within(name, head)
        ]
        if not names:
            raise ValueError(f"{type(model).__name__} has no module before its head {head!r} that LoRA can adapt")
    else:
        names = match_names(list(adaptable), targets, "module that LoRA can adapt")
        if not names:
            raise ValueError(f"targets={targets} names nothing to adapt; give null for every weight before the head")
    return [(adaptable[name], tensor) for name in names for tensor in adaptable_tensors(adaptable[name])]
