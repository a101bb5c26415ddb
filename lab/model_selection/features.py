"""The features that are scored: the inputs of a model's head."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lab.models.blocks import head_name

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@torch.no_grad()
def head_inputs(model: nn.Module, inputs: Iterable[Any], head: str | None = None) -> np.ndarray:
    """The features (N, D), float64, that the head's last linear layer or convolution reads, in evaluation mode.

    inputs: batches as the model takes them, on its device.  head: name of a submodule; None for the model's last block.
    The last layer is the layer that the forward pass calls last. Tokens (B, T, D) and maps (B, D, H, W) are averaged to
    (B, D).
    Raises ValueError if the head calls no linear layer or convolution.
    """
    name = head_name(model, head)
    calls: list[Tensor] = []
    layers = [m for m in model.get_submodule(name).modules() if isinstance(m, (nn.Linear, *CONVOLUTIONS))]
    hooks = [
        layer.register_forward_pre_hook(lambda layer, args: calls.append(average_positions(layer, args[0])))
        for layer in layers
    ]
    training, features = model.training, []
    try:
        model.eval()
        for batch in inputs:
            calls.clear()
            model(batch)
            if not calls:
                raise ValueError(
                    f"{name!r}, the head of {type(model).__name__}, calls no linear layer and no convolution whose "
                    "inputs could be scored"
                )
            features.append(calls[-1].float().cpu())
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return torch.cat(features).double().numpy()


def average_positions(layer: nn.Module, inputs: Tensor) -> Tensor:
    """The inputs of a layer, averaged over all dimensions but the first and the feature dimension: (B, D)."""
    if isinstance(layer, CONVOLUTIONS):
        return inputs.flatten(2).mean(2)
    return inputs.flatten(1, -2).mean(1) if inputs.dim() > 2 else inputs


def check_features(features: np.ndarray, labels: np.ndarray) -> None:
    """Raises ValueError for features (N, D) and labels (N,) that cannot be scored."""
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(f"features {features.shape} and labels {labels.shape} are not (N, D) and (N,)")
    if broken := int((~np.isfinite(features).all(1)).sum()):
        raise ValueError(
            f"the features of {broken} of {len(features)} examples are not finite; look at the model's weights, and at "
            "data.mean and data.std, which standardise its inputs"
        )
    if len(np.unique(labels)) < 2:
        raise ValueError(f"{len(labels)} examples of one class cannot tell models apart; give more with --examples=")
