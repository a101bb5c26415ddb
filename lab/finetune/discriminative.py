"""Train every block at its own learning rate, which decreases with the distance from the head.

Source: Howard & Ruder 2018, ULMFiT, arXiv:1801.06146, sec. 3.2.
"""

from torch import nn

from lab.finetune.groups import ParameterGroups, train_only
from lab.models.blocks import head_name, merge_normalisations


def discriminative(model: nn.Module, factor: float = 2.6, head: str | None = None) -> ParameterGroups:
    """A group for the head, at the optimizer's learning rate, and one for each block below, at the rate of the block
    above divided by `factor`.

    factor: ratio of the rates of neighbouring blocks. The paper's 2.6 is for four layers; after ten blocks it leaves
        7e-5 of the rate, so a deep model needs a factor nearer to 1, or finetune_strategy=layer_decay.
    head: name of a submodule; None for the model's last block.
    """
    if factor <= 0:
        raise ValueError(
            f"factor {factor} is not positive; give the paper's 2.6, or 1 for the same rate in every block"
        )
    body, top = merge_normalisations(model, head)
    from_above = {head_name(model, head): top, **dict(reversed(body.items()))}
    groups = train_only(model, from_above)
    return [{**group, "lr_scale": factor**-depth} for depth, group in enumerate(groups)]
