"""Preparation of batches for the model: standardised images, or batches unchanged."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def check_channels(shape: Sequence[int], mean: Sequence[float], std: Sequence[float]) -> None:
    """Raises ValueError unless images of shape (C, H, W) have 1 or 3 channels, and mean and std have one number for
    each channel or one for all channels."""
    if len(shape) != 3 or shape[0] not in (1, 3) or min(shape) < 1:
        raise ValueError(f"shape {list(shape)} is not [1, height, width] (gray) or [3, height, width]")
    if len(mean) not in (1, shape[0]) or len(std) not in (1, shape[0]):
        raise ValueError(
            f"shape {list(shape)} has {shape[0]} channels, mean and std have {len(mean)} and {len(std)}; give a number "
            f"for each or one for all, such as data.mean=[0.5] data.std=[0.25]"
        )


class Standardize:
    """Standardises the images of a batch to float32: (x / 255 - mean) / std in each channel. Targets are unchanged.

    The batch holds images (B, C, H, W) with values from 0 to 255, and their targets.
    mean, std: one number for each channel or one for all channels, on a scale where 255 is 1.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        self.mean, self.std = list(mean), list(std)
        # (x / 255 - mean) / std as one multiplication and one addition
        self.scale = 1 / (255 * torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))
        self.shift = -torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1) * 255 * self.scale
        self.by_channel = list(zip(self.scale.flatten().tolist(), self.shift.flatten().unbind(), strict=True))

    def __call__(self, batch: Sequence[Any]) -> tuple[Tensor, Any]:
        images, targets = batch
        if self.scale.device != images.device:  # moved once, for the first batch on another device
            self.scale, self.shift = self.scale.to(images.device), self.shift.to(images.device)
        # converted to float first, as addcmul of mixed types is four times slower
        values = images.float()
        if images.dtype != torch.uint8 or images.device.type != "cpu":
            return torch.addcmul(self.shift, values, self.scale), targets
        # one number at a time: a CPU multiplies and adds in the same way, in the same bits, but twice as fast
        parts = values.unbind(1) if len(self.by_channel) > 1 else [values]
        for part, (scale, shift) in zip(parts, self.by_channel, strict=True):
            torch.add(shift, part, alpha=scale, out=part)
        return values, targets


def leave_as_is(batch: Any) -> Any:
    """The batch unchanged, for data sets whose examples need no preparation."""
    return batch


def scale_image_list(batch: Sequence[Any]) -> tuple[list[Tensor], Any]:
    """A batch of uint8 images, each (C, H, W), and their targets, with the images as float32 from 0 to 1."""
    images, targets = batch
    return [image.float().div_(255) if image.dtype == torch.uint8 else image for image in images], targets


def scale_images(batch: Any) -> Any:
    """A batch of uint8 images (B, C, H, W) and their targets with the images as float32 from 0 to 1; any other batch
    unchanged."""
    if isinstance(batch, Sequence) and len(batch) == 2:
        images, targets = batch
        if isinstance(images, Tensor) and images.dtype == torch.uint8 and images.dim() == 4:
            return images.float().div_(255), targets  # in place, as new memory costs more than the division
    return batch
