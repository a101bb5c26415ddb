"""scikit-learn's handwritten digits: 1,797 gray images of 8x8, ten classes, no download.

Source: Alpaydin & Kaynak 1998, UCI Optical Recognition of Handwritten Digits (its test part).
"""

from collections.abc import Sequence
from typing import Any

import torch
from sklearn.datasets import load_digits

from lab.data.in_memory import Examples, InMemory
from lab.data.order import split


def digits(
    batch_size: int,
    seed: int,
    *,
    val_share: float = 0.1,
    test_share: float = 0.2,
    num_classes: int = 10,
    shape: Sequence[int] = (1, 8, 8),
    classes: Sequence[str] = tuple("0123456789"),
    mean: Sequence[float] = (0.305,),
    std: Sequence[float] = (0.376,),
) -> InMemory:
    """The test set is the same for every seed; what is left is split by the seed's split stream.

    num_classes, shape: facts that a config's other nodes read; ValueError where they are not 10 and (1, 8, 8).
    """
    if list(shape) != [1, 8, 8] or num_classes != 10:
        raise ValueError(f"the digits are 10 classes of shape [1, 8, 8], not {num_classes} of {list(shape)}")
    raw: Any = load_digits()
    # 17 levels of gray, 0 to 16, spread over uint8
    images = torch.from_numpy(raw.images).mul(255 / 16).round().to(torch.uint8).unsqueeze(1)
    everything = Examples(images, torch.from_numpy(raw.target).long())
    kept, test = split(len(images), test_share, seed=0)
    return InMemory(
        everything.take(kept),
        everything.take(test),
        val_share=val_share,
        batch_size=batch_size,
        seed=seed,
        mean=mean,
        std=std,
        classes=classes,
    )
