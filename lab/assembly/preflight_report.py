"""The report of a preflight. A worker sends it to its supervisor, so nothing here imports torch."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class GraphReport:
    """Jobs that do the same arithmetic: they differ in seeds and in numbers that change no shape.

    label: data and model.  jobs: numbers of the jobs.  cost: cost of one of them, in words.  disk: approximate bytes of
    one job's checkpoints.  monitor: name of the score that chooses the best weights, and whether `max` or `min` of it
    is best; None where there is no validation set.
    """

    label: str
    jobs: list[int]
    cost: str = ""
    disk: int = 0
    monitor: tuple[str, str] | None = None


@dataclass
class PreflightReport:
    """problems: problems of each job that has some, by number.  traces: tracebacks of errors in the project's code.
    graphs: report on each distinct graph.  gpus: number of GPUs that the jobs could use."""

    problems: dict[int, Sequence[str]] = field(default_factory=dict)
    traces: list[str] = field(default_factory=list)
    graphs: list[GraphReport] = field(default_factory=list)
    gpus: int = 0

    @property
    def disk(self) -> int:
        """The approximate bytes of all jobs' checkpoints."""
        return sum(len(graph.jobs) * graph.disk for graph in self.graphs)
