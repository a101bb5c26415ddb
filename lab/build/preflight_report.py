"""What a preflight found out. It goes from a worker to its supervisor, so nothing here knows torch."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class GraphReport:
    """Jobs that do the same arithmetic: they differ in seeds and in numbers that change no shape.

    cost: what one of them costs, in words.  disk: bytes of its checkpoints, about.  monitor: the name of the score that
    chooses their best weights, and whether `max` or `min` of it is best; None where there is none.
    """

    label: str
    jobs: list[int]
    cost: str = ""
    disk: int = 0
    monitor: tuple[str, str] | None = None


@dataclass
class PreflightReport:
    """problems: of the jobs that have some, by their numbers.  gpus: how many the jobs could use."""

    problems: dict[int, Sequence[str]] = field(default_factory=dict)
    graphs: list[GraphReport] = field(default_factory=list)
    gpus: int = 0
