"""A data set that fits into memory: its examples are tensors on the device, and a batch is indexed out of them."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lab.data import order
from lab.data.readers import image_reader
from lab.data.standardize import scale_images

# the most examples, and the most numbers in their inputs, of a scoring batch that is larger than a training batch
SCORED_EXAMPLES, SCORED_NUMBERS = 512, 2**16
EMBEDDING = 256  # the usual size of a small embedding


class Examples(NamedTuple):
    """inputs: (N, ...), uint8 for images.  labels: (N,) int64."""

    inputs: Tensor
    labels: Tensor

    def take(self, indices: Tensor) -> "Examples":
        return Examples(self.inputs[indices], self.labels[indices])


def split_examples(
    examples: Examples, val_share: float, seed: int, train_examples: int | None = None
) -> tuple[Examples, Examples]:
    """Training and validation examples, drawn from the seed's split stream.

    val_share: share of the examples for validation, in [0, 1).
    train_examples: number of the other examples to train on, balanced over the classes (`order.balanced_indices`); None
        for all of them. Validation and test sets keep their size, so that runs are comparable. If the validation set is
        larger than the training set, the choice of weights and settings uses more labels than training; lower
        `val_share` to avoid that.
    """
    kept, held_out = order.split_indices(len(examples.labels), val_share, seed)
    train, val = examples.take(kept), examples.take(held_out)
    if train_examples is not None:
        train = train.take(order.balanced_indices(train.labels, train_examples, seed))
    return train, val


class InMemory:
    """Training, validation and test examples as tensors, shuffled and batched by position.

    prepare: function from a batch (inputs, labels), after augmentation, to the batch that the task takes;
        `lab.data.standardize.Standardize` for images to be standardised. The default scales uint8 images to [0, 1].
    classes: names of the classes, for pictures.
    description: line that is shown when a run starts, such as what was counted and left out.
    Raises ValueError for an empty training set.
    """

    def __init__(
        self,
        train: Examples,
        val: Examples,
        test: Examples,
        *,
        batch_size: int,
        seed: int,
        prepare: Callable[[Any], Any] = scale_images,
        classes: Sequence[str] | None = None,
        description: str = "",
    ):
        if not len(train.labels):
            raise ValueError("no training examples")
        self.splits = {"train": train, "val": val, "test": test}
        self.val_examples = len(val.labels)
        self.batch_size, self.seed, self.prepare, self.classes = batch_size, seed, prepare, classes
        self.description = description
        self.reader = image_reader(prepare, train.inputs)
        self.steps_per_epoch = order.count_steps(len(train.labels), batch_size)

    def to(self, device: str) -> None:
        """Move all examples to `device`, so that no batch has to be transferred."""
        self.splits = {name: Examples(*(t.to(device) for t in split)) for name, split in self.splits.items()}

    def batches(self, after: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        inputs, labels = self.splits["train"]
        for indices in order.batch_indices(len(labels), self.batch_size, self.seed, after, labels.device):
            yield inputs.index_select(0, indices), labels.index_select(0, indices)

    def val(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.batches_in_order("val")

    def test(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.batches_in_order("test")

    def batches_in_order(self, split: str) -> Iterator[tuple[Tensor, Tensor]]:
        inputs, labels = self.splits[split]
        size = scoring_batch_size(inputs, self.batch_size)
        return zip(inputs.split(size), labels.split(size), strict=True) if len(labels) else iter(())


def scoring_batch_size(inputs: Tensor, batch_size: int) -> int:
    """The number of examples to score at once: `batch_size`, the number to train on at once, or more if the inputs are
    so small that calling the model for few of them costs more than computing it. An integer other than uint8, such as a
    token, counts as the numbers of its embedding.
    """
    if not len(inputs):
        return batch_size
    is_dense = inputs.is_floating_point() or inputs.dtype == torch.uint8
    numbers = inputs[0].numel() * (1 if is_dense else EMBEDDING)
    return max(batch_size, min(SCORED_EXAMPLES, SCORED_NUMBERS // max(1, numbers)))
