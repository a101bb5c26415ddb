"""Train the head and the last blocks of a model, freeze everything before them.

Source: Yosinski et al. 2014, arXiv:1411.1792.
"""

from torch import nn

from lab.finetune.groups import ParameterGroups, train_only
from lab.models.blocks import merge_normalisations


def last_blocks(model: nn.Module, num_blocks: int, head: str | None = None) -> ParameterGroups:
    """Two groups: the parameters of the head, and those of the `num_blocks` blocks before it.

    A normalisation between blocks does not count as a block: it belongs to the block before it. Frozen normalisations
    keep their running statistics (see lab.train.scoring.set_training_mode).
    head: name of a submodule; None for the model's last block.
    Raises ValueError that lists the blocks if there are fewer than num_blocks, or if no module has the head's name.
    """
    body, top = merge_normalisations(model, head)
    if not 0 <= num_blocks <= len(body):
        raise ValueError(f"num_blocks {num_blocks} is not from 0 to {len(body)}; before the head: {', '.join(body)}")
    last = [p for name in list(body)[len(body) - num_blocks :] for p in body[name]]
    return train_only(model, {"blocks": last, "head": top})
