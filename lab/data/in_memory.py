"""A data set that fits into memory: tensors on the device, a batch is one index into them."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lab.data import order
from lab.data.standardize import Standardize

EVAL_BATCH = 512


class Examples(NamedTuple):
    """inputs: (N, ...), uint8 for images.  labels: (N,) int64."""

    inputs: Tensor
    labels: Tensor

    def take(self, indices: Tensor) -> "Examples":
        return Examples(self.inputs[indices], self.labels[indices])


class InMemory:
    """Train, validation and test examples as tensors, shuffled and batched by position.

    train: split into training and validation by `val_share` and the seed's split stream, unless `val` is given.
    train_examples: train on so many of what is then left, balanced over the classes (`order.balanced`). Validation and
    test stay as they are, so that settings compare: a validation set may then be larger than what is trained on, and
    what is chosen by it has seen that many labels more. `val_share` makes it small.
    mean, std: of each channel, in units where the largest uint8 is 1; `prepare` takes uint8 inputs to float32 with
    them. Inputs that are not uint8 are left as they are.
    """

    def __init__(
        self,
        train: Examples,
        test: Examples,
        *,
        batch_size: int,
        seed: int,
        val: Examples | None = None,
        val_share: float = 0.1,
        train_examples: int | None = None,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        classes: Sequence[str] | None = None,
    ):
        if val is None:
            kept, held_out = order.split_indices(len(train.labels), val_share, seed)
            train, val = train.take(kept), train.take(held_out)
        if not len(train.labels):
            raise ValueError("no training examples")
        if train_examples is not None:
            train = train.take(order.balanced_indices(train.labels, train_examples, seed))
        self.splits = {"train": train, "val": val, "test": test}
        self.val_examples = len(val.labels)
        self.batch_size, self.seed, self.classes = batch_size, seed, classes
        self.steps_per_epoch = order.steps_per_epoch(len(train.labels), batch_size)
        self.standardize = Standardize(mean, std) if train.inputs.dtype == torch.uint8 else None

    def to(self, device: str) -> None:
        """Move everything to `device`, so that no batch has to travel."""
        self.splits = {name: Examples(*(t.to(device) for t in split)) for name, split in self.splits.items()}
        if self.standardize:
            self.standardize.to(device)

    def batches(self, after: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        inputs, labels = self.splits["train"]
        for indices in order.batch_indices(len(labels), self.batch_size, self.seed, after, labels.device):
            yield inputs.index_select(0, indices), labels.index_select(0, indices)

    def val(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.in_order("val")

    def test(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.in_order("test")

    def in_order(self, split: str) -> Iterator[tuple[Tensor, Tensor]]:
        inputs, labels = self.splits[split]
        # scoring keeps no activations, so its batches may be larger than training's
        size = max(self.batch_size, EVAL_BATCH)
        return zip(inputs.split(size), labels.split(size), strict=True) if len(labels) else iter(())

    def prepare(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Images as the model takes them: float32, each channel standardised."""
        inputs, labels = batch
        return (self.standardize(inputs) if self.standardize else inputs), labels
