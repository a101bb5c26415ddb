"""How a run ended."""

import signal
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.errors import Diverged, Refused
from lab.execution.stop import StopSignal
from lab.identity.identity import Identity
from lab.record.files import read_json
from lab.record.status import changed_files, is_done

if TYPE_CHECKING:
    from lab.record.record import Progress


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    new: whether it was this call that did it.  error: what went wrong, in a line or a few.  outside: whether that came
    from outside of the run (a signal, a full disk, memory), so that the same code may well end otherwise.
    """

    directory: Path
    state: str
    results: dict[str, float]
    new: bool = True
    error: str | None = None
    outside: bool = False
    pruned: bool = False  # whether a search ended the run's trial early


@dataclass(frozen=True)
class RunOptions:
    """On what terms a run is done.  pulse: says when to stop.  show: makes what shows progress, from the number of
    steps; None for a bar on a terminal.  around: the surroundings that go into the manifest.  checked: whether the
    config has been checked already.
    """

    pulse: StopSignal = field(default_factory=StopSignal)
    show: "Callable[[int], Progress] | None" = None
    around: Mapping[str, Any] | None = None
    checked: bool = False


def finished_outcome(identity: Identity, directory: Path) -> Outcome | None:
    """The outcome of a run that is done already, None for one that is not. Raises Refused as `do` does."""
    other = read_json(directory / "manifest.json", {}).get("id", identity.id)
    if other != identity.id:
        raise Refused(f"{directory} holds the run {other}, this is {identity.id}; choose another directory")
    if not is_done(directory):
        return None
    if changed := changed_files(directory, checkpoints=False):
        names = ", ".join(changed)
        raise Refused(f"{directory} is done, but {names} changed since; move it away, or give again=true")
    return Outcome(directory, "done", read_json(directory / "results.json", {}), new=False)


def describe_error(error: BaseException) -> tuple[str, bool]:
    """What went wrong, with what to type next, and whether it came from outside of the run."""
    from lab.hardware import is_out_of_memory

    if isinstance(error, Diverged):
        return str(error), False
    if is_out_of_memory(error):
        lower = "lower data.batch_size, give hardware.micro_batch= (examples at once), or oom=shrink"
        return f"out of memory: {lower}; {str(error).splitlines()[0] if str(error) else type(error).__name__}", True
    return f"{type(error).__name__}: {error}", isinstance(error, OSError)


def write_traceback(path: Path, error: BaseException) -> None:
    with suppress(OSError):  # the disk is full, which is what the error says too
        path.write_text("".join(traceback.format_exception(error)))


def describe_exit(exitcode: int | None) -> str:
    """How a process ended, with what that usually means."""
    if exitcode is None or exitcode >= 0:
        return f"its process ended with exit code {exitcode}"
    name = signal.Signals(-exitcode).name
    hint = {
        "SIGKILL": "; if nobody did that, the kernel did for want of memory: lower data.batch_size, give "
        "hardware.micro_batch=, or fewer hydra.launcher.workers",
    }.get(name, "")
    return f"its process was killed by {name}{hint}"
