"""lab train, lab plan, lab check: a Hydra app whose task is one run, and whose sweeps are planned."""

from pathlib import Path
from typing import TYPE_CHECKING

from lab.cli.output import print_outcome
from lab.config.composed import ComposedConfig
from lab.config.settings import Policy
from lab.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_STOPPED
from lab.execution.outcome import RunOptions
from lab.execution.run_job import run_job
from lab.execution.stop import StopSignal
from lab.hydra_app.app import run_app
from lab.identity.identity import Identity

if TYPE_CHECKING:
    pass


def one_run(asked: ComposedConfig, identity: Identity, directory: Path) -> int:
    """Do a run in this process and show how it ended. The exit code."""
    try:
        terms = Policy.of(asked.config)
    except (LookupError, TypeError, ValueError):  # the check in `do` says what is wrong
        pulse = StopSignal()
    else:
        pulse = StopSignal.until(terms.time_limit, terms.step_timeout)
    with pulse.signals(keyboard=True):
        outcome = run_job(asked, identity, directory, RunOptions(pulse))
    print_outcome(outcome)
    stopped = EXIT_INTERRUPTED if pulse.reason == "SIGINT" else EXIT_STOPPED
    return {"done": 0, "interrupted": stopped}.get(outcome.state, EXIT_FAILED)


def plan(arguments: list[str]) -> int:
    return run_app(arguments, "plan")


def train(arguments: list[str]) -> int:
    return run_app(arguments)
