"""Digits with wrong training labels, or with distorted test images, for studies of noise and of shift."""

from collections.abc import Sequence

import torch
from torchvision.transforms.functional import rotate

from lab.data.digits import digits
from lab.data.in_memory import Examples, InMemory


def corrupted_digits(
    batch_size: int,
    seed: int,
    *,
    label_noise: float = 0.0,
    test_degrees: float = 0.0,
    test_noise: float = 0.0,
    val_share: float = 0.1,
    test_share: float = 0.2,
    train_examples: int | None = None,
    num_classes: int = 10,
    shape: Sequence[int] = (1, 8, 8),
    classes: Sequence[str] = tuple("0123456789"),
    mean: Sequence[float] = (0.305,),
    std: Sequence[float] = (0.376,),
) -> InMemory:
    """The digits of `lab.data.digits`, corrupted.

    label_noise: probability with which a training label is replaced by one drawn from the other classes, as in Nakkiran
    et al. (2020, arXiv:1912.02292).  test_degrees: angle by which test images are turned.  test_noise: standard
    deviation of Gaussian noise on test images, as a share of the range of gray. The test set is the same for every
    seed. Raises ValueError for a label_noise outside of [0, 1].
    """
    if not 0 <= label_noise <= 1:
        raise ValueError(f"label_noise {label_noise} is not in [0, 1]")
    data = digits(
        batch_size,
        seed,
        val_share=val_share,
        test_share=test_share,
        train_examples=train_examples,
        num_classes=num_classes,
        shape=shape,
        classes=classes,
        mean=mean,
        std=std,
    )
    data.splits["train"] = replace_labels(data.splits["train"], label_noise, seed)
    images, labels = data.splits["test"]
    turned = rotate(images, test_degrees) if test_degrees else images
    random = torch.randn(turned.shape, generator=torch.Generator().manual_seed(0))
    noisy = (turned + 255 * test_noise * random).round().clamp(0, 255).to(torch.uint8)
    data.splits["test"] = Examples(noisy, labels)
    return data


def replace_labels(examples: Examples, share: float, seed: int) -> Examples:
    """The examples; each label is replaced with this probability by another of the ten classes."""
    random = torch.Generator().manual_seed(seed)
    is_wrong = torch.rand(len(examples.labels), generator=random) < share
    shift = torch.randint(1, 10, examples.labels.shape, generator=random)
    return Examples(examples.inputs, torch.where(is_wrong, (examples.labels + shift) % 10, examples.labels))
