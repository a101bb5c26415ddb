"""The forward and backward passes of a batch, either whole or in micro-batches whose gradients add up to the same; and
how a batch is split into micro-batches and into the shards of the ranks."""

from collections.abc import Callable, Iterable, Iterator
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

    weight: weight of this part's loss in the mean over all ranks; it differs from 1 where the parts are not equal.
    num_examples: number of examples in the parts of all ranks together; None where it was not counted.
    """

    data: Batch
    weight: Size = 1.0
    num_examples: int | None = None


Backward = Callable[[Task, Hardware, Model, LocalBatch], Tensor]


def choose_backward(hardware: Hardware) -> Backward:
    """`backward_whole` for one rank without micro-batches, else `backward_in_micro_batches`."""
    if hardware.micro_batch is None and collectives.get_world_size() == 1:
        return backward_whole
    return partial(backward_in_micro_batches, num_examples=hardware.micro_batch)


def backward_whole(task: Task, hardware: Hardware, model: Model, batch: LocalBatch) -> Tensor:
    """Leave the scaled gradients of the loss in the parameters and return the loss. Only for one rank, of weight 1.

    The loss is returned with its graph, not detached: while the graph lives, autograd keeps the parameters' gradient
    accumulators for the next forward pass, which saves 1% of a step of a small model.
    """
    with hardware.autocast():
        loss = task.loss(model, batch.data)
    hardware.scaler.scale(loss).backward()
    return loss


def backward_in_micro_batches(
    task: Task, hardware: Hardware, model: Model, batch: LocalBatch, num_examples: int | None
) -> Tensor:
    """As backward_whole, for the loss times the batch's weight, in the memory that `num_examples` examples take.

    num_examples: maximum size of a micro-batch; None for the whole batch.
    model: the run's model, as `lab.train.phases.Phases` wraps it.

    The gradients equal those of the whole batch up to rounding if the loss is a mean over independent terms, as many as
    `task.size` says, but not for a loss over pairs of examples from the whole batch. BatchNorm normalises each
    micro-batch by its own statistics and updates the running ones once for each. Dropout draws other masks than for the
    whole batch, but the same masks in every run with the same micro-batch size.
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
    """The task's loss times its weight. A weight of 0 gives a loss and gradients of 0, even where the loss is NaN, as a
    mean over no terms is. The forward pass still runs, because the other ranks wait for this one's gradients."""
    if isinstance(weight, Tensor):
        is_empty = weight == 0  # stays on its device, so that there is no synchronisation
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
    """The part of a batch that `rank` trains on; views of the batch's tensors, unless the task slices it itself.

    Every rank has the whole batch, so it computes the weight of its part without communication.
    Raises ValueError where the batch has fewer examples than there are ranks.
    """
    if world_size == 1:
        return LocalBatch(batch)
    examples = num_examples(task, batch)
    span, _ = collectives.local_slice(examples, rank, world_size)
    shard = slice_examples(task, batch, span.start, span.stop)
    return LocalBatch(shard, share_of(loss_size(task, shard) * world_size, loss_size(task, batch)), examples)


def reweight_part(task: Task, batch: LocalBatch) -> LocalBatch:
    """A part that the data set has read for this rank alone, weighted by its share of the terms of the task's loss.

    Costs an all-reduce where the task has a `size`, as no rank has the parts of the others.
    """
    if not hasattr(task, "size"):
        return batch
    size = in_full_precision(torch.as_tensor(loss_size(task, batch.data)))
    return batch._replace(weight=share_of(size, collectives.all_reduce_mean(size)))


def split_batch(task: Task, batch: Batch, max_examples: int) -> Iterator[tuple[Batch, Size]]:
    """The fewest possible parts of at most `max_examples` examples, each with its share of the terms of the loss. The
    parts are views of the batch's tensors, unless the task slices it itself.

    The parts are equally large, give or take one example: BatchNorm would fail on a last part of a single example.
    """
    examples, whole = num_examples(task, batch), loss_size(task, batch)
    for part in slice_evenly(task, batch, examples, max_examples):
        yield part, share_of(loss_size(task, part), whole)


