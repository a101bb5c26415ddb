"""A search's trials as the jobs of a sweep: each one job, or one for each of its seeds."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from lab.execution.outcome import Outcome
from lab.runs.saved_run import SavedRun
from lab.sweep.controller import Group, Stop
from lab.sweep.plan import Job
from lab.sweep.search import Search, Trial


@dataclass
class OpenTrial:
    """A trial under way.  scores: of each of its jobs by step, of the objective."""

    trial: Trial
    jobs: list[Job]
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    scores: dict[int, dict[int, float]] = field(default_factory=dict)
    stopped: bool = False


class SearchJobs:
    """Asks the search for its next trial when a slot falls free, and tells it how each ended.

    made: the jobs of these numbers and overrides, put into the plan.
    """

    def __init__(self, search: Search, made: Callable[[Sequence[tuple[int, list[str]]]], Sequence[Job]]):
        self.search, self.made = search, made
        self.waiting: deque[Job] = deque()
        self.open: dict[int, OpenTrial] = {}

    def next(self) -> Group | None:
        if not self.waiting and (trial := self.search.ask()):
            seeds = self.search.settings.seeds or [None]
            asked = [[*trial.overrides, *([] if seed is None else [f"seed={seed}"])] for seed in seeds]
            jobs = list(self.made([(trial.number * len(seeds) + n, one) for n, one in enumerate(asked)]))
            under_way = OpenTrial(trial, jobs)
            self.open |= {job.number: under_way for job in jobs}
            self.waiting += jobs
        return (self.waiting.popleft(),) if self.waiting else None

    def on_scores(self, job: Job, step: int, scores: Mapping[str, float]) -> Stop | None:
        found = self.open[job.number]
        objective = self.search.settings.objectives[0]
        if self.search.settings.pruner and objective in scores:
            found.scores.setdefault(job.number, {})[step] = scores[objective]
            at_step = [found.scores.get(other.number, {}).get(step) for other in found.jobs]
            known = [score for score in at_step if score is not None]
            if len(known) == len(found.jobs) and self.search.report(found.trial.number, step, fmean(known)):
                found.stopped = True
        return Stop(f"stopped early by {self.search.settings.pruner}") if found.stopped else None

    def on_ended(self, job: Job, outcome: Outcome) -> None:
        found = self.open[job.number]
        found.outcomes[job.number] = outcome
        if len(found.outcomes) < len(found.jobs):
            return
        states = {outcome.state for outcome in found.outcomes.values()}
        if found.stopped:
            self.search.tell(found.trial.number, None, "pruned")
        elif states == {"done"}:
            self.search.tell(found.trial.number, self.values(found.jobs), "done")
        elif "interrupted" not in states:  # else the sweep was stopped, and the trial stays open
            self.search.tell(found.trial.number, None, "failed")

    def values(self, jobs: Sequence[Job]) -> list[float]:
        """Of each objective, the mean over the trial's runs; not a number where a run has no such score."""
        return [fmean(objective_value(job, name) for job in jobs) for name in self.search.settings.objectives]


def objective_value(job: Job, objective: str) -> float:
    """A score of the run's results, or a number of its manifest, such as `parameters`."""
    run = SavedRun(job.directory)
    found = run.results.get(objective, run.manifest.get(objective))
    return float(found) if isinstance(found, int | float) else float("nan")
