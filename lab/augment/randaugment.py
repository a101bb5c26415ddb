"""RandAugment on a batch: images that drew the same operation go through it together.

Source: Cubuk et al. 2020, arXiv:1909.13719, with the operations and magnitudes of torchvision's v2.RandAugment.
One operation at one magnitude costs a few kernels however many images it serves; image by image costs them each time.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

Batch = tuple[Tensor, Tensor]
Operation = Callable[[Tensor, float], Tensor]
NUM_BINS = 31


def randaugment(batch: Batch, generator: torch.Generator, *, num_ops: int, magnitude: int) -> Batch:
    """`num_ops` random operations on each image, in sequence.

    images: (B, 1 or 3, H, W) uint8.  magnitude: 0 to 30, the strength of every operation that has one.
    """
    if not 0 <= magnitude < NUM_BINS:
        raise ValueError(f"magnitude {magnitude} is not in [0, {NUM_BINS - 1}]")
    images, labels = batch
    strength = magnitude / (NUM_BINS - 1)
    table = operations(images.shape[-1], images.shape[-2])
    images = images.clone()
    for _ in range(num_ops):
        chosen = torch.randint(len(table), (len(images),), generator=generator)
        sign = torch.randint(2, (len(images),), generator=generator)
        for number, (operation, scale, signed) in enumerate(table.values()):
            for negative in (0, 1) if signed else (None,):
                mask = chosen == number if negative is None else (chosen == number) & (sign == negative)
                members = mask.nonzero().flatten().to(images.device)
                if len(members):
                    amount = scale * strength * (-1 if negative else 1)
                    images[members] = operation(images[members], amount)
    return images, labels


def operations(width: int, height: int) -> dict[str, tuple[Operation, float, bool]]:
    """name: (operation on images and an amount, the amount at full strength, whether its sign is drawn)."""
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
