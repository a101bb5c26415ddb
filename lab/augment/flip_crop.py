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
    top, left = torch.randint(0, 2 * padding + 1, (2, num), generator=generator).to(images.device, non_blocking=True)
    padded = F.pad(images, (padding,) * 4)
    # every crop of every image, (B, 2 padding + 1, 2 padding + 1, C, H, W), as a view
    crops = padded.unfold(2, height, 1).unfold(3, width, 1).permute(0, 2, 3, 1, 4, 5)
    cropped = crops[torch.arange(num, device=images.device), top, left].contiguous()
    if flip:
        flipped = (torch.rand(num, generator=generator) < 0.5).nonzero().flatten().to(images.device, non_blocking=True)
        cropped[flipped] = cropped[flipped].flip(-1)
    return cropped, labels  # the hardware chooses the memory format
