"""Runs as rows, read from their directories alone: no torch, no Hydra."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab.record.files import read_json
from lab.record.status import read_status

RUN_MARKS = ("status.json", "manifest.json")


def find_runs(root: Path) -> Iterator[Path]:
    """The run directories at or below `root`, in order of their paths; links, as a sweep's, are followed."""
    seen: set[Path] = set()

    def visit(directory: Path) -> Iterator[Path]:
        try:
            entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return
        if any(entry.name in RUN_MARKS for entry in entries):
            if (real := directory.resolve()) not in seen:
                seen.add(real)
                yield directory
            return
        for entry in entries:
            if entry.is_dir() and not entry.name.startswith("."):
                yield from visit(Path(entry.path))

    yield from visit(root)


def run_row(directory: Path) -> dict[str, Any]:
    """One run: id, dir, state, experiment, overrides, seed, metrics, started, ended."""
    manifest = read_json(directory / "manifest.json", {})
    status = read_status(directory)
    return {
        "id": manifest.get("id", directory.name[-8:]),
        "dir": str(directory),
        "state": status["state"],
        "experiment": manifest.get("experiment"),
        "overrides": manifest.get("overrides", []),
        "seed": manifest.get("seed"),
        "metrics": read_json(directory / "results.json") or last_metrics(directory),
        "started": manifest.get("started"),
        "ended": status.get("ended"),
    }


def run_rows(root: Path) -> list[dict[str, Any]]:
    """Every run at or below `root`, the one started last at the end."""
    return sorted(map(run_row, find_runs(root)), key=lambda found: found["started"] or 0)


def last_metrics(directory: Path) -> dict[str, float]:
    """The newest value of each metric of a run that has no results yet."""
    newest: dict[str, float] = {}
    for line in read_metrics(directory):
        newest |= {name: value for name, value in line.items() if "/" in name}
    return newest


def read_metrics(directory: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; a last line that is torn is left out."""
    try:
        lines = (directory / "metrics.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return found
