"""Train one block, chosen by the kind of shift in the data.

Source: Lee et al. 2023, Surgical Fine-Tuning Improves Adaptation to Distribution Shifts, arXiv:2210.11466, sec. 2.
"""

from torch import nn

from lab.finetune.groups import ParameterGroups, train_only
from lab.models.blocks import block_parameters, check_module_name, head_name, is_within, repeated_blocks


def surgical(
    model: nn.Module, block: str | None = None, head: str | None = None, train_head: bool = True
) -> ParameterGroups:
    """Two groups: the parameters of the block, and those of the head.

    block: name of a submodule, which may be a whole stage (`layer1`), the paper's unit; None for the first of the
        model's repeated blocks, which is less than the paper's first stage. The first block suits shifts of the input
        (corruptions), a middle block shifts within the classes (other subpopulations), the head shifts of the labels.
        Everything before the first block (the stem, embeddings) is trained with it, as in the authors' code.
    head: name of a submodule; None for the model's last block.
    train_head: whether the head is trained, as a new task requires. False is the paper's setting, where the classes
        stay the same.
    Raises ValueError that lists the blocks if no module has the name of the block or the head.
    """
    by_block = block_parameters(model)
    repeated = repeated_blocks(model, head) or list(by_block)
    block = repeated[0] if block is None else check_module_name(model, block)
    chosen = list(model.get_submodule(block).parameters())
    if is_within(repeated[0], block):
        chosen += [p for name in list(by_block)[: list(by_block).index(repeated[0])] for p in by_block[name]]
    top = model.get_submodule(head_name(model, head)).parameters() if train_head else []
    return train_only(model, {"block": chosen, "head": top})
