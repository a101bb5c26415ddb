"""A search's trials as the jobs of a sweep: each trial is one job, or one for each of its seeds."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from lab.execution.outcome import Outcome
from lab.ledger.saved_run import SavedRun
from lab.sweep.controller import Group
from lab.sweep.plan import Job
from lab.sweep.search import Search, Trial
from lab.train.stop import Stop


@dataclass
class OpenTrial:
    """A trial that was asked for and not told of yet.

    outcomes: outcomes of the jobs that ended, by number.
    scores: the objective's score by step, by the job's number.
    to_be_pruned: whether the search wants the trial stopped; its jobs may still run.
    """

    trial: Trial
    jobs: list[Job]
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    scores: dict[int, dict[int, float]] = field(default_factory=dict)
    to_be_pruned: bool = False


class SearchJobs:
    """The source of a search's jobs: asks the search for a trial when a slot becomes free, and tells it the results.

    make_jobs: function that makes jobs from numbers and overrides, and adds them to the plan.
    """

    def __init__(self, search: Search, make_jobs: Callable[[Sequence[tuple[int, list[str]]]], Sequence[Job]]):
        self.search, self.make_jobs = search, make_jobs
        self.waiting: deque[Job] = deque()
        self.open_trials: dict[int, OpenTrial] = {}  # by job number: a trial has an entry for each of its jobs

    def next(self) -> Group | None:
        if not self.waiting and (trial := self.search.ask()):
            jobs = list(self.make_jobs(self.number_jobs(trial)))
            open_trial = OpenTrial(trial, jobs)
            self.open_trials |= {job.number: open_trial for job in jobs}
            self.waiting += jobs
        return (self.waiting.popleft(),) if self.waiting else None

    def number_jobs(self, trial: Trial) -> list[tuple[int, list[str]]]:
        """The number and the overrides of each of a trial's jobs."""
        seeds = self.search.settings.seeds
        seed_overrides = [[f"seed={seed}"] for seed in seeds] if seeds else [[]]
        first = trial.number * len(seed_overrides)
        return [(first + n, [*trial.overrides, *override]) for n, override in enumerate(seed_overrides)]

    def on_scores(self, job: Job, step: int, scores: Mapping[str, float]) -> Stop | None:
        """A reason to stop the job after its scores at a step, or None.

        A trial's score at a step is the mean over its jobs, and is reported when all of them have reached that step.
        """
        open_trial = self.open_trials[job.number]
        settings = self.search.settings
        if settings.pruner is None:
            return None
        objective = settings.objectives[0]
        if objective in scores:
            open_trial.scores.setdefault(job.number, {})[step] = scores[objective]
            at_step = [open_trial.scores.get(other.number, {}).get(step) for other in open_trial.jobs]
            known = [score for score in at_step if score is not None]
            if len(known) == len(at_step) and self.search.report(open_trial.trial.number, step, fmean(known)):
                open_trial.to_be_pruned = True
        return Stop(f"stopped early by {settings.name}", pruned=True) if open_trial.to_be_pruned else None

    def on_ended(self, job: Job, outcome: Outcome) -> None:
        """Tell the search how the trial ended, once all its jobs have ended."""
        open_trial = self.open_trials[job.number]
        open_trial.outcomes[job.number] = outcome
        if len(open_trial.outcomes) < len(open_trial.jobs):
            return
        number, outcomes = open_trial.trial.number, open_trial.outcomes.values()
        states = {outcome.state for outcome in outcomes}
        if any(outcome.pruned for outcome in outcomes):
            self.search.tell(number, None, "pruned")
        elif states == {"done"}:
            self.search.tell(number, self.objective_values(open_trial.jobs), "done")
        elif "interrupted" not in states:  # the trial of a sweep that was stopped stays open
            self.search.tell(number, None, "failed")

    def objective_values(self, jobs: Sequence[Job]) -> list[float]:
        """The mean of each objective over the trial's runs; NaN where a run has no such score."""
        return [fmean(objective_value(job, name) for job in jobs) for name in self.search.settings.objectives]


def objective_value(job: Job, objective: str) -> float:
    """A score of the run's results, or a number of its manifest, such as `parameters`."""
    run = SavedRun(job.directory)
    value = run.results.get(objective, run.manifest.get(objective))
    return float(value) if isinstance(value, int | float) else float("nan")
