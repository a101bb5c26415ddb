"""RandAugment on a batch: an operation is applied at once to all images that drew it.

Source: Cubuk et al. 2020, arXiv:1909.13719, with the operations and magnitudes of torchvision's v2.RandAugment.
An operation costs a few kernel launches for such a group; applied image by image, it would cost as many for each image.
"""

import math
from collections.abc import Callable
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
    images = images.clone()
    for _ in range(num_ops):
        chosen = torch.randint(len(operations), (len(images),), generator=generator)
        sign = torch.randint(2, (len(images),), generator=generator)
        for number, (operation, scale, signed) in enumerate(operations.values()):
            for negative in (0, 1) if signed else (None,):
                mask = chosen == number if negative is None else (chosen == number) & (sign == negative)
                members = mask.nonzero().flatten().to(images.device)
                if len(members):
                    amount = scale * strength * (-1 if negative else 1)
                    images[members] = operation(images[members], amount)
    return images, labels


def make_operations(width: int, height: int) -> dict[str, tuple[Operation, float, bool]]:
    """By name, a function of images and an amount, the amount at full strength, and whether the sign is random."""
    from torchvision.transforms.v2 import functional as F

    def shear(images: Tensor, x: float, y: float) -> Tensor:
        angles = [math.degrees(math.atan(x)), math.degrees(math.atan(y))]
        return F.affine(images, angle=0.0, translate=[0, 0], scale=1.0, shear=angles, center=[0, 0])

    def translate(images: Tensor, x: float, y: float) -> Tensor:
        return F.affine(images, angle=0.0, translate=[int(x), int(y)], scale=1.0, shear=[0, 0])

    return {
        "Identity": (lambda x, a: x, 0.0, False),
        "ShearX": (lambda x, a: shear(x, a, 0), 0.3, True),
        "ShearY": (lambda x, a: shear(x, 0, a), 0.3, True),
        "TranslateX": (lambda x, a: translate(x, a, 0), 150 / 331 * width, True),
        "TranslateY": (lambda x, a: translate(x, 0, a), 150 / 331 * height, True),
        "Rotate": (lambda x, a: F.rotate(x, a), 30.0, True),
        "Brightness": (lambda x, a: F.adjust_brightness(x, 1 + a), 0.9, True),
        "Color": (lambda x, a: F.adjust_saturation(x, 1 + a), 0.9, True),
        "Contrast": (lambda x, a: F.adjust_contrast(x, 1 + a), 0.9, True),
        "Sharpness": (lambda x, a: F.adjust_sharpness(x, 1 + a), 0.9, True),
        "Posterize": (lambda x, a: F.posterize(x, 8 - round(a)), 4.0, False),
        "Solarize": (lambda x, a: F.solarize(x, 255 - a), 255.0, False),
        "AutoContrast": (lambda x, a: F.autocontrast(x), 0.0, False),
        "Equalize": (lambda x, a: F.equalize(x), 0.0, False),
    }
