"""Random horizontal flips and padded crops, drawn for each image and applied to a batch at once.

Source: He et al. 2016, arXiv:1512.03385, sec. 4.2, after Lee et al. 2015, arXiv:1409.5185.
"""

from typing import Any

import torch
import torch.nn.functional as F

from lab.augment.batch_check import LabelledImages, require_labels


def flip_crop(batch: Any, generator: torch.Generator, *, padding: int, flip: bool = True) -> LabelledImages:
    """Pad images (B, C, H, W) by `padding` zeros (black) on each side, crop (H, W) at a random place, and flip half of
    the images.

    Random numbers are drawn on the CPU; the images are processed on their own device.
    Raises ValueError unless the batch is images and labels.
    """
    images, labels = require_labels(batch, "flip_crop")
    num, _, height, width = images.shape
    top, left = torch.randint(0, 2 * padding + 1, (2, num), generator=generator)
    rows = top[:, None] + torch.arange(height)  # (B, H)
    columns = left[:, None] + torch.arange(width)  # (B, W)
    if flip:
        flipped = torch.rand(num, generator=generator) < 0.5
        columns = torch.where(flipped[:, None], columns.flip(1), columns)
    # channels last, so that the channels of a pixel are contiguous
    padded = F.pad(images, (padding,) * 4).permute(0, 2, 3, 1)
    device = images.device
    example = torch.arange(num, device=device)[:, None, None]
    cropped = padded[
        example, rows.to(device, non_blocking=True)[:, :, None], columns.to(device, non_blocking=True)[:, None, :]
    ]
    return cropped.permute(0, 3, 1, 2).contiguous(), labels  # the hardware chooses the memory format
