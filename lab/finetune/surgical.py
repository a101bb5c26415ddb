"""Train one block, the one that the shift of the data calls for.

Source: Lee et al. 2023, Surgical Fine-Tuning Improves Adaptation to Distribution Shifts, arXiv:2210.11466, sec. 2.
"""

from torch import nn

from lab.finetune.groups import train_only
from lab.models.blocks import blocks, head_name, is_within, module_name, repeated_blocks


def surgical(
    model: nn.Module, block: str | None = None, head: str | None = None, train_head: bool = True
) -> list[dict]:
    """Two groups: the parameters of the block, and those of the head.

    block: a submodule's name, also of a whole stage, the paper's unit (`layer1`); None: the first of the blocks that
    the model repeats, less than the paper's first stage, for shifts of the input (corruptions); shifts of what the
    classes consist of want one in the middle, those of the labels the head. What comes before the first block (the
    stem, embeddings) is trained along with it, as in the authors' code.
    head: a submodule's name; None: the model's last block.  train_head: for a new task; False for the paper's setting,
    where the classes stay.
    Raises ValueError that lists the blocks where none has that name.
    """
    named = blocks(model)
    repeated = repeated_blocks(model, head) or list(named)
    block = repeated[0] if block is None else module_name(model, block)
    chosen = list(model.get_submodule(block).parameters())
    if is_within(repeated[0], block):
        chosen += [p for name in list(named)[: list(named).index(repeated[0])] for p in named[name]]
    top = model.get_submodule(head_name(model, head)).parameters() if train_head else []
    return train_only(model, {"block": chosen, "head": top})
