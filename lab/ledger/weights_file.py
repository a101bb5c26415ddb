"""The file that `weights=` means, where it means a file or a run and not a name of the model's library."""

import re
from dataclasses import dataclass
from pathlib import Path

from lab.ledger.listing import find_run
from lab.ledger.saved_run import SavedRun
from lab.record.files import sha256

RUN_ID = re.compile(r"[0-9a-f]{8}")


@dataclass(frozen=True)
class WeightsFile:
    """A file of weights.  sealed: the SHA-256 that it had when its run was done; None for any other file."""

    path: Path
    sealed: str | None = None

    def check(self) -> None:
        """Raises ValueError where a run's weights are not those that were sealed."""
        if self.sealed is not None and sha256(self.path) != self.sealed:
            raise ValueError(
                f"{self.path} has changed since its run was done; the same command with again=true runs it anew"
            )


def find_weights(weights: str, outputs: Path) -> WeightsFile | None:
    """The file that `weights` means: itself, or the final weights of a run, given by its directory or by its id (8
    characters) among the runs of `outputs`. None where it is neither: a name of the model's library, or nothing.

    Raises ConfigError for a run that is not done, ValueError for one without final weights.
    """
    path = Path(weights)
    if path.is_file():
        return WeightsFile(path)
    if (path / "status.json").is_file():
        return final_weights_of(SavedRun(path))
    if RUN_ID.fullmatch(weights) and (directory := find_run(path, outputs)):
        return final_weights_of(SavedRun(directory))
    return None


def final_weights_of(run: SavedRun) -> WeightsFile:
    run.check_done()
    name = run.final_weights.relative_to(run.directory).as_posix()
    sealed = run.status.get("sealed", {})
    if name not in sealed:
        raise ValueError(f"{run.directory}: {name} was not there when the run was done; give a checkpoint's path")
    return WeightsFile(run.final_weights, sealed[name])
