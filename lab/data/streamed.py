"""A data set that is too large for memory: loader workers read its examples while the model trains."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lab.data import order
from lab.data.loader_process import enter_loader_worker
from lab.data.readers import Reader, image_reader
from lab.data.standardize import scale_images
from lab.distributed.collectives import local_slice
from lab.seeding import stream_seed, temporary_seed


class Indexable(Protocol):
    """A map-style data set, such as a torch.utils.data.Dataset."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


class Streamed:
    """Training, validation and test sets whose examples, pairs (input, label), are read by loader workers.

    prepare: function from a batch [inputs, labels], after augmentation, to the batch that the task takes;
        `lab.data.standardize.Standardize` for images to be standardised. The default scales uint8 images to [0, 1].
    plain: training examples without random transforms, such as crops; None if `train` has no random transforms.
    workers: number of loader processes; 0 to read in this process.
    classes: names of the classes, for pictures.
    description: line that is shown when a run starts, such as what was counted and left out.
    collate: function from a list of examples to a batch; None for torch's own, which stacks them.
    unpack: function from what `collate` gives, which a worker sends, to the batch; None where it is the batch.

    The global generators are seeded from the augment stream by epoch and index before an example is read, so that any
    number of workers gives the same batches.
    Raises ValueError for an empty training set.
    """

    def __init__(
        self,
        train: Indexable,
        val: Indexable,
        test: Indexable,
        *,
        batch_size: int,
        seed: int,
        prepare: Callable[[Any], Any] = scale_images,
        plain: Indexable | None = None,
        workers: int = 2,
        classes: Sequence[str] | None = None,
        description: str = "",
        collate: Callable[[Any], Any] | None = None,
        unpack: Callable[[Any], Any] | None = None,
    ):
        if not len(train):
            raise ValueError("no training examples")
        self.splits = {"train": train, "plain": train if plain is None else plain, "val": val, "test": test}
        self.val_examples = len(val)
        self.batch_size, self.seed, self.prepare, self.classes = batch_size, seed, prepare, classes
        self.description = description
        self.workers, self.collate, self.unpack = workers, collate, unpack
        self.steps_per_epoch = order.count_steps(len(train), batch_size)

    @property
    def reader(self) -> Reader | None:
        return image_reader(self.prepare, first_input(self.splits["plain"]))

    def augmented_by(self, augment: Callable[[Any], Any]) -> "Streamed":
        """The same data set, whose loader workers augment each training example that they read."""
        copied = copy(self)
        copied.splits = {**self.splits, "train": AugmentedExamples(self.splits["train"], augment)}
        return copied

    def batches(self, after: int = 0) -> Iterator[Any]:
        return self.load("train", self.batch_keys(after))

    def part(self, after: int, rank: int, world: int) -> Iterator[tuple[Any, float]]:
        """The shard of each batch for `rank` of `world` ranks, and its weight. A rank reads only its own shards."""
        shard, weight = local_slice(min(self.batch_size, len(self.splits["train"])), rank, world)
        keys = (batch[shard] for batch in self.batch_keys(after))
        return ((batch, weight) for batch in self.load("train", keys))

    def plain(self, after: int = 0) -> Iterator[Any]:
        """As `batches`, without random transforms."""
        return self.load("plain", self.batch_keys(after))

    def val(self) -> Iterator[Any]:
        return self.batches_in_order("val")

    def test(self) -> Iterator[Any]:
        return self.batches_in_order("test")

    def batches_in_order(self, split: str) -> Iterator[Any]:
        indices = torch.arange(len(self.splits[split])).split(self.batch_size)
        return self.load(split, [[(0, index) for index in batch.tolist()] for batch in indices if len(batch)])

    def batch_keys(self, after: int) -> Iterator[list[tuple[int, int]]]:
        """(epoch, index) of the training examples of each batch after the first `after`, without end, so that loader
        workers live on from epoch to epoch."""
        indices = order.batch_indices(len(self.splits["train"]), self.batch_size, self.seed, after)
        for position, batch in enumerate(indices, start=after):
            yield [(position // self.steps_per_epoch, index) for index in batch.tolist()]

    def load(self, split: str, keys: Iterable[list[tuple[int, int]]]) -> Iterator[Any]:
        """Batches of a split.  keys: (epoch, index) of the examples of each batch."""
        # Any, as DataLoader's annotations expect a batch_sampler of plain indices
        examples: Any = SeededExamples(self.splits[split], self.seed)
        pinned = torch.cuda.is_available()
        # the loader draws its workers' base seed; from the global generator, that would shift the dropout stream
        generator = torch.Generator()
        loader = DataLoader(
            examples,
            batch_sampler=keys,
            num_workers=self.workers,
            pin_memory=pinned,
            collate_fn=self.collate,
            generator=generator,
            worker_init_fn=enter_loader_worker,
        )
        return map(self.unpack, loader) if self.unpack else iter(loader)


class AugmentedExamples(Dataset):
    """Examples that are augmented when they are read.  augment: function of an example, which draws from the global
    generators."""

    def __init__(self, examples: Indexable, augment: Callable[[Any], Any]):
        self.examples, self.augment = examples, augment

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Any:
        return self.augment(self.examples[index])


class SeededExamples(Dataset):
    """Examples by (epoch, index). The augment stream at that position seeds the reading of an example."""

    def __init__(self, examples: Indexable, seed: int):
        self.examples, self.seed = examples, seed

    def __getitem__(self, key: tuple[int, int]) -> Any:
        epoch, index = key
        with temporary_seed(stream_seed(self.seed, "augment", epoch, index)):
            return self.examples[index]


def first_input(examples: Indexable) -> Tensor | None:
    """The input of the first example; None where it cannot be read, which is said when it is trained on."""
    try:
        first = examples[0][0]
    except Exception:  # a user's data set may raise anything
        return None
    return first if isinstance(first, Tensor) else None
