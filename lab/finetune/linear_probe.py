"""Train only the head, on fixed features.

Source: Alain & Bengio 2017, arXiv:1610.01644; as a measure of features, Kornblith et al. 2019, arXiv:1805.08974.
"""

from torch import nn

from lab.finetune.groups import ParameterGroups, train_only
from lab.models.blocks import head_name
from lab.models.running_statistics import set_moving_statistics
from lab.models.tied import shared_with


def linear_probe(model: nn.Module, head: str | None = None, freeze_statistics: bool = True) -> ParameterGroups:
    """One group: the parameters of the head.

    head: name of a submodule; None for the model's last block.
    freeze_statistics: whether BatchNorm layers keep their running statistics and normalise by them. If False, they
        normalise by each batch, and their running statistics adapt to the new data, although nothing else in the body
        changes.
    Raises ValueError for a head that shares a tensor with the body, whose features would change with it.
    """
    head = head_name(model, head)
    if pairs := shared_with(model, head):
        inside, outside = pairs[0]
        raise ValueError(
            f"{inside} and {outside} are one tensor, so the features below the head would change with the head; give "
            "finetune_strategy=full or last_blocks, or another finetune_strategy.head="
        )
    set_moving_statistics(model, not freeze_statistics)
    return train_only(model, {"head": model.get_submodule(head).parameters()})
