"""Train the scales and shifts of normalisations, and the head.

Source: Frankle et al. 2021, Training BatchNorm and Only BatchNorm, arXiv:2003.00152.
"""

from torch import nn

from lab.finetune.groups import ParameterGroups, train_only
from lab.models.blocks import head_name, is_normalisation


def norm_only(model: nn.Module, head: str | None = None, train_head: bool = True) -> ParameterGroups:
    """Two groups: scale and shift of every normalisation of any kind, and the parameters of the head.

    head: name of a submodule; None for the model's last block.
    train_head: whether the head is trained, as a new task requires. False is the paper's setting, which keeps the
        output layer of randomly initialised networks frozen.
    In a model without normalisations only the head is trained.
    Raises ValueError that lists the classes of the model's modules if there is nothing to train.
    """
    normalisations = [m for m in model.modules() if is_normalisation(m)]
    if not normalisations and not train_head:
        kinds = ", ".join(sorted({type(m).__name__ for m in model.modules()}))
        raise ValueError(f"{type(model).__name__} has no normalisation with a scale or a shift; it is made of: {kinds}")
    top = model.get_submodule(head_name(model, head)).parameters() if train_head else []
    scales_and_shifts = [p for m in normalisations for p in m.parameters(recurse=False)]
    return train_only(model, {"normalisations": scales_and_shifts, "head": top})
