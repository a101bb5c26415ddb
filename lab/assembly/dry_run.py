"""A dry run: takes one batch through a run that has been built, before it starts."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lab.assembly.blame import blame
from lab.distributed import collectives
from lab.errors import ConfigError
from lab.hardware import is_out_of_memory
from lab.metrics.scores import Evaluation, ResolvedMonitor
from lab.nest import describe_shapes
from lab.run import Batch, Run
from lab.seeding import stream_seed, temporary_seed
from lab.train.batches import prepared_batches, training_batches
from lab.train.micro_batches import half_micro_batch, local_shard, scoring_batches, split_batch
from lab.train.scoring import score_batches, set_training_mode


@dataclass(frozen=True)
class DryRun:
    """The results of a dry run.

    batch: the part of the first training batch that goes through the model at once.  monitor: name and mode of the
    score that chooses the best weights; None without a validation set.
    """

    batch: Batch
    monitor: ResolvedMonitor | None


def dry_run(run: Run) -> DryRun:
    """Take one batch through the loss and one through the score. Nothing changes but the model's mode.

    Raises ConfigError where either fails, or the monitored score is missing or has no known direction.
    """
    batch = first_batch(run)
    with temporary_seed(stream_seed(run.seed, "dry")), torch.no_grad(), run.hardware.autocast():
        with restored_buffers(run.model):
            set_training_mode(run.model)
            loss = try_loss(run, batch)
        if loss is not None and (not isinstance(loss, torch.Tensor) or loss.dim()):
            raise ConfigError(f"task: its loss is {describe_shapes(loss)}; expected is a scalar tensor")
        return DryRun(batch, dry_run_score(run, run.regularize.model_to_score(run.model).eval()))


def try_loss(run: Run, batch: Batch) -> Any:
    """The loss of a batch; None where the memory is too small. That is no error of the config: the run itself reports
    it, or takes smaller micro-batches (oom=shrink)."""
    with blame(f"the model cannot process a batch of {describe_shapes(batch)}"):
        try:
            return run.task.loss(run.model, batch)
        except Exception as error:
            if is_out_of_memory(error):
                return None
            raise


def first_batch(run: Run) -> Batch:
    """The part of the first training batch that goes through the model at once: one rank's shard, or a micro-batch of
    it."""
    with blame("data or augment"):
        batch = next(training_batches(run, 0))
    if collectives.get_world_size() == 1:  # a run of several ranks is tried in one process, as rank 0
        with blame("data"):
            batch = local_shard(run.task, batch.data, 0, run.hardware.processes or 1)
    is_uneven = (batch.num_examples or 0) % (run.hardware.processes or 1) != 0
    if run.hardware.parallel == "fsdp" and run.hardware.micro_batch and is_uneven:
        raise ConfigError(
            f"hardware.micro_batch: batches do not divide by {run.hardware.processes} processes, but under fsdp each "
            "takes as many micro-batches as the others; give another data.batch_size, or hardware=ddp"
        )
    if micro_batch := run.hardware.micro_batch:
        with blame("hardware.micro_batch"):
            return next(split_batch(run.task, batch.data, micro_batch))[0]
    return batch.data


@contextmanager
def restored_buffers(model: nn.Module) -> Iterator[None]:
    """Restore the model's buffers (running statistics) on leaving the context: the same tensors, with the same bits."""
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        yield
    finally:
        for module, name, buffer, value in buffers:
            module._buffers[name] = buffer.copy_(value)


def dry_run_score(run: Run, model: nn.Module) -> ResolvedMonitor | None:
    """Take the first validation batch through the task's score. Gives the monitored score, which must be among the
    scores; None without a validation set."""
    with blame("data"):
        first = scoring_batches(run.task, run.data.val(), run.hardware.micro_batch)
        batch = next(iter(prepared_batches(run, first)), None)
    if batch is None:
        if any(hasattr(part, "monitor") for part in run.regularize.parts):
            raise ConfigError(
                "regularize: there is no validation set to watch; give data.val_share, or regularize=none"
            )
        return None
    with blame("task"):
        scores = score_what_fits(run, model, batch)
    if not scores:
        raise ConfigError(
            "task: its score gives nothing for the first validation batch, so there is nothing to monitor"
        )
    with blame(""):
        return run.monitor.resolve(scores)


def score_what_fits(run: Run, model: nn.Module, batch: Batch) -> Evaluation:
    """The scores of a batch; of its first half, quarter, ... where the memory is too small. As in `try_loss`, that is
    no error of the config."""
    while True:
        try:
            return score_batches(run, model, [batch], "val")
        except Exception as error:
            half = half_micro_batch(run.task, batch, None) if is_out_of_memory(error) else None
            if half is None:
                raise
        batch = next(iter(scoring_batches(run.task, [batch], half)))
