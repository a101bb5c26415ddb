"""The top-level keys of the config that are not groups: the settings of the run, and the policy of the command."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Settings:
    """The settings of a run's training. Lengths and cadences are in optimizer steps.

    seed: seed of all random numbers of the run.
    epochs, steps: length of the run; steps=None for `epochs` times the data's steps per epoch.
    eval_every, save_every, log_every: numbers of steps between evaluations, checkpoints and logged steps; None for once
        an epoch.
    max_norm: maximum norm of the gradients, which are clipped to it; None for no clipping.
    weight_decay_on: parameters that get weight decay: `all`, or `matrices` for all but biases, scales,
        normalisations, tokens and position embeddings (lab.optim.decay).
    monitor: score that chooses the best weights; None for the task's own.
    mode: `max` or `min`, the better end of that score; None for the score's own direction.
    final: weights scored on the test set, `best` or `last`.
    weights: weights to start from, as a name, a file or a run; None for a random start.
    new_head: whether to draw a new head even if the weights have one that fits.
    again: whether to repeat a run that is done.
    overfit: whether to train on the first batch alone.  profile: whether to trace a few steps.
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
        """The settings in a run's resolved config. Raises ValueError for an invalid value."""
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
    """A command's reactions to failures and limits. None of them changes what a run computes.

    on_error: reaction of a sweep to a failed run, `continue` or `stop`.
    max_retries: number of times that a failed run is tried again.
    max_failures: number of failed runs after which the sweep stops; None for no limit.
    step_timeout: maximum seconds for a step, after which the run has failed; None for no limit.
    time_limit: seconds after which the command saves and stops, so that it can be resumed; None for no limit.
    oom: reaction to a lack of memory: `fail`, or `shrink` to halve the micro-batch and try again.
    on_change: reaction to a change of the code while a sweep runs, `stop` or `ignore`.
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
        """The policy in a run's resolved config. Raises ValueError for an invalid value."""
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

    def stop_reason(self, failures: int) -> str | None:
        """Why a sweep with this number of failed runs starts no more jobs; None where it goes on."""
        if failures and self.on_error == "stop":
            return "a run failed and on_error=stop"
        if self.max_failures and failures >= self.max_failures:
            return f"{failures} runs failed, max_failures={self.max_failures}"
        return None


OOM = ("fail", "shrink")
SETTINGS = tuple(field.name for field in fields(Settings))
POLICY = tuple(field.name for field in fields(Policy))
