"""What a model's head is given: the features that every score here looks at."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lab.models.blocks import head_name

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@torch.no_grad()
def head_inputs(model: nn.Module, inputs: Iterable[Any], head: str | None = None) -> np.ndarray:
    """The features (N, D), float64, that the last linear layer or convolution of the head reads, in evaluation mode.

    inputs: batches as the model takes them, on its device.  head: a submodule's name; None: the model's last block.
    Which layer is last, the forward pass tells. Tokens (B, T, D) and maps (B, D, H, W) are averaged to (B, D).
    Raises ValueError where the head calls no such layer.
    """
    name = head_name(model, head)
    read: list[Tensor] = []
    layers = [m for m in model.get_submodule(name).modules() if isinstance(m, (nn.Linear, *CONVOLUTIONS))]
    hooks = [
        layer.register_forward_pre_hook(lambda m, given: read.append(average_positions(m, given[0])))
        for layer in layers
    ]
    training, found = model.training, []
    try:
        model.eval()
        for batch in inputs:
            read.clear()
            model(batch)
            if not read:
                said = f"{name!r}, the head of {type(model).__name__},"
                raise ValueError(f"{said} calls no linear layer and no convolution whose inputs could be scored")
            found.append(read[-1].float().cpu())
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return torch.cat(found).double().numpy()


def average_positions(layer: nn.Module, given: Tensor) -> Tensor:
    """(B, D) of what a layer is given, its features in the dimension in which the layer looks for them."""
    if isinstance(layer, CONVOLUTIONS):
        return given.flatten(2).mean(2)
    return given.flatten(1, -2).mean(1) if given.dim() > 2 else given


def check_features(features: np.ndarray, labels: np.ndarray) -> None:
    """Raises ValueError for features (N, D) and labels (N,) that no score can be made of."""
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(f"features {features.shape} and labels {labels.shape} are not (N, D) and (N,)")
    if broken := int((~np.isfinite(features).all(1)).sum()):
        raise ValueError(
            f"the features of {broken} of {len(features)} examples are not finite; look at the model's weights, and at "
            "data.mean and data.std, which standardise its inputs"
        )
    if len(np.unique(labels)) < 2:
        raise ValueError(f"{len(labels)} examples of one class cannot tell models apart; give more with --examples=")
