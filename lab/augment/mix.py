"""Mixup and CutMix: convex combinations of examples and of their labels, by torchvision's own transforms.

Sources: Zhang et al. 2018, arXiv:1710.09412; Yun et al. 2019, arXiv:1905.04899.
"""

from typing import Any

import torch
from torch import Tensor, nn

from lab.augment.batch_check import LabelledImages, require_classes, require_labels
from lab.seeding import temporary_seed


def mixup(batch: Any, generator: torch.Generator, *, num_classes: int, alpha: float) -> LabelledImages:
    """Replace each image x_i by lam x_i + (1 - lam) x_j, and its label in the same way, with one lam ~ Beta(alpha,
    alpha) for the batch. Raises ValueError unless the batch is images and labels."""
    from torchvision.transforms import v2

    images, labels = require_labels(batch, "mixup")
    require_classes(labels, num_classes, "mixup")
    return mix_examples(images, labels, generator, v2.MixUp(alpha=alpha, num_classes=num_classes))


def cutmix(batch: Any, generator: torch.Generator, *, num_classes: int, alpha: float) -> LabelledImages:
    """Paste a box of another image, a share 1 - lam of the area, into each image, and mix the labels by lam, with one
    lam ~ Beta(alpha, alpha) for the batch. Raises ValueError unless the batch is images and labels."""
    from torchvision.transforms import v2

    images, labels = require_labels(batch, "cutmix")
    require_classes(labels, num_classes, "cutmix")
    return mix_examples(images, labels, generator, v2.CutMix(alpha=alpha, num_classes=num_classes))


def mix_examples(images: Tensor, labels: Tensor, generator: torch.Generator, transform: nn.Module) -> LabelledImages:
    """Mix images (B, C, H, W) and labels (B,) to float32 images on the same scale and probabilities (B, num_classes).

    torchvision draws from the global generator, which `generator` seeds here for the duration of the call."""
    with temporary_seed(int(torch.randint(2**62, (), generator=generator))):
        return transform(images.float(), labels)
