"""Train the head alone, on features that stay as they are.

Source: Alain & Bengio 2017, arXiv:1610.01644; as a measure of features, Kornblith et al. 2019, arXiv:1805.08974.
"""

from torch import nn

from lab.finetune.groups import train_only
from lab.models.blocks import head_name


def linear_probe(model: nn.Module, head: str | None = None, freeze_statistics: bool = True) -> list[dict]:
    """One group: the parameters of the head, the submodule of that name or the model's last block.

    freeze_statistics: batch normalisations keep their running statistics and normalise by them; else they take each
    batch's, and their running statistics follow the new data, though nothing else of the body moves.
    """
    vars(model)["moving_statistics"] = not freeze_statistics
    return train_only(model, {"head": model.get_submodule(head_name(model, head)).parameters()})
