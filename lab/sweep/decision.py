"""Pairs of runs until it is known which arm is better: the source of a sweep that ends itself."""

import itertools
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lab.errors import ConfigError
from lab.execution.outcome import Outcome
from lab.ledger.saved_run import SavedRun
from lab.metrics.directions import find_direction
from lab.metrics.names import on_test
from lab.statistics.comparison import paired_differences
from lab.statistics.sequential import Decision, Race, SequentialTest
from lab.sweep.controller import Group
from lab.sweep.plan import Job
from lab.text import suggest
from lab.train.stop import Stop


@dataclass(frozen=True)
class Question:
    """arms: names of the arms.  seeds: seeds, in the order in which their pairs count.  metric: score to compare; None:
    the monitored one, on the test set.  mode: its better end; None: the monitored score's, or by its name.
    margin: the smallest difference that matters, or None."""

    arms: Sequence[str]
    seeds: Sequence[int]
    metric: str | None = None
    mode: str | None = None
    margin: float | None = None


class DecidingJobs:
    """Gives the jobs seed by seed until the question is decided.

    Seeds count in their order: a pair counts when those before it have ended, whichever ended first. A seed of which a
    run failed or diverged is left out of every comparison with that run's arm.

    lost: for each dropped arm, the arm that beat it and the number of pairs it took.
    """

    def __init__(self, question: Question, jobs: Mapping[tuple[int, int], Job]):
        """jobs: by the place of the arm and the place of the seed."""
        self.question, self.jobs = question, jobs
        order = [(arm, seed) for seed in range(len(question.seeds)) for arm in range(len(question.arms))]
        self.waiting = deque(order)
        self.places = {job.identity.id: place for place, job in jobs.items()}
        self.outcomes: dict[tuple[int, int], Outcome] = {}
        self.lost: dict[int, tuple[int, int]] = {}
        self.is_race = len(question.arms) > 2
        most = len(question.seeds)
        self.test = Race(len(question.arms), most) if self.is_race else SequentialTest(most, question.margin)
        self.decision, self.pairs = Decision.UNDECIDED, 0
        self.metric, self.mode = question.metric, question.mode

    @property
    def is_decided(self) -> bool:
        if self.is_race:
            return len(self.question.arms) - len(self.lost) < 2
        return self.decision != Decision.UNDECIDED

    def next(self) -> Group | None:
        while self.waiting and not self.is_decided:
            arm, seed = self.waiting.popleft()
            if arm not in self.lost and (arm, seed) not in self.outcomes:
                return (self.jobs[arm, seed],)
        return None

    def on_scores(self, job: Job, step: int, scores: Mapping[str, float]) -> Stop | None:
        return None

    def on_ended(self, job: Job, outcome: Outcome) -> None:
        self.take(job, outcome)

    def take(self, job: Job, outcome: Outcome) -> None:
        """Count the outcome of a run, and decide."""
        self.outcomes[self.places[job.identity.id]] = outcome
        if outcome.state == "done" and (self.metric is None or self.mode is None):
            monitor = SavedRun(outcome.directory).monitor
            self.choose_metric(monitor.get("name"), monitor.get("mode"), list(outcome.results))
        if self.is_decided:
            return
        if isinstance(self.test, Race):
            self.lost |= {arm: loss for arm, loss in self.test.losers(self.columns()).items() if arm not in self.lost}
        else:
            self.decision, self.pairs = self.test.decide(self.differences())

    def differences(self) -> list[float]:
        """The first arm's score minus the second's, higher is better, of the seeds that count so far."""
        return paired_differences(*self.columns())

    def columns(self) -> list[list[float]]:
        """The scores of each arm by seed, higher is better, up to the first seed that has not ended in a living arm;
        NaN where a run is missing or did not end well."""
        living = [arm for arm in range(len(self.question.arms)) if arm not in self.lost]
        seeds = itertools.takewhile(
            lambda seed: all((arm, seed) in self.outcomes for arm in living), range(len(self.question.seeds))
        )
        counted = list(seeds)
        return [[self.score(arm, seed) for seed in counted] for arm in range(len(self.question.arms))]

    def score(self, arm: int, seed: int) -> float:
        outcome = self.outcomes.get((arm, seed))
        if outcome is None or outcome.state != "done" or self.metric is None:
            return math.nan
        if self.metric not in outcome.results:
            raise ConfigError(f"no {self.metric} in {outcome.directory}; {suggest(self.metric, outcome.results)}")
        return outcome.results[self.metric] * (1 if self.mode == "max" else -1)

    def choose_metric(self, monitor: str | None, mode: str | None, names: Sequence[str]) -> None:
        """Settle the metric and its better end.  monitor, mode: of the first run that ended.  names: its scores."""
        if self.metric is None and monitor is not None:
            self.metric = on_test(monitor, names)
        if self.metric is None or self.metric not in names:
            raise ConfigError(f"no score {self.metric}; --metric takes one of: {', '.join(sorted(names)[:12])}")
        self.mode = find_direction(self.metric, self.mode, {monitor: mode} if monitor and mode else {})
        if self.mode is None:
            raise ConfigError(f"whether more or less {self.metric} is better is not known; give --mode max or min")
