"""Training on a single batch, repeated: if model and loss work, the loss approaches 0."""

from collections.abc import Iterator
from itertools import repeat
from typing import Any

from lab.run import Batch, Data

WHOLE = (
    "part",
    "plain",
    "augmented_by",
    "val_examples",
)  # optional members of a data set that are about its whole training set


class SingleBatch:
    """A data set that holds only the first training batch of another, also for validation and test."""

    steps_per_epoch = 1

    def __init__(self, data: Data):
        self.batch = next(iter(data.batches(0)))
        self.data = data

    def __getattr__(self, name: str) -> Any:
        """What else the data set has, such as its `prepare` or its tokenizer."""
        if name in WHOLE or name == "data":
            raise AttributeError(name)
        return getattr(self.data, name)

    def batches(self, after: int = 0) -> Iterator[Batch]:
        return repeat(self.batch)

    def val(self) -> list[Batch]:
        return [self.batch]

    def test(self) -> list[Batch]:
        return [self.batch]
