"""What a preflight found out. It travels from a worker to its supervisor, so nothing here imports torch."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class GraphReport:
    """Jobs that do the same arithmetic: they differ in seeds and in numbers that change no shape.

    jobs: their numbers.  cost: what one of them costs, in words.  disk: bytes of one job's checkpoints, about.
    monitor: name of the score that chooses their best weights, and whether `max` or `min` of it is best; None where
    there is no validation set.
    """

    label: str
    jobs: list[int]
    cost: str = ""
    disk: int = 0
    monitor: tuple[str, str] | None = None


@dataclass
class PreflightReport:
    """problems: the problems of the jobs that have some, by their numbers.  gpus: how many GPUs the jobs could use."""

    problems: dict[int, Sequence[str]] = field(default_factory=dict)
    graphs: list[GraphReport] = field(default_factory=list)
    gpus: int = 0

    @property
    def disk(self) -> int:
        """Bytes that the checkpoints of all jobs take, about."""
        return sum(len(graph.jobs) * graph.disk for graph in self.graphs)
