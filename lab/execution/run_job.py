"""One run brought to its end, in this process or in ranks of its own."""

from dataclasses import replace
from pathlib import Path

from lab.config.check import check_config
from lab.config.composed import ComposedConfig
from lab.execution.in_process import run_in_process
from lab.execution.outcome import Outcome, RunOptions, finished_outcome
from lab.execution.rank_launcher import num_processes, run_in_ranks
from lab.identity.identity import Identity


def run_job(asked: ComposedConfig, identity: Identity, directory: Path, terms: RunOptions | None = None) -> Outcome:
    """Bring the run in `directory` to its end, from its newest checkpoint where there is one; or find it done.

    Raises ConfigError before anything has started, Refused where `directory` holds another run, Owned where another
    process is at it, KeyboardInterrupt when it was interrupted and recorded as such.
    """
    terms = terms or RunOptions()
    if found := finished_outcome(identity, directory):
        return found
    place = directory.absolute()  # the run's code may change the working directory
    if not terms.checked:
        check_config(asked.config, asked.source)

    several = num_processes(asked) > 1
    outcome = (run_in_ranks if several else run_in_process)(asked, identity, place, terms)
    return replace(outcome, directory=directory)
