"""One batch through a run that has been built, before it starts."""

from functools import partial

import torch
from torch import nn

from lab.distributed import collectives
from lab.build.build import attempt
from lab.errors import ConfigError
from lab.nest import describe_shapes
from lab.text import suggest
from lab.run import Batch, Run
from lab.seeding import temporary_seed, stream_seed
from lab.train.batches import training_batches, prepared_batches
from lab.train.micro_batches import local_shard, split_batch


def dry_run(run: Run) -> Batch:
    """One batch through the loss and the score, leaving no trace; gives the batch. Raises ConfigError if it won't."""
    batch = first_batch(run)
    model = run.regularize.scored(run.model).eval()
    with temporary_seed(stream_seed(run.seed, "dry")), torch.no_grad(), run.hardware.autocast():
        loss = attempt(f"a batch {describe_shapes(batch)} does not go through the model", lambda: run.task.loss(model, batch))
        if not isinstance(loss, torch.Tensor) or loss.dim():
            raise ConfigError(f"task: its loss is {describe_shapes(loss)}; expected is a scalar tensor")
        dry_run_score(run, model)
    return batch


def first_batch(run: Run) -> Batch:
    """As much of the first training batch as goes through the model at once."""
    batch, weight = attempt("data or augment", lambda: next(training_batches(run, 0)))
    if collectives.get_world_size() == 1:  # a check of a run of several, as one of them
        batch, weight = attempt("data", partial(local_shard, batch, 0, run.hardware.processes or 1))
    if run.hardware.parallel == "fsdp" and run.hardware.micro_batch and weight != 1:
        raise ConfigError(
            f"hardware.micro_batch: batches do not divide by {run.hardware.processes} processes, which under fsdp have "
            "to take as many parts each; give another data.batch_size, or hardware=ddp"
        )
    if size := run.hardware.micro_batch:
        return attempt("hardware.micro_batch", lambda: next(split_batch(batch, size))[0])
    return batch


def dry_run_score(run: Run, model: nn.Module) -> None:
    """The first validation batch through the task's score, which must have what is monitored."""
    first = attempt("data", lambda: next(iter(prepared_batches(run, run.data.val())), None))
    if first is None and any(hasattr(part, "monitor") for part in run.regularize.parts):
        raise ConfigError("regularize: there is no validation set to watch; give data.val_share, or regularize=none")
    if first is not None:
        scores = attempt("task", lambda: run.task.score(model, [first]))
        if run.monitor.name not in (names := [f"val/{name}" for name in scores]):
            said = f"no score {run.monitor.name!r} to monitor; {suggest(run.monitor.name, names)}"
            raise ConfigError(f"{said} Give monitor= and mode=max or min")
