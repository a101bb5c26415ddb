"""Batches on their way from the data set to the model: to the device, augmented, prepared."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import torch

from lab.augment.none import none
from lab.distributed import collectives
from lab.run import Batch, Run
from lab.seeding import stream_seed
from lab.train.micro_batches import local_shard, num_examples_or_none


def training_batches(run: Run, after: int) -> Iterator[tuple[Batch, float]]:
    """The training batches that follow the first `after`, up to the run's last step, or of each the part that this
    process trains on, with its weight (`lab.train.micro_batches.local_shard`).

    Each batch is augmented from the augment stream at its own position, so that the batches before it do not matter:
    whole, in every process alike, as an augmentation may mix its examples.
    Raises ValueError where the data set has none left.
    """
    prepare = make_preparation(run)
    move, steps = run.hardware.move, run.cadence.steps
    position = after
    while position < steps:
        start = position
        for batch, weight in augmented_batches(run, position):
            position += 1
            yield prepare(move(batch)), weight
            if position == steps:
                return
        if position == start:
            raise ValueError(
                f"{type(run.data).__name__}.batches({start}) yields no batch; {steps} steps are to be taken"
            )


def augmented_batches(run: Run, after: int) -> Iterator[tuple[Batch, float]]:
    """Of each batch that the data set has after the first `after`, augmented, this process's part, and its weight."""
    augment, move = run.augment, run.hardware.move
    rank, world = collectives.get_rank(), collectives.get_world_size()
    apart = getattr(run.data, "part", None)
    if apart and world > 1 and augment is none:
        yield from apart(after, rank, world)
        return
    generator, seed = torch.Generator(), stream_seed(run.seed, "augment")
    for position, batch in enumerate(run.data.batches(after), start=after):
        if augment is not none:  # seeding a generator that nobody reads would cost more than all else here
            batch = augment(move(batch), generator.manual_seed(seed + position))
        yield local_shard(batch, rank, world)


def prepared_batches(run: Run, batches: Iterable[Batch]) -> Iterator[Batch]:
    """Batches to be scored: on the device and prepared, never augmented."""
    prepare = make_preparation(run)
    for batch in batches:
        yield prepare(run.hardware.move(batch))


def first_epoch(run: Run) -> Iterator[Batch]:
    """The training batches of the first epoch, as the data set has them, not augmented."""
    plain = getattr(run.data, "plain", run.data.batches)
    return islice(plain(0), run.cadence.steps_per_epoch)


def training_subset(run: Run) -> Iterator[Batch]:
    """Of those, as many as validate, up to a whole batch, or all where there are not so many."""
    wanted = getattr(run.data, "val_examples", None)
    if wanted is None:
        wanted = sum(num_examples_or_none(batch) or 0 for batch in run.data.val())
    for batch in first_epoch(run):
        if wanted <= 0:
            return
        wanted -= num_examples_or_none(batch) or 1
        yield batch


def make_preparation(run: Run) -> Callable[[Batch], Batch]:
    """The data set's own `prepare`, where it has one, then the hardware's memory format."""
    prepare = getattr(run.data, "prepare", unprepared)
    return (lambda batch: run.hardware.arrange(prepare(batch))) if run.hardware.channels_last else prepare


def unprepared(batch: Batch) -> Batch:
    return batch
