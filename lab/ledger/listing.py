"""Finds and lists the runs below a folder, without torch and Hydra."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab.errors import DamagedRun
from lab.ledger.saved_run import SavedRun

RUN_FILES = ("status.json", "manifest.json")  # a directory that has one of these is a run
RUN_NAME = re.compile(r"-[0-9a-f]{8}$")
AGAIN_NAME = re.compile(r"-again\d+-[0-9a-f]{8}$")


def find_runs(root: Path) -> Iterator[Path]:
    """The run directories at or below `root`, in order of their paths. Links are followed, each folder is visited once,
    and folders that cannot be read or begin with a dot are left out."""
    visited: set[Path] = set()

    def visit(directory: Path) -> Iterator[Path]:
        try:
            real = directory.resolve()
            entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
        except (OSError, RuntimeError):  # RuntimeError: a link to itself
            return
        if real in visited:
            return
        visited.add(real)
        if any(entry.name in RUN_FILES for entry in entries):
            yield directory
            return
        for entry in entries:
            if is_folder(entry) and not entry.name.startswith("."):
                yield from visit(Path(entry.path))

    yield from visit(root)


def is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def find_run(path_or_id: Path, outputs: Path) -> Path | None:
    """The run directory `path_or_id`, or the run of `outputs` whose id begins with it, 4 characters at least; None
    where there is none."""
    if any((path_or_id / name).exists() for name in RUN_FILES):
        return path_or_id
    text = str(path_or_id)
    if "/" in text or len(text) < 4:
        return None
    return next((run for run in find_runs(outputs) if run.name[-8:].startswith(text)), None)


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
    """One run: id, dir, state, experiment, overrides, seed, metrics, started, ended (seconds since the epoch).

    A damaged or foreign directory has the state `damaged`, and `error`, a description of the damage.
    """
    try:
        manifest, status = run.manifest, run.status
        return {
            "id": run.id,
            "dir": str(run.directory),
            "state": status["state"],
            "experiment": manifest.get("experiment"),
            "overrides": manifest.get("overrides", []),
            "seed": manifest.get("seed"),
            "metrics": run.newest_metrics,
            "started": manifest.get("started"),
            "ended": status.get("ended"),
        }
    except (DamagedRun, OSError) as error:
        empty = {"experiment": None, "overrides": [], "seed": None, "metrics": {}, "started": None, "ended": None}
        id8 = run.directory.name[-8:]
        return {"id": id8, "dir": str(run.directory), "state": "damaged", **empty, "error": str(error)}


def run_rows(root: Path) -> list[dict[str, Any]]:
    """Every run at or below `root`, the one started last at the end."""
    return sorted((run_row(SavedRun(run)) for run in find_runs(root)), key=lambda row: row["started"] or 0)
