"""Random erasing, each image its own rectangle, a batch at a time.

Source: Zhong et al. 2020, arXiv:1708.04896, Alg. 1.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

Batch = tuple[Tensor, Tensor]
ATTEMPTS = 10  # as torchvision's; with the paper's numbers 1 rectangle in 10 does not fit


def random_erasing(
    batch: Batch,
    generator: torch.Generator,
    *,
    probability: float,
    area: Sequence[float],
    aspect: Sequence[float],
    value: int | None = None,
) -> Batch:
    """Overwrite, in a share `probability` of the images, a rectangle of all channels.

    images: (B, C, H, W) in units of uint8.  area: the least and the largest share of the image that it covers (the
    paper's s_l and s_h), aspect: of its height to its width (r_1 and r_2); uniform between them, and again until it
    fits, at most ten times, or the image stays as it is. Its place is uniform among those where it fits, as in the
    authors' code.  value: 0 to 255; None: of each pixel and channel its own, uniform, which the paper found best.
    Draws from `generator` on the CPU, works where the images are.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"probability {probability} is not in [0, 1]")
    if not 0 < area[0] <= area[1] <= 1 or not 0 < aspect[0] <= aspect[1]:
        raise ValueError(f"area {list(area)} is not two rising shares, or aspect {list(aspect)} not two rising ratios")
    if value is not None and not 0 <= value <= 255:
        raise ValueError(f"value {value} is not in [0, 255]; null draws each pixel's own")
    images, labels = batch
    num, channels, rows, columns = images.shape
    top, left, height, width = rectangles(num, rows, columns, area, aspect, generator)
    erased = torch.rand(num, generator=generator) < probability
    height, width = height * erased, width * erased
    box = torch.stack([top, top + height, left, left + width])[..., None].to(images.device, non_blocking=True)
    row, column = torch.arange(rows, device=images.device), torch.arange(columns, device=images.device)
    inside = ((box[0] <= row) & (row < box[1]))[:, None, :, None] & ((box[2] <= column) & (column < box[3]))[
        :, None, None, :
    ]  # (B, 1, H, W)
    if value is not None:
        return images.masked_fill(inside, value), labels
    # no more is drawn than is erased: a whole batch of noise would take longer than all else here
    noise = torch.randint(256, (int((height * width).sum()) * channels,), generator=generator, dtype=torch.uint8)
    return images.masked_scatter(inside, noise.to(images.device, images.dtype, non_blocking=True)), labels


def rectangles(
    num: int, rows: int, columns: int, area: Sequence[float], aspect: Sequence[float], generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """top, left, height, width, int64 (num,) each, of rectangles smaller than rows x columns; height and width 0 where
    none fitted."""
    shares = torch.empty(ATTEMPTS, num).uniform_(*area, generator=generator) * rows * columns
    ratios = torch.empty(ATTEMPTS, num).uniform_(*aspect, generator=generator)
    heights, widths = (shares * ratios).sqrt().round().long(), (shares / ratios).sqrt().round().long()
    fits = (heights < rows) & (widths < columns)
    first = fits.int().argmax(0, keepdim=True)  # the first of those that fit
    fitted = fits.any(0)
    height, width = heights.gather(0, first)[0] * fitted, widths.gather(0, first)[0] * fitted
    place = torch.rand(2, num, generator=generator)
    top, left = ((place * torch.stack([rows - height + 1, columns - width + 1])).floor()).long()
    return top, left, height, width
