"""`Run`: the live objects of one training run, and what each of them must be able to do."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from lab.augment.none import none
from lab.hardware import Hardware
from lab.metrics.scores import Monitor
from lab.optim.clip import Clip, no_clip
from lab.regularize.chain import Chain

Batch = Any  # a tensor, or a nest of tuples, lists and dicts of tensors
Model = Callable[..., Any]


class Data(Protocol):
    """Batches by position. It may have more, each used where it is there:

    steps_per_epoch: int, the batches of one pass; epochs can be counted only with it.
    prepare(batch) -> batch: from what augmentations work on (uint8 images) to what the model takes.
    to(device) -> None: move what is held to the device.
    classes: names of the classes, for pictures.
    part(after, rank, world): of each of `batches` the share of one of several processes, and its weight, as
        `lab.distributed.collectives.local_slice` has them; else each process reads whole batches.
    plain(after): as `batches`, without the augmentation that the data set does itself.
    val_examples: int, how many validate; else `val` is read through to count them.
    """

    def batches(self, after: int, /) -> Iterator[Batch]:
        """The training batches that follow the first `after`. Asked again from its new position when it ends."""
        ...

    def val(self) -> Iterable[Batch]: ...
    def test(self) -> Iterable[Batch]: ...


class Task(Protocol):
    """What is to be minimised, and what is reported. `model` is any callable from inputs to outputs."""

    def loss(self, model: Model, batch: Batch, /) -> Tensor: ...
    def score(self, model: Model, batches: Iterable[Batch], /) -> dict[str, float]: ...


class Schedule(Protocol):
    """As torch's learning-rate schedulers."""

    def step(self) -> Any: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any], /) -> None: ...


Augmentation = Callable[[Batch, torch.Generator], Batch]
Strategy = Callable[[nn.Module], list[dict[str, Any]]]


@dataclass(frozen=True)
class Cadence:
    """How long a run trains and how often it looks up, in optimizer steps."""

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
    """A cadence that scores and saves once an epoch where nothing else is said."""
    return Cadence(steps, steps_per_epoch, eval_every or steps_per_epoch, save_every or steps_per_epoch, log_every)


@dataclass(frozen=True)
class Run:
    """One training run, ready to start. Its parts are live: training changes the model, the optimizer, the schedule.

    model, task, data, augment, regularize: what is trained, for what, on what, and how it is kept from overfitting.
    optimizer: over the parameters that are to be trained.  schedule: of its learning rates.  clip: of the gradients,
    in place.  regularize: what keeps it from overfitting, and a strategy's own say.  seed: of all that is random but
    the model's start, which is the caller's.  monitor: the score that chooses the best weights.  final: the weights
    scored on the test set at the end, `best` on that score or `last`.
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

    def __post_init__(self) -> None:
        if self.final not in ("best", "last"):
            raise ValueError(f"final {self.final!r} is not best or last")

    @property
    def trainable(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]


class Step(NamedTuple):
    """What one optimizer step leaves behind, still on the device.

    n: steps taken, from 1.  loss: scalar.  norm: of the gradients before clipping, None where they are not clipped.
    examples: in the batch, None where its tensors do not tell.
    """

    n: int
    loss: Tensor
    norm: Tensor | None
    examples: int | None = None
