"""A searched sweep: the search gives a job whenever a slot becomes free, and gets the scores of each job that ends."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from lab.cli.run_sweep import exit_code, preflight_with_progress, print_costs, print_results, report_stop
from lab.cli.sweep_progress import LiveView
from lab.config.check import call_problems
from lab.config.overrides import root_key
from lab.config.search_space import Interval, SearchAxis, SearchSettings, name_search, parse_search_space
from lab.config.settings import Policy
from lab.errors import ConfigError
from lab.execution.outcome import saved_outcome
from lab.hydra_app.planner import SweepPlanner
from lab.ledger.saved_run import SavedRun
from lab.metrics.names import split_of, with_split
from lab.record.files import lock_directory
from lab.redact import names_secret
from lab.sweep.plan import PLAN_FILE, Job, Plan, append_jobs, mark_duplicates, read_plan, write_plan
from lab.sweep.pool import Pool, make_pool
from lab.sweep.run_plan import run_in_pool
from lab.sweep.search import Search, check_search_nodes, search_override
from lab.sweep.search_jobs import SearchJobs
from lab.train.stop import StopSignal

if TYPE_CHECKING:
    from lab.assembly.preflight_report import PreflightReport


@dataclass(frozen=True)
class SearchRequest:
    """What a sweep's arguments ask of a search.

    settings: settings of the search.  axes: search space, an axis for each key.  fixed: overrides that all its jobs
    have.
    """

    settings: SearchSettings
    axes: Mapping[str, SearchAxis]
    fixed: Sequence[str]

    @property
    def num_trials(self) -> int:
        return self.settings.trials or prod(len(axis) for axis in self.axes.values() if not isinstance(axis, Interval))

    @property
    def num_jobs(self) -> int:
        return self.num_trials * len(self.settings.seeds or [0])


@dataclass(frozen=True)
class PlannedSearch:
    """A search that can start.

    plan: plan of the search, without jobs yet.  samples: plan of the jobs that the preflight tries, in which every
    value of the space occurs once.
    """

    request: SearchRequest
    plan: Plan
    samples: Plan

    def make_pool(self, planner: SweepPlanner) -> Pool:
        config = self.samples.jobs[0].composed.resolved
        return make_pool([config] * self.request.num_jobs, planner.launcher_options)

    def with_monitors(self, report: "PreflightReport") -> "PlannedSearch":
        """The same search with its objectives and directions, where the config leaves them open, taken from the scores
        that the tried jobs monitor. Raises ConfigError where those do not decide them."""
        monitors = [graph.monitor for graph in report.graphs if graph.monitor]
        try:
            settings = self.request.settings.resolve(monitors)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        return replace(self, request=replace(self.request, settings=settings))


def try_search(planner: SweepPlanner, arguments: Sequence[str]) -> int:
    """Try jobs with each value of the search space, and print costs and the number of trials. Gives the exit code."""
    search = plan_search(planner, arguments)
    samples = search.samples.unique_jobs
    with search.make_pool(planner) as pool:
        report = preflight_with_progress(search.samples, samples, pool, StopSignal())
    search.with_monitors(report)
    print_costs(report, samples)
    request = search.request
    axes = ", ".join(request.axes)
    print(
        f"{search.plan.directory}: {request.settings.name} takes {request.num_trials} trials of {axes}; nothing was "
        "started"
    )
    return 0


def train_search(planner: SweepPlanner, arguments: Sequence[str]) -> int:
    """Run the search. Gives the exit code. Raises ConfigError, before the search starts, where it cannot be run."""
    search = plan_search(planner, arguments)
    policy = Policy.of(search.samples.jobs[0].composed.resolved)
    try:
        stop = StopSignal.with_limits(policy.time_limit)
        with stop.signals(keyboard=True), search.make_pool(planner) as pool:
            report = preflight_with_progress(search.samples, search.samples.unique_jobs, pool, stop)
            search = search.with_monitors(report)
            with lock_directory(search.plan.directory):
                return run_trials(planner, search, pool, policy, stop)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def run_trials(planner: SweepPlanner, planned: PlannedSearch, pool: Pool, policy: Policy, stop: StopSignal) -> int:
    """Run trials until all have ended or the search is stopped, and print the results. Gives the exit code."""
    request, directory = planned.request, planned.plan.directory
    jobs: dict[int, Job] = {}  # jobs of the trials so far, by number
    if (directory / PLAN_FILE).exists():
        jobs = {job.number: job for job in read_plan(directory).jobs}
    write_plan(replace(planned.plan, jobs=list(jobs.values())))
    search = Search(directory / "search.db", request.axes, request.settings)

    def make_jobs(numbered: Sequence[tuple[int, list[str]]]) -> Sequence[Job]:
        overrides = [(number, [*request.fixed, *own]) for number, own in numbered]
        new = planner.make_jobs(planner.compose_jobs(overrides), directory)
        append_jobs(replace(planned.plan, jobs=list(jobs.values())), new)
        jobs.update({job.number: job for job in new})
        return new

    total = search.total * len(request.settings.seeds or [0]) - len(jobs)
    with LiveView(total, [*request.axes, "seed"]) as view:
        source = SearchJobs(search, make_jobs)
        result = run_in_pool(directory, planned.plan.sources, source, pool, view, policy, stop)
    plan = replace(planned.plan, jobs=mark_duplicates(list(jobs.values())))
    code = report_stop(plan, result, stop)
    if not plan.jobs:
        return code
    outcomes = {job.number: saved_outcome(SavedRun(job.directory)) for job in plan.unique_jobs}
    outcomes = {number: outcome for number, outcome in outcomes.items() if not outcome.pruned}
    print_results(plan, outcomes, missing_label="stopped early")
    for trial in search.best():
        values = zip(request.settings.objectives, trial.values, strict=True)
        scores = "  ".join(f"{name} {value:.4g}" for name, value in values)
        print(f"best trial: {trial.number}  {' '.join(trial.overrides)}  {scores}")
    return code or exit_code(outcomes)


def plan_search(planner: SweepPlanner, arguments: Sequence[str]) -> PlannedSearch:
    """The search of a sweep's arguments. Raises ConfigError where it cannot be run."""
    request = parse_search(planner, arguments)
    settings, axes = request.settings, request.axes
    overrides = [[*request.fixed, *own] for own in [*extreme_jobs(axes), *objective_jobs(request)]]
    samples = planner.make_jobs(planner.compose_jobs(list(enumerate(overrides))), Path("."))
    facts = [str(item) for item in (axes, request.fixed, settings.objective, settings.seeds, samples[0].identity)]
    directory = planner.name_sweep([settings.name, *axes], facts)
    plan = Plan(directory, [], planner.app.identify.source_hashes(), tuple(arguments))
    return PlannedSearch(request, plan, replace(plan, jobs=mark_duplicates(samples)))


