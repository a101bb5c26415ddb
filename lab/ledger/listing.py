"""Finds and lists the runs below a folder, without torch and Hydra."""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from lab.errors import ConfigError, DamagedRun
from lab.ledger.marks import read_marks
from lab.ledger.saved_run import SavedRun
from lab.user_cache import Index, file_stamp

RUN_FILES = ("status.json", "manifest.json")  # a directory that has one of these is a run
PLAN_NAME = "plan.jsonl"  # a directory that has one is a sweep
ROW_FILES = (*RUN_FILES, "results.json", "metrics.jsonl", "marks.json")  # that a row is read from
WORTH_INDEXING = 200  # runs below which reading them all takes a moment
MOST_SHARED = 5000  # values that an index may share, before it is made anew
RUN_NAME = re.compile(r"-[0-9a-f]{8}$")
AGAIN_NAME = re.compile(r"-(again\d+-[0-9a-f]{8})$")
SHORTEST_ID = 4  # characters by which a run can be named


def find_runs(root: Path) -> Iterator[Path]:
    """The run directories at or below `root`, in order of their paths: those with a regular file of RUN_FILES. Links to
    folders are followed, each folder is visited once, and folders that cannot be read or begin with a dot are left out.
    """
    visited: set[tuple[int, int]] = set()

    def visit(directory: str) -> Iterator[str]:
        try:
            facts = os.stat(directory)
            entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
        except OSError:  # a link to itself among them
            return
        if (facts.st_dev, facts.st_ino) in visited:
            return
        visited.add((facts.st_dev, facts.st_ino))
        folders, found = [], False
        for entry in entries:
            if (name := entry.name) in RUN_FILES:
                found = found or entry.is_file(follow_symlinks=False)
            if name[0] != "." and name != "checkpoints" and is_folder(entry):
                folders.append(entry.path)
        if found:
            yield directory  # and look further: a stray file of that name must not hide the runs below it
        for folder in folders:
            yield from visit(folder)

    return map(Path, visit(str(root)))


def is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def find_run(path_or_id: Path, outputs: Path) -> Path | None:
    """The run of this path, or the run of `outputs` of this name or whose id begins so, with SHORTEST_ID characters at
    least; None where there is none. Raises ConfigError where several ids begin so."""
    return path_or_id if is_run(path_or_id) else find_by_name(str(path_or_id), find_runs(outputs))


def find_run_or_sweep(path_or_id: Path, outputs: Path) -> Path | None:
    """The sweep or the run of this path, or that of `outputs` of this name or whose id begins so; None where there is
    none. Raises ConfigError where several ids begin so, of runs and sweeps together."""
    if is_sweep(path_or_id) or is_run(path_or_id):
        return path_or_id
    return find_by_name(str(path_or_id), [*find_runs(outputs), *find_sweeps(outputs)])


def find_sweeps(outputs: Path) -> list[Path]:
    """The sweeps in `outputs`/sweeps, and those that hydra.sweep.dir put into `outputs` itself."""
    plans = [*outputs.glob(f"sweeps/*/{PLAN_NAME}"), *outputs.glob(f"*/{PLAN_NAME}")]
    return sorted(path.parent for path in plans if path.is_file())


def is_run(directory: Path) -> bool:
    return any((directory / name).is_file() for name in RUN_FILES)


def is_sweep(directory: Path) -> bool:
    return (directory / PLAN_NAME).is_file()


def find_by_name(text: str, directories: Iterable[Path]) -> Path | None:
    """The directory of this name or id, or else the one whose id begins so; None where there is none. Of several
    directories with the same id, such as copies, it is the first whose name ends with it, since any folder's manifest
    may claim an id. Raises ConfigError for several ids."""
    if "/" in text:
        return None
    named: dict[Path, tuple[Path, str]] = {}  # a sweep's links lead to runs that are found at their own place, too
    for directory in directories:
        own_id = directory_id(directory)
        if text == directory.name or (len(text) >= SHORTEST_ID and own_id.startswith(text)):
            named.setdefault(directory.resolve(), (directory, own_id))
    exact = [(directory, own_id) for directory, own_id in named.values() if text in (directory.name, own_id)]
    candidates = exact or list(named.values())
    ids = list(dict.fromkeys(own_id for _, own_id in candidates))
    if len(ids) > 1 and exact:
        raise ConfigError(f"several are called {text}: {', '.join(str(path) for path, _ in exact)}; give a path")
    if len(ids) > 1:
        raise ConfigError(f"several ids begin with {text}: {', '.join(ids)}; give more characters")
    candidates.sort(key=lambda candidate: not RUN_NAME.search(candidate[0].name))
    return candidates[0][0] if candidates else None


