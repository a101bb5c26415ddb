"""The state of a run, the last word on whether it is done."""

import os
import platform
import time
from pathlib import Path
from typing import Any

from lab.record.files import read_json, sha256, write_json

STATES = ("pending", "running", "done", "failed", "diverged", "interrupted")
SEALED = ("config.yaml", "manifest.json", "metrics.jsonl", "results.json")


def read_status(directory: Path) -> dict[str, Any]:
    """The content of status.json; of a directory without one, that it is pending."""
    return read_json(directory / "status.json", {"state": "pending"})


def write_status(directory: Path, state: str, **more: Any) -> None:
    """Replace status.json, atomically.  more: kept beside the state; None values are left out."""
    assert state in STATES
    said = {"state": state, "time": time.time(), "pid": os.getpid(), "host": platform.node(), **more}
    write_json(directory / "status.json", {key: value for key, value in said.items() if value is not None})


def seal(directory: Path) -> dict[str, str]:
    """The SHA-256 of each file that a finished run is made of, by its path in the run."""
    checkpoints = sorted(path.relative_to(directory).as_posix() for path in directory.glob("checkpoints/*.pt"))
    return {name: sha256(directory / name) for name in (*SEALED, *checkpoints)}


def is_done(directory: Path) -> bool:
    return read_status(directory)["state"] == "done"


def broken(directory: Path) -> list[str]:
    """The files of a finished run that are not what was sealed."""
    sealed = read_status(directory).get("sealed", {})
    return [
        name
        for name, digest in sealed.items()
        if not (directory / name).is_file() or sha256(directory / name) != digest
    ]
