"""Scores of a model on a split, and the BatchNorm statistics and training mode that scoring depends on."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lab.distributed import shards
from lab.distributed.collectives import broadcast, broadcast_buffers
from lab.metrics.names import is_overall, with_split
from lab.metrics.scores import Evaluation
from lab.models.running_statistics import has_moving_statistics
from lab.run import Batch, Run
from lab.seeding import stream_seed, temporary_seed
from lab.train.batches import first_epoch, prepared_batches, training_subset
from lab.train.micro_batches import scoring_batches

# called with the number of each step, or 0 for each scored batch; returns the reason to stop the run, None to continue
StopCheck = Callable[[int], str | None]


def never_stop(step: int) -> None:
    return None


def generalization_gap(run: Run, val: Evaluation, model: nn.Module, stop: StopCheck = never_stop) -> Evaluation:
    """`train/name`, scores on as many training examples as there are in the validation set, and `gap/name`, train minus
    val. Empty without a validation set.

    val: scores of the same model on the validation set.
    The more a model overfits, the further the gap of an accuracy is above 0, and that of a loss below 0. Neither set is
    augmented, so they differ only in that the model was trained on one of them.
    """
    if not val:
        return Evaluation({})
    train = evaluate(run, "train", stop, model)
    overall = {name: score for name, score in train.items() if is_overall(name)}
    gaps = {
        with_split(name, "gap"): score - val[with_split(name, "val")]
        for name, score in overall.items()
        if with_split(name, "val") in val
    }
    return Evaluation({**overall, **gaps}, train.directions)


def evaluate(run: Run, split: str = "val", stop: StopCheck = never_stop, model: nn.Module | None = None) -> Evaluation:
    """Scores on `val`, `test` or a part of `train`, named `split/name`, in micro-batches where training takes them.

    stop: function called with 0 for every batch, so that the watchdog does not take a long evaluation for a hang.
    model: model to score; None for the one that the run's regularizer supplies.
    """

    def batches() -> Iterator[Batch]:
        examples = training_subset(run) if split == "train" else getattr(run.data, split)()
        for batch in prepared_batches(run, scoring_batches(run.task, examples, run.hardware.micro_batch)):
            stop(0)
            yield batch

    model = (model or scored_model(run, stop)).eval()
    broadcast_buffers(model)
    # not inference_mode: training may need tensors that the model caches during scoring
    with torch.no_grad(), run.hardware.autocast():
        scores = score_batches(run, model, batches(), split)
    set_training_mode(run.model)
    # every rank scores the whole split but uses rank 0's scores, as rounding may differ between devices
    return broadcast(scores)


def score_batches(run: Run, model: nn.Module, batches: Iterable[Batch], split: str) -> Evaluation:
    """The task's scores on prepared batches, named `split/name`, with the name of the score that the task monitors."""
    scores = run.task.score(model, batches)
    evaluation = scores if isinstance(scores, Evaluation) else Evaluation(scores)
    return replace(evaluation, monitor=getattr(run.task, "monitor", None)).with_split(split)


def scored_model(run: Run, stop: StopCheck = never_stop) -> nn.Module:
    """The model that the run's regularizer supplies for scoring, with its BatchNorm statistics up to date."""
    return run.regularize.model_to_score(run.model, partial(update_bn_statistics, run, stop))


def final_model(run: Run, weights: Mapping[str, Any] | None = None) -> nn.Module:
    """The model that is scored and kept at the end of a run, finished by `run.finish`.

    weights: state dict of the model to score; None for the run's current weights.
    """
    if weights is None:
        return run.finish(scored_model(run))
    model = run.regularize.model_to_score(run.model)
    shards.load_model_state(model, weights)
    return run.finish(model)


def update_bn_statistics(run: Run, stop: StopCheck, model: nn.Module) -> None:
    """Recompute the BatchNorm statistics of averaged weights over one epoch of training batches, as
    torch.optim.swa_utils.update_bn does, but not augmented and without dropout (Izmailov et al. 2018, arXiv:1803.05407,
    sec. 3.2).

    The task scores the batches with the model in eval mode, except for BatchNorm layers that the strategy has not
    frozen. Costs the forward passes of an epoch, or of the whole run where the data set has no `steps_per_epoch`. The
    global CPU generators are restored afterwards.
    """
    set_training_mode(run.model)
    moving = {name for name, part in run.model.named_modules() if isinstance(part, _BatchNorm) and part.training}
    layers = [part for name, part in model.named_modules() if isinstance(part, _BatchNorm) and name in moving]
    momenta = [layer.momentum for layer in layers]
    model.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the mean of all batches
        layer.train()

    def batches() -> Iterator[Batch]:
        for batch in prepared_batches(run, first_epoch(run)):
            yield batch
            stop(0)

    # a user's data set may draw random numbers while it is read
    with temporary_seed(stream_seed(run.seed, "statistics")), torch.no_grad(), run.hardware.autocast():
        if layers:
            run.task.score(model, batches())
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    model.eval()


def set_training_mode(model: nn.Module) -> None:
    """`model.train()`, but normalisations inside a module whose parameters are all frozen keep their running
    statistics, unless the strategy has called `set_moving_statistics` for the model."""
    model.train()
    if has_moving_statistics(model):
        return
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            for part in module.modules():
                if hasattr(part, "running_mean"):
                    part.eval()
