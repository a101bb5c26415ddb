"""A planned sweep, tried or carried out, and the text that is printed about it."""

import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from lab.cli.output import align_columns, tensorboard_hint
from lab.cli.sweep_progress import REPORT_EVERY, LiveView, job_label
from lab.config.overrides import swept_keys
from lab.config.settings import Policy
from lab.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_REFUSED, EXIT_STOPPED, Stopped
from lab.execution.manifest import hparams_row
from lab.execution.outcome import Outcome
from lab.metrics.names import is_overall, split_of
from lab.sweep.controller import FixedJobs, Source, split_pending
from lab.sweep.plan import Job, Plan, job_status
from lab.sweep.pool import Pool, make_pool
from lab.sweep.run_plan import (
    Launcher,
    SweepResult,
    check_same_sweep,
    free_disk,
    name_links,
    preflight_jobs,
    record_plan,
    run_in_pool,
    run_with_launcher,
)
from lab.sweep.table import job_row, make_table, write_hparams_columns
from lab.text import format_si
from lab.train.stop import StopSignal

if TYPE_CHECKING:
    from lab.assembly.preflight_report import PreflightReport


def show_plan(plan: Plan, launcher: Mapping[str, Any]) -> int:
    """Print the jobs of a plan, then as `try_sweep`."""
    print_jobs(plan)
    return try_sweep(plan, launcher)


def try_sweep(plan: Plan, launcher: Mapping[str, Any]) -> int:
    """Try the pending jobs of a plan and print their costs. Gives the exit code.

    launcher: options of the pool, as hydra/launcher=lab has them.
    """
    pending, _ = split_pending(plan)
    if not pending:
        print("nothing to do")
        return 0
    with make_pool([job.composed.resolved for job in pending], launcher) as pool:
        report = preflight_with_progress(plan, pending, pool, StopSignal())
    print_costs(report, pending)
    print("nothing is wrong; nothing was started")
    return 0


def train_sweep(plan: Plan, launcher: Mapping[str, Any], *, retry: bool = False, launch: Launcher | None = None) -> int:
    """Do the pending jobs of a plan and print the results of all jobs. Gives the exit code.

    launcher: options of the pool, as hydra/launcher=lab has them.  retry: whether to do failed jobs again.
    launch: function that has another launcher do the jobs; None: the pool does them.
    """
    check_same_sweep(plan)
    policy = Policy.of(plan.jobs[0].composed.resolved)
    stop = StopSignal.with_limits(policy.time_limit)
    # another launcher handles signals itself
    with nullcontext() if launch else stop.signals(keyboard=True):
        pending, outcomes = split_pending(plan, retry)
        result = SweepResult({})
        if pending:
            with make_pool([job.composed.resolved for job in pending], launcher) as pool:
                preflight_with_progress(plan, pending, pool, stop)
                record_plan(plan)
                if launch is None:
                    result = run_with_view(plan, len(pending), FixedJobs(pending), pool, policy, stop)
            if launch is not None:
                result = run_with_launcher(plan, pending, launch)
        else:
            record_plan(plan)
    outcomes |= result.outcomes
    code = report_stop(plan, result, stop)
    print_results(plan, outcomes)
    return code or exit_code(outcomes)


def run_with_view(plan: Plan, total: int, source: Source, pool: Pool, policy: Policy, stop: StopSignal) -> SweepResult:
    """Have the pool do jobs of a plan, `total` at most, and show them.  source: gives the jobs."""
    keys = swept_keys([job.composed.overrides for job in plan.jobs])
    with LiveView(total, keys) as view:
        return run_in_pool(plan.directory, plan.sources, source, pool, view, policy, stop)


def preflight_with_progress(plan: Plan, jobs: Sequence[Job], pool: Pool, stop: StopSignal) -> "PreflightReport":
    """Try the jobs, and show what is being tried: in a spinner on a terminal, in a line now and then elsewhere.

    Raises KeyboardInterrupt or Stopped at a signal, ConfigError as `preflight_jobs`.
    """
    heading = f"{len(jobs)} of {len(plan.jobs) or 'its'} jobs to do; trying them first"
    shown_at = time.monotonic()
    with Console(stderr=True, highlight=False).status(heading) as status:

        def show(text: str) -> None:
            nonlocal shown_at
            if stop.reason == "SIGINT":
                raise KeyboardInterrupt
            if stop.reason:
                raise Stopped(f"{stop.reason} while the jobs were tried; the same command begins again")
            status.update(escape(f"{heading}: {text}"))
            if not status.console.is_terminal and time.monotonic() - shown_at > REPORT_EVERY:
                shown_at = time.monotonic()
                print(f"{heading}: {text}", file=sys.stderr, flush=True)

        return preflight_jobs(plan, jobs, pool, show)


