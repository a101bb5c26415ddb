"""Token sequences of different lengths, in batches of similar lengths, padded to the longest."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lab.data import order
from lab.seeding import make_generator

POOL = 50  # batches among which examples are sorted by their lengths

SequenceBatch = tuple[dict[str, Tensor], Tensor]


class LabelledSequences(NamedTuple):
    """tokens: (T,) int64, the tokens of all examples one after the other.  starts: (N + 1,) where each begins.
    labels: (N,)."""

    tokens: Tensor
    starts: Tensor
    labels: Tensor

    @property
    def lengths(self) -> Tensor:
        return self.starts.diff()


def join_sequences(sequences: Sequence[Sequence[int]], labels: Sequence[int]) -> LabelledSequences:
    lengths = torch.tensor([0, *map(len, sequences)])
    tokens = torch.tensor([token for sequence in sequences for token in sequence], dtype=torch.int64)
    return LabelledSequences(tokens, lengths.cumsum(0), torch.tensor(labels, dtype=torch.int64))


class PaddedSequences:
    """Training, validation and test sequences, batched by position.

    A batch is ({"input_ids": (B, L) int64, "attention_mask": (B, L) bool}, labels (B,)): L is the length of the longest
    of its sequences, and the mask is false on the padding.
    group_by_length: whether a batch has sequences of similar lengths: in each epoch, the shuffled examples of 50
        batches are sorted by length, cut into batches, and the batches shuffled.
    files: files that a run keeps in its directory, by name, such as the tokenizer.
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
        files: dict[str, bytes] | None = None,
    ):
        if not len(train.labels):
            raise ValueError("no training examples")
        self.splits = {"train": train, "val": val, "test": test}
        self.batch_size, self.seed, self.pad, self.group_by_length = batch_size, seed, pad, group_by_length
        self.val_examples, self.classes, self.description = len(val.labels), classes, description
        self.files = files or {}
        self.steps_per_epoch = order.count_steps(len(train.labels), batch_size)

    def to(self, device: str) -> None:
        """Move all sequences to `device`, so that no batch has to be transferred."""
        self.splits = {
            name: LabelledSequences(*(part.to(device) for part in split)) for name, split in self.splits.items()
        }

    def batches(self, after: int = 0) -> Iterator[SequenceBatch]:
        epoch, first = divmod(after, self.steps_per_epoch)
        while True:
            for indices in self.epoch_batches(epoch)[first:]:
                yield self.take("train", indices)
            epoch, first = epoch + 1, 0

    def epoch_batches(self, epoch: int) -> list[Tensor]:
        """The indices (B,) of each batch of an epoch, a function of the seed and the epoch."""
        lengths = self.splits["train"].lengths.cpu()
        generator = make_generator(self.seed, "order", epoch)
        shuffled = torch.randperm(len(lengths), generator=generator)
        if not self.group_by_length:
            return list(shuffled.split(self.batch_size)[: self.steps_per_epoch])
        pools = shuffled[: self.steps_per_epoch * self.batch_size].split(POOL * self.batch_size)
        ordered = [pool[lengths[pool].argsort(stable=True)] for pool in pools]
        batches = [batch for pool in ordered for batch in pool.split(self.batch_size)]
        return [batches[place] for place in torch.randperm(len(batches), generator=generator)]

    def val(self) -> Iterator[SequenceBatch]:
        return self.batches_by_length("val")

    def test(self) -> Iterator[SequenceBatch]:
        return self.batches_by_length("test")

    def batches_by_length(self, split: str) -> Iterator[SequenceBatch]:
        for indices in self.splits[split].lengths.argsort(stable=True).split(self.batch_size):
            if len(indices):
                yield self.take(split, indices)

    def take(self, split: str, indices: Tensor) -> SequenceBatch:
        """The examples at `indices` (B,), padded to the longest of them."""
        tokens, starts, labels = self.splits[split]
        indices = indices.to(tokens.device)
        lengths = self.splits[split].lengths[indices]
        places = torch.arange(int(lengths.max()), device=tokens.device)
        mask = places < lengths[:, None]
        positions = (starts[indices][:, None] + places).clamp(max=len(tokens) - 1)
        ids = torch.where(mask, tokens[positions], self.pad)
        return {"input_ids": ids, "attention_mask": mask}, labels[indices]
