"""How a run ended, and how it is to be carried out."""

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

    new: whether this call brought it to that end.  error: what went wrong, in a line or a few.  outside: whether the
    cause lies outside of the run (a signal, a full disk, memory), so that the same run may well end otherwise.
    pruned: whether a search stopped it early.
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

    stop: tells when to stop.  progress: makes what shows progress, from the number of steps; None: a bar on a terminal.
    environment: the environment that goes into the manifest; None: this process's.  is_checked: whether the config has
    been checked already.
    """

    stop: StopSignal = field(default_factory=StopSignal)
    progress: "Callable[[int], Progress] | None" = None
    environment: Mapping[str, Any] | None = None
    is_checked: bool = False


def finished_outcome(identity: Identity, run: SavedRun) -> Outcome | None:
    """The outcome of a run that is done already; None for one that is not.

    Raises Refused where the directory holds another run, or one that changed since it was done.
    """
    directory, holds = run.directory, run.manifest.get("id", identity.id)
    if holds != identity.id:
        raise Refused(f"{directory} holds the run {holds}, this is {identity.id}; choose another directory")
    if not run.is_done:
        return None
    if changed := run.changed_files(checkpoints=False):
        names = ", ".join(changed)
        raise Refused(f"{directory} is done, but {names} changed since; move it away, or give again=true")
    return Outcome(directory, "done", run.results, new=False)


def saved_outcome(run: SavedRun) -> Outcome:
    """How a run stands, by its directory alone."""
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
