"""Train only the head, on fixed features.

Source: Alain & Bengio 2017, arXiv:1610.01644; as a measure of features, Kornblith et al. 2019, arXiv:1805.08974.
"""

from torch import nn

from lab.finetune.groups import ParameterGroups, train_only
from lab.models.blocks import head_name
from lab.models.running_statistics import set_moving_statistics


def linear_probe(model: nn.Module, head: str | None = None, freeze_statistics: bool = True) -> ParameterGroups:
    """One group: the parameters of the head.

    head: name of a submodule; None for the model's last block.
    freeze_statistics: whether BatchNorm layers keep their running statistics and normalise by them. If False, they
        normalise by each batch, and their running statistics adapt to the new data, although nothing else in the body
        changes.
    """
    set_moving_statistics(model, not freeze_statistics)
    return train_only(model, {"head": model.get_submodule(head_name(model, head)).parameters()})
