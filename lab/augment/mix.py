"""Mixup and CutMix: convex combinations of examples and of their labels, by torchvision's own transforms.

Sources: Zhang et al. 2018, arXiv:1710.09412; Yun et al. 2019, arXiv:1905.04899.
"""

import torch
from torch import Tensor, nn

from lab.seeding import temporary_seed

Batch = tuple[Tensor, Tensor]


def mixup(batch: Batch, generator: torch.Generator, *, num_classes: int, alpha: float) -> Batch:
    """Each image is lam of itself and 1 - lam of another, lam ~ Beta(alpha, alpha) for the batch."""
    from torchvision.transforms import v2

    return mixed_batch(batch, generator, v2.MixUp(alpha=alpha, num_classes=num_classes))


def cutmix(batch: Batch, generator: torch.Generator, *, num_classes: int, alpha: float) -> Batch:
    """A box of 1 - lam of each image's area comes from another, lam ~ Beta(alpha, alpha) for the batch."""
    from torchvision.transforms import v2

    return mixed_batch(batch, generator, v2.CutMix(alpha=alpha, num_classes=num_classes))


def mixed_batch(batch: Batch, generator: torch.Generator, transform: nn.Module) -> Batch:
    """(B, C, H, W) images and (B,) labels to float32 images, still in the images' units, and (B, num_classes)
    probabilities. torchvision draws from the global generator; here, from one seeded by `generator`."""
    images, labels = batch
    with temporary_seed(int(torch.randint(2**62, (), generator=generator))):
        return transform(images.float(), labels)