def directory_id(directory: Path) -> str:
    """The id that ends a directory's name: 8 characters, of a run with again=true `again1-` and these. Of a directory
    with a name of the user's it is the id in its manifest, and the end of the name where it has none."""
    if match := AGAIN_NAME.search(directory.name):
        return match[1]
    if not RUN_NAME.search(directory.name):
        with suppress(DamagedRun, OSError):
            return SavedRun(directory).id
    return directory.name[-8:]


def runs_by_id(folder: Path) -> dict[str, Path]:
    """The run directories below `folder` by the id that ends their names, without those of again=true.

    It reads names only and opens no run, since a sweep looks up thousands.
    """
    directories: dict[str, Path] = {}
    visited: set[str] = set()

    def visit(path: Path) -> None:
        try:
            real = os.path.realpath(path)
            entries = sorted(filter(is_folder, os.scandir(path)), key=lambda entry: entry.name)
        except OSError:
            return
        if real in visited:
            return
        visited.add(real)
        for entry in entries:
            if not RUN_NAME.search(entry.name):
                visit(Path(entry.path))
            elif not AGAIN_NAME.search(entry.name):
                directories.setdefault(entry.name[-8:], Path(entry.path))

    visit(folder)
    return directories


def run_row(run: SavedRun) -> dict[str, Any]:
    """One run: id, dir, state, experiment, overrides, choices, seed, metrics, started, ended (seconds since the epoch),
    tags, note.

    A damaged or foreign directory has the state `damaged`, and `error`, a description of the damage.
    """
    marks = read_marks(run.directory)
    written = {"tags": marks.tags, "note": marks.note}
    try:
        manifest, status = run.manifest, run.status
        return {
            "id": directory_id(run.directory) if AGAIN_NAME.search(run.directory.name) else run.id,
            "dir": str(run.directory),
            "state": status["state"],
            "experiment": manifest.get("experiment"),
            "overrides": manifest.get("overrides", []),
            "choices": manifest.get("choices", {}),
            "seed": manifest.get("seed"),
            "metrics": run.newest_metrics,
            "started": manifest.get("started"),
            "ended": status.get("ended"),
            **written,
        }
    except (DamagedRun, OSError) as error:
        empty = {
            "experiment": None,
            "overrides": [],
            "choices": {},
            "seed": None,
            "metrics": {},
            "started": None,
            "ended": None,
        }
        return {
            "id": directory_id(run.directory),
            "dir": str(run.directory),
            "state": "damaged",
            **empty,
            **written,
            "error": str(error),
        }


def run_rows(root: Path) -> list[dict[str, Any]]:
    """Every run at or below `root`, the one started last at the end.

    The rows of finished runs are kept in an index in the user's cache. A row of it counts only where all files that it
    was read from are as old and as large as then.
    """
    directories = list(find_runs(root))
    index = RowIndex(root) if len(directories) >= WORTH_INDEXING else None
    rows = [index.row(run) if index else run_row(SavedRun(run)) for run in directories]
    if index:
        index.write()
    return sorted(rows, key=lambda row: row["started"] or 0)


class RowIndex(Index):
    """The rows of finished runs below a folder, by their directories, with the stamps of their files. What most rows
    have in common, their choices and the names of their metrics, is kept once, as `shared`: reading takes longest.
    """

    def __init__(self, root: Path):
        name = hashlib.sha256(str(root.resolve()).encode(errors="surrogateescape")).hexdigest()[:16]
        super().__init__(f"runs-{name}")
        shared = self.kept.get("shared")
        self.shared: list[Any] = shared if isinstance(shared, list) and len(shared) <= MOST_SHARED else []
        self.places = {repr(value): place for place, value in enumerate(self.shared)}

    def row(self, run: Path) -> dict[str, Any]:
        key, stamp = str(run), file_stamps(str(run))
        kept = self.kept.get(key, ())
        with suppress(ValueError, LookupError, TypeError):  # a damaged index costs time only
            before, row, choices, names, values = kept
            if before == stamp:
                metrics = dict(zip(self.shared[names], json.loads(values), strict=True))
                self.now[key] = kept
                return {**row, "choices": self.shared[choices], "metrics": metrics}
        row = run_row(SavedRun(run))
        if row["state"] == "done":
            metrics = row["metrics"]
            places = [self.share(value) for value in (row["choices"], list(metrics))]
            self.now[key] = [stamp, row | {"choices": {}, "metrics": {}}, *places, json.dumps(list(metrics.values()))]
        return row

    def share(self, value: Any) -> int:
        """The place of a value in `shared`."""
        place = self.places.setdefault(repr(value), len(self.shared))
        if place == len(self.shared):
            self.shared.append(value)
        return place

    def write(self, most: int = 0) -> None:
        self.now["shared"] = self.shared
        super().write(most)


def file_stamps(run: str) -> list[list[int]]:
    """The stamp of each file that a row is read from, as JSON holds it."""
    return [list(file_stamp(f"{run}/{name}")) for name in ROW_FILES]
