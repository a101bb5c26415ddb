"""Random horizontal flips and padded crops, drawn for each image and applied to a batch at once.

Source: He et al. 2016, arXiv:1512.03385, sec. 4.2, after Lee et al. 2015, arXiv:1409.5185.
"""

from typing import Any

import torch

from lab.augment.batch_check import LabelledImages, require_labels


def flip_crop(batch: Any, generator: torch.Generator, *, padding: int, flip: bool = True) -> LabelledImages:
    """Pad images (B, C, H, W) by `padding` zeros (black) on each side, crop (H, W) at a random place, and flip half of
    the images.

    Random numbers are drawn on the CPU; the images are processed on their own device.
    Raises ValueError unless the batch is images and labels.
    """
    images, labels = require_labels(batch, "flip_crop")
    num, channels, height, width = images.shape
    top, left = torch.randint(0, 2 * padding + 1, (2, num), generator=generator)
    flipped = torch.rand(num, generator=generator) < 0.5 if flip else torch.zeros(num, dtype=torch.bool)
    # flipped before they are cropped, in a batch sorted by that
    left = torch.where(flipped, 2 * padding - left, left)
    order, straight = flipped.argsort(stable=True), num - int(flipped.sum())
    place = order.argsort()
    padded = images.new_zeros(num, channels, height + 2 * padding, width + 2 * padding)
    inner = padded[:, :, padding : padding + height, padding : padding + width]
    order = order.to(images.device, non_blocking=True)
    inner[:straight] = images.index_select(0, order[:straight])
    inner[straight:] = images.index_select(0, order[straight:]).flip(-1)
    # a crop of a channel is copied in one piece, from its first pixel to its last, and then seen without the borders
    of_image, of_channel, of_row, _ = padded.stride()
    length = (height - 1) * of_row + width
    pieces = padded.as_strided((padded.numel() - length + 1, length), (1, 1))
    starts = (place * of_image + top * of_row + left).unsqueeze(1) + torch.arange(channels) * of_channel
    cropped = pieces.index_select(0, starts.flatten().to(images.device, non_blocking=True))
    cropped = cropped.as_strided(images.shape, (channels * length, length, of_row, 1)).contiguous()
    return cropped, labels  # the hardware chooses the memory format
