"""Forward and backward: a batch at once, or in micro-batches whose gradients add up to the same."""

from collections.abc import Iterator
from itertools import pairwise
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from lab.distributed import collectives, replicas
from lab.nest import iterate_leaves, map_tensors
from lab.run import Batch, Model, Run


def backward_whole(run: Run, model: Model, batch: Batch, weight: float) -> Tensor:
    """Leave the loss's gradients, scaled, in the parameters; gives the loss. For one process, whose weight is 1.

    With its graph: while that lives, the next forward pass finds the parameters' accumulators of gradients ready, which
    saves 1% of a step of a small model.
    """
    assert weight == 1
    with run.hardware.autocast():
        loss = run.task.loss(model, batch)
    run.hardware.scaler.scale(loss).backward()
    return loss


def backward_in_micro_batches(run: Run, model: Model, batch: Batch, weight: float, size: int | None) -> Tensor:
    """As `at_once`, of the loss times `weight`, in the memory that `size` examples take; None: the whole batch.

    model: the run's, as `lab.distributed.replicas.wrap_for_first_step` gives it.  The same up to rounding where the loss is a mean over
    independent examples: not for a loss over pairs of them, or a mean with weights. Batch normalisation takes its
    statistics from each micro-batch and updates its running ones once for each; dropout draws other masks than for the
    whole batch, the same in each run with the same size.
    """
    losses, divided = [], list(split_batch(batch, size)) if size else [(batch, 1.0)]
    for number, (part, share) in enumerate(divided, start=1):
        with replicas.average_gradients(model, last=number == len(divided)):
            with run.hardware.autocast():
                loss = run.task.loss(model, part) * (share * weight)
            run.hardware.scaler.scale(loss).backward()
        losses.append(loss.detach())
    return torch.stack(losses).sum()


def local_shard(batch: Batch, rank: int, world: int) -> tuple[Batch, float]:
    """The part of a batch that process `rank` of `world` trains on, as views, and what its loss counts in a mean over
    them: more or less than 1 where the parts are not even. Raises ValueError where there is not an example for each."""
    if world == 1:
        return batch, 1.0
    where, weight = collectives.local_slice(num_examples(batch), rank, world)
    return map_tensors(batch, itemgetter(where)), weight


def split_batch(batch: Batch, size: int) -> Iterator[tuple[Batch, float]]:
    """The batch in as few parts of at most `size` examples as can be, as views, each with its share of the examples.

    The parts are even: a last one of a single example would fail in batch normalisation.
    """
    examples = num_examples(batch)
    num_parts = -(-examples // size)
    for start, stop in pairwise(examples * n // num_parts for n in range(num_parts + 1)):
        yield map_tensors(batch, itemgetter(slice(start, stop))), (stop - start) / examples


def half_micro_batch(batch: Batch, size: int | None) -> int | None:
    """Half of a micro-batch; of a batch that was taken whole where size is None. None where there is no half."""
    size = size or num_examples(batch)
    return -(-size // 2) if size > 1 else None


def num_examples(batch: Batch) -> int:
    """The first dimension of each of the batch's tensors. Raises ValueError where it is not the same or none."""
    lengths = sorted({leading_dimension(leaf) for leaf in iterate_leaves(batch)}, key=str)
    match lengths:
        case [int(examples)] if examples > 0:
            return examples
    found = ", ".join(map(str, lengths)) or "none"
    raise ValueError(
        f"the batch cannot be split into micro-batches: its first dimensions are {found}, not the number of examples "
        "in all; give hardware.micro_batch=null, and hardware.processes=1, to take it whole"
    )


def num_examples_or_none(batch: Batch) -> int | None:
    """As num_examples, None where the batch does not tell."""
    try:
        return num_examples(batch)
    except ValueError:
        return None


def global_num_examples(batch: Batch, weight: float) -> int | None:
    """The examples of a batch of which this process has the part that `own` gave."""
    examples = num_examples_or_none(batch)
    return None if examples is None else round(examples * collectives.get_world_size() / weight)


def leading_dimension(leaf: Any) -> int | str:
    if not isinstance(leaf, Tensor):
        return f"that of a {type(leaf).__name__}"
    return len(leaf) if leaf.dim() else "that of a scalar"
