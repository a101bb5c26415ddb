"""A search's trials as the jobs of a sweep."""

from dataclasses import replace
from pathlib import Path

import pytest

from lab.config.search_space import SearchSettings
from lab.execution.outcome import Outcome
from lab.sweep.plan import Job
from lab.sweep.search import Search
from lab.sweep.search_jobs import SearchJobs
from lab.train.stop import Stop
from tests.test_search import ASHA, GRID


def source_of_jobs(path: Path, changed: SearchSettings) -> SearchJobs:
    search = Search(path / "search.db", {"level": [str(level) for level in range(9)]}, changed)

    def make_jobs(wanted):
        return [Job(number, None, None, path / str(number)) for number, _ in wanted]  # type: ignore[arg-type]

    return SearchJobs(search, make_jobs)


def take_next(jobs: SearchJobs) -> Job | None:
    """The next job, a group of its own."""
    group = jobs.next()
    assert group is None or len(group) == 1
    return group[0] if group else None


def ending(job: Job, state: str, pruned: bool = False) -> Outcome:
    if state == "done":
        job.directory.mkdir()
        (job.directory / "results.json").write_text('{"val/accuracy": 0.5}')
    return Outcome(job.directory, state, {}, pruned=pruned)


def states_of(jobs: SearchJobs) -> list[str]:
    return [trial.state.name for trial in jobs.search.study.get_trials(deepcopy=False)]


def test_a_trial_that_is_ended_early_stops_all_of_its_jobs_and_is_pruned(tmp_path):
    jobs = source_of_jobs(tmp_path, replace(GRID, pruner=ASHA, seeds=[0, 1], name="asha"))
    stops = []
    for accuracy in (0.9, 0.8, 0.1):
        first, second = take_next(jobs), take_next(jobs)
        assert first
        assert second
        assert jobs.on_scores(first, 1, {"val/accuracy": accuracy}) is None  # the mean is over both
        stops = [jobs.on_scores(job, 1, {"val/accuracy": accuracy}) for job in (second, first)]
    assert stops == [Stop("stopped early by asha", pruned=True)] * 2
    assert jobs.on_scores(first, 2, {}) == stops[0]
    jobs.on_ended(second, ending(second, "done"))
    jobs.on_ended(first, ending(first, "interrupted", pruned=True))
    assert states_of(jobs) == ["RUNNING", "RUNNING", "PRUNED"]


@pytest.mark.parametrize(
    ("states", "told"),
    [
        (["done", "done"], "COMPLETE"),
        (["done", "failed"], "FAIL"),
        (["diverged", "done"], "FAIL"),
        (["interrupted", "done"], "RUNNING"),  # the sweep was stopped, and goes on with it
    ],
)
def test_a_trial_ends_when_the_last_of_its_jobs_does(states, told, tmp_path):
    jobs = source_of_jobs(tmp_path, replace(GRID, seeds=[0, 1]))
    under_way = [take_next(jobs), take_next(jobs)]
    for job, state in zip(under_way, states, strict=True):
        assert states_of(jobs) == ["RUNNING"]
        assert job
        jobs.on_ended(job, ending(job, state))
    assert states_of(jobs) == [told]
