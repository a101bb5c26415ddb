"""Scores of a split, and the score that chooses the best weights."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Monitor:
    """The score that says which weights are best, by its full name.  mode: `max` or `min`."""

    name: str = "val/accuracy"
    mode: str = "max"

    def __post_init__(self) -> None:
        if self.mode not in ("max", "min"):
            raise ValueError(f"mode {self.mode!r} is not max or min")

    def better(self, score: float, than: float | None, by: float = 0.0) -> bool:
        """Whether `score` improves on `than` by more than `by`; anything improves on None."""
        if than is None:
            return True
        return score > than + by if self.mode == "max" else score < than - by


class Scores(dict[str, float]):
    """Scores by name, and beside them tables (rows of counts) that say more than one number can."""

    def __init__(self, scores: dict[str, float], tables: dict[str, list[list[int]]] | None = None):
        super().__init__(scores)
        self.tables = tables or {}

    def of(self, split: str) -> "Scores":
        """The same under full names, `split/name`."""
        scores = {f"{split}/{name}": float(value) for name, value in self.items()}
        return Scores(scores, {f"{split}/{name}": table for name, table in self.tables.items()})


def are_finite(scores: dict[str, float]) -> bool:
    return all(math.isfinite(value) for value in scores.values())