def parse_search(planner: SweepPlanner, arguments: Sequence[str]) -> SearchRequest:
    """Raises ConfigError as `plan_search`."""
    node = {"name": name_search(planner.choices), **(planner.search_node or {})}
    try:
        check_search_nodes(node)
        if problems := call_problems(SearchSettings, node, ("search",)):
            raise ConfigError(*problems)
        settings = SearchSettings(**node)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if planner.sweep_spec:
        raise ConfigError("search= asks for its own jobs; take sweep: out of the experiment, or leave search= out")
    axes, fixed = parse_search_space(planner.parse_overrides(arguments))
    if settings.seeds and ("seed" in axes or any(override.startswith("seed=") for override in fixed)):
        raise ConfigError("search.seeds gives the seeds; leave seed= out, or search.seeds=null")
    if secrets := [key for key in axes if names_secret(key, "")]:
        raise ConfigError(f"{', '.join(secrets)} names a secret, which a search would keep; give it one value")
    if not axes:
        raise ConfigError("there is nothing to search; give an axis, as optimizer.lr='tag(log,interval(1e-4,1e-1))'")
    job_overrides = [override for override in fixed if root_key(override) != "search"]
    return SearchRequest(settings, axes, job_overrides)


def extreme_jobs(axes: Mapping[str, SearchAxis]) -> list[list[str]]:
    """The overrides of jobs that together have every value of every axis; of an interval, its two ends."""
    ends = {key: [axis.low, axis.high] if isinstance(axis, Interval) else list(axis) for key, axis in axes.items()}
    longest = max(map(len, ends.values()))
    return [
        [search_override(key, axis, ends[key][min(n, len(ends[key]) - 1)]) for key, axis in axes.items()]
        for n in range(longest)
    ]


def objective_jobs(request: SearchRequest) -> list[list[str]]:
    """The overrides of a job for each objective that is a score. The job monitors the score, so that its dry run fails
    where the task has no such score.

    Raises ConfigError for an objective that is neither a score nor a number of parameters.
    """
    jobs = []
    if not request.settings.objectives:  # the score that the runs monitor, which every job's dry run finds
        return []
    directions = request.settings.directions or ["null"] * len(request.settings.objectives)
    for name, mode in zip(request.settings.objectives, directions, strict=True):
        if "/" in name:
            monitor = with_split(name, "val") if split_of(name) == "test" else name
            jobs.append([*extreme_jobs(request.axes)[0], f"monitor={monitor}", f"mode={mode}"])
        elif name not in ("parameters", "trainable"):
            raise ConfigError(f"search.objective={name} is no score; give val/..., parameters or trainable")
    return jobs
