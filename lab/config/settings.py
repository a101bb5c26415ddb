"""The keys at the top level of the config that are no group."""

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Settings:
    """Lengths and cadences are in optimizer steps; None for eval_every and save_every is once an epoch.

    steps: of the run; None for `epochs` times the data's steps per epoch.  max_norm: of the gradients, clipped to it.
    monitor, mode: the score that chooses the best weights, and whether `max` or `min` is better.  final: the weights
    scored on the test set, `best` or `last`.  again: run anew what is done.  overfit: train
    on the first batch alone.  profile: trace a few steps.
    """

    seed: int
    epochs: int
    steps: int | None
    eval_every: int | None
    save_every: int | None
    log_every: int
    max_norm: float | None
    monitor: str
    mode: str
    final: str
    again: bool
    overfit: bool
    profile: bool

    def __post_init__(self) -> None:
        for name in ("epochs", "steps", "eval_every", "save_every", "log_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} is not a positive number")


SETTINGS = tuple(field.name for field in fields(Settings))
