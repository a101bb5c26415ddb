"""Train the head first, then unfreeze one block after the other from the top.

Source: Howard & Ruder 2018, ULMFiT, arXiv:1801.06146, sec. 3.3.
"""

from torch import nn

from lab.finetune.groups import ParameterGroups, train_only
from lab.models.blocks import head_name, merge_normalisations


def gradual(model: nn.Module, epochs_per_block: float = 1.0, head: str | None = None) -> ParameterGroups:
    """A group for the head, which trains from the start, and one for each block below, which begins to train
    `epochs_per_block` after the block above it.

    epochs_per_block: number of epochs between two blocks. The paper's one epoch is for four layers; deep models need a
        fraction. A model with n blocks below its head trains completely after n * epochs_per_block epochs: 0.25
        unfreezes the nine blocks of a ResNet-18 in 2.25 epochs. In a shorter run the lowest blocks stay frozen.
    head: name of a submodule; None for the model's last block.
    """
    if epochs_per_block <= 0:
        raise ValueError(
            f"epochs_per_block {epochs_per_block} is not positive; finetune_strategy=full trains all blocks at once"
        )
    body, top = merge_normalisations(model, head)
    from_above = {head_name(model, head): top, **dict(reversed(body.items()))}
    groups = train_only(model, from_above)
    return [{**group, "from_epoch": n * epochs_per_block} for n, group in enumerate(groups)]
