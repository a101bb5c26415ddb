"""A searched sweep: its jobs are asked for one by one, as slots fall free, and the search is told how they ended."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from lab.cli.carry import checked, conclude, exit_code, supervised
from lab.cli.live import LiveView
from lab.cli.sweep import Sweeping
from lab.config.check import against
from lab.config.distributions import Axis, Interval, SearchSettings, axes_of
from lab.config.errors import ConfigError
from lab.config.redact import names_secret
from lab.config.settings import Policy
from lab.names import key_and_value
from lab.record.files import owned
from lab.study.job import Outcome
from lab.study.plan import NAME, Job, Plan, append_jobs, read_plan, state, with_twins, write_plan
from lab.study.pool import Pool, pool_for
from lab.study.pulse import Pulse
from lab.study.search import Search, override
from lab.study.sweep import outcome_of
from lab.study.trials import EARLY, Trials


@dataclass(frozen=True)
class Asked:
    """settings: of the search.  axes: what it chooses.  fixed: the overrides that all its jobs have."""

    settings: SearchSettings
    axes: Mapping[str, Axis]
    fixed: Sequence[str]


def searched(sweeping: Sweeping, arguments: Sequence[str]) -> int:
    """The exit code. Raises ConfigError, before anything has started, for what cannot be searched."""
    asked = asked_for(sweeping, arguments)
    settings, axes = asked.settings, asked.axes
    first = sweeping.jobs(
        sweeping.asked(list(enumerate([*asked.fixed, *one] for one in [*corners(axes), *objectives(asked)]))), Path(".")
    )
    about = [str(item) for item in (axes, asked.fixed, settings.objective, settings.seeds, first[0].identity)]
    sweep = sweeping.directory([settings.pruner or settings.sampler, *axes], about)
    plan = Plan(sweep, [], sweeping.session.identify.hashes(), tuple(arguments))
    samples = replace(plan, jobs=with_twins(first))
    total = settings.trials or combinations(axes)
    config = first[0].asked.config
    pool = pool_for([config] * total * len(settings.seeds or [0]), sweeping.workers())
    try:
        code = checked(samples, samples.own, pool, sweeping.session.verb)
        if code is not None:
            return code
        if sweeping.session.verb != "train":
            print(f"{sweep}: {settings.sampler} takes {total} trials of {', '.join(axes)}; nothing was started")
            return 0
        terms = Policy.of(config)
        pulse = Pulse.until(terms.time_limit)
        with pulse.signals(keyboard=True), owned(sweep):
            return under_way(sweeping, plan, asked, pool, terms, pulse)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    finally:
        pool.close()


def under_way(sweeping: Sweeping, plan: Plan, asked: Asked, pool: Pool, terms: Policy, pulse: Pulse) -> int:
    """Ask and tell until all trials have been. The exit code."""
    known: dict[int, Job] = {}  # what was asked for so far
    if (plan.directory / NAME).exists():
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
    code = supervised(plan, Trials(search, made), pool, {}, view, terms, pulse)
    plan = replace(plan, jobs=with_twins(list(known.values())))
    if not plan.jobs:
        return code
    outcomes = {job.number: outcome for job in plan.own if not stopped_early(outcome := outcome_of(job, state(job)))}
    conclude(plan, outcomes, others="stopped early")
    for trial in search.best():
        values = zip(asked.settings.objectives, trial.values, strict=True)
        said = "  ".join(f"{name} {value:.4g}" for name, value in values)
        print(f"best trial: {trial.number}  {' '.join(trial.overrides)}  {said}")
    return code or exit_code(outcomes)


def asked_for(sweeping: Sweeping, arguments: Sequence[str]) -> Asked:
    node: Any = OmegaConf.to_container(sweeping.master.search, resolve=True)
    if problems := against(SearchSettings, node, ("search",)):
        raise ConfigError(*problems)
    try:
        settings = SearchSettings(**node)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if sweeping.master.get("sweep"):
        raise ConfigError("search= asks for its own jobs; take sweep: out of the experiment, or leave search= out")
    parser = OverridesParser.create(config_loader=sweeping.context.config_loader)
    axes, fixed = axes_of(parser.parse_overrides(list(arguments)))
    if settings.seeds and ("seed" in axes or any(one.startswith("seed=") for one in fixed)):
        raise ConfigError("search.seeds gives the seeds; leave seed= out, or search.seeds=null")
    if kept := [key for key in axes if names_secret(key, "")]:
        raise ConfigError(f"{', '.join(kept)} names a secret, which a search would keep; give it one value")
    if not axes:
        raise ConfigError("there is nothing to search; give an axis, as optimizer.lr='tag(log,interval(1e-4,1e-1))'")
    return Asked(settings, axes, [one for one in fixed if key_and_value(one)[0].partition(".")[0] != "search"])


def corners(axes: Mapping[str, Axis]) -> list[list[str]]:
    """Jobs in which every value of every axis is once, an interval's two ends for all of it: what is tried before."""
    ends = {key: [axis.low, axis.high] if isinstance(axis, Interval) else list(axis) for key, axis in axes.items()}
    longest = max(map(len, ends.values()))
    return [
        [override(key, axis, ends[key][min(n, len(ends[key]) - 1)]) for key, axis in axes.items()]
        for n in range(longest)
    ]


def objectives(asked: Asked) -> list[list[str]]:
    """Jobs in which each objective is what is monitored, so that trying them tells whether there is such a score."""
    found = []
    for name in asked.settings.objectives:
        if "/" in name:
            found.append([*corners(asked.axes)[0], f"monitor={name.replace('test/', 'val/', 1)}"])
        elif name not in ("parameters", "trainable"):
            raise ConfigError(f"search.objective={name} is no score; give val/..., parameters or trainable")
    return found


def combinations(axes: Mapping[str, Axis]) -> int:
    return prod(len(axis) for axis in axes.values() if not isinstance(axis, Interval))


def stopped_early(outcome: Outcome) -> bool:
    return outcome.state == "interrupted" and str(outcome.error).startswith(EARLY)
