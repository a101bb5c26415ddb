"""Train every parameter from a random start."""

from torch import nn

from lab.finetune.groups import ParameterGroups, train_only
from lab.models.origin import origin_of


def scratch(model: nn.Module) -> ParameterGroups:
    """One group of all parameters. A run builds the model without `weights`, even if the config sets them.

    Raises ValueError for a model with pretrained weights, which have replaced its random start.
    """
    if origin_of(model):
        raise ValueError(
            f"{type(model).__name__} has pretrained weights instead of a random start; build it with weights=null, or "
            "train from the pretrained weights with finetune_strategy=full"
        )
    return train_only(model, {"all": model.parameters()})


# tells lab.assembly.build to build the model without weights
vars(scratch)["from_random_start"] = True