def report_stop(plan: Plan, result: SweepResult, stop: StopSignal) -> int:
    """Print the reason of a sweep that was stopped. Gives the exit code; 0 where the jobs' outcomes decide it."""
    if result.changed:
        print(
            f"lab: {', '.join(result.changed)} changed since the sweep was planned, so the remaining jobs would be "
            "other runs; the same command plans them anew, on_change=ignore does them as planned",
            file=sys.stderr,
        )
        return EXIT_REFUSED
    if not result.reason:
        return 0
    print(f"stopped: {result.reason}; lab resume {plan.directory} continues", file=sys.stderr)
    return EXIT_INTERRUPTED if stop.reason == "SIGINT" else EXIT_STOPPED if stop.reason else EXIT_FAILED


def exit_code(outcomes: Mapping[int, Outcome]) -> int:
    states = {outcome.state for outcome in outcomes.values()}
    return EXIT_FAILED if states & {"failed", "diverged"} else EXIT_STOPPED if states - {"done"} else 0


def print_costs(report: "PreflightReport", jobs: Sequence[Job]) -> None:
    for graph in report.graphs:
        print(f"{graph.label}: {len(graph.jobs)} {'job' if len(graph.jobs) == 1 else 'jobs'}, {graph.cost}")
    if report.disk:
        print(f"checkpoints: about {format_si(report.disk)}B; {format_si(free_disk(jobs))}B are free")


def print_jobs(plan: Plan) -> None:
    """Print the jobs of a plan with their states, and the number of jobs in each state."""
    keys = swept_keys([job.composed.overrides for job in plan.jobs])
    lines = [["n", "state", "id", *(["differs by"] if keys else []), "directory"]]
    counts: Counter[str] = Counter()
    for job in plan.jobs:
        state = job_status(job)["state"]
        state = "new" if state == "pending" else state
        is_duplicate = job.duplicate_of is not None
        counts["the same as another" if is_duplicate else state] += 1
        shown = f"same as {job.duplicate_of}" if is_duplicate else state
        label = [job_label(job, keys)] if keys else []
        lines.append([str(job.number), shown, job.identity.id, *label, str(job.directory)])
    print(align_columns(lines))
    print(f"{plan.directory}: {len(plan.jobs)} jobs: " + ", ".join(f"{n} {name}" for name, n in counts.items()))


def print_results(plan: Plan, outcomes: Mapping[int, Outcome], missing_label: str = "not started") -> None:
    """Print the table of results, and write it beside the plan.  missing_label: label for jobs without an outcome."""
    keys = swept_keys([job.composed.overrides for job in plan.jobs])
    rows = [job_row(job) for job in plan.unique_jobs]
    table = make_table(rows, keys)
    metrics = dict.fromkeys(name for row in rows for name in row.scores if is_overall(name))
    columns = [name for name in metrics if split_of(name) != "hardware"]  # the runs' own scalars show those
    columns.sort(key=lambda name: split_of(name) != "test")
    curves = name_links(plan) or plan.directory
    try:
        table.write(plan.directory)
        rows_of_runs = [hparams_row(job.composed) for job in plan.unique_jobs]
        for folder in dict.fromkeys([plan.directory, curves]):
            write_hparams_columns(folder, rows_of_runs, columns)
    except OSError as error:  # not fatal: the table is made from the run directories, which are complete
        print(f"lab: cannot write the table in {plan.directory}: {error.strerror}", file=sys.stderr)
    print(align_columns(table.main_lines()))
    print(count_states(plan, outcomes, missing_label))
    if any(outcome.state in ("failed", "diverged") for outcome in outcomes.values()):
        print(f"lab retry {plan.directory} does the failed ones again; their error.txt tells what happened")
    if table.best:
        tied = f" ({table.ties} more have the same score; this one comes first)" if table.ties else ""
        print(f"best: {table.best}{tied}")
    print(f"{plan.directory} has the sweep{tensorboard_hint(curves, [job.directory for job in plan.unique_jobs])}")


def count_states(plan: Plan, outcomes: Mapping[int, Outcome], missing_label: str) -> str:
    states = Counter(outcome.state for outcome in outcomes.values())
    states[missing_label] = len(plan.unique_jobs) - len(outcomes)
    counts = ", ".join(f"{number} {state}" for state, number in states.items() if number)
    duplicates = len(plan.jobs) - len(plan.unique_jobs)
    return counts + (f"; {duplicates} the same as another" if duplicates else "")
