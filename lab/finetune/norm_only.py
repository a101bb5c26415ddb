"""Train the scales and shifts of normalisations, and the head.

Source: Frankle et al. 2021, Training BatchNorm and Only BatchNorm, arXiv:2003.00152.
"""

from torch import nn

from lab.finetune.groups import train_only
from lab.models.blocks import head_name, is_normalisation


def norm_only(model: nn.Module, head: str | None = None, train_head: bool = True) -> list[dict]:
    """Two groups: scale and shift of every normalisation, of any kind, and the head's parameters.

    head: a submodule's name; None: the model's last block.  train_head: the paper, which studies networks that start
    at random, leaves the output layer frozen too (False); a new task needs it. A model without normalisations trains
    its head alone.
    Raises ValueError that lists the kinds of its modules where there is nothing to train.
    """
    found = [m for m in model.modules() if is_normalisation(m)]
    if not found and not train_head:
        kinds = ", ".join(sorted({type(m).__name__ for m in model.modules()}))
        raise ValueError(f"{type(model).__name__} has no normalisation with a scale or a shift; it is made of: {kinds}")
    top = model.get_submodule(head_name(model, head)).parameters() if train_head else []
    scales = [p for m in found for p in m.parameters(recurse=False)]
    return train_only(model, {"normalisations": scales, "head": top})
