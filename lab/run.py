"""`Run`: the live objects of one training run, and the protocols of its parts."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from lab.augment.none import none
from lab.hardware import Hardware
from lab.metrics.scores import Monitor
from lab.optim.clip import Clip, no_clip
from lab.regularize.chain import Chain

Batch = Any  # a tensor, a nest of tuples, lists and dicts of tensors, or any type that data set and task agree on
Model = Callable[..., Any]


class Data(Protocol):
    """Batches by position. Optional members:

    steps_per_epoch: int, number of batches in one pass; without it a run has no epochs.
    prepare(batch) -> batch: conversion from the form that augmentations take (uint8 images) to the model's input.
    to(device) -> None: move of the tensors that the data set holds to the device.
    part(after, rank, world): one rank's share of each of `batches`, and the weight of that share, as
        `lab.distributed.collectives.local_slice` gives them; without it each rank reads whole batches.
    plain(after): as `batches`, without the data set's own augmentation.
    augmented_by(augment): the same data set, which augments each training example where it reads it, such as in loader
        workers; `augment` is the `augment_example` of an augmentation that has one, a function of an example.
    val_examples: int, number of validation examples; without it `val` is read through to count them.
    description: str, line that is shown when a run starts.
    reader: how a finished run reads new inputs (`lab.data.readers.Reader`); its files are kept in the run's directory.
    """

    def batches(self, after: int, /) -> Iterator[Batch]:
        """The training batches after the first `after`. When they end, it is called again with the new position."""
        ...

    def val(self) -> Iterable[Batch]: ...
    def test(self) -> Iterable[Batch]: ...


class Task(Protocol):
    """The loss to minimise and the scores to report. `model` is any callable from inputs to outputs. Optional members:

    monitor: full name of the score that chooses the best weights, such as `val/f1`; else the first score on val.
    size(batch) -> int | float | Tensor: number of terms that the loss is a mean over, such as tokens or pairs; else the
        number of examples. Micro-batches and the parts of ranks are weighted by it.
    num_examples(batch) -> int and slice_examples(batch, start, stop) -> batch: size and slices of a batch that is not a
        nest of tensors whose first dimension is the number of examples. These two and `size` must take batches both
        before and after the data set's `prepare`. A task whose loss is over pairs of examples raises ValueError in
        `slice_examples`, with the reason why a batch cannot be split.
    bind(data) -> None: called once with the run's data set, to take from it what is no batch, such as a tokenizer.
    predict(model, inputs) -> list of dicts: answers to what the data's reader has read, such as labels.
    draw(inputs, answers) -> list of images: pictures of these answers.
    pictures(batch) -> dict: images of a training batch as the model sees it, or functions that draw them, by name.
    """

    def loss(self, model: Model, batch: Batch, /) -> Tensor:
        """A scalar. The model is always in training mode."""
        ...

    def score(self, model: Model, batches: Iterable[Batch], /) -> Mapping[str, float]:
        """Scores of all batches together, by name; as an Evaluation to add directions, pictures or a monitor. The model
        is in eval mode, except for normalisations whose statistics are being recomputed."""
        ...


class Schedule(Protocol):
    """The interface of torch's learning-rate schedulers."""

    def step(self) -> Any: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any], /) -> None: ...


Augmentation = Callable[[Batch, torch.Generator], Batch]
Strategy = Callable[[nn.Module], list[dict[str, Any]]]


@dataclass(frozen=True)
class Cadence:
    """How long a run trains and how often it evaluates, saves and logs, in optimizer steps.

    save_pause: the fewest seconds between two checkpoints, but for the last one of a run.
    """

    steps: int
    steps_per_epoch: int
    eval_every: int
    save_every: int
    log_every: int
    save_pause: float = 0.0

    def epoch(self, step: int) -> float:
        return round(step / self.steps_per_epoch, 4)


def cadence(
    steps: int,
    steps_per_epoch: int,
    eval_every: int | None = None,
    save_every: int | None = None,
    log_every: int = 20,
) -> Cadence:
    """A cadence that evaluates and saves once an epoch unless eval_every or save_every are given. Without save_every,
    checkpoints are a second apart at least: on a small model, writing one takes longer than an epoch."""
    pause = 0.0 if save_every else 1.0
    return Cadence(
        steps, steps_per_epoch, eval_every or steps_per_epoch, save_every or steps_per_epoch, log_every, pause
    )


def leave_unfinished(model: nn.Module) -> nn.Module:
    return model


@dataclass(frozen=True)
class Run:
    """One training run, ready to start. Its parts are live: training changes the model, the optimizer, the schedule.

    optimizer: optimizer of the trained parameters.  schedule: schedule of the optimizer's learning rates.
    seed: seed of all random numbers but the model's initialisation, which the caller does.  regularize: the config's
    regularizers, and the one that a fine-tuning strategy may add.  clip: function that clips the gradients in place.
    monitor: score that chooses the best weights.  final: weights scored on the test set at the end, `best` by that
    score or `last`.  finish: function from the trained model with its final weights to the model that is kept, such as
    a quantised one.
    """

    model: nn.Module
    task: Task
    data: Data
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    cadence: Cadence
    seed: int = 0
    augment: Augmentation = none
    regularize: Chain = field(default_factory=Chain)
    hardware: Hardware = field(default_factory=Hardware)
    clip: Clip = no_clip
    monitor: Monitor = field(default_factory=Monitor)
    final: str = "best"
    finish: Callable[[nn.Module], nn.Module] = leave_unfinished

    def __post_init__(self) -> None:
        if self.final not in ("best", "last"):
            raise ValueError(f"final {self.final!r} is not best or last")

    @property
    def trainable(self) -> list[nn.Parameter]:
        """The optimizer's parameters."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]


class Step(NamedTuple):
    """The results of one optimizer step, still on the device.

    n: number of the step, from 1.  loss: scalar.  norm: norm of the gradients before clipping; None without clipping.
    examples: number of examples in the batch, over all ranks; None where it is unknown.
    """

    n: int
    loss: Tensor
    norm: Tensor | None
    examples: int | None = None
