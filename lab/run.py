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

Batch = Any  # a tensor or a nest of tuples, lists and dicts of tensors; or whatever data set and task agree on
Model = Callable[..., Any]


class Data(Protocol):
    """Batches by position. Optional members:

    steps_per_epoch: int, the batches of one pass; epochs can be counted only with it.
    prepare(batch) -> batch: from what augmentations work on (uint8 images) to what the model takes.
    to(device) -> None: moves what the data set holds to the device.
    part(after, rank, world): of each of `batches` the share of one rank, and its weight, as
        `lab.distributed.collectives.local_slice` gives them; without it each rank reads whole batches.
    plain(after): as `batches`, without the augmentation that the data set does itself.
    val_examples: int, the number of validation examples; without it `val` is read through to count them.
    """

    def batches(self, after: int, /) -> Iterator[Batch]:
        """The training batches that follow the first `after`. Called again from the new position when it ends."""
        ...

    def val(self) -> Iterable[Batch]: ...
    def test(self) -> Iterable[Batch]: ...


class Task(Protocol):
    """What is minimised, and what is reported. `model` is any callable from inputs to outputs. Optional members:

    monitor: full name of the score that chooses the best weights, as `val/f1`; else it is the first score on val.
    size(batch) -> int | float | Tensor: the number of terms that the loss is a mean over, such as tokens or pairs; else
        the examples. The parts of a batch, micro-batches and those of ranks, count by it.
    num_examples(batch) -> int and slice_examples(batch, start, stop) -> batch: how a batch is cut that is no nest of
        tensors whose first dimension is the number of examples. These two and `size` take batches as the data set gives
        them and as it prepares them.
    pictures(batch) -> dict: by name, images or functions that draw them, of a training batch as the model sees it.
    """

    def loss(self, model: Model, batch: Batch, /) -> Tensor:
        """A scalar. The model is always in training mode."""
        ...

    def score(self, model: Model, batches: Iterable[Batch], /) -> Mapping[str, float]:
        """Scores by name, of all the batches; an Evaluation where there is more to say of them. The model is in eval
        mode, but for normalisations whose statistics are recomputed."""
        ...


class Schedule(Protocol):
    """As torch's learning-rate schedulers."""

    def step(self) -> Any: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any], /) -> None: ...


Augmentation = Callable[[Batch, torch.Generator], Batch]
Strategy = Callable[[nn.Module], list[dict[str, Any]]]


@dataclass(frozen=True)
class Cadence:
    """How long a run trains and how often it evaluates, saves and logs, in optimizer steps."""

    steps: int
    steps_per_epoch: int
    eval_every: int
    save_every: int
    log_every: int

    def epoch(self, step: int) -> float:
        return round(step / self.steps_per_epoch, 4)


def cadence(
    steps: int,
    steps_per_epoch: int,
    eval_every: int | None = None,
    save_every: int | None = None,
    log_every: int = 20,
) -> Cadence:
    """A cadence that scores and saves once an epoch unless eval_every or save_every say otherwise."""
    return Cadence(steps, steps_per_epoch, eval_every or steps_per_epoch, save_every or steps_per_epoch, log_every)


def leave_unfinished(model: nn.Module) -> nn.Module:
    return model


@dataclass(frozen=True)
class Run:
    """One training run, ready to start. Its parts are live: training changes the model, the optimizer, the schedule.

    optimizer: over the parameters that are trained.  schedule: multiplies the optimizer's learning rates.  seed: drives
    everything random except the model's initialisation, which the caller does.  regularize: the regularizers, and the
    one that a fine-tuning strategy brings along.  clip: clips the gradients in place.  monitor: the score that chooses
    the best weights.  final: the weights scored on the test set at the end, `best` on that score or `last`.  finish:
    makes the final model of the one that was trained and has the final weights; a quantised one, for instance.
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

    n: number of the step, from 1.  loss: scalar.  norm: norm of the gradients before clipping, None where they are not
    clipped.  examples: number of examples in the batch, of all ranks, None where it is unknown.
    """

    n: int
    loss: Tensor
    norm: Tensor | None
    examples: int | None = None
