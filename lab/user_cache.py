"""The folder of what is derived from other files and can be made again. Does not import torch."""

import os
from pathlib import Path

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
