"""The outcome of a run, and the options for carrying it out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.errors import Refused
from lab.identity.identity import Identity
from lab.ledger.saved_run import SavedRun
from lab.train.stop import StopSignal

if TYPE_CHECKING:
    from lab.record.record import Progress


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    state: one of `lab.record.status.STATES`.  results: final scores by name.  new: whether this call brought the run to
    its end.  error: text of a line or a few about what went wrong.  outside: whether the cause lies outside of the run
    (a signal, a full disk, memory), so that the same run may well succeed next time.  pruned: whether a search stopped
    it early.
    """

    directory: Path
    state: str
    results: Mapping[str, float] = field(default_factory=dict)
    new: bool = True
    error: str | None = None
    outside: bool = False
    pruned: bool = False


@dataclass(frozen=True)
class RunOptions:
    """How a run is carried out; nothing here changes what it computes.

    stop: signal that ends the run early.  progress: makes the display of progress, from the number of steps; None: a
    bar on a terminal.  environment: description of the environment for the manifest; None: that of this process.
    is_checked: whether the config has been checked already.
    """

    stop: StopSignal = field(default_factory=StopSignal)
    progress: "Callable[[int], Progress] | None" = None
    environment: Mapping[str, Any] | None = None
    is_checked: bool = False


def finished_outcome(identity: Identity, run: SavedRun) -> Outcome | None:
    """The outcome of a run that is done already; None for one that is not.

    Raises Refused where the directory holds another run, or a finished run whose files changed since.
    """
    directory, saved_id = run.directory, run.manifest.get("id", identity.id)
    if saved_id != identity.id:
        raise Refused(f"{directory} holds the run {saved_id}, this is {identity.id}; choose another directory")
    if not run.is_done:
        return None
    if changed := run.changed_files(checkpoints=False):
        names = ", ".join(changed)
        raise Refused(f"{directory} is done, but {names} changed since; move it away, or give again=true")
    return Outcome(directory, "done", run.results, new=False)


def saved_outcome(run: SavedRun) -> Outcome:
    """The outcome of a run, as its directory has it."""
    status = run.status
    return Outcome(
        run.directory,
        status["state"],
        run.results,
        new=False,
        error=status.get("error") or status.get("reason"),
        outside=bool(status.get("outside")),
        pruned=bool(status.get("pruned")),
    )
