"""The state of a run: status.json, which decides whether the run is done."""

import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab.errors import DamagedRun
from lab.record.files import is_locked, read_json, sha256, write_json
from lab.text import locate_own_frame

SCHEMA = 1  # of status.json
HANG_MARK = "Timeout ("  # the words with which faulthandler reports a hang
CRASH_MARK = "Fatal Python error: "
STATES = ("pending", "running", "done", "failed", "diverged", "interrupted")
SEALED = ("config.yaml", "manifest.json", "metrics.jsonl", "results.json")


def read_status(directory: Path) -> dict[str, Any]:
    """The content of status.json; the state is `pending` where there is no such file.

    A run that says `running` but whose process is gone is `failed` where that process reported a crash, else
    `interrupted`. Raises DamagedRun where the file is not a run's.
    """
    status = read_json(directory / "status.json", {"state": "pending"})
    if not isinstance(status, dict) or status.get("state") not in STATES:
        raise DamagedRun(f"{directory / 'status.json'} is not a run's: it has no state of {', '.join(STATES)}")
    if status["state"] == "running" and not is_locked(directory):
        crash = describe_crash(directory / "error.txt", status.get("step_timeout"))
        end = {"state": "failed", "error": crash, "outside": True} if crash else {"state": "interrupted"}
        return {**status, **end}
    return status


def has_begun(directory: Path) -> bool:
    """Whether status.json says `running`, be its process alive or not."""
    return read_json(directory / "status.json", {}).get("state") == "running"


def write_status(directory: Path, state: str, **details: Any) -> None:
    """Replace status.json, atomically.  details: kept beside the state; None values are left out."""
    assert state in STATES
    now = {"time": time.time(), "pid": os.getpid(), "host": platform.node()}
    status = {"schema": SCHEMA, "state": state, **now, **details}
    write_json(directory / "status.json", {key: value for key, value in status.items() if value is not None})


def hash_sealed_files(directory: Path) -> dict[str, str]:
    """The SHA-256 of each file that the seal covers, by its path in the run directory."""
    checkpoints = sorted(path.relative_to(directory).as_posix() for path in directory.glob("checkpoints/*.pt"))
    return {name: sha256(directory / name) for name in (*SEALED, *checkpoints) if (directory / name).is_file()}


def is_done(directory: Path) -> bool:
    return read_status(directory)["state"] == "done"


def changed_files(directory: Path, status: Mapping[str, Any], checkpoints: bool) -> list[str]:
    """The files of a finished run that differ from its seal.

    status: status of the run, with its seal.  checkpoints: whether to compare the checkpoints too.
    """
    return [
        name
        for name, digest in status.get("sealed", {}).items()
        if (checkpoints or not name.startswith("checkpoints/"))
        and not ((directory / name).is_file() and sha256(directory / name) == digest)
    ]


def describe_crash(path: Path, step_timeout: float | None = None) -> str | None:
    """How a process ended, from the file that faulthandler wrote; None where the file reports no crash."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    frame = locate_own_frame(text, newest_first=True)
    place = f", at {frame}" if frame else ""
    for line in text.splitlines():
        if line.startswith(HANG_MARK):
            within = f" in {step_timeout:g} s" if step_timeout else ""
            return f"hung: a step did not end{within} (step_timeout){place}; error.txt has its traceback"
        if line.startswith(CRASH_MARK):
            return f"crashed: {line.removeprefix(CRASH_MARK)}{place}; error.txt has its traceback"
    return None
