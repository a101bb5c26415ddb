"""The keys at the top level of the config that are no group: settings of the run, and the policy of the command."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Settings:
    """How a run trains. Lengths and cadences are in optimizer steps.

    seed: seed of all that is random in the run.
    epochs, steps: length of the run; steps=None for `epochs` times the data's steps per epoch.
    eval_every, save_every: cadence of scoring and of checkpoints; None for once an epoch.  log_every: of logging.
    max_norm: norm to which the gradients are clipped; None for no clipping.
    weight_decay_on: parameters that the optimizer's weight decay is for, `all` or `matrices`, which spares norms and
        biases.
    monitor, mode: the score that chooses the best weights, None for the task's own, and whether its `max` or `min` is
        best, None for the score's own direction.
    final: the weights scored on the test set, `best` or `last`.
    weights: weights to start from, a name, a file or a run; None for a random start.
    new_head: whether the head is drawn anew though the weights have one that fits.
    again: whether a run that is done is run anew.
    overfit: whether the run trains on the first batch alone.  profile: whether a few steps are traced.
    """

    seed: int
    epochs: int
    steps: int | None
    eval_every: int | None
    save_every: int | None
    log_every: int
    max_norm: float | None
    weight_decay_on: str
    monitor: str | None
    mode: str | None
    final: str
    weights: str | None
    new_head: bool
    again: bool
    overfit: bool
    profile: bool

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Settings":
        """The settings in a run's resolved config. Raises ValueError for a value that cannot be."""
        return cls(**{name: config[name] for name in SETTINGS})

    def __post_init__(self) -> None:
        for name in ("epochs", "steps", "eval_every", "save_every", "log_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} is not a positive number")
        if self.weights == "":
            raise ValueError("weights= is empty; weights=null is a random start")
        if self.weight_decay_on not in ("all", "matrices"):
            raise ValueError(f"weight_decay_on={self.weight_decay_on} is not all or matrices")


@dataclass(frozen=True)
class Policy:
    """How a command goes on when something goes wrong. Nothing here changes what a run computes.

    on_error: whether a sweep goes on after a failed run, `continue` or `stop`.
    max_retries: number of times that a failed run is tried again.
    max_failures: number of failed runs after which the sweep stops; None for no limit.
    step_timeout: seconds in which a step must end, or the run has failed; None for no limit.
    time_limit: seconds after which the command saves and stops, to be resumed; None for no limit.
    oom: `fail`, or `shrink` to halve the micro-batch where memory does not suffice.
    on_change: `stop` or `ignore`, for when the code changes while a sweep runs.
    """

    on_error: str
    max_retries: int
    max_failures: int | None
    step_timeout: float | None
    time_limit: float | None
    oom: str
    on_change: str

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Policy":
        """The policy in a run's resolved config. Raises ValueError for a value that cannot be."""
        return cls(**{name: config[name] for name in POLICY})

    def __post_init__(self) -> None:
        for name, options in (("on_error", ("continue", "stop")), ("oom", OOM), ("on_change", ("stop", "ignore"))):
            if getattr(self, name) not in options:
                raise ValueError(f"{name}={getattr(self, name)} is not {' or '.join(options)}")
        for name, least in (("max_retries", 0), ("max_failures", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name}={value} is not a number from {least} on")
        for name in ("step_timeout", "time_limit"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name}={value} is not a positive number of seconds; null is no limit")


OOM = ("fail", "shrink")
SETTINGS = tuple(field.name for field in fields(Settings))
POLICY = tuple(field.name for field in fields(Policy))
