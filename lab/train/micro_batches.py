"""Forward and backward passes: a batch whole, or in micro-batches whose gradients add up to the same; and how a batch
is cut, into micro-batches and into the shards of several ranks."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lab.distributed import collectives, replicas
from lab.hardware import Hardware
from lab.nest import iterate_leaves, map_tensors
from lab.run import Batch, Model, Task

Size = int | float | Tensor


class LocalBatch(NamedTuple):
    """The part of a batch that this rank trains on.

    weight: what its loss counts in the mean over all ranks, more or less than 1 where their parts are not even.
    num_examples: in the parts of all ranks together; None where nobody has counted.
    """

    data: Batch
    weight: Size = 1.0
    num_examples: int | None = None


Backward = Callable[[Task, Hardware, Model, LocalBatch], Tensor]


def choose_backward(hardware: Hardware) -> Backward:
    """The backward pass of a whole batch where one rank takes it at once; else that of weighted micro-batches."""
    if hardware.micro_batch is None and collectives.get_world_size() == 1:
        return backward_whole
    return partial(backward_in_micro_batches, num_examples=hardware.micro_batch)


def backward_whole(task: Task, hardware: Hardware, model: Model, batch: LocalBatch) -> Tensor:
    """Leave the loss's gradients, scaled, in the parameters, and return the loss. For one rank, whose weight is 1.

    The loss comes with its graph: while that lives, the next forward pass finds the parameters' gradient accumulators
    ready, which saves 1% of a step of a small model.
    """
    with hardware.autocast():
        loss = task.loss(model, batch.data)
    hardware.scaler.scale(loss).backward()
    return loss


def backward_in_micro_batches(
    task: Task, hardware: Hardware, model: Model, batch: LocalBatch, num_examples: int | None
) -> Tensor:
    """As backward_whole, of the loss times the batch's weight, in the memory that `num_examples` at once take.

    num_examples: the most in a micro-batch; None for the whole batch.  model: the run's own, as
    `lab.train.phases.Phases` wraps it.  The same up to rounding where the loss is a mean over independent terms, as
    many as `task.size` says; not for a loss over pairs of examples from the whole batch. BatchNorm takes its statistics
    from each micro-batch and updates its running ones once for each; dropout draws other masks than for the whole
    batch, the same ones in each run with the same size.
    """
    losses, parts = [], list(split_batch(task, batch.data, num_examples)) if num_examples else [(batch.data, 1.0)]
    for number, (part, share) in enumerate(parts, start=1):
        with replicas.average_gradients(model, last=number == len(parts)):
            with hardware.autocast():
                loss = weighted_loss(task, model, part, share * batch.weight)
            hardware.scaler.scale(loss).backward()
        losses.append(loss.detach())
    return torch.stack(losses).sum()


def weighted_loss(task: Task, model: Model, batch: Batch, weight: Size) -> Tensor:
    """The task's loss times its weight. A weight of 0 gives a loss and gradients of 0, of whatever the loss is: a mean
    over no terms is NaN, and so is 0 times it. The forward pass takes place all the same, as the other ranks wait for
    this one's gradients."""
    if isinstance(weight, Tensor):
        is_empty = weight == 0  # stays on its device: nothing waits for it
    elif weight == 0:
        is_empty = torch.tensor(True)
    else:
        return task.loss(model, batch) * weight

    def masked_model(*args: Any, **kwargs: Any) -> Any:
        outputs = model(*args, **kwargs)
        for leaf in iterate_leaves(outputs):
            if isinstance(leaf, Tensor) and leaf.requires_grad:
                leaf.register_hook(lambda gradient: gradient.masked_fill(is_empty.to(gradient.device), 0))
        return outputs

    loss = task.loss(masked_model, batch)
    weight = torch.as_tensor(weight).to(loss)
    return (loss * weight).masked_fill(is_empty.to(loss.device), 0)


