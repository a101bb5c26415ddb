"""A data set too large for memory: loader workers read it, each example by an integer position."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lab.data import order
from lab.data.standardize import Standardize
from lab.distributed.collectives import local_slice
from lab.seeding import stream_seed, temporary_seed


class Indexable(Protocol):
    """A map-style data set, as torch.utils.data.Dataset."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


class Streamed:
    """Training, validation and test sets whose examples are read by `workers` processes while the model trains.

    Examples are pairs (image uint8 (C, H, W), label).  plain: the training examples without what is drawn for them,
    where something is. Whatever a training example draws from torch's generator, it
    draws from the augment stream at its epoch and index, so that the number of workers changes nothing.
    """

    def __init__(
        self,
        train: Indexable,
        val: Indexable,
        test: Indexable,
        *,
        batch_size: int,
        seed: int,
        plain: Indexable | None = None,
        workers: int = 2,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        classes: Sequence[str] | None = None,
    ):
        if not len(train):
            raise ValueError("no training examples")
        self.splits = {"train": train, "plain": train if plain is None else plain, "val": val, "test": test}
        self.val_examples = len(val)
        self.batch_size, self.seed, self.workers, self.classes = batch_size, seed, workers, classes
        self.steps_per_epoch = order.steps_per_epoch(len(train), batch_size)
        self.standardize = Standardize(mean, std)

    def to(self, device: str) -> None:
        self.standardize.to(device)

    def batches(self, after: int = 0) -> Iterator[list[Tensor]]:
        return self.load(Seeded(self.splits["train"], self.seed), self.keys(after))

    def part(self, after: int, rank: int, world: int) -> Iterator[tuple[list[Tensor], float]]:
        """Of each batch the examples that process `rank` of `world` trains on, which alone it reads; their weight."""
        where, weight = local_slice(min(self.batch_size, len(self.splits["train"])), rank, world)
        keys = (batch[where] for batch in self.keys(after))
        return ((batch, weight) for batch in self.load(Seeded(self.splits["train"], self.seed), keys))

    def plain(self, after: int = 0) -> Iterator[list[Tensor]]:
        return self.load(Seeded(self.splits["plain"], self.seed), self.keys(after))

    def keys(self, after: int) -> Iterator[list[tuple[int, int]]]:
        """(epoch, index) of the examples of each batch after position `after`, without end: no epoch starts cold."""
        indices = order.batch_indices(len(self.splits["train"]), self.batch_size, self.seed, after)
        for position, batch in enumerate(indices, start=after):
            yield [(position // self.steps_per_epoch, index) for index in batch.tolist()]

    def val(self) -> Iterator[list[Tensor]]:
        return self.in_order("val")

    def test(self) -> Iterator[list[Tensor]]:
        return self.in_order("test")

    def in_order(self, split: str) -> Iterator[list[Tensor]]:
        keys = torch.arange(len(self.splits[split])).split(self.batch_size)
        seeded_keys = [[(0, index) for index in indices.tolist()] for indices in keys if len(indices)]
        return self.load(Seeded(self.splits[split], self.seed), seeded_keys)

    def load(self, examples: Any, keys: Iterable[list[Any]]) -> Iterator[list[Tensor]]:
        pinned = torch.cuda.is_available()
        # a generator of its own: the loader draws its workers' base seed, which would shift the dropout stream
        own = torch.Generator()
        return iter(
            DataLoader(examples, batch_sampler=keys, num_workers=self.workers, pin_memory=pinned, generator=own)
        )

    def prepare(self, batch: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Images as the model takes them: float32, each channel standardised."""
        inputs, labels = batch
        return self.standardize(inputs), labels


class Seeded(Dataset):
    """Examples by (epoch, index), each with a generator of its own."""

    def __init__(self, examples: Indexable, seed: int):
        self.examples, self.seed = examples, seed

    def __getitem__(self, key: tuple[int, int]) -> Any:
        epoch, index = key
        with temporary_seed(stream_seed(self.seed, "augment", epoch, index)):
            return self.examples[index]
