"""Train the biases and the head.

Source: Ben Zaken et al. 2022, BitFit, arXiv:2106.10199, sec. 3.
"""

from torch import nn

from lab.finetune.groups import ParameterGroups, train_only
from lab.models.blocks import head_name


def bitfit(model: nn.Module, head: str | None = None, train_head: bool = True) -> ParameterGroups:
    """Two groups: every bias of the model, including those of normalisations, and the head's parameters.

    head: name of a submodule; None for the model's last block.
    train_head: whether to train the whole head; False for only its bias.
    Raises ValueError that lists the parameters if none is a bias.
    """
    names = [name for name, _ in model.named_parameters()]
    biases = [p for name, p in model.named_parameters() if is_bias(name)]
    if not biases:
        raise ValueError(f"{type(model).__name__} has no bias to train; its parameters are: {', '.join(names)}")
    top = model.get_submodule(head_name(model, head)).parameters() if train_head else []
    return train_only(model, {"biases": biases, "head": top})


def is_bias(name: str) -> bool:
    """Whether a parameter is a bias by its name: `fc.bias`, attention's `in_proj_bias`, an LSTM's `bias_ih_l0`."""
    last = name.rpartition(".")[2]
    return last.endswith("bias") or last.startswith("bias_")
