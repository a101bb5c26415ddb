"""Brings one run to its end, in this process or in its ranks."""

from dataclasses import replace
from pathlib import Path

from lab.config.check import check_config
from lab.config.composed import ComposedConfig
from lab.execution.in_process import run_in_process
from lab.execution.outcome import Outcome, RunOptions, finished_outcome
from lab.execution.rank_launcher import num_ranks, run_in_ranks
from lab.identity.identity import Identity
from lab.ledger.saved_run import SavedRun


def run_job(
    composed: ComposedConfig, identity: Identity, directory: Path, options: RunOptions | None = None
) -> Outcome:
    """Train the run in `directory` to its end, from its newest checkpoint where there is one. Nothing is done where the
    run is done already.

    Raises ConfigError before anything has started, Refused where `directory` holds another run, RunInUse where another
    process works in it, KeyboardInterrupt after the run was recorded as interrupted.
    """
    options = options or RunOptions()
    if outcome := finished_outcome(identity, SavedRun(directory)):
        return outcome
    absolute = directory.absolute()  # the run's code may change the working directory
    if not options.is_checked:
        check_config(composed.resolved, composed.unresolved)
    run = run_in_ranks if num_ranks(composed) > 1 else run_in_process
    return replace(run(composed, identity, absolute, options), directory=directory)