def local_shard(task: Task, batch: Batch, rank: int, world_size: int) -> LocalBatch:
    """The part of a batch that `rank` trains on, as views where it is made of tensors.

    Every rank has the whole batch, and so knows the weight of its part without asking the others.
    Raises ValueError where there is not an example for each rank.
    """
    if world_size == 1:
        return LocalBatch(batch)
    examples = num_examples(task, batch)
    where, _ = collectives.local_slice(examples, rank, world_size)
    shard = slice_examples(task, batch, where.start, where.stop)
    return LocalBatch(shard, share_of(loss_size(task, shard) * world_size, loss_size(task, batch)), examples)


def reweight_part(task: Task, batch: LocalBatch) -> LocalBatch:
    """A part that a data set has read for this rank alone, weighed by what the task's loss is a mean over.

    Costs a collective where the task has a `size` of its own: no rank has the others' parts.
    """
    if not hasattr(task, "size"):
        return batch
    size = in_full_precision(torch.as_tensor(loss_size(task, batch.data)))
    return batch._replace(weight=share_of(size, collectives.all_reduce_mean(size)))


def split_batch(task: Task, batch: Batch, most: int) -> Iterator[tuple[Batch, Size]]:
    """The batch in as few parts of at most `most` examples as can be, each with its share of the terms of the loss; as
    views, where it is made of tensors.

    The parts are even: a last one of a single example would fail in batch normalisation.
    """
    examples, whole = num_examples(task, batch), loss_size(task, batch)
    num_parts = -(-examples // most)
    for start, stop in pairwise(examples * n // num_parts for n in range(num_parts + 1)):
        part = slice_examples(task, batch, start, stop)
        yield part, share_of(loss_size(task, part), whole)


def loss_size(task: Task, batch: Batch) -> Size:
    """How many terms the loss of a batch is a mean over: as the task says, or else the examples."""
    own: Callable[[Batch], Size] | None = getattr(task, "size", None)
    return own(batch) if own else num_examples(task, batch)


def share_of(part: Size, whole: Size) -> Size:
    """part / whole; 0 of a whole of 0."""
    if isinstance(part, Tensor) or isinstance(whole, Tensor):
        return (in_full_precision(torch.as_tensor(part)) / whole).nan_to_num(0.0)
    return part / whole if whole else 0.0


def in_full_precision(number: Tensor) -> Tensor:
    """float64, as Python's numbers; MPS has none."""
    return number.to(torch.float32 if number.device.type == "mps" else torch.float64)


def half_micro_batch(task: Task, batch: Batch, size: int | None) -> int | None:
    """Half of a micro-batch; of a batch that was taken whole where size is None. None where there is no half."""
    size = size or num_examples(task, batch)
    return -(-size // 2) if size > 1 else None


def slice_examples(task: Task, batch: Batch, start: int, stop: int) -> Batch:
    """The examples of a batch from `start` up to `stop`: as the task slices them, or else views of every tensor."""
    own: Callable[[Batch, int, int], Batch] | None = getattr(task, "slice_examples", None)
    return own(batch, start, stop) if own else map_tensors(batch, itemgetter(slice(start, stop)))


def num_examples(task: Task, batch: Batch) -> int:
    """The examples in a batch: as the task counts them, or else the first dimension of each of its tensors.

    Raises ValueError where that is not the same of all tensors, or 0.
    """
    if own := getattr(task, "num_examples", None):
        return own(batch)
    lengths = sorted({leading_dimension(leaf) for leaf in iterate_leaves(batch)}, key=str)
    match lengths:
        case [int(examples)] if examples > 0:
            return examples
    dimensions = ", ".join(map(str, lengths)) or "none"
    raise ValueError(
        f"the batch cannot be split into micro-batches: its first dimensions are {dimensions}, not the number of "
        "examples in all; give hardware.micro_batch=null, and hardware.processes=1, to take it whole, or the task "
        "num_examples(batch) and slice_examples(batch, start, stop)"
    )


def num_examples_or_none(task: Task, batch: Batch) -> int | None:
    """As num_examples; None where the batch does not tell."""
    try:
        return num_examples(task, batch)
    except ValueError:
        return None


def leading_dimension(leaf: Any) -> int | str:
    if not isinstance(leaf, Tensor):
        return f"that of a {type(leaf).__name__}"
    return len(leaf) if leaf.dim() else "that of a scalar"
