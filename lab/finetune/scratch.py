"""Train every parameter from a random start."""

from torch import nn

from lab.finetune.groups import train_only


def scratch(model: nn.Module) -> list[dict]:
    """One group of all parameters. In a run the model is made without its `weights`, though they be given.

    Raises ValueError for a model that carries pretrained weights: what they replaced is gone.
    """
    if getattr(model, "pretrained", False):
        raise ValueError(
            f"{type(model).__name__} carries pretrained weights, no random start to train from; make it without "
            "(weights=null), or train from where it is with finetune_strategy=full"
        )
    return train_only(model, {"all": model.parameters()})


# who makes the model reads this, and leaves its weights out
vars(scratch)["from_random_start"] = True
