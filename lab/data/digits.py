"""scikit-learn's handwritten digits: 1,797 gray images of 8x8, ten classes, no download.

Source: Alpaydin & Kaynak 1998, UCI Optical Recognition of Handwritten Digits (its test set).
"""

from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy
import torch
import torch.nn.functional as F
from torch import Tensor

from lab.data.in_memory import Examples, InMemory, split_examples
from lab.data.order import split_indices
from lab.data.standardize import Standardize, check_channels


def digits(
    batch_size: int,
    seed: int,
    *,
    val_share: float = 0.1,
    test_share: float = 0.2,
    train_examples: int | None = None,
    num_classes: int = 10,
    shape: Sequence[int] = (1, 8, 8),
    classes: Sequence[str] = tuple("0123456789"),
    mean: Sequence[float] = (0.305,),
    std: Sequence[float] = (0.376,),
) -> InMemory:
    """Digits of shape (C, H, W), resized by bilinear interpolation; with 3 channels, the gray values are repeated.

    test_share: share of the images in the test set, which is the same for every seed.
    val_share, train_examples: split of the other images; see `split_examples`.
    num_classes: 10, for other nodes of a config to interpolate. Raises ValueError for any other number.
    """
    if num_classes != 10:
        raise ValueError(f"the digits are 10 classes, not {num_classes}; leave data.num_classes out")
    check_channels(shape, mean, std)
    raw, labels = read_digits()
    gray = raw.unsqueeze(1)  # 17 levels, 0 to 16; scaled to 0 to 255 below
    resized = F.interpolate(gray, list(shape[1:]), mode="bilinear", antialias=True)
    images = resized.mul(255 / 16).round().to(torch.uint8).repeat(1, shape[0], 1, 1)
    examples = Examples(images, labels)
    kept, held_out = split_indices(len(images), test_share, seed=0)
    train, val = split_examples(examples.take(kept), val_share, seed, train_examples)
    prepare = Standardize(mean, std)
    return InMemory(
        train, val, examples.take(held_out), batch_size=batch_size, seed=seed, prepare=prepare, classes=classes
    )


@lru_cache(maxsize=1)
def read_digits() -> tuple[Tensor, Tensor]:
    """The images, float64 (1797, 8, 8) from 0 to 16, and labels, int64 (1797,), as scikit-learn's `load_digits` gives
    them. They are read from its file, as importing scikit-learn takes a second, and once for all runs of a process."""
    spec = find_spec("sklearn")
    file = Path(spec.origin or "").parent / "datasets" / "data" / "digits.csv.gz" if spec else None
    if file is None or not file.is_file():
        from sklearn.datasets import load_digits

        digits = load_digits()
        return torch.from_numpy(digits.images), torch.from_numpy(digits.target).long()  # type: ignore[attr-defined]
    rows = torch.from_numpy(numpy.loadtxt(file, delimiter=","))
    return rows[:, :-1].reshape(-1, 8, 8), rows[:, -1].long()
