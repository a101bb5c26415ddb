"""Scores of a model on a split, with the statistics and the mode that they need."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lab.distributed.collectives import broadcast, broadcast_buffers
from lab.metrics.names import is_overall
from lab.metrics.scores import Scores
from lab.models.running_statistics import has_moving_statistics
from lab.run import Batch, Run
from lab.seeding import stream_seed, temporary_seed
from lab.train.batches import first_epoch, prepared_batches, training_subset

StopCheck = Callable[[int], str | None]


def never_stop(step: int) -> None:
    return None


def generalization_gap(run: Run, val: Scores, model: nn.Module, pulse: StopCheck = never_stop) -> dict[str, float]:
    """`train/name` on as many training examples as validate, and `gap/name`: train minus val, the scores of `val`.

    The more a model overfits, the further above 0 is the gap of an accuracy, and the further below 0 that of a loss.
    Nothing is augmented: what is compared differs only in having been trained on.
    """
    train = evaluate(run, "train", pulse, model) if val else Scores({})
    found = {name: value for name, value in train.items() if is_overall(name)}
    names = [name.removeprefix("train/") for name in found]
    return found | {
        f"gap/{name}": found[f"train/{name}"] - val[f"val/{name}"] for name in names if f"val/{name}" in val
    }


def evaluate(run: Run, split: str = "val", pulse: StopCheck = never_stop, model: nn.Module | None = None) -> Scores:
    """Scores on `val`, `test` or a part of `train`, named `split/name`, of `model`, or else of the weights that the
    run's regularizer wants scored.

    pulse: told of every batch, so that a long scoring is not taken for a hang.
    """

    def batches() -> Iterator[Batch]:
        for batch in prepared_batches(run, training_subset(run) if split == "train" else getattr(run.data, split)()):
            pulse(0)
            yield batch

    model = (model or scored_model(run, pulse)).eval()
    broadcast_buffers(model)
    # not inference_mode: what a model caches while it is scored may be needed in training
    with torch.no_grad(), run.hardware.autocast():
        scores = run.task.score(model, batches())
    set_training_mode(run.model)
    # every process scores all of it, and goes by what the first one found: a device may round in another order
    return broadcast((scores if isinstance(scores, Scores) else Scores(scores)).of(split))


def scored_model(run: Run, pulse: StopCheck = never_stop) -> nn.Module:
    """The weights that the run's regularizer wants scored, with running statistics that are theirs."""
    return run.regularize.scored(run.model, partial(update_bn_statistics, run, pulse))


def update_bn_statistics(run: Run, pulse: StopCheck, model: nn.Module) -> None:
    """Make the running statistics of `model`, an average of weights that has seen no batch, the mean over an epoch of
    training batches, not augmented and without dropout (Izmailov et al. 2018, arXiv:1803.05407, sec. 3.2).

    Normalisations that the strategy froze keep theirs. Costs the forward passes of an epoch, of a data set without
    `steps_per_epoch` those of the whole run; leaves no trace in the run's randomness.
    """
    set_training_mode(run.model)
    own = {name for name, part in run.model.named_modules() if isinstance(part, _BatchNorm) and part.training}
    moving = [part for name, part in model.named_modules() if isinstance(part, _BatchNorm) and name in own]
    momenta = [part.momentum for part in moving]
    model.eval()
    for part in moving:
        part.reset_running_stats()
        part.momentum = None  # the mean of all batches
        part.train()
    # a data set of one's own may draw while it is read
    with temporary_seed(stream_seed(run.seed, "statistics")), torch.no_grad(), run.hardware.autocast():
        for batch in prepared_batches(run, first_epoch(run)) if moving else ():
            run.task.loss(model, batch)
            pulse(0)
    for part, momentum in zip(moving, momenta, strict=True):
        part.momentum = momentum
    model.eval()


def set_training_mode(model: nn.Module) -> None:
    """`model.train()`, but normalisations below a module that is frozen whole keep their running statistics, unless the
    strategy has called `set_moving_statistics` for the model."""
    model.train()
    if has_moving_statistics(model):
        return
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            for part in module.modules():
                if hasattr(part, "running_mean"):
                    part.eval()
