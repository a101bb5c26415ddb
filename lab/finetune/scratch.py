"""Train every parameter from a random start."""

from torch import nn

from lab.finetune.groups import ParameterGroups, train_only
from lab.models.origin import origin_of


def scratch(model: nn.Module) -> ParameterGroups:
    """One group of all parameters. In a run the model is built without its `weights`, even if the config has some.

    Raises ValueError for a model with pretrained weights: the random start that they replaced is lost.
    """
    if origin_of(model):
        raise ValueError(
            f"{type(model).__name__} carries pretrained weights, no random start to train from; make it without "
            "(weights=null), or train from where it is with finetune_strategy=full"
        )
    return train_only(model, {"all": model.parameters()})


# lab.assembly.build reads this, and builds the model without its weights
vars(scratch)["from_random_start"] = True
