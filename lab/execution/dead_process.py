"""The death of a process that could not record how its run ended: describes the death and writes the record."""

import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lab.execution.outcome import Outcome, finished_outcome
from lab.identity.identity import Identity
from lab.ledger.saved_run import SavedRun
from lab.record.files import lock_directory, write_new
from lab.record.status import describe_crash, read_status, write_status


@dataclass(frozen=True)
class Death:
    """How a run ended whose process could not record it.

    message: one line.  trace: content of error.txt; empty: the message.  outside: as in Outcome.  state: `failed` or
    `diverged`.
    """

    message: str
    trace: str = ""
    outside: bool = True
    state: str = "failed"


def describe_death(crash_files: Sequence[Path], exitcode: int | None, step_timeout: float | None) -> Death:
    """How a process ended, from the first of `crash_files` that reports a crash, else from its exit code."""
    for path in crash_files:
        if message := describe_crash(path, step_timeout):
            return Death(message, path.read_text(encoding="utf-8", errors="replace"))
    return Death(describe_exit(exitcode))


def describe_exit(exitcode: int | None) -> str:
    """How a process ended, in words, with the usual reason.  exitcode: -N where signal N killed it."""
    if exitcode is None or exitcode >= 0:
        return f"its process ended with exit code {exitcode}"
    name = signal.Signals(-exitcode).name
    hint = {
        "SIGKILL": "; if nobody did that, the kernel did for want of memory: lower data.batch_size, give "
        "hardware.micro_batch=, or fewer hydra.launcher.workers",
    }.get(name, "")
    return f"its process was killed by {name}{hint}"


def record_death(identity: Identity, directory: Path, death: Death, started: float | None = None) -> Outcome:
    """Record in the run's directory that it failed, unless the run turns out to be done.

    started: start of the run in seconds since the epoch, used where its status has none.
    Raises RunInUse where another process holds the run.
    """
    error_file = directory / "error.txt"
    with suppress(OSError), lock_directory(directory):  # on a full disk there is no record, only the outcome
        run = SavedRun(directory)
        if outcome := finished_outcome(identity, run):
            return Outcome(directory, "done", outcome.results)
        write_new(error_file, death.trace or death.message + "\n")
        write_status(
            directory,
            death.state,
            id=identity.id,
            outside=death.outside,
            started=read_status(directory).get("started", started),
            ended=time.time(),
            error=death.message,
            traceback=error_file.name,
        )
    return Outcome(directory, death.state, error=death.message, outside=death.outside)
