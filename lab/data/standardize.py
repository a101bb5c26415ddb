"""The last step from a data set to the model: uint8 images standardised, anything else as it is."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def check_channels(shape: Sequence[int], mean: Sequence[float], std: Sequence[float]) -> None:
    """Raises ValueError unless images of shape (C, H, W) have 1 or 3 channels, and mean and std one number for each
    channel, or one for all."""
    if len(shape) != 3 or shape[0] not in (1, 3) or min(shape) < 1:
        raise ValueError(f"shape {list(shape)} is not [1, height, width] (gray) or [3, height, width]")
    if len(mean) not in (1, shape[0]) or len(std) not in (1, shape[0]):
        raise ValueError(
            f"shape {list(shape)} has {shape[0]} channels, mean and std have {len(mean)} and {len(std)}; give a number "
            f"for each or one for all, such as data.mean=[0.5] data.std=[0.25]"
        )


class Standardize:
    """Maps a batch of images (B, C, H, W), in units of uint8, and their targets to float32 images, each channel minus
    its mean and divided by its standard deviation, and the same targets.

    mean, std: one number for each channel, or one for all, in units where the largest uint8 is 1.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        # (x / 255 - mean) / std as one multiplication and one addition
        self.scale = 1 / (255 * torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))
        self.shift = -torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1) * 255 * self.scale

    def __call__(self, batch: Sequence[Any]) -> tuple[Tensor, Any]:
        images, targets = batch
        if self.scale.device != images.device:  # moved once, with the first batch that lies on another device
            self.scale, self.shift = self.scale.to(images.device), self.shift.to(images.device)
        # float first: addcmul on mixed types is four times slower
        return torch.addcmul(self.shift, images.float(), self.scale), targets


def leave_as_is(batch: Any) -> Any:
    """The batch itself, for data sets whose examples the model takes as they are."""
    return batch
