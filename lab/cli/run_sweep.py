"""A planned sweep, carried out: what is missing is checked and done, the rest is shown. For `train -m` and `resume`."""

import shutil
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from rich.console import Console

from lab.build.preflight_report import PreflightReport
from lab.cli.output import align_columns
from lab.cli.sweep_progress import LiveView, job_label
from lab.config.overrides import swept_keys
from lab.config.settings import Policy
from lab.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_REFUSED, EXIT_STOPPED, EXIT_USAGE, Refused
from lab.execution.manifest import hparams_row
from lab.execution.outcome import Outcome
from lab.execution.stop import StopSignal
from lab.identity.source_code import CodeWatch
from lab.metrics.names import is_overall
from lab.sweep.controller import FixedJobs, Source, SweepController, saved_outcome, split_pending
from lab.sweep.plan import Job, Plan, job_results, job_status, link_run, read_plan, write_plan
from lab.sweep.pool import Pool, make_pool
from lab.sweep.table import make_table, write_hparams_columns
from lab.text import format_si

Launcher = Callable[[Plan, Sequence[Job]], None]


def run_sweep(
    plan: Plan, workers: Mapping[str, Any], *, verb: str = "train", retry: bool = False, by: Launcher | None = None
) -> int:
    """The exit code.

    workers: of the pool, as hydra/launcher=lab has it.  verb: `train`; `plan` and `check` start nothing.
    retry: whether failed jobs are taken again.  by: another launcher, instead of the pool.
    """
    pulse = StopSignal.until(Policy.of(plan.jobs[0].asked.config).time_limit)
    # another launcher has its own way with signals
    with nullcontext() if by else pulse.signals(keyboard=True):
        return run_planned_sweep(plan, workers, pulse, verb, retry, by)


def run_planned_sweep(
    plan: Plan, workers: Mapping[str, Any], pulse: StopSignal, verb: str, retry: bool, by: Launcher | None
) -> int:
    wanted, outcomes = split_pending(plan, retry)
    if verb == "plan":
        print_jobs(plan)
    elif verb == "train":
        check_same_sweep(plan)
    pool = make_pool([job.asked.config for job in wanted], workers) if wanted else None
    try:
        if pool and isinstance(code := preflight_sweep(plan, wanted, pool, verb), int):
            return code
        if verb != "train":
            print("nothing is to be done" if not wanted else "nothing is wrong; nothing was started")
            return 0
        write_plan(plan)
        for job in plan.own:
            if job.directory.exists():
                link_run(plan.directory, job)
        code = 0
        if pool and by:
            pool.close()
            by(plan, wanted)
            outcomes |= {job.number: saved_outcome(job, job_status(job)) for job in wanted}
            for job in wanted:
                link_run(plan.directory, job)
        elif pool:
            code = run_in_pool(plan, wanted, pool, outcomes, pulse)
    finally:
        if pool:
            pool.close()
    print_results(plan, outcomes)
    return code or exit_code(outcomes)


def preflight_sweep(plan: Plan, wanted: Sequence[Job], pool: Pool, verb: str) -> int | PreflightReport:
    """The exit code where the jobs are not to be started; else the report, the pool made fit for the machine's GPUs."""
    waiting = Console(stderr=True).status(f"{len(wanted)} of {len(plan.jobs) or 'its'} jobs to do; trying them first")
    try:
        with waiting if sys.stderr.isatty() else nullcontext():
            report = pool.check(wanted)
    except RuntimeError as error:
        print(f"lab: {error}", file=sys.stderr)
        return EXIT_USAGE
    by_problem: dict[str, list[int]] = {}
    for number, problems in report.problems.items():
        for problem in problems:
            by_problem.setdefault(problem, []).append(number)
    for problem, numbers in by_problem.items():
        jobs = f"job {numbers[0]}" if len(numbers) == 1 else f"jobs {format_job_numbers(numbers)}"
        print(f"lab: {problem}" + (f" ({jobs})" if len(plan.jobs) > 1 else ""), file=sys.stderr)
    if by_problem:
        return EXIT_USAGE
    if verb != "train":
        for graph in report.graphs:
            print(f"{graph.label}: {len(graph.jobs)} {'job' if len(graph.jobs) == 1 else 'jobs'}, {graph.cost}")
    needed = sum(len(graph.jobs) * graph.disk for graph in report.graphs)
    free = shutil.disk_usage(existing_folder(plan)).free
    if needed > free:
        print(
            f"lab: checkpoints take about {format_si(needed)}B, {format_si(free)}B are free; paths.outputs= moves them",
            file=sys.stderr,
        )
        return EXIT_USAGE
    if verb != "train" and needed:
        print(f"checkpoints: about {format_si(needed)}B; {format_si(free)}B are free")
    pool.share(report.gpus)
    return report


