"""The split and the order of examples, as functions of the seed and an integer position."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from lab.seeding import make_generator


def split_indices(num_examples: int, val_share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Sorted indices of the training and of the validation examples, drawn from the seed's split stream."""
    if not 0 <= val_share < 1:
        raise ValueError(f"{val_share} is not a share of the examples to hold out; give a number in [0, 1)")
    shuffled = torch.randperm(num_examples, generator=make_generator(seed, "split"))
    num_val = round(num_examples * val_share)
    return shuffled[num_val:].sort().values, shuffled[:num_val].sort().values


def hold_out(splits: dict[str, list[Any]], val_share: float, test_share: float, seed: int) -> dict[str, list[Any]]:
    """The examples of `train`, `val` and `test`; a split that is missing is drawn from the training examples, the test
    set in the same way for every seed."""
    splits = dict(splits)
    for name, share, split_seed in (("test", test_share, 0), ("val", val_share, seed)):
        if name not in splits:
            every = splits["train"]
            parts = split_indices(len(every), share, split_seed)
            splits["train"], splits[name] = ([every[place] for place in part.tolist()] for part in parts)
    return splits


def balanced_indices(labels: Tensor, num_examples: int, seed: int) -> Tensor:
    """Sorted indices of `num_examples` of the labels (N,), with equal numbers of each class, give or take one; of a
    class that is too small, all examples are taken.

    The examples are drawn from the seed's split stream. A smaller draw is a subset of a larger one.
    Raises ValueError unless 1 <= num_examples <= N.
    """
    if not 1 <= num_examples <= len(labels):
        raise ValueError(
            f"train_examples={num_examples} is not from 1 to {len(labels)}, the number of examples to train on; "
            f"null takes them all"
        )
    shuffled = torch.randperm(len(labels), generator=make_generator(seed, "split", 1))
    by_class = labels[shuffled].argsort(stable=True)
    class_sizes = labels.bincount()
    # for each example, the number of earlier examples of its class; sorting by it takes the first example of every
    # class, then the second of every class, and so on
    earlier = torch.empty_like(by_class)
    class_starts = class_sizes.cumsum(0) - class_sizes
    earlier[by_class] = torch.arange(len(labels)) - class_starts.repeat_interleave(class_sizes)
    return shuffled[earlier.argsort(stable=True)[:num_examples]].sort().values


def count_steps(num_examples: int, batch_size: int) -> int:
    """The number of full batches in one epoch; 1 for a data set smaller than one batch."""
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size} is not a positive number")
    return max(1, num_examples // batch_size)


def batch_indices(
    num_examples: int, batch_size: int, seed: int, after: int, device: torch.device | str = "cpu"
) -> Iterator[Tensor]:
    """Indices (batch_size,) on `device` for each batch after the first `after`, without end.

    Each epoch is a new permutation from the order stream. The examples after its last full batch are skipped, so that
    every step has equally many examples, and batch statistics and compiled code see a single shape.
    """
    steps_per_epoch = count_steps(num_examples, batch_size)
    epoch, first = divmod(after, steps_per_epoch)
    while True:
        permutation = torch.randperm(num_examples, generator=make_generator(seed, "order", epoch))
        # one transfer to the device for each epoch, not for each batch
        yield from permutation.to(device).split(batch_size)[first:steps_per_epoch]
        epoch, first = epoch + 1, 0
