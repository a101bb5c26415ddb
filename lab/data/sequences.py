"""Token sequences of different lengths, in batches of similar lengths, padded to the longest."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lab.data import order
from lab.seeding import make_generator

POOL = 50  # batches among which examples are sorted by their lengths

SequenceBatch = tuple[dict[str, Tensor], Tensor]


class Sequences(NamedTuple):
    """tokens: (T,) int32, the tokens of all sequences one after the other.  starts: (N + 1,) where each begins."""

    tokens: Tensor
    starts: Tensor

    @property
    def lengths(self) -> Tensor:
        return self.starts.diff()

    def take(self, indices: Tensor, pad: int) -> tuple[Tensor, Tensor]:
        """The sequences at `indices` (B,), padded to the longest of them, (B, L) int64; and the mask, (B, L), which is
        false on the padding."""
        indices = indices.to(self.tokens.device)
        starts, lengths = self.starts[indices], self.lengths[indices]
        places = torch.arange(int(lengths.max()), device=self.tokens.device)
        mask = places < lengths[:, None]
        positions = (starts[:, None] + places).clamp(max=len(self.tokens) - 1)
        return torch.where(mask, self.tokens[positions].long(), pad), mask

    def to(self, device: str) -> "Sequences":
        return Sequences(*(part.to(device) for part in self))


class LabelledSequences(NamedTuple):
    """labels: (N,) int64 numbers of classes, or float32 numbers to predict."""

    sequences: Sequences
    labels: Tensor


def join_sequences(sequences: Iterable[Sequence[int]]) -> Sequences:
    """The sequences one after the other; each is held only until it is copied."""
    parts, lengths = [np.empty(0, np.int32)], [0]
    for sequence in sequences:
        parts.append(np.asarray(sequence, np.int32))
        lengths.append(len(sequence))
    return Sequences(torch.from_numpy(np.concatenate(parts)), torch.tensor(lengths).cumsum(0))


class GroupedByLength(ABC):
    """Training, validation and test examples, batched by position.

    group_by_length: whether a batch has examples of similar lengths: in each epoch, the shuffled examples of 50
        batches are sorted by length, cut into batches, and the batches shuffled.
    """

    def __init__(self, sizes: dict[str, int], batch_size: int, seed: int, group_by_length: bool):
        """sizes: number of examples of each split."""
        if not sizes["train"]:
            raise ValueError("no training examples")
        self.batch_size, self.seed, self.group_by_length = batch_size, seed, group_by_length
        self.val_examples = sizes["val"]
        self.steps_per_epoch = order.count_steps(sizes["train"], batch_size)

    @abstractmethod
    def take(self, split: str, indices: Tensor) -> Any:
        """The batch of the examples at `indices` (B,)."""

    @abstractmethod
    def sort_keys(self, split: str) -> Tensor:
        """The number (N,) by which the examples of a split are sorted, on the CPU."""

    def batches(self, after: int = 0) -> Iterator[Any]:
        epoch, first = divmod(after, self.steps_per_epoch)
        while True:
            for indices in self.epoch_batches(epoch)[first:]:
                yield self.take("train", indices)
            epoch, first = epoch + 1, 0

    def epoch_batches(self, epoch: int) -> list[Tensor]:
        """The indices (B,) of each batch of an epoch, a function of the seed and the epoch."""
        keys = self.sort_keys("train")
        generator = make_generator(self.seed, "order", epoch)
        shuffled = torch.randperm(len(keys), generator=generator)
        if not self.group_by_length:
            return list(shuffled.split(self.batch_size)[: self.steps_per_epoch])
        pools = shuffled[: self.steps_per_epoch * self.batch_size].split(POOL * self.batch_size)
        ordered = [pool[keys[pool].argsort(stable=True)] for pool in pools]
        batches = [batch for pool in ordered for batch in pool.split(self.batch_size)]
        return [batches[place] for place in torch.randperm(len(batches), generator=generator)]

    def val(self) -> Iterator[Any]:
        return self.batches_by_length("val")

    def test(self) -> Iterator[Any]:
        return self.batches_by_length("test")

    def batches_by_length(self, split: str) -> Iterator[Any]:
        for indices in self.sort_keys(split).argsort(stable=True).split(self.batch_size):
            if len(indices):
                yield self.take(split, indices)


class PaddedSequences(GroupedByLength):
    """Sequences with labels.

    A batch is ({"input_ids": (B, L) int64, "attention_mask": (B, L) bool}, labels (B,)): L is the length of the longest
    of its sequences, and the mask is false on the padding.
    reader: how new texts are read, `lab.data.readers.TextReader`.
    """

    def __init__(
        self,
        train: LabelledSequences,
        val: LabelledSequences,
        test: LabelledSequences,
        *,
        batch_size: int,
        seed: int,
        pad: int = 0,
        group_by_length: bool = True,
        classes: Sequence[str] | None = None,
        description: str = "",
        reader: Any = None,
    ):
        self.splits = {"train": train, "val": val, "test": test}
        sizes = {name: len(split.labels) for name, split in self.splits.items()}
        super().__init__(sizes, batch_size, seed, group_by_length)
        self.pad, self.classes, self.description, self.reader = pad, classes, description, reader

    def to(self, device: str) -> None:
        """Move all sequences to `device`, so that no batch has to be transferred."""
        self.splits = {
            name: LabelledSequences(split.sequences.to(device), split.labels.to(device))
            for name, split in self.splits.items()
        }

    def sort_keys(self, split: str) -> Tensor:
        return self.splits[split].sequences.lengths.cpu()

    def take(self, split: str, indices: Tensor) -> SequenceBatch:
        sequences, labels = self.splits[split]
        ids, mask = sequences.take(indices, self.pad)
        return {"input_ids": ids, "attention_mask": mask}, labels[indices.to(labels.device)]
