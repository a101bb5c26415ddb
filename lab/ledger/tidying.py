"""What of the runs on disk may go: whole runs, and checkpoints of finished ones."""

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from lab.errors import DamagedRun
from lab.ledger.listing import find_runs, find_sweeps
from lab.ledger.marks import read_marks
from lab.ledger.saved_run import SavedRun
from lab.record.files import is_locked

KEEP_TAG = "keep"
CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class Removal:
    """A file or a folder to remove.  size: bytes that it takes."""

    path: Path
    size: int


def why_protected(run: SavedRun, claimed: Set[str]) -> str:
    """The reason why a run must stay; empty if it may go.

    claimed: studies with claims of a paper. Their runs are what the claims were judged by.
    """
    if is_locked(run.directory):
        return "a process is working in it"
    if KEEP_TAG in read_marks(run.directory).tags:
        return f"it is tagged {KEEP_TAG}"
    study = experiment_of(run).partition("/")[0]
    return f"the claims of {study} refer to it" if study in claimed else ""


def experiment_of(run: SavedRun) -> str:
    try:
        return run.manifest.get("experiment") or ""
    except (DamagedRun, OSError):
        return ""


def spare_checkpoints(run: SavedRun, keep: Set[str]) -> list[Removal]:
    """The checkpoints of a run that is done, without those to keep.

    keep: `best`, the weights that were scored at the end, and `last`, the state to go on from.
    """
    try:
        if not run.is_done:
            return []
        kept = {"best": run.final_weights, "last": run.directory / CHECKPOINTS / "last.pt"}
    except (DamagedRun, OSError):
        return []
    files = (run.directory / CHECKPOINTS).glob("*.pt")
    return [Removal(file, file.lstat().st_size) for file in sorted(files) if file not in {kept[name] for name in keep}]


def over_budget(runs: Sequence[SavedRun], chosen: Sequence[Removal], budget: int, used: int) -> list[Removal]:
    """Checkpoints to remove beside the chosen ones, those of the runs that ended first, until at most `budget` of
    `used` bytes are left."""
    used -= sum(removal.size for removal in chosen)
    found: list[Removal] = []
    for run in sorted(runs, key=lambda run: run.status.get("ended") or 0):
        for removal in spare_checkpoints(run, set()):
            if used <= budget:
                return found
            if removal not in chosen:
                found.append(removal)
                used -= removal.size
    return found


def folder_size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def links_to(runs: Iterable[Path], outputs: Path) -> list[Path]:
    """The links in sweeps and in TensorBoard's folder that lead to these runs."""
    targets = {run.resolve() for run in runs}
    folders = [*find_sweeps(outputs), *outputs.glob("tensorboard/*")]
    links = [path for folder in folders for path in folder.iterdir() if path.is_symlink()]
    return [link for link in links if link.resolve() in targets]


def every_run(outputs: Path) -> list[SavedRun]:
    """The runs below `outputs`, each once."""
    found = {run.resolve(): run for run in find_runs(outputs)}
    return [SavedRun(run) for run in found]
