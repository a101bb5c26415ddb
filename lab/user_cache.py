"""The folder of what is derived from other files and can be made again. Does not import torch."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

LIMIT_GB = 20  # of decoded images, unless LAB_CACHE_GB says otherwise


def cache_folder() -> Path:
    """$LAB_CACHE, else `lab` in the user's cache."""
    own = os.environ.get("LAB_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lab"


def cache_limit() -> int:
    """The size in bytes beyond which the files that were not used for longest are removed; 0 for no cache at all."""
    try:
        return int(float(os.environ.get("LAB_CACHE_GB", LIMIT_GB)) * 1e9)
    except ValueError:
        return LIMIT_GB * 10**9


def file_stamp(path: Path | str) -> tuple[int, ...]:
    """What tells whether that which was derived from a file still holds: its time of modification (ns), its size
    (bytes) and its inode; empty where there is no file."""
    try:
        facts = os.stat(path)
    except OSError:
        return ()
    return facts.st_mtime_ns, facts.st_size, facts.st_ino


class Index:
    """A JSON object in the user's cache: values that are derived from other files, by keys that tell whether they still
    hold. Whoever uses it can make each value again, so a file that is damaged or cannot be written costs time only.

    now: the values that are in use, which `write` keeps.
    """

    def __init__(self, name: str):
        self.file = cache_folder() / f"{name}.json"
        self.kept: dict[str, Any] = {}
        self.now: dict[str, Any] = {}
        if cache_limit():
            with suppress(OSError, ValueError, RecursionError):
                content = json.loads(self.file.read_bytes())
                self.kept = content if isinstance(content, dict) else {}

    def write(self, most: int = 0) -> None:
        """Keep the values that are in use, and others as long as there are fewer than `most`."""
        if len(self.kept) < most:
            self.now = self.kept | self.now
        if self.now == self.kept or not cache_limit():
            return
        partial = self.file.with_suffix(f".{os.getpid()}.partial")
        with suppress(OSError, ValueError):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(self.now), encoding="utf-8")
            partial.replace(self.file)
