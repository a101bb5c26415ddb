"""Random erasing of a rectangle, drawn for each image and applied to a batch at once.

Source: Zhong et al. 2020, arXiv:1708.04896, Alg. 1.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lab.augment.batch_check import require_images

MAX_ATTEMPTS = 10  # as in torchvision; with the paper's settings 1 rectangle in 10 does not fit


def random_erasing(
    batch: Any,
    generator: torch.Generator,
    *,
    probability: float,
    area: Sequence[float],
    aspect: Sequence[float],
    value: int | None = None,
) -> tuple[Tensor, Any]:
    """Overwrite a rectangle, in all channels, of images (B, C, H, W) with values from 0 to 255.

    probability: probability that an image gets a rectangle.
    area: smallest and largest share of the image that the rectangle covers (the paper's s_l and s_h).
    aspect: smallest and largest ratio of the rectangle's height to its width (r_1 and r_2).
    value: fill value from 0 to 255; None for uniform noise in each pixel and channel, which the paper found best.

    Area and aspect are drawn uniformly until the rectangle fits, at most ten times; if none fits, the image is
    unchanged. The position is uniform among all where the rectangle fits, as in the authors' code. Random numbers are
    drawn on the CPU; the images are processed on their own device.
    No pixel moves, so targets of any kind stay valid; the paper also erases in images for detection.
    Raises ValueError unless the batch is a pair of images and targets.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"probability {probability} is not in [0, 1]")
    if not 0 < area[0] <= area[1] <= 1 or not 0 < aspect[0] <= aspect[1]:
        raise ValueError(
            f"area {list(area)} must be two shares above 0 and aspect {list(aspect)} two ratios, the smaller one first"
        )
    if value is not None and not 0 <= value <= 255:
        raise ValueError(f"value {value} is not in [0, 255]; null draws each pixel")
    images, targets = require_images(batch, "random_erasing")
    num, channels, rows, columns = images.shape
    top, left, height, width = draw_rectangles(num, rows, columns, area, aspect, generator)
    erased = torch.rand(num, generator=generator) < probability
    height, width = height * erased, width * erased
    box = torch.stack([top, top + height, left, left + width])[..., None].to(images.device, non_blocking=True)
    row, column = torch.arange(rows, device=images.device), torch.arange(columns, device=images.device)
    inside = ((box[0] <= row) & (row < box[1]))[:, None, :, None] & ((box[2] <= column) & (column < box[3]))[
        :, None, None, :
    ]  # (B, 1, H, W)
    if value is not None:
        return images.masked_fill(inside, value), targets
    # noise only for the erased pixels: noise for the whole batch would take longer than the rest of this function
    noise = torch.randint(256, (int((height * width).sum()) * channels,), generator=generator, dtype=torch.uint8)
    return images.masked_scatter(inside, noise.to(images.device, images.dtype, non_blocking=True)), targets


def draw_rectangles(
    num: int, rows: int, columns: int, area: Sequence[float], aspect: Sequence[float], generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Top, left, height and width, each int64 (num,), of rectangles smaller than rows x columns. Height and width are 0
    where no attempt fitted."""
    shares = torch.empty(MAX_ATTEMPTS, num).uniform_(*area, generator=generator) * rows * columns
    ratios = torch.empty(MAX_ATTEMPTS, num).uniform_(*aspect, generator=generator)
    heights, widths = (shares * ratios).sqrt().round().long(), (shares / ratios).sqrt().round().long()
    fits = (heights < rows) & (widths < columns)
    first = fits.int().argmax(0, keepdim=True)  # the first attempt that fits
    fitted = fits.any(0)
    height, width = heights.gather(0, first)[0] * fitted, widths.gather(0, first)[0] * fitted
    place = torch.rand(2, num, generator=generator)
    top, left = ((place * torch.stack([rows - height + 1, columns - width + 1])).floor()).long()
    return top, left, height, width
