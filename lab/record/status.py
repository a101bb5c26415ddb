"""The state of a run, the last word on whether it is done."""

import os
import platform
import time
from pathlib import Path
from typing import Any

from lab.record.files import is_locked, read_json, sha256, write_json

HANG_MARK = "Timeout ("  # how faulthandler begins to say that time is up
CRASH_MARK = "Fatal Python error: "
STATES = ("pending", "running", "done", "failed", "diverged", "interrupted")
SEALED = ("config.yaml", "manifest.json", "metrics.jsonl", "results.json")


def read_status(directory: Path) -> dict[str, Any]:
    """The content of status.json; `pending` for a directory without one. A run that says it is running but whose
    process has ended is `failed` where that left word of a crash, else `interrupted`."""
    status = read_json(directory / "status.json", {"state": "pending"})
    if status["state"] == "running" and not is_locked(directory):
        said = describe_crash(directory / "error.txt", status.get("step_timeout"))
        end = {"state": "failed", "error": said, "outside": True} if said else {"state": "interrupted"}
        return {**status, **end}
    return status


def write_status(directory: Path, state: str, **more: Any) -> None:
    """Replace status.json, atomically.  more: kept beside the state; None values are left out."""
    assert state in STATES
    said = {"state": state, "time": time.time(), "pid": os.getpid(), "host": platform.node(), **more}
    write_json(directory / "status.json", {key: value for key, value in said.items() if value is not None})


def hash_sealed_files(directory: Path) -> dict[str, str]:
    """The SHA-256 of each file that a finished run is made of, by its path in the run."""
    checkpoints = sorted(path.relative_to(directory).as_posix() for path in directory.glob("checkpoints/*.pt"))
    return {name: sha256(directory / name) for name in (*SEALED, *checkpoints)}


def is_done(directory: Path) -> bool:
    return read_status(directory)["state"] == "done"


def changed_files(directory: Path, checkpoints: bool) -> list[str]:
    """The files of a finished run that are not what was sealed.  checkpoints: whether to read those too."""
    sealed = read_status(directory).get("sealed", {})
    return [
        name
        for name, digest in sealed.items()
        if (checkpoints or not name.startswith("checkpoints/"))
        and not ((directory / name).is_file() and sha256(directory / name) == digest)
    ]


def describe_crash(path: Path, step_timeout: float | None = None) -> str | None:
    """What the file that faulthandler wrote to says of how its process ended; None where it says nothing."""
    try:
        said = path.read_text(errors="replace")
    except OSError:
        return None
    for line in said.splitlines():
        if line.startswith(HANG_MARK):
            within = f" in {step_timeout:g} s" if step_timeout else ""
            return f"hung: a step did not end{within} (step_timeout); what it was doing is in error.txt"
        if line.startswith(CRASH_MARK):
            return f"crashed: {line.removeprefix(CRASH_MARK)}; what it was doing is in error.txt"
    return None
