"""RandAugment on a batch: an operation is applied at once to all images that drew it.

Source: Cubuk et al. 2020, arXiv:1909.13719, with the operations and magnitudes of torchvision's v2.RandAugment.
An operation costs a few kernel launches for such a group; applied image by image, it would cost as many for each image.
"""

import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from lab.augment.batch_check import LabelledImages, require_labels, require_uint8

Operation = Callable[[Tensor, float], Tensor]
NUM_BINS = 31


def randaugment(batch: Any, generator: torch.Generator, *, num_ops: int, magnitude: int) -> LabelledImages:
    """Apply `num_ops` random operations in sequence to each image of (B, 1 or 3, H, W) uint8.

    magnitude: strength, from 0 to 30, of all operations that have a strength.
    Raises ValueError unless the batch is such images and labels: shears, shifts and rotations move pixels.
    """
    if not 0 <= magnitude < NUM_BINS:
        raise ValueError(f"magnitude {magnitude} is not in [0, {NUM_BINS - 1}]")
    images, labels = require_labels(batch, "randaugment")
    require_uint8(images, "randaugment")
    strength = magnitude / (NUM_BINS - 1)
    operations = make_operations(images.shape[-1], images.shape[-2])
    kinds = [(operation, sign * scale * strength) for operation, scale, _ in operations.values() for sign in (1, -1)]
    signed = torch.tensor([signed for _, _, signed in operations.values()])
    for _ in range(num_ops):
        chosen = torch.randint(len(operations), (len(images),), generator=generator)
        sign = torch.randint(2, (len(images),), generator=generator)
        kind = 2 * chosen + sign * signed[chosen]
        order = kind.argsort(stable=True)
        groups = images.index_select(0, order.to(images.device)).split(kind.bincount(minlength=len(kinds)).tolist())
        changed = [
            operation(group, amount) for group, (operation, amount) in zip(groups, kinds, strict=True) if len(group)
        ]
        images = torch.cat(changed).index_select(0, order.argsort().to(images.device))
    return images, labels


def make_operations(width: int, height: int) -> dict[str, tuple[Operation, float, bool]]:
    """By name, a function of images and an amount, the amount at full strength, and whether the sign is random."""
    from torchvision.transforms.v2 import functional as F

    return {
        "Identity": (lambda x, a: x, 0.0, False),
        "ShearX": (partial(move, "ShearX"), 0.3, True),
        "ShearY": (partial(move, "ShearY"), 0.3, True),
        "TranslateX": (partial(move, "TranslateX"), 150 / 331 * width, True),
        "TranslateY": (partial(move, "TranslateY"), 150 / 331 * height, True),
        "Rotate": (partial(move, "Rotate"), 30.0, True),
        "Brightness": (lambda x, a: F.adjust_brightness(x, 1 + a), 0.9, True),
        "Color": (lambda x, a: blend(x, make_gray(x), 1 + a) if x.shape[1] == 3 else x, 0.9, True),
        "Contrast": (lambda x, a: blend(x, make_gray(x).mean((1, 2, 3), keepdim=True), 1 + a), 0.9, True),
        "Sharpness": (sharpen, 0.9, True),
        "Posterize": (lambda x, a: F.posterize(x, 8 - round(a)), 4.0, False),
        "Solarize": (lambda x, a: F.solarize(x, math.ceil(255 - a)), 255.0, False),
        "AutoContrast": (lambda x, a: F.autocontrast(x), 0.0, False),
        "Equalize": (lambda x, a: F.equalize(x), 0.0, False),
    }


def move(name: str, images: Tensor, amount: float) -> Tensor:
    """Images (B, C, H, W) with pixels taken from elsewhere, black where from outside."""
    source = source_pixels(name, amount, *images.shape[-2:], images.device)
    pixels = torch.nn.functional.pad(images.flatten(2), (1, 0))
    return pixels.gather(2, source.expand(*images.shape[:2], -1)).view_as(images)


@lru_cache(maxsize=64)
def source_pixels(name: str, amount: float, height: int, width: int, device: torch.device) -> Tensor:
    """(H * W,), where the pixel of each place comes from: 1 for the first one, 0 for outside.

    It is found by moving an image of such numbers as torchvision moves images.
    """
    from torchvision.transforms.v2 import functional as F

    numbers = torch.arange(1.0, height * width + 1).view(1, height, width)
    if name == "Rotate":
        moved = F.rotate(numbers, amount)
    else:
        x, y = (amount, 0.0) if name[-1] == "X" else (0.0, amount)
        if name.startswith("Shear"):
            angles = [math.degrees(math.atan(x)), math.degrees(math.atan(y))]
            moved = F.affine(numbers, angle=0.0, translate=[0, 0], scale=1.0, shear=angles, center=[0, 0])
        else:
            moved = F.affine(numbers, angle=0.0, translate=[int(x), int(y)], scale=1.0, shear=[0, 0])
    return moved.flatten().long().to(device)


def make_gray(images: Tensor) -> Tensor:
    """(B, 1, H, W), float32, whole numbers."""
    from torchvision.transforms.v2 import functional as F

    return F.rgb_to_grayscale(images.float()).floor_() if images.shape[1] == 3 else images.float()


def blend(images: Tensor, others: Tensor, ratio: float) -> Tensor:
    """torchvision's adjust_saturation and adjust_contrast, on floats from the start, which is twice as fast."""
    return images.float().mul_(ratio).add_(others, alpha=1 - ratio).clamp_(0, 255).to(images.dtype)


def sharpen(images: Tensor, amount: float) -> Tensor:
    """torchvision's adjust_sharpness(images, 1 + amount), with sums of rows and columns in place of a convolution: the
    mean of the 3 x 3 neighbours, of which the middle one counts 5 times, is rounded and can't lie between two integers.
    """
    if min(images.shape[-2:]) <= 2:
        return images
    sharpened = images.float()
    rows = sharpened[..., :-2, :] + sharpened[..., 1:-1, :] + sharpened[..., 2:, :]
    inner = sharpened[..., 1:-1, 1:-1]
    blurred = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * inner
    inner.add_(blurred.div_(13).round_().sub_(inner), alpha=1 - (1 + amount))
    return sharpened.clamp_(0, 255).to(images.dtype)
