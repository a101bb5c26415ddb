"""Scores of a split, and the score that chooses the best weights."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Union

from lab.metrics.directions import usual_direction
from lab.metrics.names import add_split, split_of, without_split
from lab.text import suggest

if TYPE_CHECKING:
    from PIL.Image import Image

MODES = ("max", "min")
# one that is drawn only where it is shown; a functools.partial, for instance, as an evaluation has to be picklable
Picture = Union["Image", "Callable[[], Image]"]


@dataclass(frozen=True, eq=False)
class Evaluation(Mapping[str, float]):
    """What scoring a model gives: a mapping from the names of scores to numbers, with what else is known of them.

    directions: `max` or `min`, which is better, of scores whose names do not tell (`lab.metrics.directions`).
    pictures: by name, images or functions that draw them.  monitor: the full name of the score that chooses the best
    weights where the config names none; None for the first one on val.
    """

    scores: Mapping[str, float]
    directions: Mapping[str, str] = field(default_factory=dict)
    pictures: Mapping[str, Picture] = field(default_factory=dict)
    monitor: str | None = None

    def __post_init__(self) -> None:
        if wrong := {name: mode for name, mode in self.directions.items() if mode not in MODES}:
            raise ValueError(f"directions {wrong} are not max or min")

    def __getitem__(self, name: str) -> float:
        return self.scores[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.scores)

    def __len__(self) -> int:
        return len(self.scores)

    def __or__(self, other: "Evaluation") -> "Evaluation":
        """Both evaluations in one; where both have a score, `other`'s."""
        return Evaluation(
            {**self.scores, **other.scores},
            {**self.directions, **other.directions},
            {**self.pictures, **other.pictures},
            self.monitor or other.monitor,
        )

    def with_split(self, split: str) -> "Evaluation":
        """The same evaluation under full names, `split/name`."""
        return replace(
            self,
            scores={add_split(name, split): float(value) for name, value in self.scores.items()},
            directions={add_split(name, split): mode for name, mode in self.directions.items()},
            pictures={add_split(name, split): picture for name, picture in self.pictures.items()},
        )

    def direction(self, name: str) -> str | None:
        """`max` or `min`, which is better of the score with this full name; None where nobody knows."""
        if split_of(name) == "gap":  # the nearer to 0 the better
            return None
        return self.directions.get(name) or usual_direction(without_split(name))

    def is_finite(self) -> bool:
        return all(math.isfinite(value) for value in self.scores.values())


@dataclass(frozen=True)
class Monitor:
    """The score that says which weights are best.

    name: full name, as `val/accuracy`; None for the task's own choice.  mode: `max` or `min`, which is better; None for
    the score's own direction.
    """

    name: str | None = None
    mode: str | None = None

    def __post_init__(self) -> None:
        if self.mode not in (None, *MODES):
            raise ValueError(f"mode={self.mode} is not max or min; leave it out where the score's name tells")

    def watches(self, scores: Evaluation) -> bool:
        """Whether these are scores of the split that is monitored."""
        split = split_of(self.name or scores.monitor or "val/")
        return any(split_of(name) == split for name in scores)

    def choose_name(self, scores: Evaluation) -> str:
        """The full name of the monitored score, among scores that the monitor watches."""
        return self.name or scores.monitor or next((name for name in scores if split_of(name) == "val"), "val/")

    def resolve(self, scores: Evaluation) -> "ResolvedMonitor":
        """The monitor with the name and the mode that these scores, which it watches, give it.

        Raises ValueError where it names none of them, where nobody knows which direction is better, and where the mode
        is not the score's own direction, by which the worst weights would be kept.
        """
        name = self.choose_name(scores)
        if name not in scores:
            raise ValueError(f"no score {name!r} to monitor; {suggest(name, scores)} Give monitor=")
        direction = scores.direction(name)
        mode = self.mode or direction
        if mode is None:
            raise ValueError(
                f"monitor={name}: nothing tells whether more or less of it is better; give mode=max or mode=min"
            )
        if direction not in (None, mode):
            raise ValueError(
                f"monitor={name} mode={mode} would keep the worst weights, as the {direction} of it is best; leave "
                "mode= out, or where that is wrong, have the task's score return an Evaluation with its directions"
            )
        return ResolvedMonitor(name, mode)


@dataclass(frozen=True)
class ResolvedMonitor:
    """The full name of the score that says which weights are best, and whether `max` or `min` of it is."""

    name: str
    mode: str

    def is_better(self, score: float, than: float | None, by: float = 0.0) -> bool:
        """Whether `score` improves on `than` by more than `by`; anything improves on None."""
        if than is None:
            return True
        return score > than + by if self.mode == "max" else score < than - by
