"""lab train: trains one run, or a sweep with -m."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.cli.output import print_outcome
from lab.cli.run_search import train_search
from lab.cli.run_sweep import train_sweep
from lab.config.composed import ComposedConfig
from lab.config.settings import Policy
from lab.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_STOPPED
from lab.execution.outcome import RunOptions
from lab.execution.run_job import run_job
from lab.hydra_app.app import HydraApp, run_app
from lab.hydra_app.planner import SweepPlanner
from lab.identity.identity import Identity
from lab.sweep.plan import Plan
from lab.train.stop import StopSignal


def main(arguments: list[str]) -> int:
    return run_app(arguments, HydraApp("train", run=train_single_run, sweep=train_arguments, batch=train_batch))


def train_single_run(composed: ComposedConfig, identity: Identity, directory: Path) -> int:
    """Bring a run to its end and print how it ended. Gives the exit code."""
    try:
        policy = Policy.of(composed.resolved)
    except (LookupError, TypeError, ValueError):  # the check in `run_job` reports the problem
        stop = StopSignal()
    else:
        stop = StopSignal.with_limits(policy.time_limit, policy.step_timeout)
    with stop.signals(keyboard=True):
        outcome = run_job(composed, identity, directory, RunOptions(stop))
    print_outcome(outcome)
    stopped = EXIT_INTERRUPTED if stop.reason == "SIGINT" else EXIT_STOPPED
    return {"done": 0, "interrupted": stopped}.get(outcome.state, EXIT_FAILED)


def train_arguments(planner: SweepPlanner, arguments: Sequence[str]) -> int:
    """Do the sweep or the search of these arguments. Gives the exit code."""
    if planner.search_node:
        return train_search(planner, arguments)
    return train_plan(planner, planner.plan(planner.expand(arguments)))


def train_plan(planner: SweepPlanner, plan: Plan) -> int:
    """Do the jobs of a plan by the launcher that the config chooses. Gives the exit code."""
    if planner.uses_own_launcher:
        return train_sweep(plan, planner.launcher_options)
    code = train_sweep(plan, {}, launch=planner.launch_elsewhere)
    return EXIT_FAILED if code and planner.launcher_failed else code


def train_batch(plan: Plan, launcher: Mapping[str, Any]) -> int:
    return train_sweep(plan, launcher)