def check_same_sweep(plan: Plan) -> None:
    """Raises Refused where the directory holds a sweep with runs that this one lacks."""
    try:
        before = read_plan(plan.directory)
    except ValueError:  # none, or one that cannot be read
        return
    lacking = {job.identity.id for job in before.jobs} - {job.identity.id for job in plan.jobs}
    if lacking or before.search != plan.search:
        raise Refused(f"{plan.directory} holds another sweep; give another hydra.sweep.dir=, or move it away")


def run_in_pool(plan: Plan, wanted: Sequence[Job], pool: Pool, outcomes: dict[int, Outcome], pulse: StopSignal) -> int:
    view = LiveView(len(wanted), swept_keys([job.asked.overrides for job in plan.jobs]))
    return supervise(plan, FixedJobs(wanted), pool, outcomes, view, Policy.of(plan.jobs[0].asked.config), pulse)


def supervise(
    plan: Plan,
    source: Source,
    pool: Pool,
    outcomes: dict[int, Outcome],
    view: LiveView,
    terms: Policy,
    pulse: StopSignal,
) -> int:
    """Have the pool do what the source gives. The exit code, 0 where only the outcomes decide."""
    sweep = SweepController(plan.directory, source, pool, terms, view, CodeWatch(plan.sources), pulse)
    with view:
        sweep.run()
    outcomes |= sweep.outcomes
    if sweep.changed:
        print(
            f"lab: {', '.join(sweep.changed)} changed since the sweep was planned, so the jobs that are left would be "
            "other runs; the same command plans them anew, on_change=ignore does them as planned",
            file=sys.stderr,
        )
        return EXIT_REFUSED
    if not sweep.reason:
        return 0
    print(f"stopped: {sweep.reason}; lab resume {plan.directory} goes on", file=sys.stderr)
    return EXIT_INTERRUPTED if pulse.reason == "SIGINT" else EXIT_STOPPED if pulse.reason else EXIT_FAILED


def exit_code(outcomes: Mapping[int, Outcome]) -> int:
    states = {outcome.state for outcome in outcomes.values()}
    return EXIT_FAILED if states & {"failed", "diverged"} else EXIT_STOPPED if states - {"done"} else 0


def print_results(plan: Plan, outcomes: Mapping[int, Outcome], others: str = "not started") -> None:
    """The table of results, on the terminal and beside the plan.  others: what jobs without an outcome are."""
    keys = swept_keys([job.asked.overrides for job in plan.jobs])
    found = make_table(plan.own, keys)
    metrics = dict.fromkeys(name for job in plan.own for name in job_results(job) if is_overall(name))
    logged = [name for name in metrics if not name.startswith("hardware/")]  # the others are scalars of the runs
    columns = sorted(logged, key=lambda name: not name.startswith("test/"))
    try:
        found.write(plan.directory)
        write_hparams_columns(plan.directory, [hparams_row(job.asked) for job in plan.own], columns)
    except OSError as error:  # how the runs ended is on the disk
        print(f"lab: cannot write the table in {plan.directory}: {error.strerror}", file=sys.stderr)
    print(align_columns(found.short()))
    states = Counter(outcome.state for outcome in outcomes.values())
    states[others] = len(plan.own) - len(outcomes)
    twins = len(plan.jobs) - len(plan.own)
    said = [f"{number} {name}" for name, number in states.items() if number]
    print(", ".join(said) + (f"; {twins} the same as another" if twins else ""))
    failed = [outcome for outcome in outcomes.values() if outcome.state in ("failed", "diverged")]
    if failed:
        print(f"lab retry {plan.directory} takes the failed ones again; their error.txt tells what happened")
    if found.best:
        print(f"best: {found.best}")
    print(f"{plan.directory} has the sweep; look at it with: tensorboard --logdir {plan.directory}")


def print_jobs(plan: Plan) -> None:
    keys = swept_keys([job.asked.overrides for job in plan.jobs])
    lines = [["n", "state", "id", *(["differs by"] if keys else []), "directory"]]
    states: Counter[str] = Counter()
    for job in plan.jobs:
        said = job_status(job)["state"] if job.twin is None else f"same as {job.twin}"
        said = "new" if said == "pending" else said
        states["the same as another" if job.twin is not None else said] += 1
        lines.append(
            [str(job.number), said, job.identity.id, *([job_label(job, keys)] if keys else []), str(job.directory)]
        )
    print(align_columns(lines))
    print(f"{plan.directory}: {len(plan.jobs)} jobs: " + ", ".join(f"{n} {name}" for name, n in states.items()))


def existing_folder(plan: Plan) -> str:
    """The folder that is there and will hold the runs."""
    folder = plan.jobs[0].directory.absolute()
    return str(next(path for path in (folder, *folder.parents) if path.exists()))


def format_job_numbers(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:5])) + (f" and {len(numbers) - 5} more" if len(numbers) > 5 else "")
