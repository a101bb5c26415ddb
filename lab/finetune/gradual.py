"""Train the head first, then thaw one block after the other from the top.

Source: Howard & Ruder 2018, ULMFiT, arXiv:1801.06146, sec. 3.3.
"""

from torch import nn

from lab.finetune.groups import ParameterGroups, train_only
from lab.models.blocks import head_name, merge_normalisations


def gradual(model: nn.Module, epochs_per_block: float = 1.0, head: str | None = None) -> ParameterGroups:
    """A group for the head, which trains from the start, and one for each block below, which joins `epochs_per_block`
    after the block above it.

    epochs_per_block: the paper's one epoch is for four layers; a fraction is for deep models. A model with n blocks
    below its head trains whole after n * epochs_per_block epochs: 0.25 thaws the nine of a ResNet-18 in two and a
    quarter. In a shorter run the lowest blocks stay frozen.  head: name of a submodule; None: the model's last block.
    """
    if epochs_per_block <= 0:
        raise ValueError(
            f"epochs_per_block {epochs_per_block} is not positive; finetune_strategy=full thaws all at once"
        )
    body, top = merge_normalisations(model, head)
    from_above = {head_name(model, head): top, **dict(reversed(body.items()))}
    groups = train_only(model, from_above)
    return [{**group, "from_epoch": n * epochs_per_block} for n, group in enumerate(groups)]
