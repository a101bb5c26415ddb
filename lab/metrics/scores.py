"""Scores of a split, and the score that chooses the best weights."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Union

from lab.metrics.directions import usual_direction
from lab.metrics.names import add_split, split_of, without_split
from lab.text import suggest

if TYPE_CHECKING:
    from PIL.Image import Image

MODES = ("max", "min")
SIGNATURE = "_signature"  # ends the name of a text in the results that says how a score is computed
# an image, or a function that draws it when it is shown; the function must be picklable, such as a functools.partial
Picture = Union["Image", "Callable[[], Image]"]


@dataclass(frozen=True, eq=False)
class Evaluation(Mapping[str, float]):
    """The result of scoring a model: a mapping from the names of scores to numbers, with directions and pictures.

    directions: `max` or `min`, the better end, for scores whose names do not tell (`lab.metrics.directions`).
    pictures: images, or functions that draw them, by name.
    monitor: full name of the score that chooses the best weights if the config names none; None for the first score on
        val.
    signatures: how a score is computed, by its name, for scores that differ in it between libraries, such as BLEU.
    texts: Markdown to read beside the scores, by name, such as sample translations.
    files: contents of files, by name, such as all translations; those of the test set are kept with the run.
    """

    scores: Mapping[str, float]
    directions: Mapping[str, str] = field(default_factory=dict)
    pictures: Mapping[str, Picture] = field(default_factory=dict)
    monitor: str | None = None
    signatures: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)

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
        """Both evaluations in one. Scores of `other` replace those of the same name."""
        return Evaluation(
            {**self.scores, **other.scores},
            {**self.directions, **other.directions},
            {**self.pictures, **other.pictures},
            self.monitor or other.monitor,
            {**self.signatures, **other.signatures},
            {**self.texts, **other.texts},
            {**self.files, **other.files},
        )

    def with_split(self, split: str) -> "Evaluation":
        """The same evaluation under full names, `split/name`."""

        def named(parts: Mapping[str, Any]) -> dict[str, Any]:
            return {add_split(name, split): part for name, part in parts.items()}

        return replace(
            self,
            scores={name: float(value) for name, value in named(self.scores).items()},
            directions=named(self.directions),
            pictures=named(self.pictures),
            signatures=named(self.signatures),
            texts=named(self.texts),
            files={f"{split}_{name}": content for name, content in self.files.items()},
        )

    def direction(self, name: str) -> str | None:
        """`max` or `min`, the better end of the score with this full name; None where it is unknown."""
        if split_of(name) == "gap":  # the nearer to 0 the better
            return None
        return self.directions.get(name) or usual_direction(without_split(name))

    def is_finite(self) -> bool:
        return all(math.isfinite(value) for value in self.scores.values())


def signature_texts(evaluation: Evaluation) -> dict[str, str]:
    """The signatures as entries of a run's results."""
    return {name + SIGNATURE: text for name, text in evaluation.signatures.items()}


def scores_alone(results: Mapping[str, Any]) -> dict[str, float]:
    """The results without their signatures."""
    return {name: score for name, score in results.items() if not name.endswith(SIGNATURE)}


@dataclass(frozen=True)
class Monitor:
    """The score that chooses the best weights.

    name: full name, such as `val/accuracy`; None for the task's own choice.
    mode: `max` or `min`, the better end of the score; None for the score's own direction.
    """

    name: str | None = None
    mode: str | None = None

    def __post_init__(self) -> None:
        if self.mode not in (None, *MODES):
            raise ValueError(f"mode={self.mode} is not max or min; leave it out for the score's own direction")

    def watches(self, scores: Evaluation) -> bool:
        """Whether `scores` are of the split of the monitored score."""
        split = split_of(self.name or scores.monitor or "val/")
        return any(split_of(name) == split for name in scores)

    def choose_name(self, scores: Evaluation) -> str:
        """The full name of the monitored score.  scores: scores for which `watches` is true."""
        return self.name or scores.monitor or next((name for name in scores if split_of(name) == "val"), "val/")

    def resolve(self, scores: Evaluation) -> "ResolvedMonitor":
        """The monitor with its name and mode filled in.

        scores: scores for which `watches` is true.
        Raises ValueError if the monitored score is not among them, if its direction is unknown, or if the mode
        contradicts the score's own direction, which would keep the worst weights.
        """
        name = self.choose_name(scores)
        if name not in scores:
            raise ValueError(f"no score {name!r} to monitor; {suggest(name, scores)} Give monitor=")
        direction = scores.direction(name)
        mode = self.mode or direction
        if mode is None:
            raise ValueError(
                f"monitor={name}: it is unknown whether a higher or a lower score is better; give mode=max or mode=min"
            )
        if direction not in (None, mode):
            raise ValueError(
                f"monitor={name} mode={mode} would keep the worst weights, as the {direction} of it is best; leave "
                "mode= (of a search, search.direction=) out, or if that is wrong, let the task's score return an "
                "Evaluation with directions"
            )
        return ResolvedMonitor(name, mode)


@dataclass(frozen=True)
class ResolvedMonitor:
    """The score that chooses the best weights.  name: full name.  mode: `max` or `min`, the better end of the score."""

    name: str
    mode: str

    def is_better(self, score: float, than: float | None, by: float = 0.0) -> bool:
        """Whether `score` improves on `than` by more than `by`; any score improves on None."""
        if than is None:
            return True
        return score > than + by if self.mode == "max" else score < than - by
