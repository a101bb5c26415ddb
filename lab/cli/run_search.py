"""A searched sweep: its jobs are asked for one by one, as slots fall free, and the search is told how they ended."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from lab.cli.run_sweep import exit_code, preflight_sweep, print_results, supervise
from lab.cli.sweep_progress import LiveView
from lab.config.check import call_problems
from lab.config.overrides import root_key
from lab.config.redact import names_secret
from lab.config.search_space import Interval, SearchAxis, SearchSettings, name_search, parse_search_space
from lab.config.settings import Policy
from lab.errors import ConfigError
from lab.execution.outcome import Outcome
from lab.execution.stop import StopSignal
from lab.hydra_app.planner import SweepPlanner
from lab.record.files import lock_directory
from lab.sweep.controller import saved_outcome
from lab.sweep.plan import PLAN_FILE, Job, Plan, append_jobs, job_status, mark_duplicates, read_plan, write_plan
from lab.sweep.pool import Pool, make_pool
from lab.sweep.search import Search, check_search_nodes, search_override
from lab.sweep.search_jobs import SearchJobs


@dataclass(frozen=True)
class SearchRequest:
    """settings: of the search.  axes: what it chooses.  fixed: the overrides that all its jobs have."""

    settings: SearchSettings
    axes: Mapping[str, SearchAxis]
    fixed: Sequence[str]


def run_search(sweeping: SweepPlanner, arguments: Sequence[str]) -> int:
    """The exit code. Raises ConfigError, before anything has started, for what cannot be searched."""
    asked = parse_search(sweeping, arguments)
    settings, axes = asked.settings, asked.axes
    first = sweeping.jobs(
        sweeping.asked(list(enumerate([*asked.fixed, *one] for one in [*extreme_jobs(axes), *objective_jobs(asked)]))),
        Path("."),
    )
    about = [str(item) for item in (axes, asked.fixed, settings.objective, settings.seeds, first[0].identity)]
    sweep = sweeping.directory([settings.name, *axes], about)
    plan = Plan(sweep, [], sweeping.session.identify.hashes(), tuple(arguments))
    samples = replace(plan, jobs=mark_duplicates(first))
    total = settings.trials or count_combinations(axes)
    config = first[0].asked.config
    pool = make_pool([config] * total * len(settings.seeds or [0]), sweeping.workers())
    try:
        code = preflight_sweep(samples, samples.own, pool, sweeping.session.verb)
        if code is not None:
            return code
        if sweeping.session.verb != "train":
            print(f"{sweep}: {settings.name} takes {total} trials of {', '.join(axes)}; nothing was started")
            return 0
        terms = Policy.of(config)
        pulse = StopSignal.until(terms.time_limit)
        with pulse.signals(keyboard=True), lock_directory(sweep):
            return run_trials(sweeping, plan, asked, pool, terms, pulse)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    finally:
        pool.close()


def run_trials(
    sweeping: SweepPlanner, plan: Plan, asked: SearchRequest, pool: Pool, terms: Policy, pulse: StopSignal
) -> int:
    """Ask and tell until all trials have been. The exit code."""
    known: dict[int, Job] = {}  # what was asked for so far
    if (plan.directory / PLAN_FILE).exists():
        known = {job.number: job for job in read_plan(plan.directory).jobs}
    plan = replace(plan, jobs=list(known.values()))
    write_plan(plan)
    search = Search(plan.directory / "search.db", asked.axes, asked.settings)

    def made(wanted: Sequence[tuple[int, list[str]]]) -> Sequence[Job]:
        jobs = sweeping.jobs(sweeping.asked([(n, [*asked.fixed, *one]) for n, one in wanted]), plan.directory)
        append_jobs(replace(plan, jobs=list(known.values())), jobs)
        known.update({job.number: job for job in jobs})
        return jobs

    view = LiveView(search.total * len(asked.settings.seeds or [0]) - len(known), [*asked.axes, "seed"])
    code = supervise(plan, SearchJobs(search, made), pool, {}, view, terms, pulse)
    plan = replace(plan, jobs=mark_duplicates(list(known.values())))
    if not plan.jobs:
        return code
    outcomes = {
        job.number: outcome for job in plan.own if not was_pruned(outcome := saved_outcome(job, job_status(job)))
    }
    print_results(plan, outcomes, others="stopped early")
    for trial in search.best():
        values = zip(asked.settings.objectives, trial.values, strict=True)
        said = "  ".join(f"{name} {value:.4g}" for name, value in values)
        print(f"best trial: {trial.number}  {' '.join(trial.overrides)}  {said}")
    return code or exit_code(outcomes)


def parse_search(sweeping: SweepPlanner, arguments: Sequence[str]) -> SearchRequest:
    node: Any = OmegaConf.to_container(sweeping.master.search, resolve=True)
    node = {"name": name_search(sweeping.master.hydra.runtime.choices), **node}
    try:
        check_search_nodes(node)
        if problems := call_problems(SearchSettings, node, ("search",)):
            raise ConfigError(*problems)
        settings = SearchSettings(**node)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if sweeping.master.get("sweep"):
        raise ConfigError("search= asks for its own jobs; take sweep: out of the experiment, or leave search= out")
    parser = OverridesParser.create(config_loader=sweeping.context.config_loader)
    axes, fixed = parse_search_space(parser.parse_overrides(list(arguments)))
    if settings.seeds and ("seed" in axes or any(one.startswith("seed=") for one in fixed)):
        raise ConfigError("search.seeds gives the seeds; leave seed= out, or search.seeds=null")
    if kept := [key for key in axes if names_secret(key, "")]:
        raise ConfigError(f"{', '.join(kept)} names a secret, which a search would keep; give it one value")
    if not axes:
        raise ConfigError("there is nothing to search; give an axis, as optimizer.lr='tag(log,interval(1e-4,1e-1))'")
    return SearchRequest(settings, axes, [one for one in fixed if root_key(one) != "search"])


def extreme_jobs(axes: Mapping[str, SearchAxis]) -> list[list[str]]:
    """Jobs in which every value of every axis is once, an interval's two ends for all of it: what is tried before."""
    ends = {key: [axis.low, axis.high] if isinstance(axis, Interval) else list(axis) for key, axis in axes.items()}
    longest = max(map(len, ends.values()))
    return [
        [search_override(key, axis, ends[key][min(n, len(ends[key]) - 1)]) for key, axis in axes.items()]
        for n in range(longest)
    ]


def objective_jobs(asked: SearchRequest) -> list[list[str]]:
    """Jobs in which each objective is what is monitored, so that trying them tells whether there is such a score."""
    found = []
    for name in asked.settings.objectives:
        if "/" in name:
            found.append([*extreme_jobs(asked.axes)[0], f"monitor={name.replace('test/', 'val/', 1)}"])
        elif name not in ("parameters", "trainable"):
            raise ConfigError(f"search.objective={name} is no score; give val/..., parameters or trainable")
    return found


def count_combinations(axes: Mapping[str, SearchAxis]) -> int:
    return prod(len(axis) for axis in axes.values() if not isinstance(axis, Interval))


def was_pruned(outcome: Outcome) -> bool:
    return outcome.pruned
