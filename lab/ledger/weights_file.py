"""The file that `weights=` names: a file itself, or the final weights of a run."""

import re
from dataclasses import dataclass
from pathlib import Path

from lab.ledger.listing import find_run
from lab.ledger.saved_run import SavedRun
from lab.record.files import sha256

RUN_ID = re.compile(r"(again\d+-)?[0-9a-f]{8}")


@dataclass(frozen=True)
class WeightsFile:
    """A file of weights.  sealed: SHA-256 of the file when its run was done; None for a file given by its own path."""

    path: Path
    sealed: str | None = None

    def check(self) -> None:
        """Raises ValueError where a run's weights differ from its seal."""
        if self.sealed is not None and sha256(self.path) != self.sealed:
            raise ValueError(
                f"{self.path} has changed since its run was done; the same command with again=true runs it anew"
            )


def find_weights(weights: str, outputs: Path) -> WeightsFile | None:
    """The file that `weights` names: a file, or the final weights of a run, given by its directory or by its id (8
    characters, or `again2-` and these) among the runs of `outputs`. None for anything else, such as a name that the
    model's library knows.

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
    """The final weights of a run, with their seal. Raises as `find_weights`."""
    run.check_done()
    name = run.final_weights.relative_to(run.directory).as_posix()
    sealed = run.status.get("sealed", {})
    if name not in sealed:
        raise ValueError(f"{run.directory}: {name} was not there when the run was done; give a checkpoint's path")
    return WeightsFile(run.final_weights, sealed[name])
