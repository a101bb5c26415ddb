"""Batches on their way from the data set to the model: to the device, augmented, prepared."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import torch

from lab.augment.none import none
from lab.data.standardize import leave_as_is
from lab.distributed import collectives
from lab.run import Batch, Run
from lab.seeding import stream_seed
from lab.train.micro_batches import LocalBatch, local_shard, num_examples_or_none, reweight_part


def training_batches(run: Run, after: int) -> Iterator[LocalBatch]:
    """This rank's part of each training batch after the first `after`, up to the run's last step.

    The generator of each batch's augmentation is seeded by the batch's position, so a batch does not depend on those
    before it. Every rank augments the whole batch in the same way, as an augmentation may mix its examples.
    Raises ValueError where the data set yields no batch.
    """
    prepare, move, steps = make_preparation(run), run.hardware.move, run.cadence.steps
    position, examples = after, None
    while position < steps:
        start = position
        for data, weight, num_examples in augmented_batches(run, position):
            if position == after:  # counted once; it serves only to report throughput
                examples = num_examples or num_examples_or_none(run.task, data)
            position += 1
            yield LocalBatch(prepare(move(data)), weight, examples)
            if position == steps:
                return
        if position == start:
            raise ValueError(
                f"{type(run.data).__name__}.batches({start}) yields no batch, but the run takes {steps} steps"
            )


def augmented_batches(run: Run, after: int) -> Iterator[LocalBatch]:
    """This rank's part of each batch of `run.data.batches(after)`, augmented."""
    task, augment, move = run.task, run.augment, run.hardware.move
    rank, world_size = collectives.get_rank(), collectives.get_world_size()
    read_part = getattr(run.data, "part", None)
    if read_part and world_size > 1 and augment is none:
        for part, weight in read_part(after, rank, world_size):
            examples = num_examples_or_none(task, part)
            total = None if examples is None else round(examples * world_size / weight)
            yield reweight_part(task, LocalBatch(part, weight, total))
        return
    generator, seed = torch.Generator(), stream_seed(run.seed, "augment")
    for position, batch in enumerate(run.data.batches(after), start=after):
        if augment is not none:  # seeding an unused generator would cost more than the rest of this loop
            batch = augment(move(batch), generator.manual_seed(seed + position))
        yield local_shard(task, batch, rank, world_size)


def prepared_batches(run: Run, batches: Iterable[Batch]) -> Iterator[Batch]:
    """Batches for scoring: on the device and prepared, not augmented."""
    prepare = make_preparation(run)
    for batch in batches:
        yield prepare(run.hardware.move(batch))


def first_epoch(run: Run) -> Iterator[Batch]:
    """The training batches of the first epoch, neither augmented nor prepared."""
    plain = getattr(run.data, "plain", run.data.batches)
    return islice(plain(0), run.cadence.steps_per_epoch)


def training_subset(run: Run) -> Iterator[Batch]:
    """A training subset as large as the validation set, rounded up to whole batches; the whole training set if it is
    smaller."""
    missing = getattr(run.data, "val_examples", None)
    if missing is None:
        missing = sum(num_examples_or_none(run.task, batch) or 0 for batch in run.data.val())
    for batch in first_epoch(run):
        if missing <= 0:
            return
        missing -= num_examples_or_none(run.task, batch) or 1
        yield batch


def make_preparation(run: Run) -> Callable[[Batch], Batch]:
    """A function that applies the data set's `prepare`, if it has one, and then the hardware's memory format."""
    prepare = getattr(run.data, "prepare", leave_as_is)
    return (lambda batch: run.hardware.arrange(prepare(batch))) if run.hardware.channels_last else prepare
