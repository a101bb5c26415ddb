"""Where a result comes from: everything about a run that is not its config."""

import os
import platform
import subprocess
import sys
from functools import cache
from importlib import metadata
from typing import Any

LONGEST_DIFF = 200_000  # characters


def describe_environment() -> dict[str, Any]:
    """The command, the code, the packages and the machine of this process."""
    return {
        "command": list(sys.argv),
        "directory": os.getcwd(),
        "git": git_state(),
        "python": platform.python_version(),
        "packages": installed_packages(),
        "host": platform.node(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
    }


@cache
def git_state() -> dict[str, str] | None:
    """The commit and the uncommitted changes of the working directory; None outside a repository."""
    commit = command_output("git", "rev-parse", "HEAD")
    if commit is None:
        return None
    diff = command_output("git", "diff", "HEAD") or ""
    return {
        "commit": commit.strip(),
        "diff": diff[:LONGEST_DIFF],
        "untracked": command_output("git", "status", "-s") or "",
    }


def command_output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


@cache
def installed_packages() -> dict[str, str]:
    return dict(sorted((dist.name, dist.version) for dist in metadata.distributions() if dist.name))
