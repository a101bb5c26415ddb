"""The environment of a run: command, code, packages and machine."""

import os
import platform
import subprocess
import sys
from contextlib import suppress
from functools import cache
from importlib import metadata
from typing import Any

from lab.user_cache import Index

MAX_DIFF_LENGTH = 200_000  # characters
# the user's settings of git (colours, prefixes, drivers, an order of files) decide nothing of what is recorded
DIFF = (
    *("git", "-c", "core.quotePath=true", "-c", "diff.suppressBlankEmpty=false", "diff", "--no-color"),
    *("--no-ext-diff", "--no-textconv", "--no-relative", "--no-renames", "--submodule=short", "--src-prefix=a/"),
    *("--dst-prefix=b/", "--unified=3", "--diff-algorithm=default", "--binary", "-O/dev/null", "HEAD"),
)


def describe_environment() -> dict[str, Any]:
    """The command, the code, the packages and the machine of this process."""
    return {
        "command": list(sys.argv),
        "directory": os.getcwd(),
        "git": read_git_state(),
        "python": platform.python_version(),
        "packages": list_packages(),
        "host": platform.node(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
    }


@cache
def read_git_state() -> dict[str, str] | None:
    """The commit and the uncommitted changes of the working directory; None outside a repository."""
    commit = run_command("git", "rev-parse", "HEAD")
    if commit is None:
        return None
    diff = run_command(*DIFF) or ""
    if len(diff) > MAX_DIFF_LENGTH:
        diff = f"{diff[:MAX_DIFF_LENGTH]}\n(cut here: {len(diff)} characters)\n"
    return {"commit": commit.strip(), "diff": diff, "untracked": run_command("git", "status", "--porcelain") or ""}


def run_command(*command: str) -> str | None:
    """What a command prints on standard output; None if it fails or takes more than 10 seconds."""
    try:
        environment = {**os.environ, "LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"}
        options = {"capture_output": True, "text": True, "errors": "replace", "timeout": 10}
        process = subprocess.run(command, env=environment, encoding="utf-8", **options)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return process.stdout if process.returncode == 0 else None


@cache
def list_packages() -> dict[str, str]:
    """The version of each installed package, by name. Reading them all takes a while, so they are kept in the user's
    cache, until one of the folders that have packages changes."""
    index = Index("packages")
    key = repr([(folder, os.stat(folder or ".").st_mtime_ns) for folder in sys.path if has_packages(folder)])
    if not isinstance(index.kept.get(key), dict):
        index.now[key] = dict(sorted((dist.name, dist.version) for dist in metadata.distributions() if dist.name))
        index.write(most=50)
    return index.now.get(key) or index.kept[key]


def has_packages(folder: str) -> bool:
    """Whether a folder of sys.path has a package's metadata. A project's own mostly has none, and it changes often."""
    with suppress(OSError):  # such as a zip file, or a folder that is missing
        return any(name.lower().endswith(("dist-info", "egg-info", ".egg")) for name in os.listdir(folder or "."))
    return False
