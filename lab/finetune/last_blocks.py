"""Train the head and the last blocks of a model, freeze what comes before.

Source: Yosinski et al. 2014, arXiv:1411.1792.
"""

from torch import nn

from lab.finetune.groups import train_only
from lab.models.blocks import merge_normalisations


def last_blocks(model: nn.Module, num_blocks: int, head: str | None = None) -> list[dict]:
    """Two groups: the head's parameters and those of the `num_blocks` blocks before it. The others are frozen.

    A normalisation between blocks is none: it is trained with the block before it.  head: a submodule's name; None: the
    model's last block.  Normalisation layers that are frozen keep their running statistics too (see
    lab.train.scoring.set_training_mode).
    Raises ValueError that lists the blocks where there are not so many, or no head of that name.
    """
    body, top = merge_normalisations(model, head)
    if not 0 <= num_blocks <= len(body):
        raise ValueError(f"num_blocks {num_blocks} is not from 0 to {len(body)}; before the head: {', '.join(body)}")
    chosen = [p for name in list(body)[len(body) - num_blocks :] for p in body[name]]
    return train_only(model, {"blocks": chosen, "head": top})
