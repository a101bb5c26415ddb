"""Images from uint8 to what a model takes."""

from collections.abc import Sequence

import torch
from torch import Tensor


def check_channels(shape: Sequence[int], mean: Sequence[float], std: Sequence[float]) -> None:
    """Raises ValueError unless images of shape (C, H, W) have 1 or 3 channels, and mean and std a number for each, or
    one for all."""
    if len(shape) != 3 or shape[0] not in (1, 3) or min(shape) < 1:
        raise ValueError(f"shape {list(shape)} is not [1, height, width] (gray) or [3, height, width]")
    if len(mean) not in (1, shape[0]) or len(std) not in (1, shape[0]):
        raise ValueError(
            f"shape {list(shape)} has {shape[0]} channels, mean and std have {len(mean)} and {len(std)}; give a number "
            f"for each or one for all, such as data.mean=[0.5] data.std=[0.25]"
        )


class Standardize:
    """Images (B, C, H, W) in units of uint8 to float32, each channel minus its mean, over its standard deviation.

    mean, std: of each channel, or one for all, in units where the largest uint8 is 1.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        # x / 255 standardised is one multiplication and one addition
        self.scale = 1 / (255 * torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))
        self.shift = -torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1) * 255 * self.scale

    def to(self, device: str) -> None:
        self.scale, self.shift = self.scale.to(device), self.shift.to(device)

    def __call__(self, images: Tensor) -> Tensor:
        # float first: addcmul on mixed types is four times slower
        return torch.addcmul(self.shift, images.float(), self.scale)