def slice_evenly(task: Task, batch: Batch, examples: int, max_examples: int) -> Iterator[Batch]:
    """The fewest possible parts of at most `max_examples` of the batch's `examples` examples."""
    num_parts = -(-examples // max_examples)
    for start, stop in pairwise(examples * n // num_parts for n in range(num_parts + 1)):
        yield slice_examples(task, batch, start, stop)


def scoring_batches(task: Task, batches: Iterable[Batch], max_examples: int | None) -> Iterator[Batch]:
    """Batches of at most `max_examples` examples for scoring, which takes as many at once as training does. A batch
    that cannot be split is left whole.

    max_examples: the micro-batch size; None for whole batches.
    """
    for batch in batches:
        examples = num_examples_or_none(task, batch) if max_examples else None
        if max_examples and examples and examples > max_examples:
            yield from slice_evenly(task, batch, examples, max_examples)
        else:
            yield batch


def loss_size(task: Task, batch: Batch) -> Size:
    """The number of terms that the loss of a batch is a mean over: `task.size(batch)`, else the number of examples."""
    own: Callable[[Batch], Size] | None = getattr(task, "size", None)
    return own(batch) if own else num_examples(task, batch)


def share_of(part: Size, whole: Size) -> Size:
    """part / whole; 0 where the whole is 0."""
    if isinstance(part, Tensor) or isinstance(whole, Tensor):
        return (in_full_precision(torch.as_tensor(part)) / whole).nan_to_num(0.0)
    return part / whole if whole else 0.0


def in_full_precision(number: Tensor) -> Tensor:
    """The number in float64, the precision of Python's floats; in float32 on MPS, which has no float64."""
    return number.to(torch.float32 if number.device.type == "mps" else torch.float64)


def half_micro_batch(task: Task, batch: Batch, size: int | None) -> int | None:
    """Half of `size`, rounded up; half of the whole batch where size is None. None for a size of 1."""
    size = size or num_examples(task, batch)
    return -(-size // 2) if size > 1 else None


def slice_examples(task: Task, batch: Batch, start: int, stop: int) -> Batch:
    """The examples `start` to `stop` - 1 of a batch: `task.slice_examples`, else views of every tensor."""
    own: Callable[[Batch, int, int], Batch] | None = getattr(task, "slice_examples", None)
    return own(batch, start, stop) if own else map_tensors(batch, itemgetter(slice(start, stop)))


def num_examples(task: Task, batch: Batch) -> int:
    """The number of examples in a batch: `task.num_examples(batch)`, else the first dimension of its tensors.

    Raises ValueError where the tensors differ in it, where it is 0, and where a leaf is no tensor.
    """
    if own := getattr(task, "num_examples", None):
        return own(batch)
    lengths = sorted({leading_dimension(leaf) for leaf in iterate_leaves(batch)}, key=str)
    match lengths:
        case [int(examples)] if examples > 0:
            return examples
    dimensions = ", ".join(map(str, lengths)) or "none"
    raise ValueError(
        f"the batch cannot be split: its first dimensions are {dimensions}, not one number of examples; give "
        "hardware.micro_batch=null and hardware.processes=1 to take it whole, or add num_examples(batch) and "
        "slice_examples(batch, start, stop) to the task"
    )


def num_examples_or_none(task: Task, batch: Batch) -> int | None:
    """As num_examples, but None where that raises ValueError."""
    try:
        return num_examples(task, batch)
    except ValueError:
        return None


def leading_dimension(leaf: Any) -> int | str:
    if not isinstance(leaf, Tensor):
        return f"that of a {type(leaf).__name__}"
    return len(leaf) if leaf.dim() else "that of a scalar"
